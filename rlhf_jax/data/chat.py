"""Chat templates: the jinja2 text that turns messages into the text that a model was trained on.

A template is published with a model and is not trusted: it runs in jinja2's immutable sandbox, and
sees texts only. It sees what transformers' `apply_chat_template` gives it (messages, special
tokens, raise_exception, tojson, {% generation %} blocks), but for tools, and for strftime_now: the
day of a run must not change its numbers. Templates that ask for the day then write a fixed one, as
Llama 3.2's does.
"""

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlhf_jax.data.messages import Message, Messages
from rlhf_jax.errors import RecordError, UserError

CONTENT = "rlhfjaxcontent"  # stands for a turn's content, to see what a template writes after it


class _Refused(jinja2.TemplateError):
    """What a template says by raise_exception."""


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %} around what the model writes: the text between marks
    that `Rendered` finds again."""

    tags = frozenset({"generation"})

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [jinja2.nodes.ContextReference()])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: Any, caller: Any) -> str:
        start, stop = context.get("generation_marks") or ("", "")
        return f"{start}{caller()}{stop}"


def _refuse(message: str) -> None:
    raise _Refused(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@functools.lru_cache(16)
def _compiled(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        line = f"line {error.lineno}: " if getattr(error, "lineno", None) else ""
        raise UserError(f"chat template: {line}{error}") from None


class Rendered(NamedTuple):
    """The text of a dialogue, and the spans [start, stop) of characters that the assistant wrote,
    with the token that ends each turn."""

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """source: jinja text. tokens: the special tokens that it may write, as {"bos_token": "<s>"}."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.source, self.tokens = source, dict(tokens)
        self._template = _compiled(source)
        self.marked = "endgeneration" in source

    def text(self, messages: Sequence[Message], generate: bool = False, **more: Any) -> str:
        """The text of a dialogue. generate: with the beginning of the assistant's next turn.

        Raises:
          RecordError: the template refuses the messages, such as a system turn.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        given = self.tokens | {"tools": None, "documents": None} | more
        try:
            return self._template.render(messages=turns, add_generation_prompt=generate, **given)
        except _Refused as error:
            raise RecordError(f"the chat template refuses these messages: {error}") from None
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError,
                AttributeError, RecursionError) as error:  # fmt: skip
            raise RecordError(f"the chat template fails: {error}") from None

    def after_turn(self) -> str:
        """What the template writes after the content of a last turn of the assistant."""
        text = self.text((Message("user", "a"), Message("assistant", CONTENT)))
        before, found, after = text.rpartition(CONTENT)
        if not found or not before:
            raise UserError(
                "chat template: expected the content of the assistant's turn in its text"
            )
        return after

    def prompt(self, messages: Messages) -> str:
        """The text before the assistant's next turn."""
        return self.text(messages, generate=True)

    def turns(self, messages: Messages, end: str, every: bool) -> Rendered:
        """A dialogue that ends with the assistant's turn.

        end: the token that ends a turn. every: False: the spans are the last turn alone. Earlier
        turns are where the template has its generation marks, or without marks where the text of
        the messages so far begins the whole text. A first message of the assistant is not trained.

        Raises:
          RecordError: a turn does not begin as `prompt` does or has no end token, or the template
            writes an earlier turn otherwise when later turns follow.
        """
        text, last = self.text(messages), len(messages) - 1
        spans = [self._span(text, messages, last, end)]
        if every and self.marked:
            spans = [*self._marked_before(text, messages, spans[0][0], end), *spans]
        elif every:
            earlier = [i for i in range(1, last) if messages[i].role == "assistant"]
            spans = [*(self._span(text, messages, i, end) for i in earlier), *spans]
        return Rendered(text, tuple(spans))

    def _span(self, text: str, messages: Messages, i: int, end: str) -> tuple[int, int]:
        """The span of the turn i by prefix differences."""
        before = self.prompt(messages[:i])
        through = text if i == len(messages) - 1 else self.text(messages[: i + 1])
        if not through.startswith(before):
            raise RecordError(
                "the chat template begins a turn of the assistant otherwise than its prompt, which "
                f"ends with {before[-40:]!r}"
            )
        if not text.startswith(through):
            raise RecordError("the chat template writes an earlier turn otherwise when later turns "
                              "follow: only the last turn can be trained (chat.turns)")  # fmt: skip
        return self._to_end(text, len(before), len(through), end)

    def _to_end(self, text: str, start: int, stop: int, end: str) -> tuple[int, int]:
        place = text.rfind(end, start, stop)
        if place < 0:
            raise RecordError(
                f"a turn has no {end}: the token that stops a response must be trained, got "
                f"{text[start:stop]!r:.60}"
            )
        return start, place + len(end)

    def _marked_before(
        self, text: str, messages: Messages, last: int, end: str
    ) -> list[tuple[int, int]]:
        """The marked spans of earlier turns. last: where the last turn starts."""
        marked = self._marked_spans(messages, text)
        replies = sum(message.role == "assistant" for message in messages)
        if len(marked) != replies:
            raise RecordError(f"the chat template marks {len(marked)} turns as generated, and "
                              f"{replies} are of the assistant")  # fmt: skip
        if marked[0][0] == 0 or marked[-1][1] < last:
            raise RecordError("the generation marks of the chat template do not hold the turns of "
                              "the assistant alone")  # fmt: skip
        earlier = marked[messages[0].role == "assistant" : -1]
        return [self._to_end(text, *span, end) for span in earlier]

    def _marked_spans(self, messages: Messages, text: str) -> list[tuple[int, int]]:
        """The spans between the template's generation marks."""
        said = "".join(message.content for message in messages)
        signs = (chr(code) for code in itertools.count(0xE000))  # of private use
        start, stop = itertools.islice((sign for sign in signs if sign not in said), 2)
        parts = self.text(messages, generation_marks=(start, stop)).split(start)
        place, spans = len(parts[0]), []
        for part in parts[1:]:
            inner, _, after = part.partition(stop)
            spans.append((place, place + len(inner)))
            place += len(inner) + len(after)
        if place != len(text):
            raise RecordError("the chat template cuts what is between its generation marks")
        return spans
