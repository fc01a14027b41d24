"""The protocol of a reward term: one number per response, from reward models, a Python function on
the host, or the response's length and end.

A term is a frozen dataclass that inherits from `Reward`, in this package or in your own file.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax

from rlhf_jax.errors import require


class Judged(NamedTuple):
    """What a term may read about B sampled responses of at most R tokens."""

    scores: Mapping[str, jax.Array]  # [B] for each stage in the term's `scorers`
    found: jax.Array | None  # [B], results of the term's function; NaN where a call failed
    mask: jax.Array  # [B, R]
    ended: jax.Array  # [B] bool (generation/ending.py)


# f(records, responses) -> one number per response, None where a call failed. A record is a JSON
# object, {"prompt": ...} with the further fields of the prompt's record.
Function = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], list[float | None]]


class Host(Protocol):
    """The part of a stage's inputs (stages/stage.py) that a term's function may use."""

    def grader(self) -> Callable[[str, str], Any]:
        """grade(prompt, response) of the data source; its result has a `score`. Raises UserError
        where the source has no grader."""

    def at_end(self, close: Callable[[], None]) -> None:
        """Calls `close` when the stage ends, also after an error."""


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward term; a response's score is the sum of weight x term.

    on_host  whether the term has a `function`
    weight   factor of this term in the sum; may be negative
    """

    on_host: ClassVar[bool] = False
    weight: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self):
        require(math.isfinite(self.weight), "weight", self.weight, "finite")

    def scorers(self) -> Sequence[str]:
        """The stages whose reward models the term reads."""
        return ()

    def check(self) -> None:
        """Raises UserError where the term cannot work. It is called before the first step."""

    def function(self, host: Host) -> Function:
        """The function that a term with `on_host` calls between sampling and scoring."""
        raise NotImplementedError

    def identity(self) -> Any:
        """JSON values that are compared on resume besides the fields; None: nothing more."""
        return None

    def of(self, judged: Judged) -> jax.Array:
        """The term's value for each response [B], computed on the devices."""
        raise NotImplementedError


def total(rewards: Sequence[Reward], terms: Sequence[jax.Array]) -> jax.Array:
    """sum_i weight_i term_i: [B]."""
    first, *rest = (reward.weight * term for reward, term in zip(rewards, terms, strict=True))
    return sum(rest, start=first)
