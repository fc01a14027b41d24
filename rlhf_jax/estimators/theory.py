"""The expected value of each biased estimator, in float64 NumPy, without code of `objectives`.

An expected estimate is sum_y q(y) sum_t c_t(y) grad log p_t(y), where q is the sampler and p the
policy. Estimators differ only in the coefficients c[N, T], which the functions here return.
Unbiased estimators converge to dJ. All values are exact. Where a response's advantage depends on
the rest of its group (GRPO, whitening), the coefficient is the expectation over the other members.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

Floats = np.ndarray


@dataclasses.dataclass(frozen=True)
class ExactFacts:
    """All N responses: arrays [N, T], or [N] where there is one number per response."""

    mask: Floats
    scores: Floats
    rewards: Floats
    log_probs: Floats  # of the policy p
    old_log_probs: Floats  # of the sampler q
    ref_log_probs: Floats
    exact_values: Floats
    learned_values: Floats
    baseline: float
    group: int  # K, responses per estimate

    @property
    def sampled(self) -> Floats:
        """q(y), [N]."""
        return np.exp(self.old_log_probs.sum(1))

    @property
    def to_go(self) -> Floats:
        """G_t = sum of the rewards from t on."""
        return self.mask * np.cumsum(self.rewards[:, ::-1], axis=1)[:, ::-1]

    @property
    def returns(self) -> Floats:
        """R, [N, 1]."""
        return self.rewards.sum(1, keepdims=True)

    @property
    def ratio(self) -> Floats:
        return np.exp(self.log_probs - self.old_log_probs)


Bias = Callable[[ExactFacts], Floats]


def expected(facts: ExactFacts, coefficients: Floats, token_scores: Floats) -> Floats:
    """sum_y q(y) sum_t c_t grad log p_t, [D]; token_scores = grad log p_t(y), [N, T, D]."""
    weights = facts.sampled[:, None] * facts.mask * coefficients
    return np.einsum("nt,ntd->d", weights, token_scores)


def groups_of(q: Floats, size: int) -> tuple[Floats, Floats]:
    """(ids[M, size], probabilities[M]) of all unordered groups of `size` independent responses."""
    ids = np.array(list(itertools.combinations_with_replacement(range(len(q)), size)), np.int32)
    same = (ids[:, :, None] == ids[:, None, :]).sum(2)  # of a response with c copies: c at each
    # Orders of a group = size! / product of c!; each of c copies contributes (c!)^(1/c).
    share = np.array([0.0, *(math.lgamma(c + 1) / c for c in range(1, size + 1))])
    log_orders = math.lgamma(size + 1) - share[same].sum(1)
    return ids, np.exp(log_orders + np.log(q)[ids].sum(1))


def _deviations(
    facts: ExactFacts, values: Floats, weights: Floats, inverse_std: Callable[[Floats], Floats]
) -> Floats:
    """E[(x_t(y) - mean) inverse_std(variance)], [N, T]; mean and variance are over y and K - 1
    other responses."""
    ids, probabilities = groups_of(facts.sampled, facts.group - 1)
    moments = np.stack([(weights * values**power).sum(1) for power in range(3)])  # [3, N]
    others = moments[:, ids].sum(2)
    result = np.zeros_like(values)
    for y in range(len(values)):
        count, first, second = others + moments[:, y, None]
        mean = first / count
        variance = second / count - mean**2
        alike = variance < 1e-12  # then x - mean is 0 up to rounding
        weight = np.where(alike, 0, probabilities * inverse_std(np.where(alike, 1, variance)))
        result[y] = weight.sum() * values[y] - (weight * mean).sum()
    return result


def dr_grpo(facts: ExactFacts) -> Floats:
    """(K - 1) / K dJ, because the group's mean contains the response itself."""
    return facts.returns * (facts.group - 1) / facts.group


def grpo(facts: ExactFacts) -> Floats:
    """About dJ / std(R): groups whose returns are close to each other weigh more."""
    inverse_std = lambda variance: 1 / (np.sqrt(variance) + 1e-6)
    return _deviations(facts, facts.returns, np.ones_like(facts.returns), inverse_std)


def grpo_per_sequence(facts: ExactFacts) -> Floats:
    """As grpo, but each response is divided by its length: long responses weigh less."""
    return grpo(facts) / facts.mask.sum(1, keepdims=True)


