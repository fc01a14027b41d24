"""What a stage of an experiment is. Running, planning, replaying and reporting go over stages by
these methods alone, and know no stage's name or kind.

A stage is a frozen dataclass under `Stage`, in the package or outside of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils.epath import Path

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.parallel.runner import JitRunner, Runner
from rlhf_jax.sources.source import Source
from rlhf_jax.stages.facts import Facts
from rlhf_jax.training.loop import Task

Ends = Literal["policy", "score", "rankings"]
KEY = jax.eval_shape(jax.random.key, 0)  # an array here would start the devices
MANY_STEPS = 10**9  # above every warm-up: for the shapes of a stage whose steps the data tell


class Need(NamedTuple):
    """What a stage reads of another."""

    stage: str  # its name in the experiment
    ends: Ends  # what that must end with


class Prompting(NamedTuple):
    """How a policy is asked."""

    before: str = ""  # stands before each prompt
    until: str | None = None  # an answer ends before this text
    prompt_length: int | None = None  # tokens of a prompt at most; None: the evaluation's


class Rows(NamedTuple):
    """A batch of a stage, which has to fit the devices in so many micro-batches."""

    field: str
    count: int
    pieces: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled call of a stage: run compiles it to call it, plan to measure it.

    function     pure; arrays in, arrays out
    arguments    pytrees of shapes
    rows         which of the arguments are rows of a batch, cut over devices
    returns_rows the result is rows; else it is whole
    donates      the first argument, a state, gives its memory to the first result
    beside       pytrees that lie in memory while it runs, though it does not read them
    turns        of the decode loop, at most
    whole        takes and gives whole NumPy arrays, the same in every process
    """

    function: Callable
    arguments: tuple
    rows: tuple[int, ...] = ()
    returns_rows: bool = False
    donates: bool = False
    beside: tuple = ()
    turns: int = 1
    whole: bool = False

    def compile(self, runner: Runner) -> Callable:
        return runner.evaluate(self.function) if self.whole else self._on_devices(runner)

    def lower(self, runner: JitRunner) -> jax.stages.Lowered:
        """What `compile` gives the compiler; the runner's devices need not be there."""
        made = runner.compile_whole(self.function) if self.whole else self._on_devices(runner)
        return made.lower(*self.placed(runner))

    def placed(self, runner: Runner) -> tuple:
        """The arguments as they lie on the runner's devices."""
        return tuple(
            runner.row_shapes(argument) if number in self.rows else runner.layout(argument)
            for number, argument in enumerate(self.arguments)
        )

    def _on_devices(self, runner: Runner) -> Callable:
        return runner.compile(
            self.function, rows=self.rows, returns_rows=self.returns_rows, donate=self.donates
        )


@dataclasses.dataclass(frozen=True)
class Build:
    """What programs are made from: all that is known without data or files.

    name    the stage's
    model   the experiment's shape of a model
    shapes  those of the models that the stage reads, by role
    ending  where responses end and what a missing end scores
    """

    name: str
    model: TransformerConfig
    shapes: Mapping[str, TransformerConfig]
    ending: Ending


