"""What a term of a reward is: one number a response, of models, of a function on the host, or of
the response's length and end.

A term is a frozen dataclass under `Reward`, in the package or outside of it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax

from rlhf_jax.errors import require


class Judged(NamedTuple):
    """What is known of B sampled responses, R tokens at most."""

    scores: Mapping[str, jax.Array]  # [B] of each stage in the term's `scorers`
    found: jax.Array | None  # [B], what the term's function says, NaN where a call gave no number
    mask: jax.Array  # [B, R]
    ended: jax.Array  # [B] bool (generation/ending.py)


# f(records, responses) -> a number a response, or None where a call gave none. A record is a JSON
# object, {"prompt": ...} with the further fields of the prompt's record.
Function = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], list[float | None]]


class Host(Protocol):
    """What a function is made from: of a stage's inputs (stages/stage.py)."""

    def grader(self) -> Callable[[str, str], Any]:
        """grade(prompt, response) of the data source, with a `score`; UserError where it has
        none."""

    def at_end(self, close: Callable[[], None]) -> None:
        """Calls it when the stage ends, however it ends."""


@dataclasses.dataclass(frozen=True)
class Reward:
    """A term; the reward of a response is the sum of weight x term.

    on_host  it has a `function`
    weight   may be negative
    """

    on_host: ClassVar[bool] = False
    weight: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self):
        require(math.isfinite(self.weight), "weight", self.weight, "finite")

    def scorers(self) -> Sequence[str]:
        """The stages that end with a score and are read."""
        return ()

    def check(self) -> None:
        """Raises UserError, before the first step of any stage, where it cannot work."""

    def function(self, host: Host) -> Function:
        """Of a term `on_host`: what is called between sampling and scoring."""
        raise NotImplementedError

    def identity(self) -> Any:
        """JSON values, beside its fields, that a run's config is compared by; None: nothing."""
        return None

    def of(self, judged: Judged) -> jax.Array:
        """The term of each response [B], on the devices."""
        raise NotImplementedError


def total(rewards: Sequence[Reward], terms: Sequence[jax.Array]) -> jax.Array:
    """sum_i weight_i term_i: [B]."""
    first, *rest = (reward.weight * term for reward, term in zip(rewards, terms, strict=True))
    return sum(rest, start=first)
