"""Checks of the data before the first step of any stage: whether enough records remain for each
stage, its warm-up and the report. They use the lengths of tokenised records and their numbers of
outputs.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from rlhf_jax.data.arrays import Close, left_out, tokenised_ranking, told
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Scored
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError, require
from rlhf_jax.parallel import processes


class Measured(NamedTuple):
    """Measures of one record."""

    tokens: int  # of its longest sequence
    outputs: int = 1
    reason: str | None = None  # why it is left out, such as a ranking that is all ties


class Expected(NamedTuple):
    """Bounds on rankings that a stage has not collected yet."""

    rankings: int  # their number, at most
    shortest: int  # tokens of prompt and response, at least
    most_outputs: int


class Data(Protocol):
    """Records, and how messages name them."""

    tokenizer: Tokenizer

    def has(self, kind: str, split: str) -> bool: ...
    def read(self, kind: str, split: str) -> Sequence: ...
    def sources(self, kind: str, split: str) -> Mapping[str, int]: ...
    def where(self, kind: str, split: str) -> str: ...


class Measures:
    """The tokenised lengths of records; each split is measured once. Of several processes each
    tokenises its share."""

    def __init__(self, close: Close):
        """close: adds the end token to a ranked response (`Ending.close`)."""
        self._close, self._found = close, {}
        self._measures: dict[str, Callable] = {
            "prompts": self._prompt,
            "demonstrations": self._demonstration,
            "rankings": self._ranking,
            "scored": self._demonstration,
        }

    def of(self, data: Data, kind: str, split: str) -> list[Measured]:
        key = data.where(kind, split), kind, split
        if key not in self._found:
            measure, tokenizer, records = (
                self._measures[kind],
                data.tokenizer,
                data.read(kind, split),
            )
            of = lambda i: measure(records[i], tokenizer)
            self._found[key] = [Measured(*m) for m in processes.measured(of, len(records))]
        return self._found[key]

    def _prompt(self, record: Prompt, tokenizer: Tokenizer) -> Measured:
        return Measured(len(tokenizer.prompt_ids(record.prompt)))

    def _demonstration(self, record: Demonstration | Scored, tokenizer: Tokenizer) -> Measured:
        response = tokenizer.encode(record.response)
        return Measured(len(tokenizer.prompt_ids(record.prompt)) + len(response) + 1)

    def _ranking(self, record: Ranking, tokenizer: Tokenizer) -> Measured:
        ranked = tokenised_ranking(record, tokenizer, self._close)
        longest = max(len(ids) for ids, _ in ranked[0])
        return Measured(longest, len(ranked[1]), left_out(record, ranked, math.inf))


class Facts:
    """The records of one stage, or of the report, as its checks see them.

    name: the stage's. data: a function from a kind of records to the `Data` that has them.
    expected: gives the bounds on rankings that are not collected yet.
    left_out: {"rankings.train": {source: {reason: count}}}, filled by `some`.
    limits: {("rankings", "train"): (the config's name for the length, tokens)}, filled by `some`.
    """

    def __init__(
        self,
        name: str,
        data: Callable[[str], Data],
        measures: Measures,
        expected: Callable[[], Expected | None] = lambda: None,
    ):
        self._name, self._data, self._measures = name, data, measures
        self._expected = expected
        self.left_out: dict[str, dict] = {}
        self.limits: dict[tuple[str, str], tuple[str, int]] = {}

    @property
    def expected(self) -> Expected | None:
        """Bounds on rankings that another stage has not collected yet; None: they are there."""
        return self._expected()

    def there(self, kind: str, split: str) -> None:
        """Raises UserError where there are no such records."""
        if not self._data(kind).has(kind, split):
            where = self.where(kind, split)
            raise UserError(f"{self._name} reads {where}, and the data have no such records")

    def measured(self, kind: str, split: str) -> list[Measured]:
        self.there(kind, split)
        return self._measures.of(self._data(kind), kind, split)

    def where(self, kind: str, split: str) -> str:
        """How a message names the records."""
        return self._data(kind).where(kind, split)

    def warms_up(self, rows: float, epochs: float, batch_size: int, warmup: int) -> None:
        """Raises ConfigError unless the stage has more steps than its warm-up; rows: per epoch."""
        steps = max(1, round(epochs * math.ceil(rows / batch_size)))
        allowed = f"below the run's {steps} steps"
        require(warmup < steps, "optimizer.warmup_steps", warmup, allowed)

    def fits(self, kind: str, split: str, field: str, length: int, needed: int) -> None:
        """Raises ConfigError, naming the field, unless its `length` is at least `needed`, the
        tokens of the longest prompt."""
        allowed = f"at least {needed}, for the prompts of {self.where(kind, split)}"
        require(length >= needed, field, length, allowed)

    def rankings(
        self, split: str, length: int, outputs: int, collector: str | None
    ) -> list[Measured] | None:
        """The rankings that remain (`some`); None where `collector`, a stage, is yet to collect
        them. Raises ConfigError where they have more outputs than `outputs`, or the shortest is
        longer than `length`."""
        if (expected := self.expected) is not None:
            allowed = f"at least {expected.shortest}, for the shortest prompt of {collector}"
            require(length >= expected.shortest, "length", length, allowed)
            most, whose = expected.most_outputs, f"the largest K of {collector}"
        else:
            most = max(ranking.outputs for ranking in self.measured("rankings", split))
            whose = f"the longest ranking of {self.where('rankings', split)}"
        require(outputs >= most, "outputs", outputs, f"at least {most}, {whose}")
        return self.some("rankings", split, "length", length) if expected is None else None

    def some(self, kind: str, split: str, field: str, length: int) -> list[Measured]:
        """The records that remain when records longer than `length` tokens are left out.

        Prints and counts, by source, the records that are left out. `field` is the config's name
        for the length. Raises UserError where no record remains.
        """
        facts, where = self.measured(kind, split), self.where(kind, split)
        reasons = ["too long" if fact.tokens > length else fact.reason for fact in facts]
        shortest = min((fact.tokens for fact in facts if fact.tokens > length), default=None)
        field = f"{self._name}.{field}"
        self.limits[kind, split] = field, length
        room = f" ({field} = {length}; those too long have {shortest} tokens or more)"
        limit = lambda found: room if "too long" in found else ""
        counts, start = {}, 0
        for source, count in self._data(kind).sources(kind, split).items():
            found = Counter(filter(None, reasons[start : start + count]))
            start += count
            if found:
                counts[source] = dict(found)
                about = f"{told(found)} of {count} left out{limit(found)}"
                print(f"{self._name}: {where}: {source}: {about}")
        self.left_out[f"{kind}.{split}"] = counts
        if all(reasons):
            found = Counter(reasons)
            about = f"nothing is left for {self._name}: {told(found)}{limit(found)}"
            raise UserError(f"{where}: {about}")
        return [fact for fact, reason in zip(facts, reasons, strict=True) if reason is None]
