"""Common parts of `generate` and `score`, which read finished models and train nothing."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from etils import epath

from rlhf_jax.durable.files import writable_directory
from rlhf_jax.durable.fingerprint import CLASS, stored
from rlhf_jax.durable.model_files import has_model
from rlhf_jax.errors import UserError, require
from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.run import Run
from rlhf_jax.sources.corpora import is_made

# One and several, in sentences, by `Stage.ends`.
MODELS = {"policy": ("policy", "policies"), "score": ("reward model", "reward models")}


def finished_stage(config: Experiment, stage: str | None, ends: str, field: str = "stage") -> str:
    """The given stage, or the last finished stage in the experiment's order with a model of the
    kind `ends`.

    field: the option that names the stage. Raises UserError where the stage has not finished.
    """
    directory, kind = config.directory, MODELS[ends][0]
    known = [name for name, made in config.stages.items() if made.ends == ends]
    finished = [name for name in known if has_model(config.directory_of(name) / "model")]
    if stage is not None:
        allowed = f"one that ends with a {kind}: {', '.join(known)}"
        require(stage in known, field, stage, allowed)
    if not finished or not is_made(directory / "data"):
        raise UserError(f"{directory}: no stage has finished that ends with a {kind}, and this "
                        "command trains none")  # fmt: skip
    if stage is None:
        return finished[-1]
    if stage not in finished:
        raise UserError(f"{directory}: {stage} has not finished, and this command trains nothing; "
                        f"finished are {', '.join(finished)}")  # fmt: skip
    return stage


def reading_run(config: Experiment, command: str, insist: bool) -> Run:
    """The run whose models are read; the command's --seed does not select the run.

    Raises UserError where there are several processes.
    """
    if config.parallel.coordinator is not None:
        raise UserError(f"{command} runs in one process: leave --parallel.coordinator out")
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for responses and scores
        return Run(dataclasses.replace(config, seed=seed_of(config)), insist=insist)


def seed_of(config: Experiment) -> int:
    """The seed with which the run's data were made; config.seed if it is not stored."""
    directory = config.directory / "data"
    if not (directory / "config.json").is_file():
        return config.seed
    told = stored(directory)
    seed = told.get("seed") if isinstance(told, dict) else None
    if not isinstance(seed, int):
        raise UserError(f"{directory / 'config.json'}: seed: expected a whole number, got {seed!r}")
    return seed


def ending_of(directory: epath.Path) -> EndingConfig:
    """The experiment's ending, as stored in the stage's config.json."""
    config = stored(directory)
    try:
        fields = {name: value for name, value in config["ending"].items() if name != CLASS}
        return EndingConfig(**fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{directory / 'config.json'}: expected the fields of `ending`, got: "
                        f"{error}")  from None  # fmt: skip


def check_jsonl(path: Path | None, field: str) -> None:
    """Raises ConfigError where no .jsonl file can be written to `path`; called first."""
    if path is not None:
        require(path.suffix == ".jsonl", field, str(path), "a file named *.jsonl")
        require(not path.is_dir(), field, str(path), "a file, not a directory")
        writable_directory(path.parent, field)


@contextlib.contextmanager
def lines_to(path: Path | None) -> Iterator[Callable[[str], Any]]:
    """A function that writes a line to a file, or (None) to standard output.

    The file has the name PATH.partial until all lines are written, so that an older file at PATH
    stays whole until then.
    """
    if path is None:
        yield print
        return
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        yield lambda line: print(line, file=file)
    os.replace(partial, path)


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """The items, so many at a time."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def short(value: float) -> float:
    """A float32 with the digits that it has."""
    return float(f"{value:.7g}")
