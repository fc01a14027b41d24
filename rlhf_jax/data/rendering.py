"""Records of messages as records of text, by a chat template."""

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_jax.data.counting import Splits
from rlhf_jax.data.messages import Message, Messages, last_of_user
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Prompt,
    Ranking,
    Record,
    Scored,
    Text,
)
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.fields import NOT_FINGERPRINTED

PUBLISHED = "published"
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
# Of counts.json.
SPELLED, JOINED, CHANGED = "special_token_spelled", "joined_differently", "response_changed"
HUMAN_IN, REFUSED = "human_turns_in_a_message", "refused_by_template"


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """How dialogues become the text that a model reads.

    template  None: prompts are texts with their whole template, and records of messages are
              refused; "published": the chat template of the tokenizer's folder; else a file of
              jinja text
    turns     which turns of a conversation, {"messages": ...}, are trained: "all" of the assistant,
              or the "last" one
    system    the system message of dialogues that have none; None: none is added
    texts     what a prompt that is a text is: "user": one message of the user; "human": turns that
              begin with "\\n\\nHuman:" and "\\n\\nAssistant:"; "rendered": already rendered
    """

    template: str | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)
    turns: Literal["all", "last"] = "all"
    system: str | None = None
    texts: Literal["user", "human", "rendered"] = "user"

    def __post_init__(self):
        require(self.turns in ("all", "last"), "turns", self.turns, "'all' or 'last'")
        ways = ("user", "human", "rendered")
        require(self.texts in ways, "texts", self.texts, f"one of {', '.join(map(repr, ways))}")
        known = self.system is None or self.template is not None
        require(known, "system", self.system, "None without a template")

    def identity(self) -> str | None:
        """The text of a template's file, of which its name says nothing; or "published"."""
        return self.source or self.template

    @property
    def source(self) -> str | None:
        """The text of the template's file; None: the published template, or none.

        Raises UserError where the file cannot be read.
        """
        if self.template is None or self.template == PUBLISHED:
            return None
        try:
            return Path(self.template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"chat.template = {self.template!r}: must be {PUBLISHED!r} or a file "
                            f"of jinja text; it cannot be read: {reason}")  from None  # fmt: skip


PLAIN = ChatConfig()


class Renderer:
    """Renders with the chat template of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, config: ChatConfig) -> None:
        self._tokenizer, self._config, self._chat = tokenizer, config, tokenizer.chat
        self._end = tokenizer.token_of(tokenizer.eos_id)

    def messages(self, prompt: str | Messages) -> Messages:
        """The messages of a prompt, with a system message if the config has one.

        Raises RecordError where a text has no turns that begin with "\\n\\nHuman:".
        """
        found = prompt
        if isinstance(prompt, str):
            human = self._config.texts == "human"
            found = _turns(prompt) if human else (Message("user", prompt),)
        system = self._config.system
        if system is not None and found[0].role != "system":
            found = (Message("system", system), *found)
        return found

    def prompt(self, prompt: str | Messages) -> str:
        """The text of a prompt, with the beginning of the assistant's turn."""
        return prompt if self._as_is(prompt) else self._chat.prompt(self.messages(prompt))

    def turn(self, prompt: str | Messages, response: str) -> tuple[str, str]:
        """The texts of a prompt and of a response to it, without the token that ends it."""
        if self._as_is(prompt):
            return prompt, response
        content = response.strip() if isinstance(prompt, str) else response
        messages = (*self.messages(prompt), Message("assistant", content))
        return self._parts(messages, every=False)[:2]

    def _parts(self, messages: Messages, every: bool) -> tuple[str, str, tuple]:
        text, spans = self._chat.turns(messages, self._end, every)
        start, stop = spans[-1]
        return text[:start], text[start : stop - len(self._end)], spans[:-1]

    def _as_is(self, prompt: str | Messages) -> bool:
        return isinstance(prompt, str) and self._config.texts == "rendered"

    def record(self, record: Record) -> Record:
        """The record with texts in place of messages. Raises RecordError where the template refuses
        them."""
        if isinstance(record, Text):
            return record
        if isinstance(record, Conversation):
            messages = self.messages(record.messages)
            prompt, response, spans = self._parts(messages, self._config.turns == "all")
            return Demonstration(prompt, response, spans)
        if isinstance(record, Prompt):
            return dataclasses.replace(record, prompt=self.prompt(record.prompt))
        if isinstance(record, Ranking):
            pairs = [self.turn(record.prompt, response) for response in record.responses]
            responses = tuple(response for _, response in pairs)
            return dataclasses.replace(record, prompt=pairs[0][0], responses=responses)
        prompt, response = self.turn(record.prompt, record.response)
        return dataclasses.replace(record, prompt=prompt, response=response)


