"""What a labeler is asked: a prompt with outputs to rank, a demonstration to write, or a prompt."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

from rlhf_jax.data.messages import Message, Messages, dialogue, require_field
from rlhf_jax.data.records import dense_ranks

Task = Literal["rank", "demonstrate", "write"]
TASKS = get_args(Task)
MOST_OUTPUTS = 25  # of a prompt on one page


@dataclasses.dataclass(frozen=True)
class Output:
    """A response to rank.

    ended    False: it was cut at the length limit
    origins  the names of the models that gave this text; labelers do not see them
    """

    text: str
    ended: bool = True
    origins: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing to label.

    task     "rank", "demonstrate" or "write"
    prompt   text or messages; of "write" an instruction to the labeler, or ""
    outputs  K >= 2 different texts of "rank"
    gold     known ranks of the outputs, 0 is best, for the screening of labelers; None: not known
    number   tells items apart that are otherwise equal, such as two prompts to write
    """

    task: Task
    prompt: str | Messages
    outputs: tuple[Output, ...] = ()
    gold: tuple[int, ...] | None = None
    number: int = 0

    def __post_init__(self):
        require_field(self.task in TASKS, "task", self.task, f"one of {', '.join(TASKS)}")
        if self.task != "write" or self.prompt:
            object.__setattr__(self, "prompt", dialogue("prompt", self.prompt))
        for output in self.outputs:
            check_utf8("outputs", output.text)
        ranked, count = self.task == "rank", len(self.outputs)
        require_field(ranked or not count, "outputs", count, f"none of the task {self.task}")
        if ranked:
            allowed = f"2 to {MOST_OUTPUTS} different outputs"
            different = len({output.text for output in self.outputs})
            require_field(2 <= different == count <= MOST_OUTPUTS, "outputs", count, allowed)
        if self.gold is not None:
            matches = len(self.gold) == count and max(dense_ranks(self.gold)) > 0
            require_field(matches, "gold", self.gold, f"{count} ranks that do not all tie")

    @property
    def digest(self) -> str:
        """Equal for equal items, so that one that is given again is not stored twice."""
        content = [self.task, told(self.prompt), [o.text for o in self.outputs], self.gold,
                   self.number]  # fmt: skip
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_utf8(field: str, text: str) -> None:
    """Requires a text that UTF-8 can hold. NULs may be in it: models can write them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        require_field(False, field, text, "text that UTF-8 can hold (no lone surrogates)")


def turns(prompt: str | Messages) -> list[tuple[str | None, str]]:
    """A prompt as (role, text) of each turn. A text has no role, and "" no turn."""
    if isinstance(prompt, str):
        return [(None, prompt)] if prompt else []
    return [(turn.role, turn.content) for turn in prompt]


def told(prompt: str | Messages) -> Any:
    """A prompt as a JSON value."""
    return prompt if isinstance(prompt, str) else [dataclasses.asdict(turn) for turn in prompt]


def of_told(value: Any) -> str | Messages:
    """The prompt of a JSON value."""
    return value if isinstance(value, str) else tuple(Message(**turn) for turn in value)


def with_equal_joined(outputs: Sequence[Output]) -> tuple[Output, ...]:
    """The outputs without repeated texts; the one that stays has all origins."""
    found: dict[str, Output] = {}
    for output in outputs:
        other = found.get(output.text, output)
        origins = tuple(dict.fromkeys(other.origins + output.origins))
        found[output.text] = dataclasses.replace(other, origins=origins)
    return tuple(found.values())
