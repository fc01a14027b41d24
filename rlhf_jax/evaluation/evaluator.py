"""What an evaluator is: rows for the model of a stage, one an item, and what they come to.

An evaluator is a frozen dataclass under `Evaluator`, in the package or outside of it. The report's
columns are those of an experiment's evaluators.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import numpy as np

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.statistics import Interval
from rlhf_jax.generation.ending import Response
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.facts import Facts
from rlhf_jax.stages.stage import Build, Ends, Need, Program

Rows = Mapping[str, np.ndarray]
Value = Interval | float | int | None  # None: not known
Summary = Mapping[str, Value]
Item = Mapping[str, Any]  # a row
Parts = Mapping[str, tuple[np.ndarray, np.ndarray]]  # (totals [N], weights [N]) by column
Look = Literal["good", "bad", ""]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How every policy is asked when it is compared with others.

    A prompt that is longer, for one of the experiment's policies, is left out of the figures of
    all, and counted.

    prompts  the data source's split of prompts
    curves   metrics of training that the report draws, of the stages that have them
    """

    prompt_length: int  # tokens of a prompt, at most
    response_length: int  # tokens of a response, at most
    sampling: SamplingConfig = SamplingConfig()
    batch_size: int = 64
    prompts: str = "test"
    curves: tuple[str, ...] = ("score", "kl")

    def __post_init__(self):
        for field in ("prompt_length", "response_length", "batch_size"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")

    @property
    def shape(self) -> dict[str, int]:
        """Of a batch of prompts and their responses."""
        return {
            "prompt_length": self.prompt_length,
            "response_length": self.response_length,
            "batch_size": self.batch_size,
        }


class Column(NamedTuple):
    """How the report shows a column.

    title    as on the terminal, with line breaks
    about    what it is, and its unit
    percent  the value is a share
    better   "higher" or "lower"
    middle   the value of no difference
    below    another column, shown in small print under this one instead of in a column of its own
    over     another column, over which the figure draws this one
    drawn    in the figure; shown: in the tables
    """

    title: str
    about: str = ""
    digits: int = 3
    percent: bool = False
    better: Literal["higher", "lower"] | None = None
    middle: float | None = None
    below: str | None = None
    over: str | None = None
    drawn: bool = True
    shown: bool = True

    @property
    def plain(self) -> str:
        """The title in one line."""
        return self.title.replace("-\n", "").replace("\n", " ")


class Sampled(NamedTuple):
    """One response of a policy to each test prompt that leaves room for one."""

    ids: np.ndarray  # [N], the prompts' places in their split
    prompts: tuple[str, ...]
    responses: tuple[Response, ...]


class Grade(Protocol):
    """What a data source's grader says of a response.

    score: in [0, 1]. A grader of behaviour too has `flags`: {name: whether; None: not asked}.
    """

    score: float


class Measured(NamedTuple):
    """Of one stage's model, by one evaluator."""

    rows: Rows
    summary: Summary
    groups: Mapping[str, Summary]  # of the rows of each group, where there are several


Found = Mapping[str, Measured]  # by stage


class Subject(Protocol):
    """The model of a stage, and what an evaluator may read beside it (rlhf_jax/runs/evaluation.py).

    stage     its name
    needs     the stages that it reads, by role
    build     shapes of the models of the evaluator's `needs`, and of the model itself as "subject"
    asked     how its policy is sampled
    behind    what stands before each prompt: "", but of a policy that sees examples
    ids, prompts  the test prompts, and their places in their split
    programs  the evaluator's `programs`, compiled
    """

    stage: str
    needs: Mapping[str, Need]
    build: Build
    asked: EvaluationConfig
    behind: str
    params: Any
    tokenizer: Tokenizer
    ids: np.ndarray
    prompts: tuple[str, ...]
    programs: Mapping[str, Callable]

    def model(self, role: str) -> Any:
        """The parameters of the stage of that role in the evaluator's `needs`."""

    def sampled(self) -> Sampled:
        """The policy's responses to the prompts, the same for every evaluator."""

    def rows(self, evaluator: str, stage: str | None = None) -> Rows:
        """The rows of another evaluator, by name, or of another stage's finished model."""

    def records(self, kind: str, split: str) -> Sequence:
        """Of the stage of the role `kind`, where `needs` has that; else of the data source."""

    def sources(self, kind: str, split: str) -> Mapping[str, int]:
        """How many of these records each source has, in their order."""

    def grader(self) -> Callable[[str, str], Grade]:
        """grade(prompt, response) of the data source."""

    def key(self, use: str) -> jax.Array:
        """The random key of a use, the same for each subject."""

    def metrics(self) -> list[dict]:
        """What the training of the stage has logged so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Measures the models that stages end with.

    every   the models are measured in training too, every so many steps; None: only at the end
    within  the stages in whose training; none named: all that end with what it judges, and build
            on the stages that it needs
    """

    judges: ClassVar[Ends] = "policy"  # the models that it measures
    asks: ClassVar[bool] = True  # it reads responses to the test prompts
    every: int | None = None
    within: tuple[str, ...] = ()

    def __post_init__(self):
        require(self.every is None or self.every > 0, "every", self.every, "positive, or None")

    @property
    def name(self) -> str:
        """Of its columns and metrics, different for each evaluator of an experiment."""
        return re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    def needs(self) -> dict[str, Need]:
        """The stages that it reads beside the one that it measures, by role."""
        return {}

    def reads(self) -> tuple[str, ...]:
        """The evaluators, by name, whose rows it reads."""
        return ()

    def columns(self) -> dict[str, Column]:
        """What `summary` gives, in order. What it gives beside stands under its plain name."""
        return {}

    def check(self, facts: Facts, grader: Callable[[], Callable]) -> None:
        """Raises UserError, before the first step of any stage, where the records leave nothing or
        the data source has no grader."""

    def check_shapes(self, build: Build, asked: EvaluationConfig) -> None:
        """Raises ConfigError where it cannot measure a model of this shape."""

    def programs(self, build: Build, asked: EvaluationConfig) -> dict[str, Program]:
        """Every program that it runs on a model, build.shapes["subject"]."""
        return {}

    def rows(self, subject: Subject) -> Rows:
        """{"id": [N], column: [N], ...}: one row an item, NaN where an item says nothing.

        A column "group" of names has each group summarised beside the whole.
        """
        raise NotImplementedError

    def summary(self, rows: Rows, seed: int) -> Summary:
        """An estimate with its interval, or a number, of each column."""
        raise NotImplementedError

    def parts(self, rows: Rows) -> Parts:
        """Of each column whose estimate is sum(totals) / sum(weights) over the rows, the two. By
        them `rlhf-jax compare` pairs two models item by item; a weight of 0 leaves an item out."""
        return {}

    def findings(self, found: Found, seed: int) -> list[str]:
        """What the figures say, a sentence each."""
        return []

    def notes(self, item: Item) -> list[tuple[str, Look]]:
        """What it says of one item, beside a sample of the report's page."""
        return []

    def section(self, found: Found, others: Sequence[tuple["Evaluator", Found]]) -> str:
        """HTML that it adds to the page. others: what all evaluators have found."""
        return ""


def checked(evaluator: str, rows: Rows) -> dict[str, np.ndarray]:
    """The rows; raises UserError unless they have an id each, and every column a value of each."""
    lengths = {name: len(column) for name, column in rows.items()}
    if "id" not in rows or len(set(lengths.values())) > 1:
        raise UserError(f"{evaluator}: its rows have {lengths}: must have an id and as many values "
                        "of each column")  # fmt: skip
    if len(np.unique(rows["id"])) < len(rows["id"]):
        raise UserError(f"{evaluator}: two of its rows have one id")
    return dict(rows)


def paired(one: Measured, other: Measured, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of two models' rows; raises UserError where they are not of the same items."""
    return same_items(one.rows, other.rows, column)


def same_items(one: Rows, other: Rows, column: str) -> tuple[np.ndarray, np.ndarray]:
    if not np.array_equal(one["id"], other["id"]):
        raise UserError(f"{column}: two models were measured on different items")
    return one[column], other[column]


def number(value: Value) -> float | int | None:
    """The estimate alone; NaN or infinite where the model diverged."""
    return value.mean if isinstance(value, Interval) else value


def as_json(value: Value) -> dict | float | int | None:
    """An interval as {"mean", "low", "high"}; None for what is not finite."""
    if isinstance(value, Interval):
        return value.as_json() if math.isfinite(value.mean) else None
    return value if value is None or math.isfinite(value) else None
