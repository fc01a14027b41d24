"""KL(policy || reference): estimators, exact value, the loss with the right gradient, controllers.

x is sampled from p (policy), q is the reference, d = log p(x) - log q(x).

Where to put the KL. In the reward (`advantages.kl_shaped_rewards`) d is a constant, and the policy
gradient of that reward, over whole sequences, is the gradient of the KL. In the loss, the mean of
k1 has gradient E_p[grad log p] = 0, and the mean of k3 has the gradient of KL(q || p), which is
another divergence. `kl_loss` has the gradient of each visited token's KL(p || q).
"""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.errors import require
from rlhf_jax.objectives.likelihood import at_temperature, top_logit
from rlhf_jax.objectives.reductions import as_float

Array = jax.Array
# Exponents are limited to this: exp of a larger log-ratio could overflow and tells no more.
MAX_LOG_RATIO = 20.0


def k1(log_probs: Array, ref_log_probs: Array) -> Array:
    """d: unbiased, may be negative. Source: Schulman 2020, joschu.net/blog/kl-approx.html."""
    chex.assert_equal_shape([log_probs, ref_log_probs])
    chex.assert_type([log_probs, ref_log_probs], float)
    return log_probs - ref_log_probs


def k2(log_probs: Array, ref_log_probs: Array) -> Array:
    """d^2 / 2: biased, >= 0; its mean has the gradient of KL(p || q). Source: as for k1."""
    return 0.5 * jnp.square(k1(log_probs, ref_log_probs))


def k3(log_probs: Array, ref_log_probs: Array) -> Array:
    """exp(-d) - 1 + d: unbiased and >= 0. Source: as for k1.

    For -d > 20 the exponential is replaced by its tangent at 20: it does not overflow, and the
    slope keeps its sign and is at most exp(20) - 1.
    """
    d = k1(log_probs, ref_log_probs)
    near = jnp.minimum(-d, MAX_LOG_RATIO)
    return jnp.expm1(near) + jnp.exp(near) * (-d - near) + d


def exact_kl(logits_p: Array, logits_q: Array, temperature: float = 1.0) -> Array:
    """sum_v p_v (log p_v - log q_v), p and q = softmax(logits / temperature): [..., V] -> [...].

    Entries with p = 0 add nothing; q = 0 where p > 0 gives inf.
    """
    chex.assert_equal_shape([logits_p, logits_q])
    shifted = [as_float(x) - top_logit(x)[..., None] for x in (logits_p, logits_q)]
    log_p, log_q = (jax.nn.log_softmax(at_temperature(x, temperature)) for x in shifted)
    p = jnp.exp(log_p)
    d = jnp.where(p > 0, log_p, 0) - jnp.where(p > 0, log_q, 0)
    return jnp.sum(p * d, axis=-1)


def kl_loss(
    log_probs: Array,
    ref_log_probs: Array,
    estimator: Callable[[Array, Array], Array] = k3,
) -> Array:
    """The value of `estimator` with the gradient of k2, d * grad log p, per token.

    E_p[d grad log p] = grad KL(p || q) for tokens sampled from p. For tokens of an older policy
    multiply by `stop_gradient(importance_ratio(...))`. Source: Schulman 2020; Tang and Munos 2025
    (arXiv 2506.09477), section 4.
    """
    ref_log_probs = jax.lax.stop_gradient(ref_log_probs)
    right = k2(log_probs, ref_log_probs)
    value = jax.lax.stop_gradient(estimator(log_probs, ref_log_probs))
    return value + (right - jax.lax.stop_gradient(right))


def _in_range(coefficient: Array) -> Array:
    """Keeps a coefficient away from 0 and infinity, which no later factor could change."""
    normal = jnp.finfo(jnp.float32)
    return jnp.clip(coefficient, normal.tiny, normal.max)


@dataclasses.dataclass(frozen=True)
class FixedController:
    """A constant KL coefficient (InstructGPT: 0.02)."""

    coefficient: float  # beta of the KL penalty

    def __post_init__(self):
        require(0 <= self.coefficient < jnp.inf, "coefficient", self.coefficient, ">= 0, finite")

    def init(self) -> Array:
        return jnp.asarray(self.coefficient, jnp.float32)

    def update(self, coefficient: Array, kl: Array, batch_size: int) -> Array:
        del kl, batch_size
        return coefficient


@dataclasses.dataclass(frozen=True)
class AdaptiveController:
    """coefficient *= 1 + clip(kl / target - 1, -+max_error) * batch_size / horizon.

    A proportional controller on log(coefficient). The target is in nats per sequence, the horizon
    in sequences. max_error * batch_size must be below the horizon: otherwise one low KL would make
    the coefficient 0 or negative. The coefficient is kept within the normal float32 numbers, about
    [1e-38, 3e38]. Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2.
    """

    coefficient: float = 0.15  # at the start
    target: float = 6.0  # KL to reach, nats per sequence
    horizon: int = 10_000  # sequences; a longer one changes the coefficient more slowly
    max_error: float = 0.2  # bounds the relative error of the KL

    def __post_init__(self):
        for field in ("coefficient", "target", "horizon", "max_error"):
            value = getattr(self, field)
            require(0 < value < jnp.inf, field, value, "> 0, finite")

    def init(self) -> Array:
        return jnp.asarray(self.coefficient, jnp.float32)

    def check(self, batch_size: int, field: str = "horizon") -> None:
        """Raises ConfigError naming `field` where an update could leave (0, inf)."""
        step = batch_size * self.max_error
        allowed = f"above batch_size x max_error = {batch_size} x {self.max_error} = {step:g}"
        require(step < self.horizon, field, self.horizon, allowed)

    def update(self, coefficient: Array, kl: Array, batch_size: int) -> Array:
        """The next coefficient, given the mean KL (nats per sequence) of `batch_size` sequences.

        Raises ConfigError where batch_size * max_error >= horizon.
        """
        self.check(batch_size)
        error = jnp.clip(kl / self.target - 1, -self.max_error, self.max_error)
        return _in_range(coefficient * (1 + error * batch_size / self.horizon))


@dataclasses.dataclass(frozen=True)
class DoublingController:
    """coefficient * 2 where kl > 1.5 target, / 2 where kl < target / 1.5, else unchanged.

    The coefficient is kept within the normal float32 numbers, about [1e-38, 3e38]. It is made for
    `surrogates.ppo_penalty`. Source: Schulman et al. 2017 (arXiv 1707.06347), section 4.
    """

    coefficient: float  # at the start
    target: float  # KL to reach, in the units of the KL that it is given

    def __post_init__(self):
        for field in ("coefficient", "target"):
            value = getattr(self, field)
            require(0 < value < jnp.inf, field, value, "> 0, finite")

    def init(self) -> Array:
        return jnp.asarray(self.coefficient, jnp.float32)

    def update(self, coefficient: Array, kl: Array, batch_size: int) -> Array:
        del batch_size
        factor = jnp.where(kl > 1.5 * self.target, 2.0, 1.0)
        return _in_range(coefficient * jnp.where(kl < self.target / 1.5, 0.5, factor))
