"""rlhf-jax sweep: a grid of runs, each in its own folder, and one report of all runs.

A stage that has the same config in several runs is trained in the first of these runs; the others
take it from there (rlhf_jax/runs/take.py).
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
from etils.epath import Path

from rlhf_jax.durable.files import writable_directory
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.comparison import Cell, Comparison
from rlhf_jax.parallel import processes
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.runs import chain, compare
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.items import ITEMS, digest, figures_config
from rlhf_jax.runs.options import parse, paths, refuse_unknown, tokens_of
from rlhf_jax.runs.origin import Origin
from rlhf_jax.runs.report import report
from rlhf_jax.runs.run import Run, check_rows, has_ended
from rlhf_jax.runs.take import Offer, data_of, here, offered, reasons, take
from rlhf_jax.sources.corpora import is_made
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.loop import SickError
from rlhf_jax.usage import without

FIXED = {  # options that --over cannot vary, and why
    "seed": "--seeds varies it",
    "out": "each cell has its own folder",
    "name": "it names the sweep's folder",
    "parallel": "it does not change what is computed",
    "loop": "it does not change what is computed",
}
LONGEST = 40  # characters of a value in a folder's name


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Options of the sweep command, besides the experiment's fields.

    over    FIELD VALUE VALUE: an option of the experiment, as ppo.kl.coefficient, and the values
            that it takes; give --over again for another field
    seeds   the seeds with which each setting is run; none: the experiment's seed
    stages  the stages to run, with the stages that they need; none: all
    """

    seeds: tuple[int, ...] = ()
    stages: tuple[str, ...] = ()
    # Another run's directory: stages that have finished there with the same config are taken from
    # it.
    from_: str | None = None
    over: tuple[str, ...] = ()  # for --help: `split_over` reads it

    def __post_init__(self):
        told = "different, each in [0, 2**63)"
        ok = len(set(self.seeds)) == len(self.seeds) and all(0 <= s < 2**63 for s in self.seeds)
        require(ok, "seeds", self.seeds, told)


