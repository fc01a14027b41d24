"""What the owner's page shows: items, labelers and their agreement, models, skips and flags."""

import collections
import datetime
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.feedback.agreement import (
    Agreement,
    Ratings,
    krippendorff,
    raw_agreement,
    with_the_others,
)
from rlhf_jax.labelling import answers as answers_of
from rlhf_jax.labelling import export
from rlhf_jax.labelling.answers import Answer
from rlhf_jax.labelling.database import EVERYBODY, Database
from rlhf_jax.labelling.item import TASKS
from rlhf_jax.labelling.shown import finite
from rlhf_jax.labelling.words import FLAGS, SKIP_REASONS, Choice

ONLINE = 5 * 60.0  # seconds since the last answer


def overview(database: Database) -> dict[str, Any]:
    """The variable `owner` of the template."""
    found = answers_of.read(database)
    ranked = answers_of.rankings(found)
    pairs = Ratings.of_rankings((a.number, a.labeler, a.content["ranks"]) for a in ranked)
    scores = _scores(ranked)
    return {
        "items": _items(database, found),
        "labelers": _labelers(database, found, pairs, scores),
        "agreement": {
            **_told("raw", raw_agreement(pairs)),
            "alpha_ranks": finite(krippendorff(pairs, "nominal").value),
            "alpha_scores": finite(krippendorff(scores, "ordinal").value),
            "items": len({a.number for a in _overlapping(ranked)}),
        },
        "origins": origins(ranked),
        "flags": _counts(FLAGS, (code for a in ranked for of in a.content["flags"] for code in of),
                         sum(len(a.content["flags"]) for a in ranked)),
        "skips": _counts(SKIP_REASONS, (a.content["reason"] for a in found
                                        if a.state == "skipped")),
        "exports": [{"name": name, "about": about} for name, about in export.FILES.items()],
    }  # fmt: skip


def _scores(ranked: Sequence[Answer]) -> Ratings:
    """The scores of outputs; an item of the table is an output."""
    rows = [((a.number, output), a.labeler, score) for a in ranked
            for output, score in enumerate(a.content["scores"])]  # fmt: skip
    return Ratings.of_labels(rows)


def _overlapping(ranked: Sequence[Answer]) -> list[Answer]:
    """Answers to items that two labelers have ranked."""
    count = collections.Counter(a.number for a in ranked)
    return [a for a in ranked if count[a.number] > 1]


def _told(name: str, of: Agreement) -> dict[str, Any]:
    """An agreement as the fields name, name_low, name_high and pairs."""
    return {
        name: finite(of.value),
        f"{name}_low": finite(of.low),
        f"{name}_high": finite(of.high),
        "pairs": of.items,
    }


def _items(database: Database, found: Sequence[Answer]) -> list[dict[str, Any]]:
    """A row for each task that has items. Gold items do not count: they are never complete. An item
    is complete if as many labelers have answered it as are wanted."""
    answered = "SELECT count(*) FROM assignments a WHERE a.item = items.id AND a.state = 'answered'"
    count = (
        f"SELECT task, count(*) AS total, sum(({answered}) >= wanted) AS complete, "
        "sum(wanted) AS wanted FROM items WHERE wanted < ? GROUP BY task"
    )
    with database.reading() as connection:
        rows = {row["task"]: row for row in connection.execute(count, (EVERYBODY,))}
    of = lambda task, state: sum(
        a.item.task == task and a.state == state and a.item.gold is None for a in found
    )
    return [
        {
            "task": task,
            **{name: rows[task][name] for name in ("total", "complete", "wanted")},
            "answers": of(task, "answered"),
            "skips": of(task, "skipped"),
        }
        for task in TASKS
        if task in rows
    ]


def _labelers(
    database: Database, found: Sequence[Answer], pairs: Ratings, scores: Ratings
) -> list[dict[str, Any]]:
    with database.reading() as connection:
        people = connection.execute("SELECT * FROM people WHERE labels ORDER BY name").fetchall()
    raw, nobody = with_the_others(pairs), Agreement(math.nan, math.nan, math.nan, 0)
    return [
        _labeler(name, [a for a in found if a.labeler == name])
        | {"consented": person["consented"] is not None}
        | _told("raw", raw.get(name, nobody))
        | {"alpha": _alpha(scores, name)}
        for person in people
        for name in [person["name"]]
    ]


def _labeler(name: str, own: Sequence[Answer]) -> dict[str, Any]:
    """What a labeler's own answers say."""
    answered = [a for a in own if a.state == "answered"]
    seconds = [a.seconds for a in answered]
    gold, total = gold_pairs(answers_of.rankings(own, gold=True))
    last = max((a.at for a in own), default=None)
    stamp = lambda at: datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat("T", "seconds")
    return {
        "name": name,
        "answered": len(answered),
        "skipped": len(own) - len(answered),
        "seconds": sum(seconds),
        "median_seconds": float(np.median(seconds)) if seconds else None,
        "gold": gold / total if total else None,
        "gold_pairs": total,
        "last": None if last is None else stamp(last),
        "online": last is not None and time.time() - last < ONLINE,
    }


def _alpha(scores: Ratings, name: str) -> float | None:
    """Krippendorff's alpha (ordinal) of the scores of outputs that this labeler has scored."""
    if name not in scores.labelers:
        return None
    own = ~np.isnan(scores.column(name))
    return finite(krippendorff(Ratings(scores.labels[own], scores.labelers), "ordinal").value)


def gold_pairs(ranked: Sequence[Answer]) -> tuple[int, int]:
    """(pairs of outputs of gold items that are ordered as the gold ranks say, all pairs that the
    gold ranks order)."""
    right = total = 0
    for answer in ranked:
        gold, ranks = answer.item.gold, answer.content["ranks"]
        for i, j in itertools.combinations(range(len(gold)), 2):
            if gold[i] != gold[j]:
                total += 1
                right += (gold[i] < gold[j]) == (ranks[i] < ranks[j]) and ranks[i] != ranks[j]
    return right, total


def origins(ranked: Sequence[Answer]) -> list[dict[str, Any]]:
    """For each model whose outputs were ranked: the mean score, and the share of pairs with outputs
    of other models that its output wins; ties, and a text that both gave, count one half."""
    scores, wins = collections.defaultdict(list), collections.defaultdict(list)
    for answer in ranked:
        outputs, ranks = answer.item.outputs, answer.content["ranks"]
        for output, score in zip(outputs, answer.content["scores"], strict=True):
            for name in output.origins:
                scores[name].append(score)
        for i, j in itertools.product(range(len(outputs)), repeat=2):
            won = (1 + np.sign(ranks[j] - ranks[i])) / 2
            for one, other in itertools.product(outputs[i].origins, outputs[j].origins):
                if one != other:
                    wins[one].append(won)
    mean = lambda values: float(np.mean(values)) if values else None
    return [
        {"name": name, "outputs": len(found), "mean_score": mean(found),
         "wins": mean(wins[name]), "pairs": len(wins[name])}
        for name, found in sorted(scores.items())
    ]  # fmt: skip


def _counts(choices: Sequence[Choice], found, outputs: int | None = None) -> list[dict[str, Any]]:
    count = collections.Counter(found)
    more = {} if outputs is None else {"outputs": outputs}
    return [choice._asdict() | {"count": count[choice.code]} | more for choice in choices]
