"""The protocol of a stage. Run, plan, replay and report use these methods only, and do not know any
stage's name or kind.

A stage is a frozen dataclass that inherits from `Stage`, in this package or in your own file.
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
from rlhf_jax.models.lora import LoRA
from rlhf_jax.parallel.runner import JitRunner, Runner
from rlhf_jax.sources.source import Source
from rlhf_jax.stages.facts import Facts
from rlhf_jax.training.loop import Task

Ends = Literal["policy", "score", "rankings"]
KEY = jax.eval_shape(jax.random.key, 0)  # a shape: an array here would initialise the devices
MANY_STEPS = 10**9  # for the shapes of a stage whose number of steps depends on the data


class Need(NamedTuple):
    """Another stage that a stage reads."""

    stage: str  # its name in the experiment
    ends: Ends  # the kind of result that it must have


class Prompting(NamedTuple):
    """How a policy is prompted."""

    before: str = ""  # text before each prompt
    until: str | None = None  # an answer ends before this text
    prompt_length: int | None = None  # maximum number of tokens of a prompt; None: the evaluation's


class Trunk(NamedTuple):
    """What lies under a model's adapter. Models whose trunks have equal names share its arrays."""

    name: str  # of the trunk itself
    merged: str  # of the trunk that the model becomes when its adapter is merged


class Rows(NamedTuple):
    """A batch that must be cut over the devices: `count` rows in `pieces` micro-batches."""

    field: str  # the config field that sets the number of rows
    count: int
    pieces: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A program of a stage: `run` compiles it to call it, `plan` to measure it.

    function     pure; arrays in, arrays out
    arguments    pytrees of shapes
    rows         indices of the arguments that are rows of a batch, cut over devices
    returns_rows whether the result is rows; otherwise it is whole
    donates      whether the memory of the first argument, a state, is reused for the first result
    beside       pytrees that are in memory while it runs, but that it does not read
    turns        the most iterations of its decode loop
    shared       pytrees whose arrays the arguments and `beside` have a second time
    whole        takes and returns whole NumPy arrays, the same in every process
    """

    function: Callable
    arguments: tuple
    rows: tuple[int, ...] = ()
    returns_rows: bool = False
    donates: bool = False
    beside: tuple = ()
    turns: int = 1
    shared: tuple = ()
    whole: bool = False

    def compile(self, runner: Runner) -> Callable:
        return runner.evaluate(self.function) if self.whole else self._on_devices(runner)

    def trace(self, runner: JitRunner) -> jax.stages.Traced:
        """The program as `compile` gives it to the compiler; the devices need not exist."""
        made = runner.compile_whole(self.function) if self.whole else self._on_devices(runner)
        return made.trace(*self.placed(runner))

    def lower(self, runner: JitRunner) -> jax.stages.Lowered:
        return self.trace(runner).lower()

    def placed(self, runner: Runner) -> tuple:
        """The arguments with their layout on the runner's devices."""
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
    """What programs are made from: everything that is known without data or files.

    name    the stage's name
    model   the experiment's model shape
    shapes  the shapes of the models that the stage reads, by role
    ending  the rules of generation/ending.py: when a response ends, and how a cut one scores
    trunks  by role, the trunks of the models that it reads
    """

    name: str
    model: TransformerConfig
    shapes: Mapping[str, TransformerConfig]
    ending: Ending
    trunks: Mapping[str, Trunk] = dataclasses.field(default_factory=dict)

    def trunk(self, role: str) -> Trunk:
        """Without a chain of stages the trunk of each role is another."""
        return self.trunks.get(role) or Trunk(role, f"{role}, merged")


