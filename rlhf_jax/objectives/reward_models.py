"""Losses that train a scalar model on people's preferences, and the normalisation of its scores.

Losses over rankings are f(scores[B, K], ranks[B, K]) -> (values[B], weights[B]). Rank 0 is best,
equal ranks are ties, and -1 marks an output that is absent. The weight is 1 where the prompt has
at least one untied pair, else 0.
"""

from collections.abc import Callable
from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.objectives.reductions import all_alike, as_float, masked_mean, masked_var

Array = jax.Array
DivideBy = Literal["all_pairs", "untied_pairs"]


def pairwise_loss(
    chosen: Array, rejected: Array, margin: chex.Numeric = 0.0, label_smoothing: float = 0.0
) -> Array:
    """-(1 - e) log sigmoid(m) - e log sigmoid(-m),  m = chosen - rejected - margin, per pair.

    Args:
      chosen, rejected: scores of any one shape.
      margin: how far apart the scores should be (Llama 2, arXiv 2307.09288, equation 2).
      label_smoothing: e, the assumed rate of wrong labels (Wang et al. 2024, arXiv 2401.06080;
        as in cDPO).

    Source: Bradley and Terry 1952; Ouyang et al. 2022, equation 1.
    """
    chex.assert_equal_shape([chosen, rejected])
    chex.assert_type([chosen, rejected], float)
    m = as_float(chosen) - as_float(rejected) - margin
    loss = -jax.nn.log_sigmoid(m)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * jax.nn.log_sigmoid(-m)
    return loss


def centering_loss(chosen: Array, rejected: Array) -> Array:
    """(chosen + rejected)^2; fixes the shift of scores, which Bradley-Terry leaves free.

    A usual coefficient is 0.01.

    Source: Eisenstein et al. 2023 (arXiv 2312.09244).
    """
    chex.assert_equal_shape([chosen, rejected])
    return jnp.square(as_float(chosen) + as_float(rejected))


def regression_loss(scores: Array, targets: Array) -> Array:
    """(score - target)^2 / 2, per output. The targets are labelers' absolute scores."""
    chex.assert_equal_shape([scores, targets])
    return 0.5 * jnp.square(as_float(scores) - as_float(targets))


def _better(ranks: Array) -> tuple[Array, Array]:
    """better[b, i, j] = (i ranks strictly before j, both present); [B] is 1 where any is true."""
    present = ranks >= 0
    both = present[:, :, None] & present[:, None, :]
    better = both & (ranks[:, :, None] < ranks[:, None, :])
    return better, as_float(jnp.any(better, axis=(1, 2)))


def _of_present(scores: Array, ranks: Array) -> Array:
    """The scores, with absent outputs at 0."""
    chex.assert_rank([scores, ranks], 2)
    chex.assert_equal_shape([scores, ranks])
    chex.assert_type([scores, ranks], [float, int])
    return jnp.where(ranks >= 0, as_float(scores), 0)


def _grid(scores: Array) -> tuple[Array, Array]:
    """scores of i and of j, both as [B, K, K]."""
    shape = (*scores.shape, scores.shape[1])
    return jnp.broadcast_to(scores[:, :, None], shape), jnp.broadcast_to(scores[:, None, :], shape)


def over_pairs(
    pair_loss: Callable[[chex.ArrayTree, chex.ArrayTree], Array],
    ranks: Array,
    outputs: chex.ArrayTree,
    divide_by: DivideBy = "all_pairs",
) -> tuple[Array, Array]:
    """A prompt's sum of pair_loss(better, worse) over its untied pairs, divided by a pair count.

    A prompt is one example of weight 1, however many outputs it has. With "all_pairs" the divisor
    is C(K, 2), where K is the number of outputs present: every untied pair of K outputs has the
    same weight, and a prompt with ties weighs less. With "untied_pairs" the value is the mean over
    the untied pairs: every prompt has the same weight, and the pairs of a prompt with ties weigh
    more.

    Args:
      pair_loss: elementwise, of the `outputs` of both sides of every pair, [B, K, K] each.
      ranks: int[B, K].
      outputs: pytree of floats [B, K], one value per output; absent outputs are read as 0.
      divide_by: "all_pairs", as in equation 1, or "untied_pairs".

    Returns: (values[B], weights[B]), weights = 1 where the prompt has at least one untied pair.
    Raises ValueError for another divide_by.
    Source: Ouyang et al. 2022 (arXiv 2203.02155), equation 1 and section 3.5; the paper does not
    say how it divides where outputs tie.
    """
    if divide_by not in get_args(DivideBy):
        raise ValueError(f"divide_by = {divide_by!r}: must be one of {get_args(DivideBy)}")
    grids = jax.tree.map(lambda values: _grid(_of_present(values, ranks)), outputs)
    sides = jax.tree.transpose(jax.tree.structure(outputs), jax.tree.structure((0, 0)), grids)
    better, informed = _better(ranks)
    total = jnp.sum(jnp.where(better, pair_loss(*sides), 0), axis=(1, 2))
    if divide_by == "all_pairs":
        present = jnp.sum(as_float(ranks >= 0), axis=1)
        pairs = present * (present - 1) / 2
    else:
        pairs = jnp.sum(as_float(better), axis=(1, 2))
    return total / jnp.maximum(pairs, 1), informed


