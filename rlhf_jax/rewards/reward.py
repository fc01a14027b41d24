"""What a term of a reward is: one number a response, of models, of a function on the host, or of
the response's length and end.

A term is a frozen dataclass under `Reward`, in the package or outside of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.errors import require


class Judged(NamedTuple):
    """What is known of B sampled responses, R tokens at most."""

    scores: Mapping[str, jax.Array]  # [B] of each stage in the term's `scorers`
    found: jax.Array | None  # [B], what the term's function says; None: it has none
    mask: jax.Array  # [B, R]
    ended: jax.Array  # [B] bool (generation/ending.py)


# f(records, responses) -> [B] numbers; a record is the prompt's, as the data source gives it.
Function = Callable[[Sequence[Any], Sequence[str]], list[float]]


@dataclasses.dataclass(frozen=True)
class Reward:
    """A term; the reward of a response is the sum of weight x term.

    on_host  it has a `function`
    weight   may be negative
    """

    on_host: ClassVar[bool] = False
    weight: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self):
        require(jnp.isfinite(self.weight), "weight", self.weight, "finite")

    def scorers(self) -> Sequence[str]:
        """The stages that end with a score and are read."""
        return ()

    def function(self, grader: Callable[[], Callable[[str, str], Any]]) -> Function:
        """Of a term `on_host`: what is called between sampling and scoring.

        grader(): the data source's, grade(prompt, response) with a `score`.
        """
        raise NotImplementedError

    def identity(self) -> Any:
        """JSON values, beside its fields, that a run's config is compared by."""
        return None

    def of(self, judged: Judged) -> jax.Array:
        """The term of each response [B], on the devices."""
        raise NotImplementedError


def total(rewards: Sequence[Reward], terms: Sequence[jax.Array]) -> jax.Array:
    """sum_i weight_i term_i: [B]."""
    first, *rest = (reward.weight * term for reward, term in zip(rewards, terms, strict=True))
    return sum(rest, start=first)
