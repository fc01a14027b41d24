"""rlhf-jax doctor RUN: what the directory of a run or a sweep holds, what is damaged, what a resume
would do."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from rlhf_jax.data.tokenizer import find_tokenizer, load_tokenizer
from rlhf_jax.durable import checkpoint, manifest, taken
from rlhf_jax.durable.files import entries, modified
from rlhf_jax.durable.fingerprint import CONFIG
from rlhf_jax.durable.lock import holder
from rlhf_jax.durable.model_files import check_format, has_model, read_about
from rlhf_jax.errors import UserError
from rlhf_jax.runs.inputs import HOST
from rlhf_jax.runs.models import under
from rlhf_jax.sources.records import WHOLE, StageRecords
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.metrics import METRICS, SPEED, read_lines

_collected = StageRecords.there
HEADINGS = ("stage", "progress", "checkpoints", "result", "a resume would")


class End(NamedTuple):
    """The result of a stage: in words, the paths of its files, and lines about damage."""

    told: str
    places: tuple[epath.Path, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """One stage: a row of the table, and one line for each damaged file."""

    row: tuple[str, str, str, str, str]
    damaged: list[str]
    holder: str | None


def examine(run: epath.PathLike) -> tuple[list[Finding], list[str]]:
    """(a finding for each stage, lines about damage outside of the stages' directories).

    run: the directory of a run or of one stage. Raises UserError where it is neither, or where a
    part of it has a format that this version does not read.
    """
    run, stages = epath.Path(run), stages_in(run)
    wrong, tokenizer = [], None
    try:
        if (file := find_tokenizer(taken.followed(run / "data"))).is_file():
            tokenizer = load_tokenizer(file).fingerprint
    except UserError as error:
        wrong.append(str(error))
    wrong += [line for file in _json_files(run / "data") for line in _bad_json(file)]
    return [_stage(directory, tokenizer) for directory in stages], wrong


def stages_in(run: epath.PathLike) -> list[epath.Path]:
    """The directories of a run's stages, by age; of one stage, itself.

    Raises UserError where the directory is neither of a run nor of a stage.
    """
    run = epath.Path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such directory")
    holds = lambda d: (d / "checkpoints").is_dir() or (d / "model").is_dir() or _collected(d)
    is_stage = lambda d: holds(d) or (taken.is_taken(d) and d.name != "data")
    stages = [run] if is_stage(run) else sorted(filter(is_stage, run.iterdir()), key=_first_written)
    if not stages and not (run / "data").is_dir():
        raise UserError(f"{run}: no stage of a run in it")
    return stages


def cells_in(folder: epath.PathLike) -> list[epath.Path]:
    """The runs in a sweep's folder, by name; none where it is no such folder."""
    folder = epath.Path(folder)
    runs = sorted(entry for entry in entries(folder) if (entry / "data").is_dir())
    return [] if (folder / "data").is_dir() else runs


def _taken(directory: epath.Path, tokenizer: str | None) -> Finding:
    """Of a stage that another run has finished."""
    file = directory / taken.NAME
    try:
        end = _end(place := taken.followed(directory), tokenizer)
        end = end._replace(told=f"{end.told}, of {place}", places=(file,))
    except UserError as error:
        end = End("missing", (file,), (str(error),))
    row = (directory.name, "taken", "none", end.told, _resume(None, None, False, end))
    return Finding(row, list(end.damaged), None)


def _end(directory: epath.Path, tokenizer: str | None) -> End:
    return _records(directory) if _collected(directory) else _model(directory, tokenizer)


def _stage(directory: epath.Path, tokenizer: str | None) -> Finding:
    if taken.is_taken(directory):
        return _taken(directory, tokenizer)
    folders = [directory, *entries(directory / HOST)]
    damaged = [line for each in folders for file in _json_files(each) for line in _bad_json(file)]
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
    end = _end(directory, tokenizer)
    stands = "nothing" if good is None else f"step {good} of {total}"
    would = _resume(good, total, bool(states), end)
    row = (directory.name, stands, ", ".join(states) or "none", end.told, would)
    return Finding(row, [*damaged, *end.damaged], holder(directory))


def _resume(good, total, some: bool, end: End) -> str:
    if end.damaged:
        return f"refuse until what is damaged is removed: {', '.join(map(str, end.places))}"
    if end.places:
        return "read it"
    if good is None:
        return "refuse: no checkpoint is good" if some else "begin at step 0"
    return "write its result" if good == total else f"go on from step {good}"


def _model(directory: epath.Path, tokenizer: str | None) -> End:
    place = directory / "model"
    if not has_model(place):
        return End("nothing yet")
    check_format(place)
    wrong = [f"{place}: {line}" for line in manifest.problems(place)]
    if not wrong:
        about = read_about(place)
        if tokenizer is not None and about["tokenizer"] != tokenizer:
            wrong = [f"{place}: made with another tokenizer than that of data/"]
        try:
            under(place)
        except UserError as error:
            wrong.append(str(error))
    return End(f"a model, {'DAMAGED' if wrong else 'ok'}", (place,), tuple(wrong))


def _records(directory: epath.Path) -> End:
    places, told, wrong = (directory / WHOLE, directory / "records"), [], []
    records = StageRecords(directory.name, directory, tokenizer=None)
    try:
        counts = read_json(places[0])
        written = [(kind, split, n) for kind in counts for split, n in counts[kind].items()]
        for kind, split, expected in written:
            found = len(list(records.read(kind, split)))
            told.append(f"{found} {kind}.{split}")
            if found != expected:
                wrong.append(f"{places[1]}: {found} {kind}.{split}, {expected} were written")
    except UserError as error:
        wrong.append(str(error))
    except (TypeError, AttributeError, IndexError):
        wrong.append(f"{places[0]}: expected counts of records")
    return End(", ".join([*told, "DAMAGED" if wrong else "ok"]), places, tuple(wrong))


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
    files = [file for name in (CONFIG, taken.NAME) if (file := directory / name).is_file()]
    return min(map(modified, files), default=0.0)


def show_sweep(cells: Sequence[epath.Path]) -> int:
    """Prints a line for each run of a sweep; returns 1 if something is damaged, else 0."""
    total = 0
    for cell in cells:
        findings, damaged = examine(cell)
        rows = [finding.row for finding in findings]
        done = ", ".join(row[0] for row in rows if row[-1] == "read it") or "nothing"
        others = [f"{row[0]}: {row[1]}" for row in rows if row[-1] != "read it"]
        count = len(damaged) + sum(len(finding.damaged) for finding in findings)
        total += count
        told = f"{count} damaged: see rlhf-jax doctor {cell}" if count else "nothing is damaged"
        print("; ".join([f"{cell.name}: finished {done}", *others, told]))
    return 1 if total else 0


def show(run: epath.PathLike) -> int:
    """Prints the table, or of a sweep a line for each run; returns 1 if something is damaged, else
    0."""
    run = epath.Path(run)
    if cells := cells_in(run):
        return show_sweep(cells)
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
