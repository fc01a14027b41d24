"""TRL's formats (huggingface.co/docs/trl/dataset_formats), as text or as messages, and our own."""

import itertools
from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.formats.item import (
    ASSISTANT,
    HUMAN,
    Document,
    Format,
    Item,
    Left,
    Noted,
    as_written,
    asked,
    compared,
    field,
    has,
)
from rlhf_jax.data.formats.messages import answered, dialogue, is_messages, noted, turns
from rlhf_jax.errors import RecordError

SOURCE = "https://huggingface.co/docs/trl/dataset_formats"
PLAIN = (str, list)


def text_or_messages(value: Any) -> bool:
    return isinstance(value, str) or is_messages(value)


def _has(row: Any, *names: str) -> bool:
    return isinstance(row, dict) and all(
        name in row and text_or_messages(row[name]) for name in names
    )


def _is_human(prompt: Any) -> bool:
    text = prompt.rstrip() if isinstance(prompt, str) else ""
    return text.startswith(HUMAN) and text.endswith(ASSISTANT)


def _answers(where: str, row: dict, *names: str) -> Iterator[tuple[Any, str]]:
    """(prompt, response) for each of the fields `names`, which follow the field "prompt". A text of
    turns in Anthropic's template is a dialogue."""
    prompt = field(where, row, "prompt", PLAIN)
    before = prompt if isinstance(prompt, str) else turns(where, "prompt", prompt)
    for name in names:
        value = field(where, row, name, PLAIN)
        if isinstance(value, str) and _is_human(prompt):
            text = prompt.rstrip()
            yield as_written(where, "prompt", text), prompt[len(text) :] + value
        elif isinstance(value, str) and isinstance(before, str):
            yield before, value
        elif isinstance(value, str):
            yield dialogue(before), value
        else:
            said = turns(where, name, value)
            # Some files repeat the prompt's messages in each answer, beside its text.
            yield answered(said if isinstance(before, str) else before + said)


def read_completion(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, completion}, as text or as messages."""
    ((prompt, response),) = _answers(where, row, "completion")
    yield Item(prompt, (response,))


def read_unpaired(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, completion, label}: a score of 1 where the label is true, of 0 where it is false."""
    ((prompt, response),) = _answers(where, row, "completion")
    yield Item(prompt, (response,), scores=(float(field(where, row, "label", bool)),))


def read_preference(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, chosen, rejected}, as text or as messages."""
    (prompt, chosen), (other, rejected) = _answers(where, row, "chosen", "rejected")
    if prompt != other:
        raise Left("prompts differ")
    yield compared(prompt, chosen, rejected)


def read_implicit(where: str, row: dict, by: str) -> Iterator[Item]:
    """{chosen, rejected}: the prompt is what they have in common. Of messages these are the first
    ones; of text the first characters, up to the end of a word."""
    chosen, rejected = (field(where, row, name, PLAIN) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise Left("equal responses")
    if isinstance(chosen, list) and isinstance(rejected, list):
        sides = [answered(turns(where, "chosen", chosen)),
                 answered(turns(where, "rejected", rejected))]  # fmt: skip
        if sides[0][0] != sides[1][0]:
            raise Left("prompts differ")
        yield compared(sides[0][0], sides[0][1], sides[1][1])
        return
    alike = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)
    )
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise RecordError(f"{where}: expected texts or messages in both of chosen and rejected")
    common = "".join(letter for letter, _ in alike)
    boundary = max(common.rfind(" "), common.rfind("\n"))
    if boundary <= 0:
        raise Left("no common prompt")
    yield compared(common[:boundary], chosen[boundary:], rejected[boundary:])


def read_messages(where: str, row: dict, by: str) -> Iterator[Item | Noted]:
    """{messages}: the last turn is the response, and earlier turns of the assistant are trained too
    if a chat template renders them."""
    said = field(where, row, "messages", list)
    found = turns(where, "messages", said)
    yield from noted(said, found)
    prompt, response = answered(found)
    yield Item(prompt, (response,), all_turns=True)


def read_prompt(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt} with any further fields, for reward functions."""
    prompt = field(where, row, "prompt", PLAIN)
    if isinstance(prompt, list):
        before = dialogue(turns(where, "prompt", prompt))
    else:
        before = as_written(where, "prompt", prompt.rstrip()) if _is_human(prompt) else prompt
    yield Item(before, fields={name: value for name, value in row.items() if name != "prompt"})


def read_strings(where: str, row: str, by: str) -> Iterator[Item]:
    """A JSON string: a user's message."""
    if not isinstance(row, str):
        raise RecordError(f"{where}: expected a JSON string, got {type(row).__name__}")
    if not row.strip():
        raise Left("an empty prompt")
    yield Item(asked(row))


def read_text(where: str, row: dict, by: str) -> Iterator[Document]:
    """{text}"""
    yield Document(field(where, row, "text", str))


def read_demonstration(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, response}"""
    prompt, response = (field(where, row, name, str) for name in ("prompt", "response"))
    yield Item(prompt, (response,))


def read_scored(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, response, score}"""
    prompt, response = (field(where, row, name, str) for name in ("prompt", "response"))
    yield Item(prompt, (response,), scores=(field(where, row, "score", (int, float)),))


def read_ranking(where: str, row: dict, by: str) -> Iterator[Item]:
    """{prompt, responses, ranks}"""
    responses, ranks = (field(where, row, name, list) for name in ("responses", "ranks"))
    yield Item(field(where, row, "prompt", str), tuple(responses), tuple(ranks))


def only(row: Any, *names: str) -> bool:
    """Whether a row has exactly these fields."""
    return isinstance(row, dict) and row.keys() == set(names)


FORMATS = (
    Format("TRL preferences", lambda row: _has(row, "prompt", "chosen", "rejected"),
           read_preference, ("rankings",), source=SOURCE),
    Format("TRL preferences with implicit prompts", lambda row: _has(row, "chosen", "rejected"),
           read_implicit, ("rankings",), source=SOURCE),
    Format("TRL unpaired preferences",
           lambda row: _has(row, "prompt", "completion") and has(row, label=bool),
           read_unpaired, ("scored",), source=SOURCE),
    Format("TRL prompts and completions", lambda row: _has(row, "prompt", "completion"),
           read_completion, ("demonstrations",), source=SOURCE),
    Format("messages", lambda row: isinstance(row, dict) and is_messages(row.get("messages")),
           read_messages, ("demonstrations",), source=SOURCE),
    Format("rankings", lambda row: has(row, prompt=str, responses=list, ranks=list),
           read_ranking, ("rankings",)),
    Format("scored responses",
           lambda row: has(row, prompt=str, response=str, score=(int, float)),
           read_scored, ("scored",)),
    Format("demonstrations", lambda row: only(row, "prompt", "response"),
           read_demonstration, ("demonstrations",)),
    Format("prompts",
           lambda row: _has(row, "prompt") and not row.keys() & {"response", "response_0"},
           read_prompt, ("prompts",), source=SOURCE),
    Format("text", lambda row: has(row, text=str) and "role" not in row and "rank" not in row,
           read_text, ("text",), source=SOURCE),
    Format("strings", lambda row: isinstance(row, str), read_strings, ("prompts",)),
)  # fmt: skip
