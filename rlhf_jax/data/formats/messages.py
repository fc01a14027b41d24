"""Lists of messages, in the forms of TRL and ShareGPT, as turns."""

from collections.abc import Iterator
from typing import Any

from rlhf_jax.data.formats.item import Dialogue, Left, Noted, field
from rlhf_jax.data.messages import Message
from rlhf_jax.errors import RecordError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
TOOLS = ("tool", "function", "function_call", "observation", "ipython")


def is_messages(value: Any, role: str = "role", text: str = "content") -> bool:
    """Whether a value is a list of messages with these fields."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and role in first and text in first


def turns(
    where: str, name: str, messages: list, role: str = "role", text: str = "content"
) -> tuple[Message, ...]:
    """The turns of a list of messages. role, text: the names of a message's fields.

    A system's turn without text is none. Raises Left for messages that are not text alone (tools,
    images) or that are empty, and RecordError for an unknown role.
    """
    found = []
    for number, message in enumerate(messages):
        place = f"{where}: field '{name}[{number}]'"
        said = field(place, message, role, str)
        if said in TOOLS or message.get("tool_calls"):
            raise Left("turns of tools")
        if said not in ROLES:
            listed = ", ".join(ROLES)
            raise RecordError(f"{place}: field {role!r}: expected {listed}, got {said!r:.60}")
        if ROLES[said] == "system" and message.get(text) == "":
            continue
        found.append(Message(ROLES[said], _content(place, message, text)))
    return tuple(found)


def _content(place: str, message: dict, name: str) -> str:
    content = field(place, message, name, (str, list, type(None)))
    if isinstance(content, list):
        parts = [field(place, part, "type", str) for part in content]
        if any(part != "text" for part in parts):
            raise Left("images or sound")
        content = "".join(field(place, part, "text", str) for part in content)
    if not content or not content.strip():
        raise Left("an empty turn")
    return content


NO_SYSTEM = "dialogues without their empty turn of the system"


def noted(said: list, found: tuple[Message, ...]) -> Iterator[Noted]:
    """What `turns` took from a list of messages."""
    if len(found) < len(said):
        yield Noted(NO_SYSTEM)


def answered(found: tuple[Message, ...]) -> tuple[Dialogue, str]:
    """(the turns before the last one, the last one's text). Raises Left unless the last turn is an
    assistant's and the turns before it are a dialogue."""
    if not found or found[-1].role != "assistant":
        raise Left("no assistant's turn at the end")
    return dialogue(found[:-1]), found[-1].content


def dialogue(found: tuple[Message, ...]) -> Dialogue:
    """The turns as a prompt. Raises Left unless a user has the first turn, after a system's, and
    the last one."""
    spoken = [turn.role for turn in found if turn.role != "system"]
    if not spoken or spoken[0] != "user":
        raise Left("no user's turn at the beginning")
    if found[-1].role != "user":
        raise Left("no user's turn before the response")
    return Dialogue(found)