class Inputs(Protocol):
    """What a stage has while it runs (rlhf_jax/runs/inputs.py)."""

    build: Build
    runner: Runner
    tokenizer: Tokenizer
    directory: Path  # the stage's own

    def model(self, role: str) -> Any:
        """The parameters that the stage of that role ended with."""

    def records(self, kind: str, split: str) -> Sequence:
        """Of the stage of the role `kind`, where `needs` has that; else of the data source."""

    def grader(self) -> Callable[[str, str], Any]:
        """grade(prompt, response) of the data source, with a `score`; UserError where it has
        none."""

    def key(self, use: str) -> jax.Array:
        """The random key of the stage's use (rlhf_jax/randomness.py)."""

    def shuffle(self, use: str) -> int:
        """The same as a seed for NumPy."""

    def compile(self, programs: Mapping[str, Program]) -> dict[str, Callable]:
        """Each program, compiled as the runner does."""

    def on_host(self, name: str, step: int, function: Callable, *arguments: Any) -> Any:
        """The JSON values function(*arguments) of a step, made on the host of one process: they are
        written down before they are used, and a step that is done again reads them. With arguments,
        JSON values that every process has, it reads only what was made of equal ones."""

    def rows_on_host(self, name: str, step: int, function: Callable, *columns: Sequence) -> list:
        """As `on_host`, of a function that gives a result for each row of equally long columns of
        JSON values: every process asks it of its own rows, and all have the results of all."""

    def at_end(self, close: Callable[[], None]) -> None:
        """Calls it when the stage has ended, however it ends."""

    def host_results(self, name: str) -> list:
        """What `on_host` wrote down of each step, in order."""

    def tell(self, **about: Any) -> None:
        """Numbers about what the stage ends with, kept beside it."""

    def fetch_rows(self, tree: Any) -> Any:
        """The rows that a program returned as whole NumPy arrays [B, ...], in every process."""

    def place_rows(self, whole: Any) -> Any:
        """The inverse: arrays [B, ...] that every process holds whole, as a program's rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the experiment that ends with a policy, a scorer or rankings.

    stream: names its randomness; None: the stage's name. Two stages of one stream draw the same
    numbers, and a stage keeps its numbers when it is renamed.
    """

    ends: ClassVar[Ends] = "policy"
    stream: str | None = None

    def needs(self) -> dict[str, Need]:
        """The stages that it reads, by role."""
        return {}

    def elsewhere(self, directory_of: Callable[[str], Path]) -> Path | None:
        """The directory of the finished stage that stands in for this one; None: it runs itself.

        directory_of: the directory of a stage of this run, by name.
        """
        return None

    def prompting(self, source: Source, seed: int) -> Prompting:
        """How its policy is asked by the report and by `rlhf-jax generate`."""
        return Prompting()

    def shape(self, build: Build) -> TransformerConfig:
        """Of the model that it ends with."""
        return build.shapes["start"]

    def check_shapes(self, build: Build) -> None:
        """Raises ConfigError where its lengths do not fit the models."""

    def batches(self) -> Sequence[Rows]:
        """The batches that have to fit the devices."""
        return ()

    def check(self, facts: Facts) -> None:
        """Raises UserError, before the first step of any stage, where the records leave nothing or
        do not fit."""

    def expects(self, facts: Facts) -> Any:
        """Of a stage that ends with rankings: what is known of them before it has run, a
        facts.Expected."""

    def steps(self, examples: Callable[[str], int | None]) -> int | None:
        """Steps of the stage as far as the config tells; None: that depends on the data.

        examples(kind): how many records of a kind there are to train on, or None.
        """
        raise NotImplementedError

    def programs(self, build: Build, steps: int) -> dict[str, Program]:
        """Every program that it runs, of a stage of so many steps."""
        raise NotImplementedError

    def task(self, inputs: Inputs) -> Task:
        """What the loop runs: `programs`, compiled, on the stage's own batches. Its state is a
        NamedTuple with a `step`, and holds everything that moves."""
        raise NotImplementedError

    def saved(self) -> str | None:
        """What its model is, for the report, where it is not the weights of the last step; None."""
        return None

    def finish(self, params: Any, inputs: Inputs) -> Any:
        """What it ends with: parameters, or {split: rankings}. params: the task's model."""
        return params

    def memory_fields(self) -> dict[str, str]:
        """Its fields that decide how much memory its programs take: of which "more" takes less, and
        of which "less"."""
        ways = {"micro_batches": "more", "batch_size": "less", "length": "less"}
        names = [field.name for field in dataclasses.fields(self)]
        return {name: ways[end] for end in ways for name in names if name.endswith(end)}

    def with_micro_batches(self, times: int, groups: int) -> "Stage":
        """Itself in so many times the micro-batches, with a row or more for each of the groups of
        devices; `plan --suggest` tries them."""
        return self


@functools.cache
def policy_shapes(model: TransformerConfig) -> Any:
    """The shapes of a policy's parameters."""
    return jax.eval_shape(lambda key: transformer.init(model, key), KEY)


@functools.cache
def score_shapes(model: TransformerConfig) -> Any:
    """The shapes of a scorer's parameters."""
    make = lambda key: score.with_score_head(transformer.init(model, key), key)
    return jax.eval_shape(make, KEY)


def ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def text_shapes(*shape: int) -> dict:
    """Of a supervised batch [B, T]."""
    return {"tokens": ints(*shape), "segments": ints(*shape), "weights": floats(*shape)}


def prompt_shapes(*shape: int) -> dict:
    """Of a batch of prompts [B, P]."""
    return {"tokens": ints(*shape), "segments": ints(*shape)}


def divisor(rows: int, at_least: int) -> int:
    """The smallest divisor of rows that is at_least so large; rows where none is."""
    return next((n for n in range(at_least, rows) if rows % n == 0), rows)
