"""Every loss over 8 devices that hold different numbers of tokens: values and gradients.

All losses go through one program a runner, so that the whole file compiles two programs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlhf_jax.objectives import kl, likelihood, preferences, reward_models, surrogates
from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights
from tests.objectives.test_documentation import public_names

RNG = np.random.default_rng(11)
# Two rows a device; one device without a token, one without a whole row.
LENGTHS = np.array([5, 5, 1, 0, 4, 2, 0, 0, 3, 5, 1, 1, 5, 4, 2, 2])
MASK = (np.arange(5) < LENGTHS[:, None]).astype(np.float32)
# One to six pairs a prompt; one device with an empty row, one where nothing is compared.
RANKS = np.array(
    [[0, 1, 2, 3], [1, 0, -1, -1], [0, 0, 1, 2], [-1, -1, -1, -1], [2, 1, 0, 0], [0, 1, -1, -1],
     [0, 0, 0, 0], [-1, 0, -1, -1], *[[0, 1, 2, -1]] * 8]
)  # fmt: skip


def rows(*shape):
    return RNG.normal(size=(len(LENGTHS), *shape)).astype(np.float32)


BATCH = {
    "mask": MASK,
    "ranks": RANKS.astype(np.int32),
    "logits": rows(5, 7),
    "other_logits": rows(5, 7),
    "hidden": rows(5, 3),
    "targets": RNG.integers(0, 7, MASK.shape).astype(np.int32),
    "log_probs": -np.abs(rows(5)),
    "old": -np.abs(rows(5)),
    "advantages": rows(5),
    "scores": rows(4),
    "goals": rows(4),
    "desirable": RNG.random(len(LENGTHS)) < 0.5,
}
EMBEDDING = RNG.normal(size=(7, 3)).astype(np.float32)


def of_parameters(params, x):
    """A function of the parameters through which every entry of x gets a gradient of its own."""
    return params[0] * x + params[1] * x * jnp.abs(x)


def by_token(function):
    """function(batch, moved) -> [B, T], over all tokens."""
    return lambda batch, moved: WeightedMean.of(function(batch, moved), batch["mask"])


def by_response(function):
    """function(batch, moved) -> [B], over the responses that have a token."""

    def mean(batch, moved):
        there = jnp.any(batch["mask"] != 0, axis=1)
        return WeightedMean.of(function(batch, moved), there)

    return mean


def surrogate(function, **options):
    return by_token(
        lambda b, moved: function(moved("log_probs"), b["old"], b["advantages"], **options)
    )


def aggregated(by, length=None):
    def mean(batch, moved):
        values = surrogates.ppo_clip(moved("log_probs"), batch["old"], batch["advantages"], 0.2)
        return WeightedMean.of(values, *aggregation_weights(batch["mask"], by, length))

    return mean


def ranked(function):
    return lambda b, moved: WeightedMean.of(*function(moved("scores"), b["ranks"]))


def pair(function):
    """A loss of two scores: the prompt's first outputs."""
    return by_response(lambda b, moved: function(moved("scores")[:, 0], moved("scores")[:, 1]))


def preference(function, references=2, per_token=False):
    """The batch's responses, each against the same one read backwards."""

    def values(batch, moved):
        sides = [moved("log_probs"), moved("log_probs")[:, ::-1] - 0.1, batch["old"],
                 batch["old"][:, ::-1]]  # fmt: skip
        mask = batch["mask"]
        logs = [likelihood.sequence_log_prob(x, mask, per_token) for x in sides[: 2 + references]]
        return function(*logs)

    return by_response(values)


def kto(batch, moved):
    logs = [likelihood.sequence_log_prob(x, batch["mask"])
            for x in (moved("log_probs"), batch["old"])]  # fmt: skip
    return preferences.kto(*logs, batch["desirable"], jnp.float32(0.4), 0.3, 1.5, 0.8)


def squares(scores, ranks):
    return reward_models.over_pairs(lambda s, t: (s - t - 1) ** 2, ranks, scores)


def by_time(batch, moved):
    log_probs = lambda logits, targets: -likelihood.token_log_probs(logits, targets, 0.7)
    return likelihood.chunked_over_time(log_probs, 2)(moved("logits"), batch["targets"])