def ranked_loss(
    scores: Array,
    ranks: Array,
    label_smoothing: float = 0.0,
    divide_by: DivideBy = "all_pairs",
) -> tuple[Array, Array]:
    """`over_pairs` of -log sigmoid(r_better - r_worse); `divide_by` as there.

    Returns: (values[B], weights[B]), weights = 1 where the prompt has at least one untied pair.
    Source: Ouyang et al. 2022 (arXiv 2203.02155), equation 1 and section 3.5.
    """

    def loss(better: Array, worse: Array) -> Array:
        return pairwise_loss(better, worse, label_smoothing=label_smoothing)

    return over_pairs(loss, ranks, scores, divide_by)


def plackett_luce_loss(scores: Array, ranks: Array) -> tuple[Array, Array]:
    """-log p(ranking) = sum_i log(exp(s_i) + sum_{j after i} exp(s_j)) - s_i.

    Outputs of equal rank do not compete: each is compared with the strictly worse outputs only, as
    `ranked_loss` drops tied pairs. For K = 2 it is the pairwise loss.

    Returns: (values[B], weights[B]). Source: Luce 1959; Plackett 1975; Xia et al. 2008 (ListMLE).
    """
    scores, (better, informed) = _of_present(scores, ranks), _better(ranks)
    itself = jnp.broadcast_to(jnp.eye(scores.shape[1], dtype=bool), better.shape)
    score_i, score_j = _grid(scores)
    # Differences first: scores far from 0 keep their digits.
    losses = jax.nn.logsumexp(score_j - score_i, axis=2, where=better | itself)
    return jnp.sum(losses, axis=1), informed


def best_of_k_loss(scores: Array, ranks: Array) -> tuple[Array, Array]:
    """-log softmax(scores)[best] over the outputs present; tied best outputs share the label.

    Returns: (values[B], weights[B]). Source: Ziegler et al. 2019 (arXiv 1909.08593), equation 1.
    """
    scores, (better, informed) = _of_present(scores, ranks), _better(ranks)
    present = ranks >= 0
    best = present & ~jnp.any(better, axis=1)
    # The first best score is subtracted: scores far from 0 keep their digits.
    first = jnp.take_along_axis(scores, jnp.argmax(best, axis=1)[:, None], axis=1)
    scores = scores - jax.lax.stop_gradient(first)
    label = jnp.sum(jnp.where(best, scores, 0), axis=1) / jnp.maximum(jnp.sum(best, axis=1), 1)
    loss = jax.nn.logsumexp(scores - label[:, None], axis=1, where=present)
    return jnp.where(informed > 0, loss, 0), informed


def ranked_accuracy(scores: Array, ranks: Array) -> tuple[Array, Array]:
    """(correct, pairs): untied pairs that the scores order correctly, and all untied pairs.

    A pair of equal scores counts one half, so that a constant scorer has accuracy 0.5.

    Returns: (correct[B], pairs[B]); accuracy = sum(correct) / sum(pairs).
    """
    better, _ = _better(ranks)
    score_i, score_j = _grid(_of_present(scores, ranks))
    right = as_float(score_i > score_j) + 0.5 * as_float(score_i == score_j)
    return jnp.sum(jnp.where(better, right, 0), axis=(1, 2)), jnp.sum(as_float(better), axis=(1, 2))


def shift_to_zero(scores: Array, mask: Array) -> Array:
    """The bias that makes the mean of (scores + bias) 0, e.g. over the demonstrations' scores.

    Source: Ouyang et al. 2022, section 3.5; Stiennon et al. 2020.
    """
    return -masked_mean(scores, mask)


def gain_and_bias(
    scores: Array, mask: Array, mean: float = 0.0, std: float = 1.0
) -> tuple[Array, Array]:
    """(gain, bias) such that gain * scores + bias has the given mean and standard deviation.

    Scores that are all equal up to rounding get gain 1.
    Source: Ziegler et al. 2019, section 2.1.
    """
    alike = all_alike(scores, mask)
    variance = masked_var(scores, mask)
    gain = jnp.where(alike, 1, std / jnp.sqrt(jnp.where(alike, 1, variance)))
    return gain, mean - gain * masked_mean(scores, mask)
