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

from rlhf_jax.data.messages import plain
from rlhf_jax.data.records import Ranking, read_jsonl, write_jsonl
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.feedback.pools import folds

TRAIN, VALID, OTHERS = "rankings.train.jsonl", "rankings.valid.jsonl", "others.jsonl"
RECORDS = "records"  # the folder of a fold's records


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
                   all other files of the folder
    others.jsonl   the part `others`

    Raises UserError where the folder has no rankings, and as `split`, naming the file.
    """
    source, made = Path(records), []
    rankings = source / TRAIN
    if not rankings.is_file():
        raise UserError(f"{rankings}: no such file: cross-validation needs rankings with labelers")
    try:
        parts = split(read_jsonl(rankings, Ranking), count, held_out, seed)
    except UserError as error:
        raise UserError(f"{rankings}: {error}") from None
    for number, fold in enumerate(parts):
        folder = Path(to) / f"fold_{number}"
        own = folder / RECORDS
        own.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if file.is_file():
                write_atomically(own / file.name, file.read_bytes())
        write_jsonl(own / TRAIN, fold.train)
        write_jsonl(own / VALID, fold.known)
        write_jsonl(folder / OTHERS, fold.others)
        made.append(folder)
    return made


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
