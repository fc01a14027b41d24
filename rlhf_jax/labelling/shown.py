"""What the templates show: an item without its origins, a labeler's progress."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.labelling.item import turns
from rlhf_jax.labelling.store import Assignment, Progress

# Control characters as pictures, U+2400 and on; tabs and line breaks stay.
PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
BREAK_AFTER = 30 * 60.0  # seconds of work after which a break is suggested
BREAK = 5 * 60.0  # seconds without an answer that count as a break


def visible(text: str) -> str:
    """A text with its control characters visible. HTML has no way to hold some of them."""
    return text.replace("\r\n", "\n").translate(PICTURES)


def item(of: Assignment, number: int, typed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The variable `item` of a template.

    number: which item of this labeler it is. typed: what a refused form holds, by place; None: the
    answer that was taken back, if there is one.
    """
    filled = typed or _former(of)
    outputs = [
        {
            "place": place,
            "text": visible(of.item.outputs[output].text),
            "ended": of.item.outputs[output].ended,
            "rank": filled["ranks"][place],
            "score": filled["scores"][place],
            "flags": filled["flags"][place],
        }
        for place, output in enumerate(of.places)
    ]
    return {
        "assignment": of.id,
        "task": of.item.task,
        "turns": [{"role": role, "text": visible(text)} for role, text in turns(of.item.prompt)],
        "outputs": outputs,
        "text": filled["text"],
        "number": number,
    }


def _former(of: Assignment) -> dict[str, Any]:
    """The answer that was taken back, by place; a skip fills nothing in."""
    content, none = of.content or {}, [None] * len(of.places)
    by_place = lambda values: [values[output] for output in of.places]
    ranks = content.get("ranks")
    return {
        "ranks": none if ranks is None else by_place(counted(ranks)),
        "scores": by_place(content.get("scores", none)),
        "flags": by_place(content.get("flags", [[] for _ in of.places])),
        "text": content.get("text", ""),
    }


def counted(ranks: Sequence[int]) -> list[int]:
    """Dense ranks from 0 as a person counts, from 1."""
    return [1 + rank for rank in ranks]


def progress(of: Progress, worked: float = 0.0) -> dict[str, Any]:
    """The variable `progress` of a template. worked: seconds since the last break."""
    total = of.done + of.skipped + of.left
    return of._asdict() | {
        "can_undo": of.done + of.skipped > 0,
        "since_break": int(worked),
        "share": (of.done + of.skipped) / total if total else 1.0,
    }


def finite(value: float) -> float | None:
    """A number, or None where it is not known."""
    return value if math.isfinite(value) else None
