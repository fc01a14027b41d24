"""`rlhf-jax cross-validate`: a reward model without each group of labelers, and how well it orders
held-out rankings by labelers whom it knows and by the others."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.records import Ranking, read_jsonl
from rlhf_jax.durable.files import absolute, in_bucket, writable_directory, write_atomically
from rlhf_jax.durable.signals import SIGNALS, Preempted
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.policies import rounded_up
from rlhf_jax.feedback.cross_validation import (
    OTHERS,
    RECORDS,
    VALID,
    CrossValidated,
    cross_validated,
    write_folds,
)
from rlhf_jax.runs import chain
from rlhf_jax.runs.evaluation import shape_of
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.runs.options import parse
from rlhf_jax.runs.origin import Origin
from rlhf_jax.runs.run import Run, Stopped
from rlhf_jax.runs.scoring import StageScorer, count_pairs, read_items, scored, survey
from rlhf_jax.usage import ABOUT, leading_words, without

RESULTS = "labelers.json"


@dataclasses.dataclass(frozen=True)
class CrossValidateOptions:
    """Options of the cross-validate command, besides the experiment's fields.

    stage     the reward model's stage; None: the last one of the experiment
    folds     groups of labelers; one reward model is trained without each
    held_out  the share of the prompts whose rankings no reward model is trained on
    """

    stage: str | None = None
    folds: int = 5
    held_out: float = 0.1


class Agreement(NamedTuple):
    """The share of the untied pairs of rankings that a reward model orders as they do.

    too_long  rankings that are left out, as an output with its prompt exceeds the model's context
    """

    accuracy: float
    pairs: int
    rankings: int
    too_long: int


def cross_validate_command(arguments: Sequence[str]) -> int:
    words = leading_words(arguments)
    if len(words) != 1 or not words[0].endswith(".py"):
        raise UserError("cross-validate needs EXPERIMENT.py, as in rlhf-jax cross-validate "
                        "experiments/folder.py --data.path my_records")  # fmt: skip
    (file,), given = words, tuple(arguments[1:])
    config = load_experiment(file)
    about, hidden = " ".join(ABOUT["cross-validate"].split()), {*config.stages, "evaluators"}
    prog = f"rlhf-jax cross-validate {file}"
    config, options = parse([config, CrossValidateOptions()], given, prog, about, hidden)
    if not any(argument.split("=")[0] == "--out" for argument in given):
        config = dataclasses.replace(config, out=f"{config.directory}-labelers")
    try:
        with SIGNALS.handled():
            cross_validate(config, options, str(absolute(file)), given)
    except Stopped as stopped:
        print(stopped)
    except Preempted as signal:
        print(f"{signal}: no step was running; the same command goes on where it was")
    return 0


def cross_validate(
    config: Experiment, options: CrossValidateOptions, file: str, given: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains the reward models that are left, measures all of them, prints the result and writes
    it to labelers.json in the run's directory; returns that.

    file, given: the experiment file and its options, kept beside each stage.
    Raises UserError where the data are no folder of records or the rankings name no labelers.
    """
    fields = {field.name for field in dataclasses.fields(config.data)}
    require("path" in fields, "data", type(config.data).__name__, "FolderData, a folder of records")
    require(config.parallel.coordinator is None, "parallel.coordinator",
            config.parallel.coordinator, "None: the command runs in one process")  # fmt: skip
    require(not in_bucket(config.directory), "out", str(config.directory), "on a local disk")
    scorers = [name for name, made in config.stages.items() if made.ends == "score"]
    stage = options.stage or (scorers[-1] if scorers else None)
    require(stage in scorers, "stage", stage, f"a reward model's: {', '.join(scorers) or 'none'}")
    source, _ = config.data.files()
    writable_directory(config.directory, "out")
    to = Path(config.directory)
    folders = write_folds(source, to, options.folds, options.held_out, config.seed)
    found = {folder.name: _fold(config, folder, stage, file, given) for folder in folders}
    content = summed(found)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(to / RESULTS, text.encode())
    print(told(content))
    print(to / RESULTS)
    return content


def _fold(
    config: Experiment, folder: Path, stage: str, file: str, given: Sequence[str]
) -> dict[str, Agreement]:
    """{"known", "others"} of the reward model of one fold, which is trained if it is not there."""
    records = folder / RECORDS
    data = dataclasses.replace(config.data, path=str(records))
    own = dataclasses.replace(config, data=data, out=str(folder))
    stages = tuple(chain.in_order(own.stages, [stage]))
    for field in dataclasses.fields(CrossValidateOptions):  # they are not the experiment's
        given = without(f"--{field.name.replace('_', '-')}", given)
    given = (*given, f"--data.path={records}", f"--out={folder}")
    run = Run(own, stages=stages, origin=Origin(file, given))
    run.check(stages)
    for name in stages:
        run.finish(name)
    files = {"known": records / VALID, "others": folder / OTHERS}
    found = {part: agreement(run, stage, path) for part, path in files.items()}
    labelers = sorted({ranking.labeler for ranking in read_jsonl(files["others"], Ranking)})
    shown = "; ".join(f"{part}: {100 * of.accuracy:.1f} % of {of.pairs} pairs"
                      for part, of in found.items())  # fmt: skip
    print(f"{folder.name}, without {', '.join(labelers)}: {shown}", flush=True)
    return found


def agreement(run: Run, stage: str, file: Path) -> Agreement:
    """How often a finished reward model orders pairs as the rankings of a file do. Raises UserError
    where no pair can be compared."""
    context = shape_of(run.config, run.ending, stage).context
    found = survey(read_items(file, run), stage, context)
    scorer = StageScorer(run, stage, rounded_up(found.longest, context)) if found.longest else None
    items = scored(read_items(file, run), scorer, context) if scorer else ()
    counts = [count_pairs(item, scores) for item, scores in items if None not in scores]
    pairs = sum(count.pairs for count in counts)
    if not pairs:
        raise UserError(f"{file}: no pair of outputs that {stage} can compare: all tie or are too "
                        "long")  # fmt: skip
    right = sum(count.correct for count in counts)
    return Agreement(right / pairs, pairs, len(counts), found.records - len(counts))


def summed(found: dict[str, dict[str, Agreement]]) -> dict[str, Any]:
    """The content of labelers.json: the mean over folds and its standard error, for the labelers
    that the models know, for others, and of the difference; and each fold."""
    shares = {part: [of[part].accuracy for of in found.values()] for part in ("known", "others")}
    apart = [one - other for one, other in zip(*shares.values(), strict=True)]
    joined = {name: cross_validated(values)
              for name, values in {**shares, "difference": apart}.items()}  # fmt: skip
    each = {name: {part: value._asdict() for part, value in of.items()}
            for name, of in found.items()}  # fmt: skip
    return {name: value._asdict() for name, value in joined.items()} | {"each": each}


def told(content: dict[str, Any]) -> str:
    """The result in one sentence."""
    text = lambda name: CrossValidated(**content[name]).text()
    return (
        f"labelers whom the reward models know: {text('known')}; others: {text('others')}; "
        f"difference: {text('difference')} (means of {len(content['each'])} folds, +- their "
        "standard errors)"
    )
