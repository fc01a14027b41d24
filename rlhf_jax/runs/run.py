"""The stages of one experiment in a directory, each resumable, each run once.

<out>/data          records, tokenizer
<out>/<stage>       checkpoints, metrics, and the finished model or rankings
<out>/report.*      the figures
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from etils.epath import Path

from rlhf_jax.data.records import Record
from rlhf_jax.data.rendering import record_of
from rlhf_jax.durable import taken
from rlhf_jax.durable.fingerprint import CONFIG, check_fingerprint, differences
from rlhf_jax.durable.lock import lock
from rlhf_jax.durable.model_files import has_model, save_model, shape_of
from rlhf_jax.durable.signals import SIGNALS
from rlhf_jax.errors import UserError, inside, require
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models.config import different_fields
from rlhf_jax.parallel import compile_cache, processes
from rlhf_jax.parallel.runner import Runner, make_runner
from rlhf_jax.published import kept
from rlhf_jax.published import model as published
from rlhf_jax.randomness import random_key
from rlhf_jax.runs import chain, memory, opening
from rlhf_jax.runs.evaluation import Evaluation
from rlhf_jax.runs.experiment import PRETRAINED, Experiment
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.runs.models import Models
from rlhf_jax.runs.origin import Origin
from rlhf_jax.sources import corpora
from rlhf_jax.sources.records import StageRecords
from rlhf_jax.stages.facts import Expected, Facts, Measures
from rlhf_jax.stages.stage import Build, Stage
from rlhf_jax.training import loop


class Stopped(Exception):
    """A stage ended early, with a checkpoint: --stop-after-steps, or a signal."""


class Run:
    """One experiment and its directory. Every method does its work once: a second call, in this
    process or a later one, finds it done or goes on where it was."""

    def __init__(
        self,
        config: Experiment,
        stop_after_steps: int | None = None,
        insist: bool = False,
        stages: Sequence[str] = (),
        origin: Origin | None = None,
    ):
        """stages: those that are to run. Before data are built, what will run is printed, and
        stages whose rows do not fit the devices are refused. origin: where the config came from,
        kept in the run's directory and beside each stage.

        Raises UserError, before anything is printed, where data or a stage have another config."""
        self.config, self.stop_after_steps, self.insist = config, stop_after_steps, insist
        self.origin = origin
        self.directory = config.directory
        compile_cache.use(compile_cache.folder_of(config.parallel, self.directory))
        self.runner = make_runner(config.parallel)
        self.check_rows(stages)
        known = config.model.vocab_size, config.seed, config.chat, config.published
        data = config.data, self.directory / "data", *known
        if stages and processes.is_first():
            if not insist:
                corpora.check_config(*data)
                self._check_configs(stages)
            left = self.left(stages)
            if PRETRAINED in left:
                published.check(config.published)
            print("\n".join(opening.lines(config, self.runner, stages, left)), flush=True)
        prepare = lambda: corpora.prepare(*data)
        processes.first_alone(prepare, "data")
        self.corpora = corpora.Corpora(data[1], config.data) if processes.is_first() else prepare()
        if origin is not None and processes.is_first():
            with contextlib.suppress(UserError), lock(self.directory):  # not while another runs
                origin.write(self.directory)
        self.tokenizer = self.corpora.tokenizer
        words, vocabulary = self.tokenizer.vocab_size, config.model.vocab_size
        require(
            vocabulary >= words, "model.vocab_size", vocabulary, f"the tokenizer's {words} or more"
        )
        self.ending = Ending.of(self.tokenizer, config.ending)
        self._models = Models(self.runner)
        self._measures, self._checked = Measures(self.ending.close), set()
        self.evaluation = Evaluation(self)

    def build(self, stage: str) -> Build:
        """What the programs of a stage are made from."""
        return chain.build_of(self.config.stages, stage, self.config.model, self.ending)

    def stage_directory(self, stage: str) -> Path:
        """Its own, or that of the stage that stands in for it."""
        return self.config.directory_of(stage)

    def trains(self, stage: str) -> bool:
        """Whether the stage is this run's own, and not another's that stands in for it."""
        return self.config.trains(stage)

    def finished(self, stage: str) -> bool:
        if self.config.stages[stage].ends == "rankings":
            return self.collected(stage).is_whole
        return has_model(self.stage_directory(stage) / "model")

    def collected(self, stage: str) -> StageRecords:
        """The rankings that a stage ends with."""
        return StageRecords(stage, self.stage_directory(stage), self.tokenizer)

    def left(self, stages: Sequence[str]) -> list[str]:
        """Those of the stages that are yet to run here."""
        ended = lambda stage: has_ended(self.stage_directory(stage))
        return [stage for stage in stages if self.trains(stage) and not ended(stage)]

    def check_rows(self, stages: Sequence[str]) -> None:
        """Raises ConfigError where a batch of a stage that is yet to run does not fit the mesh."""
        for stage in self.left(stages):
            check_rows(self.runner, self.config.stages[stage], stage)

    def check(self, stages: Sequence[str], report: bool = False) -> None:
        """Raises UserError, before any compute, where another run's model is not there or does not
        fit, or where the records leave a stage that is yet to run, or the report, nothing; counts
        what each leaves out, once."""
        self.check_rows(stages)
        for stage in stages:
            if self.config.is_another_run_s(stage):
                self._check_model(stage)
        left, measuring = self.left(stages), {}
        for stage in left:
            self._check_records(stage, self.config.stages[stage], self.config.stages[stage].check)
            measuring |= {e.name: e for e in self.evaluation.in_training(stage)}
        if report:
            there = {*stages, *filter(self.finished, self.config.stages)}
            measuring |= {e.name: e for e in self.evaluation.measuring(there)}
        self.evaluation.check(list(measuring.values()), self._check_records)

    def _check_records(self, name: str, reader: Any, check: Callable[[Facts], None]) -> None:
        """check(facts) of what a reader needs, once. reader: what has `needs`."""
        if name in self._checked:
            return
        facts = self.facts(name, reader)
        with inside(name):
            check(facts)
        if facts.expected is None:  # else again, once the rankings are collected
            self._checked.add(name)
        if processes.is_first():
            self.corpora.keep("left_out", {name: facts.left_out})

    def facts(self, name: str, reader: Any) -> Facts:
        """What the records say to a stage or an evaluator."""
        needs = reader.needs()
        collector = needs["rankings"].stage if "rankings" in needs else None

        def data(kind: str):
            return self.collected(collector) if kind == "rankings" and collector else self.corpora

        def expected() -> Expected | None:
            if collector is None or self.finished(collector):
                return None
            upstream = self.config.stages[collector]
            return upstream.expects(self.facts(collector, upstream))

        return Facts(name, data, self._measures, expected)

    def records(self, kind: str, split: str, stage: str | None) -> Sequence:
        """Of a stage that ends with them; None: of the data source."""
        if stage is None:
            return self.corpora.read(kind, split)
        self.finish(stage)
        return self.collected(stage).read(kind, split)

    def model(self, stage: str) -> Any:
        """The parameters that a stage ends with; the stage runs first where it has not.

        Raises UserError where those of another run are of another tokenizer or shape.
        """
        self.finish(stage)
        return self._models.load(*self._check_model(stage))

    def trunk(self, stage: str) -> Any:
        """The parameters that a stage ends with, without its adapter, which is merged into the
        matrices; the stage runs first where it has not."""
        self.finish(stage)
        return self._models.trunk(*self._check_model(stage))

    def _check_model(self, stage: str) -> tuple[Path, str, str]:
        """The directory, kind and tokenizer of the finished model of a stage."""
        directory = self.stage_directory(stage)
        if not has_model(source := directory / "model"):
            raise UserError(f"{stage}: {directory} holds no finished model")
        known = source, self.config.stages[stage].ends, self.tokenizer.fingerprint
        found, shape = shape_of(*known), self.config.stages[stage].shape(self.build(stage))
        if differ := different_fields(found, shape):
            name, about = differ[0], source / "model.json"
            there, here = (getattr(c, name) for c in (found, shape))
            raise UserError(f"{about}: {name}: expected {here!r} ({stage}), got {there!r}")
        return known

    def finish(self, stage: str) -> None:
        """Runs a stage to its end, those that it builds on first.

        Raises Stopped where stop_after_steps comes before the end.
        """
        here = ", ".join(self.config.stages)
        if stage not in self.config.stages:
            raise UserError(f"{stage}: the experiment {self.config.name!r} has no such stage: "
                            f"it has {here}")  # fmt: skip
        self.check(chain.in_order(self.config.stages, [stage]))
        if self.finished(stage):
            if self.trains(stage):
                self._same_config(stage)
            return
        if not self.trains(stage):
            self._finish_elsewhere(stage)
            return
        directory = self.stage_directory(stage)
        print(f"{stage}: {directory}", flush=True)
        with lock(self.directory) if processes.is_first() else contextlib.nullcontext():
            for upstream in chain.builds_on(self.config.stages, stage):
                self.finish(upstream)
            started = time.monotonic()
            self._run(stage)
        spent = f"{time.monotonic() - started:.0f} s with reading, compiling and saving"
        print(f"{stage}: done, {spent}", flush=True)

    def _finish_elsewhere(self, stage: str) -> None:
        """Finishes what stands in for a stage, where that is this run's."""
        upstream = {need.stage for need in self.config.stages[stage].needs().values()}
        for name in upstream:
            self.finish(name)
        self._check_model(stage)

    def task(self, stage: str) -> tuple[loop.Task, StageInputs]:
        """What the loop runs of a stage; those that it builds on have ended."""
        inputs = StageInputs(self, stage)
        with inside(stage):
            return self.config.stages[stage].task(inputs), inputs

    def _run(self, stage: str) -> None:
        directory, made = self.stage_directory(stage), self.config.stages[stage]
        self._check_records(stage, made, made.check)
        found = made.loaded(inputs := StageInputs(self, stage))
        if found is None:
            with memory.explained(self.config, self.build(stage), self.runner):
                task, inputs = self.task(stage)
                with contextlib.closing(inputs):
                    found = made.finish(task.model(self._train(stage, task)), inputs)
        elif processes.is_first():
            self._begin(stage)
        if made.ends == "rankings":
            self.collected(stage).write("rankings", found)
            return
        shape, tokenizer = made.shape(inputs.build), self.tokenizer.fingerprint
        trunk = self.stage_directory(made.needs()["start"].stage) if made.lora else None
        save_model(directory / "model", shape, found, made.ends, tokenizer, trunk)

    def _train(self, stage: str, task: loop.Task) -> Any:
        if processes.is_first():
            self._begin(stage)
        state = loop.run(
            self.evaluation.attach(task),
            self.stage_directory(stage),
            self.config.loop,
            fingerprint=self.config.fingerprint(stage),
            stop_after_steps=self.stop_after_steps,
            insist=self.insist,
        )
        place = f"at step {int(state.step)} of {task.total_steps}"
        if signal := SIGNALS.received:
            raise Stopped(f"{stage}: {signal}: saved {place}; the same command goes on from there")
        if int(state.step) < task.total_steps:
            raise Stopped(f"{stage}: stopped {place}; the same command without "
                          "--stop-after-steps goes on")  # fmt: skip
        return state

    def _begin(self, stage: str) -> None:
        self._same_config(stage)
        if self.origin is not None:
            self.origin.write(self.stage_directory(stage))

    def _check_configs(self, stages: Sequence[str]) -> None:
        """Raises UserError where the directory of one of the stages has another config."""
        for stage in filter(self.trains, stages):
            if (self.stage_directory(stage) / CONFIG).exists():
                self._same_config(stage)

    def _same_config(self, stage: str) -> None:
        own, fingerprint = self.directory / stage, self.config.fingerprint(stage)
        if not taken.is_taken(own):
            check_fingerprint(own, fingerprint, self.insist)
        elif lines := differences(self.stage_directory(stage), fingerprint):
            raise UserError(
                f"{own} is taken from {self.stage_directory(stage)}, which has another config; "
                f"give the same config, or remove {own / taken.NAME}: {stage} is then trained "
                "here:\n" + "\n".join(lines)
            )

    def as_text(self, record: Record) -> Record:
        """A record with texts in place of messages, by the run's chat template. Raises RecordError
        where the template refuses them, or there is none."""
        return record_of(record, self.tokenizer, self.config.chat)

    def published(self) -> Any:
        """The parameters of the experiment's published model, laid over the devices."""
        found, shape = self.config.published, self.config.model
        for sentence in published.changes(found, shape):
            print(f"{PRETRAINED}: {sentence}", flush=True)
        params = published.load(found, shape, self.runner.layout)
        keep = lambda: kept.keep(found, self.config.pretrained, self.directory / PRETRAINED)
        processes.first_alone(keep, "what is kept of the published model")
        return params

    def key(self, purpose: str) -> jax.Array:
        """The random key of a purpose (randomness.py)."""
        return random_key(self.config.seed, purpose)


def has_ended(directory: Path) -> bool:
    """Whether a stage's directory holds what it ends with."""
    return has_model(directory / "model") or StageRecords.there(directory)


def check_rows(runner: Runner, stage: Stage, name: str) -> None:
    """Raises ConfigError where a batch of the stage cannot be cut over the runner's devices."""
    for rows in stage.batches():
        runner.check_rows(f"{name}.{rows.field}", rows.count, rows.pieces)
