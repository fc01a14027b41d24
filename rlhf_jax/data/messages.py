"""Messages of a dialogue, and the checks of a record's fields."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_jax.errors import RecordError

ROLES = ("system", "user", "assistant")


def require_field(ok: bool, field: str, value: Any, allowed: str) -> None:
    if not ok:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise RecordError(f"field {field!r}: expected {allowed}, got {shown}")


def check_text(field: str, value: Any, empty_allowed: bool = False) -> None:
    require_field(isinstance(value, str), field, value, "a string")
    require_field(empty_allowed or value != "", field, value, "a string that is not empty")
    require_field("\0" not in value, field, value, "text without NUL")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        require_field(False, field, value, "text that UTF-8 can hold (no lone surrogates)")


def check_labeler(value: Any) -> None:
    if value is not None:
        check_text("labeler", value)


def check_json(field: str, value: Any) -> None:
    """Requires a JSON value of finite numbers and valid text; `field` must be valid text too."""
    try:
        json.dumps({field: value}, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        allowed = "a JSON value of finite numbers and of text that UTF-8 can hold"
        require_field(False, field, value, allowed)


@dataclass(frozen=True, order=True)
class Message:
    """A turn of a dialogue. role: "system", "user" or "assistant"."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role in ("tool", "function", "ipython"):
            raise RecordError(f"field 'role': tools are not supported, got a turn of {self.role!r}")
        roles = f"one of {', '.join(ROLES)}"
        require_field(self.role in ROLES, "role", self.role, roles)
        check_text("content", self.content, empty_allowed=True)


Messages = tuple[Message, ...]


def messages_of(field: str, value: Any) -> Messages:
    """The messages of a JSON list [{"role": ..., "content": ...}, ...].

    Raises:
      RecordError: no such list, or turns that chat templates of text cannot render (tools, images).
    """
    require_field(isinstance(value, list | tuple), field, value, "a list of messages")
    require_field(len(value) > 0, field, value, "at least one message")
    return tuple(_message(f"{field}[{i}]", one) for i, one in enumerate(value))


def _message(field: str, value: Any) -> Message:
    if isinstance(value, Message):
        return value
    require_field(isinstance(value, Mapping), field, value, 'a message {"role", "content"}')
    given = {name: one for name, one in value.items() if one is not None}
    for name in given:
        if name in ("tool_calls", "function_call", "tool_call_id"):
            raise RecordError(f"field '{field}.{name}': tools are not supported")
        require_field(
            name in ("role", "content"), f"{field}.{name}", given[name], "role and content only"
        )
    for name in ("role", "content"):
        require_field(name in given, field, value, f"a message with a {name}")
    try:
        return Message(given["role"], given["content"])
    except RecordError as error:
        raise RecordError(str(error).replace("field '", f"field '{field}.", 1)) from None


def last_of_user(field: str, found: Messages) -> Messages:
    """The messages of a prompt. Raises RecordError unless the last one is a user's."""
    last = found[-1].role
    require_field(last == "user", f"{field}[{len(found) - 1}].role", last, "the user's turn at the "
                  "end of a prompt")  # fmt: skip
    return found


def dialogue(field: str, value: Any) -> str | Messages:
    """A prompt: text that is not empty, or messages, the last of a user."""
    if isinstance(value, list | tuple):
        return last_of_user(field, messages_of(field, value))
    check_text(field, value)
    return value


def plain(prompt: str | Messages) -> str:
    """A prompt as one text, by which prompts are compared: messages are "role: content"."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt)
