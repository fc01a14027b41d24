"""Records from items: prompts become messages, which a chat template renders, or text in
Anthropic's template."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rlhf_jax.data.formats.item import ASSISTANT, HUMAN, Dialogue, Item, Left, as_written
from rlhf_jax.data.messages import Message, Messages
from rlhf_jax.data.records import Conversation, Demonstration, Prompt, Ranking, Record, Scored

TEMPLATES = ("messages", "human")


class Rendered(NamedTuple):
    """An item whose prompt is that of a record."""

    prompt: str | Messages
    responses: tuple[str, ...]
    item: Item
    whole: bool  # whether the assistant's earlier turns are trained too


def shortened(item: Item, characters: int | None) -> tuple[Item, bool]:
    """(the item without its oldest turns, so that its prompt has at most so many characters;
    whether turns were cut). A system's turns and the last user's turn are kept, however long they
    are, and so is a prompt that is text."""
    if characters is None or isinstance(item.prompt, str):
        return item, False
    whole = dialogue = item.prompt
    while _size(dialogue) > characters and (less := _without_oldest(dialogue)) is not None:
        dialogue = less
    return dataclasses.replace(item, prompt=dialogue), dialogue != whole


def _size(dialogue: Dialogue) -> int:
    if dialogue.written is not None:
        return len(dialogue.written)
    return sum(len(turn.content) for turn in dialogue.turns)


def _without_oldest(dialogue: Dialogue) -> Dialogue | None:
    """The dialogue from its second user's turn on; None if it has only one."""
    users = [i for i, turn in enumerate(dialogue.turns) if turn.role == "user"]
    if len(users) < 2:
        return None
    system = [turn for turn in dialogue.turns[: users[1]] if turn.role == "system"]
    turns = (*system, *dialogue.turns[users[1] :])
    if dialogue.written is None:
        return Dialogue(turns)
    return as_written("", "prompt", dialogue.written[dialogue.written.find(HUMAN, 1) :])


def rendered(item: Item, template: str) -> Rendered:
    """The item in a template of TEMPLATES. Text stays as it is."""
    if isinstance(item.prompt, str):
        return Rendered(item.prompt, item.responses, item, False)
    dialogue, responses = item.prompt, item.responses
    if template == "human":
        if dialogue.written is None:
            responses = tuple(f" {response}" for response in responses)
        return Rendered(dialogue.written or in_human(dialogue.turns), responses, item, False)
    if dialogue.written is not None:
        responses = tuple(response.removeprefix(" ") for response in responses)
    earlier = any(turn.role == "assistant" for turn in dialogue.turns)
    return Rendered(dialogue.turns, responses, item, item.all_turns and earlier)


def in_human(turns: Sequence[Message]) -> str:
    """A prompt in Anthropic's template: "\\n\\nHuman: ... \\n\\nAssistant:", after the system's
    text."""
    marks = {"system": "", "user": f"{HUMAN} ", "assistant": f"{ASSISTANT} "}
    return "".join(marks[turn.role] + turn.content for turn in turns) + ASSISTANT


def _demonstrations(of: Rendered) -> list[Record]:
    """The response; of a ranking the best one, if it is the only best one."""
    ranks, responses = of.item.ranks, of.responses
    if ranks is not None:
        responses = {r for r, rank in zip(responses, ranks, strict=True) if rank == min(ranks)}
        if len(responses) > 1:
            raise Left("rankings with several best responses")
    elif of.item.scores is not None:
        raise Left("scored responses, of which no demonstrations are made")
    elif not responses:
        raise Left("prompts without a response, of which no demonstrations are made")
    for response in responses:
        if not response.strip():
            raise Left("an empty response")
    if of.whole:
        return [Conversation((*of.prompt, Message("assistant", r))) for r in responses]
    return [Demonstration(of.prompt, response) for response in responses]


def _rankings(of: Rendered) -> list[Record]:
    if of.item.ranks is None:
        raise Left("responses without ranks, of which no rankings are made")
    return [Ranking(of.prompt, of.responses, of.item.ranks)]


def _scored(of: Rendered) -> list[Record]:
    if of.item.scores is None:
        raise Left("responses without scores, of which no scored records are made")
    pairs = zip(of.responses, of.item.scores, strict=True)
    return [Scored(of.prompt, *pair) for pair in pairs]


def _prompts(of: Rendered) -> list[Record]:
    return [Prompt(of.prompt, of.item.fields)]


def _texts(of: Rendered) -> list[Record]:
    raise Left("prompts, of which no plain text is made")


MAKERS: dict[str, Callable[[Rendered], list[Record]]] = {
    "text": _texts,
    "demonstrations": _demonstrations,
    "rankings": _rankings,
    "scored": _scored,
    "prompts": _prompts,
}
KINDS = tuple(MAKERS)