class Inputs(Protocol):
    """What a stage can use while it runs (rlhf_jax/runs/inputs.py)."""

    build: Build
    runner: Runner
    tokenizer: Tokenizer
    directory: Path  # of this stage

    def model(self, role: str) -> Any:
        """The parameters of the stage that has this role in `needs`."""

    def pretrained(self) -> Any:
        """The parameters of the experiment's published model."""

    def trunk(self, role: str) -> Any:
        """`model` without its adapter, which is merged into the matrices."""

    def records(self, kind: str, split: str) -> Sequence:
        """Records of the stage that has the role `kind` in `needs`, else of the data source."""

    def grader(self) -> Callable[[str, str], Any]:
        """grade(prompt, response) of the data source; its result has a `score`. Raises UserError
        where the source has no grader."""

    def key(self, use: str) -> jax.Array:
        """The random key of one use of the stage (rlhf_jax/randomness.py)."""

    def shuffle(self, use: str) -> int:
        """A seed for NumPy of one use of the stage."""

    def compile(self, programs: Mapping[str, Program]) -> dict[str, Callable]:
        """Each program, compiled by the runner."""

    def on_host(self, name: str, step: int, function: Callable, *arguments: Any) -> Any:
        """function(*arguments) of a step, called in one process; every process gets the result.

        The result, JSON values, is written to disk before it is used; a step that is repeated after
        a kill reads it from there. With arguments (JSON values that every process has) it is read
        only if it was made from equal arguments."""

    def rows_on_host(self, name: str, step: int, function: Callable, *columns: Sequence) -> list:
        """Like `on_host`, for a function that returns one result per row of equally long columns of
        JSON values. Every process calls it with a share of the rows and gets all results."""

    def at_end(self, close: Callable[[], None]) -> None:
        """Calls `close` when the stage ends, also after an error."""

    def host_results(self, name: str) -> list:
        """The results that `on_host` has written, by step."""

    def tell(self, **about: Any) -> None:
        """Stores numbers about the stage's result, in its directory."""

    def fetch_rows(self, tree: Any) -> Any:
        """The rows that a program returned, as whole NumPy arrays [B, ...] in every process."""

    def place_rows(self, whole: Any) -> Any:
        """The inverse of `fetch_rows`: arrays [B, ...] that every process holds, as rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the experiment; its result is a policy, a scorer or rankings.

    stream: names its randomness; None: the stage's name. Two stages with the same stream draw the
    same random numbers. A stage with a stream keeps its numbers when it is renamed.
    """

    ends: ClassVar[Ends] = "policy"
    # The form of the adapter that it trains on the model of the role "start", whose arrays stay as
    # they are; its result is stored without them.
    lora: ClassVar[LoRA | None] = None
    # Whether its policy learns to end its responses; the report warns where few of them end.
    trained_to_end: ClassVar[bool] = True
    # Whether it scores responses that it samples, as `Experiment.ending` says.
    scores_responses: ClassVar[bool] = False
    stream: str | None = None

    def needs(self) -> dict[str, Need]:
        """The stages that it reads, by role."""
        return {}

    def elsewhere(self, directory_of: Callable[[str], Path]) -> Path | None:
        """The directory of the finished stage whose result this stage uses; None: it trains itself.

        directory_of: gives the directory of a stage of this run, by name.
        """
        return None

    def prompting(self, source: Source, seed: int) -> Prompting:
        """How the report and `rlhf-jax generate` prompt its policy."""
        return Prompting()

    def shape(self, build: Build) -> TransformerConfig:
        """The shape of the model that it produces."""
        return build.shapes["start"]

    def check_shapes(self, build: Build) -> None:
        """Raises ConfigError where its lengths do not fit the models' contexts."""

    def batches(self) -> Sequence[Rows]:
        """Its batches that are cut over the devices."""
        return ()

    def check(self, facts: Facts) -> None:
        """Raises UserError where no record remains for it or records do not fit. Called before the
        first step of any stage."""

    def expects(self, facts: Facts) -> Any:
        """A facts.Expected: bounds on the rankings that it will collect. Only for a stage whose
        result is rankings."""

    def steps(self, examples: Callable[[str], int | None]) -> int | None:
        """The number of its steps; None if it depends on the data.

        examples(kind): the number of training records of a kind, or None.
        """
        raise NotImplementedError

    def programs(self, build: Build, steps: int) -> dict[str, Program]:
        """Every program that it runs, by name. steps: the number of its steps."""
        raise NotImplementedError

    def task(self, inputs: Inputs) -> Task:
        """The task for the loop: `programs`, compiled, on the stage's own batches. Its state is a
        NamedTuple with a `step`, and holds everything that changes from step to step."""
        raise NotImplementedError

    def saved(self) -> str | None:
        """For the report: what its saved model is; None: the weights of the last step."""
        return None

    def loaded(self, inputs: Inputs) -> Any:
        """The parameters of a stage that reads its model from files; None: it trains."""
        return None

    def finish(self, params: Any, inputs: Inputs) -> Any:
        """Its result: parameters, or {split: rankings}. params: the task's model."""
        return params

    def memory_fields(self) -> dict[str, str]:
        """Its fields that decide how much memory its programs need: "more" if a larger value needs
        less memory, "less" if a smaller value does."""
        ways = {"micro_batches": "more", "batch_size": "less", "length": "less"}
        names = [field.name for field in dataclasses.fields(self)]
        return {name: ways[end] for end in ways for name in names if name.endswith(end)}

    def with_micro_batches(self, times: int, groups: int) -> "Stage":
        """The stage with `times` as many micro-batches, but at least one row for each of the
        `groups` of devices in each; `plan --suggest` tries it."""
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
    """The shapes of a supervised batch [B, T]."""
    return {"tokens": ints(*shape), "segments": ints(*shape), "weights": floats(*shape)}


def prompt_shapes(*shape: int) -> dict:
    """The shapes of a batch of prompts [B, P]."""
    return {"tokens": ints(*shape), "segments": ints(*shape)}


def divisor(rows: int, at_least: int) -> int:
    """The smallest divisor of `rows` that is `at_least` or more; `rows` if there is none below."""
    return next((n for n in range(at_least, rows) if rows % n == 0), rows)
