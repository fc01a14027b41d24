"""Forms: bytes of a request to fields, fields to an answer. Whatever is wrong is one sentence."""

import re
from collections.abc import Collection, Mapping, Sequence
from string import ascii_uppercase
from typing import Any
from urllib.parse import parse_qsl

from rlhf_jax.data.records import dense_ranks
from rlhf_jax.labelling.item import MOST_OUTPUTS, Item
from rlhf_jax.labelling.words import FLAGS, SCALE, SKIP_REASONS

MOST_TEXT = 100_000  # characters that a labeler writes
MOST_DETAIL = 500  # characters of the reason of a skip
MOST_FIELDS = MOST_OUTPUTS * (2 + len(FLAGS)) + 10
MOST_SECONDS = 10**9
DIGITS = re.compile(r"[0-9]{1,10}")  # ASCII: int() reads digits of all scripts
COMMON = ("csrf", "assignment", "seconds")

Form = Mapping[str, Sequence[str]]


class FormError(Exception):
    """A form that is refused. status: 400: no page sends it; 422: its sender can mend the field."""

    def __init__(self, message: str, status: int = 422, field: str | None = None):
        super().__init__(message)
        self.status, self.field = status, field


def parse(body: bytes) -> dict[str, list[str]]:
    """The values of each field of an urlencoded form.

    Raises FormError where the bytes are none, or have more fields than any page sends.
    """
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict",
            max_num_fields=MOST_FIELDS,
        )  # fmt: skip
    except (UnicodeDecodeError, ValueError):
        raise FormError("The form cannot be read.", 400) from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def one(form: Form, name: str, default: str | None = None) -> str:
    """The only value of a field. default: of a field that is missing; None: it must be there."""
    values = form.get(name, () if default is None else (default,))
    if len(values) != 1:
        raise FormError(f"The form needs the field {name} once, got it {len(values)} times.", 400)
    return values[0]


def refuse_others(form: Form, known: Collection[str]) -> None:
    """Raises FormError where a form has a field that is not known."""
    if others := sorted(form.keys() - set(known)):
        shown = repr(others[0]) if len(others[0]) <= 40 else "(a long name)"
        raise FormError(f"The form has a field {shown} that is not known.", 400)


def seconds_of(form: Form) -> int | None:
    """The time that the page counted; None: it counted none."""
    text = one(form, "seconds", "")
    if text == "":
        return None
    return _whole(text, range(MOST_SECONDS), "The field seconds", 400)


def answer_of(form: Form, item: Item, places: Sequence[int]) -> dict[str, Any]:
    """What is stored of an answer: {"ranks", "scores", "flags"} by the number of the output, or
    {"text"}.

    places: the number of the output that is shown in each place.
    Raises FormError.
    """
    if item.task == "rank":
        return _ranking(form, item, places)
    field = TEXTS[item.task]
    refuse_others(form, (*COMMON, field))
    text = one(form, field).replace("\r\n", "\n")
    if not text.strip():
        raise FormError("Write a text first.", field=field)
    return {"text": _text(text, MOST_TEXT, field)}


TEXTS = {"demonstrate": "response", "write": "prompt"}  # the field of the text, by task


def _ranking(form: Form, item: Item, places: Sequence[int]) -> dict[str, Any]:
    count, codes = len(item.outputs), [flag.code for flag in FLAGS]
    fields = [f"{kind}-{i}" for kind in ("rank", "score", "flag") for i in range(count)]
    refuse_others(form, (*COMMON, *fields))
    ranks, scores, flags = [0] * count, [0] * count, [[] for _ in range(count)]
    whole = lambda kind, i, allowed: _whole(
        one(form, f"{kind}-{i}", ""),
        allowed,
        f"Output {ascii_uppercase[i]}: {kind}",
        field=f"{kind}-{i}",
    )
    for i, number in enumerate(places):
        ranks[number] = whole("rank", i, range(1, count + 1))
        scores[number] = whole("score", i, SCALE)
        ticked = form.get(f"flag-{i}", ())
        if not set(ticked) <= set(codes) or len(set(ticked)) < len(ticked):
            raise FormError(
                f"Output {ascii_uppercase[i]} has a flag that is not known, or one twice.", 400
            )
        flags[number] = [code for code in codes if code in ticked]
    return {"ranks": list(dense_ranks(ranks)), "scores": scores, "flags": flags}


def skip_of(form: Form) -> dict[str, str]:
    """What is stored of a skip: {"reason", "detail"}. Raises FormError."""
    refuse_others(form, (*COMMON, "reason", "detail"))
    reason, detail = one(form, "reason", ""), one(form, "detail", "").replace("\r\n", "\n")
    if reason not in [choice.code for choice in SKIP_REASONS]:
        raise FormError("Choose a reason for the skip.", field="reason")
    if reason == "other" and not detail.strip():
        raise FormError("Say why you skip it.", field="detail")
    return {"reason": reason, "detail": _text(detail, MOST_DETAIL, "detail")}


def _text(text: str, most: int, field: str) -> str:
    if len(text) > most:
        told = f"The text has {len(text)} characters; {most} are allowed."
        raise FormError(told, field=field)
    if "\0" in text:
        raise FormError("The text has a NUL character, which no record can hold.", field=field)
    return text


def _whole(
    text: str, allowed: range, what: str, status: int = 422, field: str | None = None
) -> int:
    if DIGITS.fullmatch(text) is None or int(text) not in allowed:
        shown = "nothing" if text == "" else repr(text) if len(text) <= 20 else "a long text"
        least, most = allowed[0], allowed[-1]
        told = f"a whole number from {least} to {most}"
        raise FormError(f"{what} must be {told}, got {shown}.", status, field)
    return int(text)


def typed(form: Form, task: str, count: int) -> dict[str, Any]:
    """What a refused form holds as far as it can be shown again, by place."""
    last = lambda name: (form.get(name) or [""])[-1]
    whole = lambda name: int(last(name)) if DIGITS.fullmatch(last(name)) else None
    return {
        "ranks": [whole(f"rank-{i}") for i in range(count)],
        "scores": [whole(f"score-{i}") for i in range(count)],
        "flags": [list(form.get(f"flag-{i}", ())) for i in range(count)],
        "text": last(TEXTS[task]) if task in TEXTS else "",
    }


def typed_skip(form: Form) -> dict[str, str]:
    """What a refused form of a skip holds."""
    return {name: (form.get(name) or [""])[-1] for name in ("reason", "detail")}