def _turns(text: str) -> Messages:
    first, *rest = re.split(f"({HUMAN}|{ASSISTANT})", text)
    if first.strip() or not rest:
        raise RecordError(
            f"chat.texts = 'human': expected '\\n\\nHuman: ... \\n\\nAssistant:', got {text!r:.60}"
        )
    roles = {HUMAN: "user", ASSISTANT: "assistant"}
    found = [
        Message(roles[mark], said.strip()) for mark, said in zip(rest[::2], rest[1::2], strict=True)
    ]
    if found[-1] == Message("assistant", ""):
        found.pop()
    return last_of_user("prompt", tuple(found))


def _responses(record: Record) -> tuple[str, ...]:
    if isinstance(record, Ranking):
        return record.responses
    return (record.response,) if isinstance(record, Demonstration | Conversation | Scored) else ()


def _spoken(record: Record) -> str:
    """All that people wrote in a prompt, in one text."""
    if isinstance(record, Text):
        return ""
    told = record.prompt
    return told if isinstance(told, str) else "\n".join(message.content for message in told)


class Outcome(NamedTuple):
    """What `rendered` returns.

    counts   by name and split, where not 0: records with a special token spelled in a prompt, which
             the tokenizer reads as that token, as transformers does; records whose tokens would be
             others if prompt and response were joined first; records with a response that the
             template changes beyond white space at its ends; prompts with "\\n\\nHuman:" in them
             that are one message; and by split and reason, records that are refused
    refused  the places of the records that are left out, by split ("rankings.train")
    """

    splits: Splits
    counts: dict[str, dict[str, int]]
    refused: dict[str, list[int]]


def rendered(splits: Splits, tokenizer: Tokenizer, config: ChatConfig) -> Outcome:
    """The splits as texts. A record that the template refuses is left out and counted.

    Raises:
      RecordError: the template refuses every record of a split; the first one is named.
    """
    renderer, special = Renderer(tokenizer, config), tokenizer.special_pattern()
    found, counts = {}, {name: Counter() for name in (SPELLED, JOINED, CHANGED, HUMAN_IN, REFUSED)}
    refused, first = {}, {}
    for kind, parts in splits.items():
        found[kind] = {}
        for split, records in parts.items():
            place, made = f"{kind}.{split}", []
            for number, record in enumerate(records):
                try:
                    made.append(renderer.record(record))
                except RecordError as error:
                    refused.setdefault(place, []).append(number)
                    reason = str(error).partition(", got ")[0]  # of any record
                    counts[REFUSED][f"{place} ({reason})"] += 1
                    first.setdefault(place, error)
                    continue
                counts[SPELLED][place] += bool(special.search(_spoken(record)))
                counts[JOINED][place] += _joined_differ(made[-1], tokenizer)
                before, after = _responses(record), _responses(made[-1])
                counts[CHANGED][place] += [r.strip() for r in before] != [r.strip() for r in after]
                counts[HUMAN_IN][place] += config.texts == "user" and _in_human(record)
            if records and not made:
                raise RecordError(f"{place}: all {len(records)} records are refused; record 1: "
                                  f"{first[place]}")  # fmt: skip
            found[kind][split] = made
    return Outcome(found, {name: dict(+each) for name, each in counts.items() if +each}, refused)


def _in_human(record: Record) -> bool:
    """Whether the prompt is a text of turns in Anthropic's template."""
    prompt = "" if isinstance(record, Text) else record.prompt
    return isinstance(prompt, str) and prompt.startswith(HUMAN)


def _joined_differ(record: Record, tokenizer: Tokenizer) -> bool:
    responses = _responses(record)
    prompt = tokenizer.prompt_ids(record.prompt) if responses else []
    return any(
        prompt + tokenizer.encode(response) != tokenizer.parse(record.prompt + response)[0]
        for response in responses
    )


def record_of(record: Record, tokenizer: Tokenizer, config: ChatConfig) -> Record:
    """A record as text. Raises RecordError where it has messages and the config has no template."""
    if config.template is not None:
        return Renderer(tokenizer, config).record(record)
    if not isinstance(record, Text) and not isinstance(record.prompt, str):
        raise RecordError("field 'prompt': expected a text, got messages: name the template that "
                          "renders them, as in --chat.template published")  # fmt: skip
    return record


def refuse_messages(splits: Splits) -> None:
    """Raises RecordError where a record has messages, for a run without a chat template."""
    for kind, parts in splits.items():
        for split, records in parts.items():
            for number, record in enumerate(records, 1):
                try:
                    record_of(record, None, PLAIN)
                except RecordError as error:
                    raise RecordError(f"{kind}.{split}, record {number}: {error}") from None
