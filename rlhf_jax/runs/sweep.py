"""rlhf-jax sweep: a grid of runs, each in a folder of its own, and one report of all.

A stage that several runs make with the same config is trained in the first of them; the others take
it (rlhf_jax/runs/take.py).
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
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.loop import SickError

FIXED = {  # options that a sweep has another way to vary, or none
    "seed": "--seeds varies it",
    "out": "each cell has its own folder",
    "name": "it names the sweep's folder",
    "parallel": "it does not change what is computed",
    "loop": "it does not change what is computed",
}
LONGEST = 40  # characters of a value in a folder's name


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Of the command, beside --over.

    seeds   of the runs of each setting; none: the experiment's
    stages  these and those that they build on; none: all
    """

    seeds: tuple[int, ...] = ()
    stages: tuple[str, ...] = ()
    # Another run's directory: a stage that has finished there with the same config is not trained
    # again.
    from_: str | None = None

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
    options: tuple[str, ...]  # that make the experiment this run's


def split_over(arguments: Sequence[str]) -> tuple[list[Over], list[str]]:
    """Every `--over FIELD VALUE...` of the arguments, and the others.

    Raises UserError where it has no field or no value.
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
    """The experiment in the sweep's folder: that of --out, or one named by what is varied.

    Raises UserError where nothing is.
    """
    if not over and not how.seeds:
        raise UserError("sweep needs what to vary, as in --over ppo.kl.coefficient 0.1 0.2, or "
                        "--seeds 0 1 2")  # fmt: skip
    if any(argument.split("=")[0] == "--out" for argument in arguments):
        return config
    named = "-".join(each.field for each in over) or "seeds"
    return dataclasses.replace(config, out=f"{config.directory}-{named}")


def without(option: str, arguments: Sequence[str]) -> list[str]:
    """The arguments but for an option and its values."""
    kept, inside = [], False
    for argument in arguments:
        inside = argument.split("=")[0] == option or (inside and not argument.startswith("--"))
        kept += [] if inside else [argument]
    return kept


def grid(
    config: Experiment, how: SweepOptions, over: Sequence[Over], options: Sequence[str], prog: str
) -> list[Planned]:
    """The runs: every combination of the values, with every seed.

    config: with `options`, those of the experiment, already in it.
    Raises UserError, before anything runs, where a field is none, or a config refuses a value.
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
    """A value in a folder's name."""
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
        """file: the experiment's, from the root on."""
        self.folder, self.cells, self.file = folder, cells, file
        config = cells[0].config
        asked = chain.named(config.stages, how.stages)
        self.stages = tuple(chain.in_order(config.stages, asked))
        self.other = how.from_
        self.failed: dict[str, str] = {}
        self._sick: dict[str, str] = {}  # by the digest of a stage's config, why it fails

    def trained(self, config: Experiment) -> list[str]:
        return [stage for stage in self.stages if config.trains(stage)]

    def check(self) -> None:
        """Takes what the run of --from has. Raises ConfigError where a batch of what is left
        does not fit the devices."""
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
        """Whether its report is there, of this config and of all stages that are asked for."""
        files = [cell.config.directory / name for name in (compare.REPORT, ITEMS)]
        if not all(file.is_file() for file in files):
            return False
        items = read_json(files[1])
        same = items.get("config") == figures_config(cell.config)
        return same and set(self.stages) <= items.get("models", {}).keys()

    def run(self) -> None:
        """Every run that has not finished; one that fails is told and the others go on."""
        for number, cell in enumerate(self.cells):
            if self.is_done(cell):
                continue
            print(f"{cell.name}: {number + 1} of {len(self.cells)}", flush=True)
            # Of several processes, one may have failed alone: then all end. A stage that stops over
            # numbers that are not finite stops in all.
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
        """What the run of --from has, for every cell that it fits; UserError where it fits none."""
        if self.other is None:
            return
        told, some = [], False
        for cell in self.cells:
            try:
                own, offer = self._offered(cell.config, self.other)
            except UserError as error:  # its data may fit another seed's run
                told.append(str(error))
                continue
            told += reasons(offer, own)
            some = some or bool(own) or bool(offer.whole)
            if offer.whole:
                self._take(cell.config, offer)
        if not some:
            lines = "\n".join(dict.fromkeys(told))
            raise UserError(f"nothing can be taken from {self.other}: {lines}")

    def _prepare(self, config: Experiment, before: Sequence[Planned]) -> None:
        """Takes what earlier cells have finished."""
        writable_directory(config.directory, "out")
        for other in (cell.config for cell in before):
            made = (other.directory / "data" / "counts.json").is_file()
            if made and data_of(other) == data_of(config):
                self._take(config, self._offered(config, other.directory)[1])

    def _offered(self, config: Experiment, run: Path | str) -> tuple[list[str], Offer]:
        """The stages that a cell has begun, and what another run has of the others."""
        stages = self.trained(config)
        own = here(config, stages)
        return own, offered(config, run, [stage for stage in stages if stage not in own])

    def _take(self, config: Experiment, offer: Offer) -> None:
        take(config, offer, offer.whole)
        if offer.whole:
            stages = ", ".join(offer.whole)
            print(f"{config.directory.name}: {stages}: taken from {offer.run}", flush=True)

    def compare(self) -> None:
        """The report of the runs that have finished; process 0 writes it."""
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
