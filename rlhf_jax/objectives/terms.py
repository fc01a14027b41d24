"""An objective is a sum of named, weighted terms; an ablation is a change of one expression.

    objective = (
        term("policy", ppo_clip(log_probs, old_log_probs, advantages, 0.2), mask)
        + 0.1 * term("value", clipped_value_loss(values, old_values, returns, 0.2), mask)
    )
    loss, metrics = objective.loss()

Every term's value is logged under its own name; `gradients_by_term` adds the norm of its gradient.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.objectives.reductions import WeightedMean

Array = jax.Array


class _Term(NamedTuple):
    coefficient: chex.Numeric
    mean: WeightedMean
    weighting: tuple[Array, chex.Numeric | None]  # as given to `term`


@dataclasses.dataclass(frozen=True)
class Objective:
    """sum_i coefficient_i * mean_i. Add objectives, subtract them, multiply them by a scalar."""

    terms: Mapping[str, _Term]

    def __add__(self, other: Self) -> Self:
        if same := self.terms.keys() & other.terms.keys():
            raise ValueError(f"two terms are named {sorted(same)}: give each its own name")
        return Objective({**self.terms, **other.terms})

    def __rmul__(self, factor: chex.Numeric) -> Self:
        return Objective(
            {n: t._replace(coefficient=factor * t.coefficient) for n, t in self.terms.items()}
        )

    def __neg__(self) -> Self:
        return -1.0 * self

    def __sub__(self, other: Self) -> Self:
        return self + -other

    @property
    def value(self) -> Array:
        """The objective's value on one whole batch."""
        return sum(t.coefficient * t.mean.mean for t in self.terms.values())

    @property
    def metrics(self) -> dict[str, WeightedMean]:
        """Each term's own mean, before its coefficient."""
        return {name: t.mean for name, t in self.terms.items()}

    def loss(
        self, totals: Mapping[str, chex.Numeric] | None = None
    ) -> tuple[WeightedMean, dict[str, WeightedMean]]:
        """The objective as one WeightedMean that can be added over micro-batches and devices.

        The sum is exact if all terms have the same weights (the very same array), or if the caller
        gives each term's total weight: totals[name] = its weight summed over every micro-batch and
        device.

        Returns: (loss, metrics). Raises ValueError if weights differ and no totals are given.
        """
        terms = self.terms
        first = next(iter(terms.values()))
        if totals is None:
            pairs = [zip(t.weighting, first.weighting, strict=True) for t in terms.values()]
            if not all(mine is its for pair in pairs for mine, its in pair):
                raise ValueError(f"terms {list(terms)} have different weights: give their totals")
            total = sum(t.coefficient * t.mean.total for t in terms.values())
            return WeightedMean(total, first.mean.weight), self.metrics
        total = weight = counted = 0.0
        for name, t in terms.items():
            total += t.coefficient * WeightedMean(t.mean.total, totals[name]).mean
            weight += WeightedMean(t.mean.weight, totals[name]).mean
            counted += jnp.asarray(totals[name]) > 0
        # Over all parts this weight adds up to 1: the total is already divided.
        return WeightedMean(total, WeightedMean(weight, counted).mean), self.metrics


def term(name: str, values: Array, weights: Array, weight: chex.Numeric | None = None) -> Objective:
    """An objective of one term: the WeightedMean of values under weights, by name.

    `term(name, values, *aggregation_weights(mask, by))` aggregates by token, sequence or length.
    """
    mean = WeightedMean.of(values, weights, weight)
    return Objective({name: _Term(1.0, mean, (weights, weight))})


def gradients_by_term(
    objective: Callable[[chex.ArrayTree], Objective], params: chex.ArrayTree
) -> tuple[chex.ArrayTree, dict[str, Array]]:
    """The gradient of objective(params).value, and each term's value and gradient norm.

    Under jit this costs one forward pass, and for each term one backward pass through what the term
    depends on.

    Returns: (gradient, metrics). metrics[name] is the term's mean; metrics[name + "/gradient_norm"]
      is the global norm of its gradient, coefficient included.
    """

    def weighted(params, name):
        terms = objective(params).terms
        return terms[name].coefficient * terms[name].mean.mean

    metrics = {name: t.mean.mean for name, t in objective(params).terms.items()}
    gradient = jax.tree.map(jnp.zeros_like, params)
    for name in list(metrics):
        part = jax.grad(weighted)(params, name)
        squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(part))
        metrics[f"{name}/gradient_norm"] = jnp.sqrt(squares)
        gradient = jax.tree.map(jnp.add, gradient, part)
    return gradient, metrics
