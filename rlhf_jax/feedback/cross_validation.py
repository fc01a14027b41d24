"""Cross-validation of reward models over groups of labelers: how well a model predicts labelers
that it has not learned from.

Ouyang et al. (2022), section 4.1 and appendix: with five groups, a reward model of four of them
predicts held-out rankings of labelers whom it knows with 72.4 +- 0.4 %, of others with
69.6 +- 0.9 %.
"""

import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.folder import FILES, file_names
from rlhf_jax.data.messages import plain
from rlhf_jax.data.records import Ranking, Text, encoded, read_jsonl, read_lines
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.feedback.pools import folds

TRAIN, VALID, OTHERS = "rankings.train.jsonl", "rankings.valid.jsonl", "others.jsonl"
RECORDS = "records"  # the folder of a fold's records
TRAINED = {f"{kind}.{splits[0]}.jsonl": record for kind, (record, splits) in FILES.items()
           if record not in (Text, Ranking)}  # fmt: skip


class Fold(NamedTuple):
    """The rankings of one fold.

    train   by the labelers who are known to the reward model
    known   by the same labelers, of prompts that are in no training ranking
    others  by the labelers of the group that is left out, of these prompts
    """

    train: list[Ranking]
    known: list[Ranking]
    others: list[Ranking]


def split(
    rankings: Sequence[Ranking], count: int = 5, held_out: float = 0.1, seed: int = 0
) -> list[Fold]:
    """`count` folds over groups of labelers. The same share `held_out` of the prompts is held out
    in all of them; rankings by the group that is left out, of other prompts, are in no part.

    Raises RecordError where a ranking names no labeler, and UserError where there are too few
    labelers or a part is empty.
    """
    require(0 < held_out < 1, "held_out", held_out, "between 0 and 1")
    for number, ranking in enumerate(rankings, 1):
        if ranking.labeler is None:
            raise RecordError(f"ranking {number}: field 'labeler': expected a name, got none")
    groups = folds([ranking.labeler for ranking in rankings], count, seed)
    prompts = sorted({plain(ranking.prompt) for ranking in rankings})
    random.Random(f"{seed}/prompts").shuffle(prompts)
    held = set(prompts[: max(1, round(held_out * len(prompts)))])
    found = []
    for number in range(count):
        parts = Fold([], [], [])
        for ranking in rankings:
            left_out = groups[ranking.labeler] == number
            if plain(ranking.prompt) in held:
                (parts.others if left_out else parts.known).append(ranking)
            elif not left_out:
                parts.train.append(ranking)
        if empty := [name for name, part in parts._asdict().items() if not part]:
            raise UserError(f"fold {number}: no ranking is in the part {empty[0]!r}: there are too "
                            "few prompts, or held_out is too small")  # fmt: skip
        found.append(parts)
    return found


def write_folds(
    records: str | os.PathLike,
    to: str | os.PathLike,
    count: int = 5,
    held_out: float = 0.1,
    seed: int = 0,
) -> list[Path]:
    """Writes the folds of a folder of records with rankings that name their labelers. Returns
    TO/fold_0, TO/fold_1, ...; in each of them are

    records/       the part `train` as rankings.train.jsonl, `known` as rankings.valid.jsonl, and
                   the other files that a run reads, the training records without those of a
                   held-out prompt; how many are left out is printed
    others.jsonl   the part `others`

    Raises UserError where the folder has no rankings, a file has only held-out prompts or a fold is
    there with other content, and as `split`, naming the file; nothing is written then.
    """
    source, to = Path(records), Path(to)
    rankings = source / TRAIN
    if not rankings.is_file():
        raise UserError(f"{rankings}: no such file: cross-validation needs rankings with labelers")
    try:
        parts = split(read_jsonl(rankings, Ranking), count, held_out, seed)
    except UserError as error:
        raise UserError(f"{rankings}: {error}") from None
    held = {plain(ranking.prompt) for ranking in (*parts[0].known, *parts[0].others)}
    shared = {name: _without(source / name, held) for name in file_names(source)}
    made = {}
    for number, fold in enumerate(parts):
        folder = to / f"fold_{number}"
        own = shared | {TRAIN: encoded(fold.train), VALID: encoded(fold.known)}
        made |= {folder / RECORDS / name: content for name, content in own.items()}
        made[folder / OTHERS] = encoded(fold.others)
    for file, content in made.items():
        if file.is_file() and file.read_bytes() != content:
            raise UserError(f"{file}: is of other records or options (folds, held_out, seed): "
                            "expected another --out, or the same records and options")  # fmt: skip
    for file, content in made.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    return [to / f"fold_{number}" for number in range(count)]


def _without(file: Path, held: set[str]) -> bytes:
    """The content of a file; of training records, the lines whose prompt is not held out."""
    if file.name not in TRAINED:
        return file.read_bytes()
    lines = [*zip(read_lines(file), read_jsonl(file, TRAINED[file.name]), strict=True)]
    kept = [line for line, record in lines if plain(record.prompt) not in held]
    if left_out := len(lines) - len(kept):
        print(f"{file}: {left_out} of {len(lines)} records left out, because their prompt is held "
              "out of all folds", flush=True)  # fmt: skip
    if left_out and not kept:
        raise UserError(f"{file}: expected records of prompts that are not held out, got none")
    return b"".join(kept)


class CrossValidated(NamedTuple):
    """The mean over folds, its standard error, and the folds' own values."""

    mean: float
    error: float
    folds: tuple[float, ...]

    def text(self) -> str:
        """For example "69.6 +- 0.9 %"."""
        return f"{100 * self.mean:.1f} +- {100 * self.error:.1f} %"


def cross_validated(values: Sequence[float]) -> CrossValidated:
    """Mean and standard error s / sqrt(folds) of accuracies of the folds' reward models, or of
    differences of them.

    Raises UserError for fewer than two folds, or a value that is not finite.
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise UserError("values: must be a number of each fold, two folds or more")
    error = float(found.std(ddof=1) / math.sqrt(len(found)))
    return CrossValidated(float(found.mean()), error, tuple(found.tolist()))
