"""Bias with a confidence interval, variance and cosine of gradient estimates."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

Array = jax.Array
DRAWS = 200_000  # samples of the weighted chi-square whose quantile is the radius


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Bias and spread of n independent estimates of a gradient with D coordinates.

    The confidence region is the ball around the mean error with `radius`. [low, high] is the range
    of norms inside it: low is 0 exactly when the ball contains 0, an unbiased estimator.
    """

    error: np.ndarray  # [D], mean estimate - exact
    radius: float
    variance: float  # trace of the covariance of one estimate
    cosine: float  # between the mean estimate and the exact gradient
    cosine_of_one: float  # between one estimate and the exact gradient, mean over estimates

    @property
    def bias_norm(self) -> dict[str, float]:
        mean = float(np.linalg.norm(self.error))
        return {
            "mean": mean, "low": max(0.0, mean - self.radius), "high": mean + self.radius
        }  # fmt: skip

    def contains(self, bias: np.ndarray) -> bool:
        """Whether this bias [D] is inside the ball."""
        return bool(np.linalg.norm(self.error - bias) <= self.radius)


def per_example_gradients(loss: Any, params: Any, examples: Any, chunk: int | None = None) -> Any:
    """[n, D]: the gradient of loss(params, example) for each of the n examples, by `vmap`.

    Args:
      loss: a function of parameters (a table, a transformer) and one example; or a dict of such
        functions, for a dict of [n, D]: compiled together they take a third of the time.
      params: pytree with D numbers.
      examples: pytree of arrays [n, ...].
      chunk: examples at a time; None: all.
    """

    def gradients(example):
        one = lambda loss: ravel_pytree(jax.grad(loss)(params, example))[0]
        return jax.tree.map(one, loss)

    if chunk is None or jax.tree.leaves(examples)[0].shape[0] <= chunk:
        return jax.jit(jax.vmap(gradients))(examples)
    return jax.jit(lambda xs: jax.lax.map(gradients, xs, batch_size=chunk))(examples)


def large_sample(means: Callable[[Array], Array], keys: Sequence[Array]) -> np.ndarray:
    """[m, D] batch means, one for each key.

    Their mean is the reference gradient of a task that cannot be enumerated.

    Args:
      means: key -> [D], the mean of a batch of independent per-example gradients.
      keys: m keys; use a hundred or more for `measure(..., reference_batches=...)`.
    """
    return np.stack([np.asarray(means(key), np.float64) for key in keys])


def measure(
    estimates: np.ndarray,
    exact: np.ndarray,
    level: float,
    seed: int = 0,
    reference_batches: np.ndarray | None = None,
) -> Measurement:
    """Compares estimates [n, D] with the exact gradient [D].

    |mean error - bias|^2 is asymptotically a sum of chi-squares weighted by the eigenvalues of the
    covariance of the mean. It is one statistic for all coordinates, so their number needs no
    correction. For several estimators divide 1 - level by their number (Bonferroni).

    Args:
      estimates: independent, or at least uncorrelated.
      exact: the true gradient, or the mean of `reference_batches`.
      level: confidence level, such as 0.99.
      seed: of the simulation that gives the quantile.
      reference_batches: [m, D] batch means, where the reference is itself a sample.
    """
    estimates, exact = np.asarray(estimates, np.float64), np.asarray(exact, np.float64)
    count = len(estimates)
    mean = estimates.mean(0)
    centred = (estimates - mean) / math.sqrt(count * (count - 1))
    spread = [centred]
    if reference_batches is not None:
        m = len(reference_batches)
        spread.append((reference_batches - reference_batches.mean(0)) / math.sqrt(m * (m - 1)))
    norms = np.linalg.norm(estimates, axis=1)
    cosines = estimates @ exact / np.where(norms > 0, norms, 1) / np.linalg.norm(exact)
    return Measurement(
        error=mean - exact,
        radius=_radius(np.concatenate(spread), level, seed),
        variance=float((centred**2).sum() * count),
        cosine=float(mean @ exact / np.linalg.norm(mean) / np.linalg.norm(exact)),
        cosine_of_one=float(cosines.mean()),
    )


def _radius(spread: np.ndarray, level: float, seed: int) -> float:
    """Square root of the `level` quantile of sum_i w_i chi2_1, where w are the eigenvalues of
    spread' spread."""
    wide = spread.shape[1] > spread.shape[0]
    weights = np.linalg.eigvalsh(spread @ spread.T if wide else spread.T @ spread)
    random, total = np.random.default_rng(seed), np.zeros(DRAWS)
    for weight in weights[weights > 1e-9 * weights[-1]]:
        total += weight * random.chisquare(1, DRAWS)
    return float(np.sqrt(np.quantile(total, level)))
