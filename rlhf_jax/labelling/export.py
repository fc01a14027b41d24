"""Answers as files that training reads: rankings, scores, demonstrations and prompts."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Record, Scored, to_json
from rlhf_jax.durable.files import writable_directory, write_atomically
from rlhf_jax.labelling import answers as answers_of
from rlhf_jax.labelling import merging
from rlhf_jax.labelling.answers import Answer
from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.item import told

Merge = Literal["none", "majority", "bradley_terry"]
MERGES = get_args(Merge)
FILES = {
    "rankings.train.jsonl": "rankings, a line for each labeler of an item",
    "scored.train.jsonl": "scores from 1 to 7, a line for each labeler of an output",
    "demonstrations.train.jsonl": "responses that labelers wrote",
    "prompts.ppo.jsonl": "prompts that labelers wrote",
    "answers.json": "every answer and skip with flags, time and models",
}


NUL = "outputs with a NUL character"


class Ranked(NamedTuple):
    """Ranks of the outputs of an answer's item, 0 is best. labeler: None: of several."""

    answer: Answer
    ranks: Sequence[int]
    labeler: str | None


class Exported(NamedTuple):
    """content: of each file that has records. left_out: how many records, by reason."""

    content: dict[str, bytes]
    records: dict[str, int]
    left_out: dict[str, int]


def files(database: Database, merge: Merge = "none") -> Exported:
    """The content of FILES. Gold items are in answers.json alone.

    merge: "none": a ranking of each labeler; "majority", "bradley_terry": one of each item
    (merging.py), without a labeler.
    """
    found = answers_of.read(database)
    ranked, left_out = answers_of.rankings(found), Counter()
    of = lambda task: [a for a in found if a.state == "answered" and a.item.task == task]
    rankings = _each(ranked) if merge == "none" else _merged(ranked, merge)
    records = {
        "rankings.train.jsonl": _rankings(rankings, left_out),
        "scored.train.jsonl": _scored(ranked),
        "demonstrations.train.jsonl": [
            Demonstration(a.item.prompt, a.content["text"], labeler=a.labeler)
            for a in of("demonstrate")
        ],
        "prompts.ppo.jsonl": [
            Prompt(a.content["text"], {"labeler": a.labeler}) for a in of("write")
        ],
    }
    content = {name: _lines(some) for name, some in records.items() if some}
    counts = {name: len(some) for name, some in records.items() if some}
    if found:
        whole = json.dumps([_whole(a) for a in found], ensure_ascii=False, indent=1)
        content["answers.json"] = whole.encode()
        counts["answers.json"] = len(found)
    return Exported(content, counts, dict(+left_out))


def _each(ranked: Sequence[Answer]) -> list[Ranked]:
    return [Ranked(a, a.content["ranks"], a.labeler) for a in ranked]


def _merged(ranked: Sequence[Answer], merge: Merge) -> list[Ranked]:
    """One ranking of each item."""
    found: dict[int, list[Answer]] = {}
    for answer in ranked:
        found.setdefault(answer.number, []).append(answer)
    join = {"majority": merging.majority, "bradley_terry": merging.bradley_terry}[merge]
    return [Ranked(some[0], join([a.content["ranks"] for a in some]), None)
            for some in found.values()]  # fmt: skip


def _rankings(ranked: Sequence[Ranked], left_out: Counter) -> list[Ranking]:
    """Records of rankings. No record can hold a NUL: an output with one is left out and counted,
    and so is a ranking of fewer than two other outputs."""
    records = []
    for answer, ranks, labeler in ranked:
        outputs = answer.item.outputs
        kept = [i for i, output in enumerate(outputs) if "\0" not in output.text]
        left_out[NUL] += len(outputs) - len(kept)
        if len(kept) < 2:
            left_out["rankings of fewer than two other outputs"] += 1
            continue
        texts, ended = zip(*((outputs[i].text, outputs[i].ended) for i in kept), strict=True)
        places = [ranks[i] for i in kept]
        records.append(Ranking(answer.item.prompt, texts, places, ended, labeler))
    return records


def _scored(ranked: Sequence[Answer]) -> list[Scored]:
    return [
        Scored(a.item.prompt, output.text, score, a.labeler)
        for a in ranked
        for output, score in zip(a.item.outputs, a.content["scores"], strict=True)
        if "\0" not in output.text
    ]


def _whole(answer: Answer) -> dict[str, Any]:
    """All that is stored of an answer, as JSON values."""
    item = answer.item
    outputs = [{"text": o.text, "ended": o.ended, "origins": o.origins} for o in item.outputs]
    return {
        "item": answer.number,
        "task": item.task,
        "labeler": answer.labeler,
        "state": answer.state,
        "prompt": told(item.prompt),
        "outputs": outputs,
        "gold": item.gold,
        "seconds": answer.seconds,
        "at": answer.at,
        **answer.content,
    }


def _lines(records: Sequence[Record]) -> bytes:
    lines = [json.dumps(to_json(record), ensure_ascii=False) + "\n" for record in records]
    return "".join(lines).encode()


def write(database: Database, folder: Path, merge: Merge = "none") -> Exported:
    """Writes the files that have records into a folder.

    A file of an earlier export that would now be empty is removed, so that the folder is never a
    mixture. Raises ConfigError where the folder cannot be written to.
    """
    writable_directory(folder, "to")
    made = files(database, merge)
    for name in FILES:
        if name in made.content:
            write_atomically(folder / name, made.content[name])
        else:
            (folder / name).unlink(missing_ok=True)
    return made