LOSSES = {
    "token_log_probs": by_token(
        lambda b, m: -likelihood.token_log_probs(m("logits"), b["targets"], 0.7)
    ),
    "cross_entropy": by_token(
        lambda b, m: likelihood.cross_entropy(m("logits"), b["targets"], 0.1, 1e-2)
    ),
    "entropy": by_token(lambda b, m: -likelihood.entropy(m("logits"), 1.3)),
    "sequence_log_prob": by_response(
        lambda b, m: -likelihood.sequence_log_prob(m("log_probs"), b["mask"])
    ),
    "chunked_over_time": by_token(by_time),
    "chunked_token_log_probs": by_token(
        lambda b, m: -likelihood.chunked_token_log_probs(m("hidden"), EMBEDDING, b["targets"], 3)
    ),
    "pairwise_loss": pair(lambda c, r: reward_models.pairwise_loss(c, r, 0.5, 0.1)),
    "centering_loss": pair(reward_models.centering_loss),
    "regression_loss": by_response(
        lambda b, m: reward_models.regression_loss(m("scores"), b["goals"]).sum(1)
    ),
    "ranked_loss": ranked(reward_models.ranked_loss),
    "over_pairs": ranked(squares),
    "plackett_luce_loss": ranked(reward_models.plackett_luce_loss),
    "best_of_k_loss": ranked(reward_models.best_of_k_loss),
    "k1": by_token(lambda b, m: kl.k1(m("log_probs"), b["old"])),
    "k2": by_token(lambda b, m: kl.k2(m("log_probs"), b["old"])),
    "k3": by_token(lambda b, m: kl.k3(m("log_probs"), b["old"])),
    "kl_loss": by_token(lambda b, m: kl.kl_loss(m("log_probs"), b["old"])),
    "exact_kl": by_token(lambda b, m: kl.exact_kl(m("logits"), b["other_logits"], 0.7)),
    "reinforce": surrogate(surrogates.reinforce),
    "importance_weighted": surrogate(surrogates.importance_weighted),
    "truncated_importance": surrogate(surrogates.truncated_importance),
    "cispo": surrogate(surrogates.cispo, clip=0.2, clip_high=0.3),
    "ppo_clip": surrogate(surrogates.ppo_clip, clip=0.2, clip_high=0.3, dual_clip=2.0),
    "ppo_clip-sequence": aggregated("sequence"),
    "ppo_clip-length": aggregated("length", 5),
    "ppo_penalty": surrogate(surrogates.ppo_penalty, coefficient=0.5),
    "gspo": by_token(
        lambda b, m: surrogates.gspo(m("log_probs"), b["old"], b["advantages"], b["mask"], 0.2)
    ),
    "clipped_value_loss": surrogate(surrogates.clipped_value_loss, clip=0.2),
    "dpo": preference(functools.partial(preferences.dpo, beta=0.3, label_smoothing=0.1)),
    "ipo": preference(functools.partial(preferences.ipo, beta=0.3)),
    "simpo": preference(
        functools.partial(preferences.simpo, beta=2.0, margin=0.5), references=0, per_token=True
    ),
    "orpo": preference(preferences.orpo, references=0, per_token=True),
    "kto": by_response(kto),
}
NO_LOSSES = {
    "at_temperature", "ranked_accuracy", "shift_to_zero", "gain_and_bias", "implicit_reward",
    "importance_ratio", "mean_log_ratio", "top_logit", "ppo_diagnostics", "explained_variance",
    "FixedController", "AdaptiveController", "DoublingController",
}  # fmt: skip


def test_every_loss_of_the_room_is_here():
    files = {f"{m.__name__.split('.')[-1]}.py"
             for m in (kl, likelihood, preferences, reward_models, surrogates)}  # fmt: skip
    there = {name for file, name in public_names() if file in files}
    assert {name.split("-")[0] for name in LOSSES} | NO_LOSSES == there


def means_of(params, batch) -> dict[str, WeightedMean]:
    """Every loss with parameters of its own, so that one gradient of a sum holds all gradients."""

    def moved(own):
        return lambda name: of_parameters(own, batch[name])

    return {name: loss(batch, moved(params[name])) for name, loss in LOSSES.items()}


def whole(params, batch):
    """{name: mean}, {name: gradient} of a batch in one piece."""

    def total(params):
        means = {name: mean.mean for name, mean in means_of(params, batch).items()}
        return sum(means.values()), means

    gradients, means = jax.grad(total, has_aux=True)(params)
    return means, gradients


def on_device(params, batch):
    """The same of the devices together: numerator and denominator are summed, then divided."""

    def total(params):
        means = means_of(params, batch)
        return sum(mean.total for mean in means.values()), means

    gradients, means = jax.grad(total, has_aux=True)(params)
    summed = {name: mean.psum("devices") for name, mean in means.items()}
    gradients = jax.lax.psum(gradients, "devices")
    divided = {name: gradients[name] / summed[name].weight for name in gradients}
    local = {name: mean.mean for name, mean in means.items()}
    return {name: mean.mean for name, mean in summed.items()}, divided, local


@pytest.fixture(scope="module")
def results():
    """(means, gradients) by jit, by pmap, and each device's own means."""
    params = dict.fromkeys(LOSSES, jnp.array([0.8, 0.3]))
    sharding = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    jitted = jax.jit(whole)(params, jax.device_put(BATCH, sharding))
    split = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), BATCH)
    *pmapped, local = jax.pmap(on_device, "devices", in_axes=(None, 0))(params, split)
    return jax.tree.map(np.asarray, (jitted, pmapped, local))


@pytest.mark.parametrize("name", LOSSES)
def test_jit_over_the_batch_and_pmap_over_uneven_devices_agree(results, name):
    """The one never cuts the batch, the other sums numerator and denominator of the devices."""
    (means, gradients), (pmap_means, pmap_gradients), local = results
    assert np.isfinite(means[name]) and np.abs(gradients[name]).min() > 1e-4
    for device in range(8):
        np.testing.assert_allclose(pmap_means[name][device], means[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            pmap_gradients[name][device], gradients[name], rtol=2e-5, atol=1e-6
        )
    assert abs(local[name].mean() - means[name]) > 1e-3, "pmean of means would pass on this batch"
