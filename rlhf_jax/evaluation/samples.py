"""Responses of all policies side by side, with the other evaluators' notes."""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from html import escape

import numpy as np

from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Column, Evaluator, Found, Item
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval

Items = Mapping[Hashable, Item]  # rows by id


@dataclasses.dataclass(frozen=True)
class Samples(Evaluator):
    """Shows `count` prompts with each policy's response on the report's page; measures how many
    responses end, and their length."""

    count: int = 8  # prompts that the page shows

    def __post_init__(self):
        super().__post_init__()
        require(self.count > 0, "count", self.count, "positive")

    def columns(self):
        return {
            "ended": Column(
                "ended,\ntokens",
                "share of the responses that end; below, the mean tokens of a response",
                percent=True,
                below="response_tokens",
                drawn=False,
            ),
            "response_tokens": Column(
                "tokens", "mean tokens of a response", digits=1, drawn=False, range=(0, None)
            ),
        }

    def rows(self, subject):
        sampled = subject.sampled()
        missing = subject.build.ending.missing if subject.scored else None
        texts = lambda column: np.array(column, dtype=object)
        return {
            "id": sampled.ids,
            "prompt": texts(sampled.prompts),
            "response": texts([response.text for response in sampled.responses]),
            "ended": np.array([response.ended for response in sampled.responses], float),
            "tokens": np.array([len(response.ids) for response in sampled.responses], float),
            "trained_to_end": np.full(len(sampled.ids), subject.trained_to_end),
            "missing": np.full(len(sampled.ids), math.nan if missing is None else missing),
        }

    def summary(self, rows, seed):
        ended, tokens = bounded_mean(rows["ended"], seed), mean_interval(rows["tokens"])
        return {"ended": ended, "response_tokens": tokens}

    def parts(self, rows):
        ones = np.ones(len(rows["ended"]))
        return {"ended": (rows["ended"], ones), "response_tokens": (rows["tokens"], ones)}

    def findings(self, found, seed):
        few = {
            stage: of
            for stage, of in found.items()
            if of.summary["ended"].mean < 0.5 and of.rows["trained_to_end"].all()
        }
        if not few:
            return []
        shares = [
            f"{100 * of.summary['ended'].mean:.0f} % of {stage}'s" for stage, of in few.items()
        ]
        missing = next(iter(few.values())).rows["missing"][0]
        scored = f"the others have the score ending.missing_eos_score = {missing:g}"
        told = f"{scored} in place of the reward model's"
        if math.isnan(missing):
            told = "the others were cut at evaluation.response_length tokens"
        return [f"Few responses end: {', '.join(shares)} responses end; {told}."]

    def section(self, found, others):
        if not found:
            return ""
        first = next(iter(found.values())).rows
        told = [(evaluator, _by_stage(of)) for evaluator, of in others if evaluator is not self]
        own, kinds = _by_stage(found), [_kind(id, [of for _, of in told]) for id in first["id"]]
        shown = "".join(self._sample(first["id"][i], own, told) for i in choose(kinds, self.count))
        return (
            '<h2>Samples</h2>\n<p class="soft">Taken evenly from each kind of prompt, '
            f"independent of the scores.</p>\n{shown}"
        )

    def _sample(self, id: Hashable, own: Mapping[str, Items], told: Sequence[tuple]) -> str:
        rows, prompt = "", next(iter(own.values()))[id]["prompt"]
        for stage, items in own.items():
            text = escape(items[id]["response"].strip()) or '<span class="soft">(empty)</span>'
            notes = [
                f'<span class="{look}">{escape(words)}</span>'
                for evaluator, of in told
                if id in of.get(stage, {})
                for words, look in evaluator.notes(of[stage][id])
            ]
            rows += (
                f'<tr><th>{escape(stage)}</th><td class="text">{text}</td>'
                f'<td class="marks">{"<br>".join(notes)}</td></tr>'
            )
        return (
            f'<section class="sample"><pre>{escape(prompt)}</pre>'
            f'<div class="wide"><table><tbody>{rows}</tbody></table></div></section>'
        )


def choose(kinds: Sequence[tuple[bool, ...]], count: int) -> list[int]:
    """The indices of `count` items: kinds take turns, and items are evenly spaced within a kind.

    An item's kind says which numbers evaluators have for it, independent of their values.
    """
    places: dict[tuple[bool, ...], list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    shares = dict.fromkeys(sorted(places, reverse=True), 0)
    while sum(shares.values()) < min(count, len(kinds)):
        room = [kind for kind in shares if shares[kind] < len(places[kind])]
        for kind in room[: count - sum(shares.values())]:
            shares[kind] += 1
    return [
        places[kind][(2 * turn + 1) * len(places[kind]) // (2 * share)]
        for kind, share in shares.items()
        for turn in range(share)
    ]


def _by_stage(found: Found) -> dict[str, Items]:
    """The rows of each stage by their ids."""
    return {stage: _by_id(measured.rows) for stage, measured in found.items()}


def _by_id(rows: Mapping[str, np.ndarray]) -> Items:
    columns = {name: column.tolist() for name, column in rows.items()}
    values = zip(*columns.values(), strict=True)
    return {item["id"]: item for item in (dict(zip(columns, row, strict=True)) for row in values)}


def _kind(id: Hashable, told: Sequence[Mapping[str, Items]]) -> tuple[bool, ...]:
    """For each number that evaluators give items: whether any policy has it for this item."""
    found = []
    for of in told:
        items = [items[id] for items in of.values() if id in items]
        numbers = (
            [name for name, value in items[0].items() if isinstance(value, float)] if items else []
        )
        found += [any(not math.isnan(item[name]) for item in items) for name in numbers]
    return tuple(found)