def whitened(facts: ExactFacts) -> Floats:
    """About dJ / std(A); mean and standard deviation are over the batch's tokens."""
    advantages = facts.mask * (facts.to_go - facts.learned_values)
    return _deviations(facts, advantages, facts.mask, lambda variance: (variance + 1e-8) ** -0.5)


def gae(lam: float, facts: ExactFacts) -> Floats:
    """A_t + (1 - lam) sum_k lam^k e_{t+1+k}, where e = V - V_exact are the critic's errors.

    The error at the token's own state acts as a baseline and causes no bias.
    """
    error = facts.mask * (facts.learned_values - facts.exact_values)
    later, coefficients = np.zeros(len(error)), np.zeros_like(error)
    for t in reversed(range(error.shape[1])):
        coefficients[:, t] = facts.to_go[:, t] + (1 - lam) * later
        later = error[:, t] + lam * later
    return coefficients


def no_kl(facts: ExactFacts) -> Floats:
    """d E[score]: the mean of k1 has gradient 0, so there is no KL penalty at all."""
    return facts.scores[:, None]


def reverse_kl(beta: float, facts: ExactFacts) -> Floats:
    """d (E[score] - beta KL(ref || p)): k3 has the gradient of the other divergence."""
    d = (facts.log_probs - facts.ref_log_probs).sum(1)
    return (facts.scores - beta * (1 - np.exp(-d)))[:, None]


def k2_per_token(beta: float, facts: ExactFacts) -> Floats:
    """Each token is penalised for its own KL, but not for the KL of later tokens."""
    return facts.scores[:, None] - beta * (facts.log_probs - facts.ref_log_probs)


def stale_reinforce(facts: ExactFacts) -> Floats:
    """Responses have the old policy's probabilities, without correction."""
    return facts.returns - facts.baseline


def importance_per_token(facts: ExactFacts) -> Floats:
    """Only the token's own ratio is corrected; tokens before and after are the old policy's."""
    return facts.ratio * (facts.returns - facts.baseline)


def importance_truncated(facts: ExactFacts) -> Floats:
    """A response that has become more likely has ratio 1 instead of a ratio above 1."""
    whole = np.exp((facts.log_probs - facts.old_log_probs).sum(1, keepdims=True))
    return np.minimum(1, whole) * (facts.returns - facts.baseline)


def vtrace(facts: ExactFacts) -> Floats:
    """Tokens before are the old policy's; tokens after are corrected by ratios of at most 1."""
    rho = np.minimum(1, facts.ratio)
    coefficients = np.zeros_like(rho)
    target = np.zeros(len(rho))  # v at the next token
    for t in reversed(range(rho.shape[1])):
        on, value = facts.mask[:, t], facts.learned_values[:, t]
        weighted = rho[:, t] * (facts.rewards[:, t] + target - value)
        coefficients[:, t] = weighted
        target = np.where(on, value + weighted, target)
    return coefficients


def _not_clipped(clip: float, ratio: Floats, advantages: Floats) -> Floats:
    gone = ((advantages > 0) & (ratio > 1 + clip)) | ((advantages < 0) & (ratio < 1 - clip))
    return ~gone


def ppo_clip(clip: float, facts: ExactFacts) -> Floats:
    """As importance_per_token, without tokens that are clipped."""
    advantages = facts.returns - facts.baseline
    return _not_clipped(clip, facts.ratio, advantages) * facts.ratio * advantages


def cispo(clip: float, facts: ExactFacts) -> Floats:
    """As importance_per_token, with the ratio clipped on both sides; every token counts."""
    return np.clip(facts.ratio, 1 - clip, 1 + clip) * (facts.returns - facts.baseline)


def gspo(clip: float, facts: ExactFacts) -> Floats:
    """Every token has the geometric mean ratio of its response; clipped responses do not count."""
    lengths = facts.mask.sum(1, keepdims=True)
    log_ratio = (facts.log_probs - facts.old_log_probs).sum(1, keepdims=True)
    ratio, advantages = np.exp(log_ratio / lengths), facts.returns - facts.baseline
    return _not_clipped(clip, ratio, advantages) * ratio * advantages