class Over(NamedTuple):
    """A field that is varied, and its values as they were given."""

    field: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A run of the grid."""

    name: str  # of its folder
    values: Mapping[str, str]
    config: Experiment
    options: tuple[str, ...]  # command-line options that give this run's config


def split_over(arguments: Sequence[str]) -> tuple[list[Over], list[str]]:
    """(every `--over FIELD VALUE...` among the arguments, the other arguments).

    Raises UserError where an --over has no field or no value.
    """
    found, others, left = [], [], list(arguments)
    while left:
        argument = left.pop(0)
        if argument != "--over":
            others.append(argument)
            continue
        words = list(itertools.takewhile(lambda word: not word.startswith("--"), left))
        del left[: len(words)]
        if len(words) < 2:
            told = f"got {' '.join(words) or 'none'}"
            raise UserError(f"--over: expected a field and its values, as in --over ppo.epochs 1 2 "
                            f"4, {told}")  # fmt: skip
        field = words[0].replace("-", "_")
        if field in (over.field for over in found):
            raise UserError(f"--over {field}: it stands twice; give all its values at once")
        found.append(Over(field, tuple(words[1:])))
    return found, others


def in_folder(
    config: Experiment, how: SweepOptions, over: Sequence[Over], arguments: Sequence[str]
) -> Experiment:
    """The experiment with the sweep's folder as `out`: that of --out, or one named by the varied
    fields.

    Raises UserError where nothing is varied.
    """
    if not over and not how.seeds:
        raise UserError("sweep needs what to vary, as in --over ppo.kl.coefficient 0.1 0.2, or "
                        "--seeds 0 1 2")  # fmt: skip
    if any(argument.split("=")[0] == "--out" for argument in arguments):
        return config
    named = "-".join(each.field for each in over) or "seeds"
    return dataclasses.replace(config, out=f"{config.directory}-{named}")


def grid(
    config: Experiment, how: SweepOptions, over: Sequence[Over], options: Sequence[str], prog: str
) -> list[Planned]:
    """The runs: every combination of values, with every seed.

    config: the experiment with `options` applied.
    Raises UserError, before anything runs, where a field does not exist or a value is invalid.
    """
    for each in over:
        top = each.field.partition(".")[0]
        if top in FIXED:
            raise UserError(f"--over {each.field}: cannot be varied: {FIXED[top]}")
        refuse_unknown([config], [f"--{each.field}"])
    known, found = dict(paths([config])), []
    for values in itertools.product(*(each.values for each in over)):
        told = dict(zip((each.field for each in over), values, strict=True))
        added = [t for field, value in told.items() for t in tokens_of(field, value, known[field])]
        (changed,) = parse([config], added, prog) if added else (config,)
        for seed in how.seeds or (config.seed,):
            name = ",".join(f"{field}={_safe(value)}" for field, value in told.items())
            name = f"{name},seed={seed}" if name else f"seed={seed}"
            out = str(config.directory / name)
            made = dataclasses.replace(changed, seed=seed, out=out)
            given = (*without("--seeds", options), *added, f"--seed={seed}", f"--out={out}")
            found.append(Planned(name, told, made, given))
    _refuse_equal(found)
    return found


def _safe(value: str) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", value)[:LONGEST]


def _refuse_equal(cells: Sequence[Planned]) -> None:
    named: dict[str, Planned] = {}
    made: dict[str, Planned] = {}
    for cell in cells:
        same = digest(figures_config(cell.config))
        for where, key in ((named, cell.name), (made, same)):
            if key in where:
                one, two = (" ".join(c.values.values()) for c in (where[key], cell))
                what = "one folder's name" if key == cell.name else "the same config"
                raise UserError(f"--over: {one} and {two} give {what}: name each once")
            where[key] = cell


class Sweep:
    """The grid and its folder."""

    def __init__(self, folder: Path, cells: Sequence[Planned], how: SweepOptions, file: str):
        """file: the absolute path of the experiment file."""
        self.folder, self.cells, self.file = folder, cells, file
        config = cells[0].config
        asked = chain.named(config.stages, how.stages)
        self.stages = tuple(chain.in_order(config.stages, asked))
        self.other = how.from_
        self.failed: dict[str, str] = {}
        self._done: set[str] = set()  # names of cells
        self._sick: dict[str, str] = {}  # why a stage failed, by the digest of its config

    def trained(self, config: Experiment) -> list[str]:
        return [stage for stage in self.stages if config.trains(stage)]

    def check(self) -> None:
        """Takes stages from the run of --from. Raises ConfigError where a batch of a stage that
        must be trained does not fit the devices."""
        processes.first_alone(self._take_other, "from")
        for cell in self.cells:
            runner = make_runner(cell.config.parallel)
            for stage in self.trained(cell.config):
                if not has_ended(cell.config.directory_of(stage)):
                    check_rows(runner, cell.config.stages[stage], stage)

    def tell(self) -> None:
        """Prints the cells, and how often each stage is trained."""
        print(f"{len(self.cells)} runs in {self.folder}")
        for cell in self.cells:
            print(f"  {cell.name}{'  has finished' if self.is_done(cell) else ''}")
        often: dict[int, list[str]] = {}
        for stage in self.trained(self.cells[0].config):
            kinds = {digest(cell.config.fingerprint(stage)) for cell in self.cells}
            often.setdefault(len(kinds), []).append(stage)
        for count, stages in often.items():
            times = "once" if count == 1 else f"{count} times"
            print(f"trained {times} for {len(self.cells)} runs: {', '.join(stages)}")
        print(end="", flush=True)

    def is_done(self, cell: Planned) -> bool:
        """Whether the cell has a report of this config with all requested stages."""
        if cell.name not in self._done and self._has_report(cell):
            self._done.add(cell.name)
        return cell.name in self._done

    def _has_report(self, cell: Planned) -> bool:
        files = [cell.config.directory / name for name in (compare.REPORT, ITEMS)]
        if not all(file.is_file() for file in files):
            return False
        items = read_json(files[1])
        same = items.get("config") == figures_config(cell.config)
        return same and set(self.stages) <= items.get("models", {}).keys()

    def run(self) -> None:
        """Runs every cell that has not finished. If a cell fails, its error is printed and the next
        cell is run."""
        for number, cell in enumerate(self.cells):
            if self.is_done(cell):
                continue
            print(f"{cell.name}: {number + 1} of {len(self.cells)}", flush=True)
            # With several processes a UserError may occur in one of them only, so it ends all of
            # them. A SickError (numbers that are not finite) occurs in all processes at once.
            caught = UserError if jax.process_count() == 1 else SickError
            try:
                self._run(cell, self.cells[:number])
            except caught as error:
                self.failed[cell.name] = str(error)
                print(f"{cell.name}: failed: {error}", flush=True)

    def _run(self, cell: Planned, before: Sequence[Planned]) -> None:
        config = cell.config
        processes.first_alone(lambda: self._prepare(config, before), cell.name)
        run = Run(config, stages=self.stages, origin=Origin(self.file, cell.options))
        run.check(self.stages, report=True)
        for stage in self.stages:
            known = digest(config.fingerprint(stage))
            if known in self._sick:
                raise UserError(f"{stage}: as in {self._sick[known]}")
            try:
                run.finish(stage)
            except UserError as error:
                self._sick[known] = f"{cell.name}, {error}"
                raise
        report(run, self.stages)

    def _take_other(self) -> None:
        """Takes the stages of the run of --from, for every cell whose config they have. Raises
        UserError where nothing can be taken for any cell."""
        if self.other is None:
            return
        told, some = [], False
        for cell in self.cells:
            try:
                own, offer = self._offered(cell.config, self.other)
            except UserError as error:  # its data may have the seed of another cell
                told.append(str(error))
                continue
            told += [f"nothing can be taken: {reason}" for reason in reasons(offer, own)]
            some = some or bool(own) or bool(offer.whole)
            if offer.whole:
                self._take(cell.config, offer)
        if not some:
            raise UserError("\n".join(dict.fromkeys(told)))

    def _prepare(self, config: Experiment, before: Sequence[Planned]) -> None:
        """Takes stages that earlier cells have finished."""
        writable_directory(config.directory, "out")
        for other in (cell.config for cell in before):
            made = is_made(other.directory / "data")
            if made and data_of(other) == data_of(config):
                self._take(config, self._offered(config, other.directory)[1])

    def _offered(self, config: Experiment, run: Path | str) -> tuple[list[str], Offer]:
        """(stages that a cell has begun, what another run offers of its other stages)."""
        stages = self.trained(config)
        own = here(config, stages)
        return own, offered(config, run, [stage for stage in stages if stage not in own])

    def _take(self, config: Experiment, offer: Offer) -> None:
        take(config, offer, offer.whole)
        if offer.whole:
            stages = ", ".join(offer.whole)
            print(f"{config.directory.name}: {stages}: taken from {offer.run}", flush=True)

    def compare(self) -> None:
        """Writes the report of the runs that have finished (in process 0)."""
        cells = []
        for cell in self.cells:
            if self.is_done(cell):
                found = compare.read(cell.config.directory)
                cells.append(Cell(cell.values, cell.config.seed, found.report, found.items))
        if not cells:
            print("no run has finished: there is nothing to report")
            return
        title = f"Sweep of {self.cells[0].config.name}"
        compare.write(Comparison(tuple(cells), self.failed), self.folder, "sweep", title)
