"""Answers as files that training reads: rankings, scores, demonstrations and prompts."""

import functools
import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Record, Scored, to_json
from rlhf_jax.durable.files import writable_directory, write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.feedback.pools import folds
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


HELD_OUT = ("rankings.valid.jsonl", "scored.valid.jsonl")
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


def files(database: Database, merge: Merge = "none", held_out: Collection[str] = ()) -> Exported:
    """The content of FILES. Gold items are in answers.json alone.

    merge: "none": a ranking of each labeler; "majority", "bradley_terry": one of each item
    (merging.py), without a labeler. held_out: labelers whose rankings and scores are in
    rankings.valid.jsonl and scored.valid.jsonl; those of other labelers for the same prompts are
    left out.
    """
    found = answers_of.read(database)
    ranked, left_out = answers_of.rankings(found), Counter()
    held = [a for a in ranked if a.labeler in held_out]
    prompts = {a.item.prompt for a in held}
    kept = [a for a in ranked if a.item.prompt not in prompts]
    left_out["rankings of prompts that are held out"] = len(ranked) - len(held) - len(kept)
    of = lambda task: [a for a in found if a.state == "answered" and a.item.task == task]
    joined = _each if merge == "none" else functools.partial(_merged, merge=merge)
    records = {
        "rankings.train.jsonl": _rankings(joined(kept), left_out),
        "rankings.valid.jsonl": _rankings(joined(held), left_out),
        "scored.train.jsonl": _scored(kept),
        "scored.valid.jsonl": _scored(held),
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


def write(
    database: Database, folder: Path, merge: Merge = "none", held_out: Collection[str] = ()
) -> Exported:
    """Writes the files that have records into a folder.

    A file of an earlier export that would now be empty is removed, so that the folder is never a
    mixture. Raises ConfigError where the folder cannot be written to.
    """
    writable_directory(folder, "to")
    made = files(database, merge, held_out)
    for name in (*FILES, *HELD_OUT):
        if name in made.content:
            write_atomically(folder / name, made.content[name])
        else:
            (folder / name).unlink(missing_ok=True)
    return made


def write_folds(database: Database, folder: Path, count: int) -> list[tuple[Path, Exported]]:
    """Folders fold_0, fold_1, ... for cross-validation by labeler: in each, another group of
    labelers is held out.

    Raises UserError where there are fewer labelers with rankings than groups, or a group has ranked
    all prompts, so that nothing is left to train on.
    """
    labelers = [a.labeler for a in answers_of.rankings(answers_of.read(database))]
    groups, written = folds(labelers, count), []
    for number in range(count):
        held_out = {name for name, group in groups.items() if group == number}
        made = write(database, folder / f"fold_{number}", held_out=held_out)
        if not {"rankings.train.jsonl", "rankings.valid.jsonl"} <= made.records.keys():
            names = ", ".join(sorted(held_out))
            raise UserError(f"folds = {count}: no ranking is left to train on: the held-out "
                            f"labelers {names} have ranked all prompts")  # fmt: skip
        written.append((folder / f"fold_{number}", made))
    return written
