"""rlhf-jax doctor RUN: what is in a run's directory, what is damaged, what a resume would do."""

import dataclasses

from etils import epath

from rlhf_jax.data.tokenizer import find_tokenizer, load_tokenizer
from rlhf_jax.durable import checkpoint, manifest
from rlhf_jax.durable.files import entries, modified
from rlhf_jax.durable.lock import holder
from rlhf_jax.durable.model_files import check_format, has_model, read_about
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.metrics import METRICS, SPEED, read_lines

HEADINGS = ("stage", "stands at", "checkpoints", "model", "a resume would")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One stage: a row of the table, and a line for each thing that is damaged."""

    row: tuple[str, str, str, str, str]
    damaged: list[str]
    holder: str | None


def examine(run: epath.Path) -> tuple[list[Finding], list[str]]:
    """What each stage directory holds, and what is damaged outside of them.

    run: a run's directory, or one stage's. Raises UserError where it is neither, or where a part of
    it is of a format that is not read here.
    """
    run = epath.Path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such directory")
    is_stage = lambda d: (d / "checkpoints").is_dir() or (d / "model").is_dir()
    stages = [run] if is_stage(run) else sorted(filter(is_stage, run.iterdir()), key=_first_written)
    if not stages and not (run / "data").is_dir():
        raise UserError(f"{run}: no stage of a run in it")
    wrong, tokenizer = [], None
    if (file := find_tokenizer(run / "data")).is_file():
        try:
            tokenizer = load_tokenizer(file).fingerprint
        except UserError as error:
            wrong.append(str(error))
    wrong += [line for file in _json_files(run / "data") for line in _bad_json(file)]
    return [_stage(directory, tokenizer) for directory in stages], wrong


def _stage(directory: epath.Path, tokenizer: str | None) -> Finding:
    damaged = [line for file in _json_files(directory) for line in _bad_json(file)]
    for name in (METRICS, SPEED):
        try:
            if (directory / name).is_file():
                read_lines(directory / name)
        except UserError as error:
            damaged.append(str(error))
    states, good, total = [], None, None
    best, words = next(iter(checkpoint.ranked(directory)), (None, ""))
    for step in reversed(checkpoint.steps(directory)):
        folder = directory / "checkpoints" / str(step)
        checkpoint.check_format(folder)
        wrong = manifest.problems(folder)
        damaged += [f"{folder}: {line}" for line in wrong]
        told = f" (best: {words})" if step == best else ""
        states.append(f"{step} {'DAMAGED' if wrong else 'ok'}{told}")
        if not wrong and good is None:
            good, total = step, _total(folder)
    half = list(filter(checkpoint.half_written, entries(directory / "checkpoints")))
    states += [f"{len(half)} half-written"] if half else []
    if aside := entries(directory / "damaged"):
        states.append(f"{len(aside)} set aside")
    model, wrong = _model(directory / "model", tokenizer)
    damaged += wrong
    stands = "nothing" if good is None else f"step {good} of {total}"
    would = _resume(good, total, bool(states), model, directory)
    row = (directory.name, stands, ", ".join(states) or "none", model, would)
    return Finding(row, damaged, holder(directory))


def _resume(good, total, some: bool, model: str, directory: epath.Path) -> str:
    if model == "ok":
        return "read the model"
    if model == "DAMAGED":
        return f"refuse until {directory / 'model'} is removed"
    if good is None:
        return "refuse: no checkpoint is good" if some else "begin at step 0"
    return "write the model" if good == total else f"go on from step {good}"


def _model(directory: epath.Path, tokenizer: str | None) -> tuple[str, list[str]]:
    if not has_model(directory):
        return "none", []
    check_format(directory)
    wrong = [f"{directory}: {line}" for line in manifest.problems(directory)]
    if not wrong:
        about = read_about(directory)
        if tokenizer is not None and about["tokenizer"] != tokenizer:
            wrong = [f"{directory}: made with another tokenizer than that of data/"]
    return ("DAMAGED" if wrong else "ok"), wrong


def _total(folder: epath.Path) -> int | str:
    progress = read_json(folder / "progress" / "metadata")
    return progress.get("total_steps", "?")


def _json_files(folder: epath.Path) -> list[epath.Path]:
    return [file for file in entries(folder) if file.suffix == ".json"]


def _bad_json(file: epath.Path) -> list[str]:
    try:
        read_json(file)
    except UserError as error:
        return [str(error)]
    return []


def _first_written(directory: epath.Path) -> float:
    file = directory / "config.json"
    return modified(file) if file.is_file() else 0.0


def show(run: epath.Path) -> int:
    """Prints the table; 0 where all is well, 1 where something is damaged."""
    findings, damaged = examine(run)
    rows = [HEADINGS, *(finding.row for finding in findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    for place, who in [(run, holder(run)), *((f.row[0], f.holder) for f in findings)]:
        if who:
            print(f"in use: {place} by {who}")
    damaged = damaged + [line for finding in findings for line in finding.damaged]
    for line in damaged:
        print(f"damaged: {line}")
    print(f"{len(damaged)} damaged" if damaged else "nothing is damaged")
    return 1 if damaged else 0
