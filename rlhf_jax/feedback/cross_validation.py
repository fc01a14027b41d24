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
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.feedback.pools import folds


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
    rankings: str | os.PathLike,
    to: str | os.PathLike,
    count: int = 5,
    held_out: float = 0.1,
    seed: int = 0,
) -> list[Path]:
    """Writes the folds of a file of rankings as folders of records, TO/fold_0, TO/fold_1, ...: the
    part `train` as rankings.train.jsonl, `known` as rankings.valid.jsonl, `others` as
    others.jsonl. Returns the folders.

    Raises RecordError, naming the line, and UserError as `split`.
    """
    found = []
    for number, fold in enumerate(split(read_jsonl(rankings, Ranking), count, held_out, seed)):
        folder = Path(to) / f"fold_{number}"
        names = ("rankings.train.jsonl", "rankings.valid.jsonl", "others.jsonl")
        for name, part in zip(names, fold, strict=True):
            write_jsonl(folder / name, part)
        found.append(folder)
    return found


class CrossValidated(NamedTuple):
    """The mean accuracy over folds, its standard error, and the folds' own values."""

    mean: float
    error: float
    folds: tuple[float, ...]

    def text(self) -> str:
        """For example "69.6 +- 0.9 %"."""
        return f"{100 * self.mean:.1f} +- {100 * self.error:.1f} %"


def cross_validated(accuracies: Sequence[float]) -> CrossValidated:
    """Mean and standard error s / sqrt(folds) of the accuracies of the folds' reward models.

    Raises UserError for fewer than two folds, or a value that is not in [0, 1].
    """
    values = np.asarray(accuracies, np.float64)
    if values.ndim != 1 or len(values) < 2 or not ((values >= 0) & (values <= 1)).all():
        raise UserError("accuracies: must be one in [0, 1] of each fold, two folds or more")
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
    return CrossValidated(float(values.mean()), error, tuple(values.tolist()))
