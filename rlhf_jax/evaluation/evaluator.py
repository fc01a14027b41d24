"""The protocol of an evaluator: rows for the model of a stage, one per item, and their summary.

An evaluator is a frozen dataclass that inherits from `Evaluator`, in this package or in your own
file. The columns of the report are those of the experiment's evaluators.
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
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.generation.decode import TOGETHER, DecodingConfig
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
    """How every policy is sampled when policies are compared.

    A prompt that is too long for one of the experiment's policies is left out for all of them, and
    counted.

    prompts       the data source's split of prompts
    most_prompts  the maximum number of prompts: the first of the split; None: all
    curves        training metrics that the report draws, for the stages that have them
    decoding      how a batch of prompts is decoded
    """

    prompt_length: int  # maximum number of tokens of a prompt
    response_length: int  # maximum number of tokens of a response
    sampling: SamplingConfig = SamplingConfig()
    batch_size: int = 64  # prompts per batch
    prompts: str = "test"
    curves: tuple[str, ...] = ("score", "kl")
    most_prompts: int | None = dataclasses.field(default=None, metadata=ADDED_LATER)
    decoding: DecodingConfig = dataclasses.field(default=TOGETHER, metadata=ADDED_LATER)

    def __post_init__(self):
        most = self.most_prompts
        require(most is None or most > 0, "most_prompts", most, "positive, or None for all")
        for field in ("prompt_length", "response_length", "batch_size"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")

    @property
    def shape(self) -> dict[str, int]:
        """The shape of a batch of prompts and their responses."""
        return {
            "prompt_length": self.prompt_length,
            "response_length": self.response_length,
            "batch_size": self.batch_size,
        }


class Column(NamedTuple):
    """How the report shows a column.

    title    for the terminal, with line breaks; what is below this column stands behind a comma
    about    what it is, and its unit
    percent  whether the value is a share, printed in percent
    better   "higher" or "lower"
    middle   the value that means no difference
    below    another column, which is shown in small print under this one
    over     another column: the figure draws this column (y) over it (x)
    drawn    whether it is in the figure
    shown    whether it is in the tables
    range    the least and the greatest possible value, None where there is no bound; None: (0, 1)
             with `percent`, else no bounds. Intervals are cut to it
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
    range: tuple[float | None, float | None] | None = None

    @property
    def possible(self) -> tuple[float, float]:
        """The range, infinite where there is no bound."""
        low, high = self.range or ((0, 1) if self.percent else (None, None))
        return -math.inf if low is None else low, math.inf if high is None else high

    @property
    def plain(self) -> str:
        """The title in one line."""
        return self.title.replace("-\n", "").replace("\n", " ")


class Sampled(NamedTuple):
    """One response of a policy to each test prompt that is not too long."""

    ids: np.ndarray  # [N], the prompts' indices in their split
    prompts: tuple[str, ...]
    responses: tuple[Response, ...]


class Grade(Protocol):
    """A data source's grade of a response.

    score: in [0, 1]. A grade may also have `flags`: {name: True, False, or None where the prompt
    does not test for it}.
    """

    score: float


class Measured(NamedTuple):
    """What one evaluator found about one stage's model."""

    rows: Rows
    summary: Summary
    groups: Mapping[str, Summary]  # the summary of each group of rows, if there are several groups


Found = Mapping[str, Measured]  # by stage


class Subject(Protocol):
    """The model that is evaluated, and all else that an evaluator may read
    (rlhf_jax/runs/evaluation.py).

    stage     the name of the model's stage
    needs     the stages that this stage reads, by role
    build     shapes of the models of the evaluator's `needs`, and of the model as "subject"
    asked     how policies are sampled
    behind    the text before each prompt: "", except for a policy prompted with examples
    trained_to_end  whether the stage trains responses that end (`Stage.trained_to_end`)
    scored    whether a stage of the experiment makes or reads scores of responses
    ids       the test prompts' indices in their split
    prompts   the test prompts
    programs  the evaluator's `programs`, compiled
    """

    stage: str
    needs: Mapping[str, Need]
    build: Build
    asked: EvaluationConfig
    behind: str
    trained_to_end: bool
    scored: bool
    params: Any
    tokenizer: Tokenizer
    ids: np.ndarray
    prompts: tuple[str, ...]
    programs: Mapping[str, Callable]

    def has(self, role: str) -> bool:
        """Whether the stage that has this role in the evaluator's `needs` has finished. Only a role
        in `optional` may be without."""

    def model(self, role: str) -> Any:
        """The parameters of the stage that has this role in the evaluator's `needs`."""

    def sampled(self) -> Sampled:
        """The policy's responses to the prompts, the same for every evaluator."""

    def rows(self, evaluator: str, stage: str | None = None) -> Rows:
        """The rows of an evaluator, by name, for this model or for another stage's."""

    def records(self, kind: str, split: str) -> Sequence:
        """Records of the stage that has the role `kind` in `needs`, else of the data source."""

    def sources(self, kind: str, split: str) -> Mapping[str, int]:
        """{source: how many of these records it has}, in the records' order."""

    def grader(self) -> Callable[[str, str], Grade]:
        """grade(prompt, response) of the data source."""

    def key(self, use: str) -> jax.Array:
        """The random key of a use, the same for every model."""

    def metrics(self) -> list[dict]:
        """The lines of the stage's metrics.jsonl so far."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Measures the models of stages.

    every   measures models during training too, every so many steps; None: only at the end
    within  the stages that are measured during training; none named: all that it measures and that
            build on the stages that it needs
    only    the stages that it measures; none named: all stages whose model is of the kind that it
            judges
    """

    judges: ClassVar[Ends] = "policy"  # the kind of models that it measures
    asks: ClassVar[bool] = True  # whether it reads responses to the test prompts
    every: int | None = None
    within: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self):
        require(self.every is None or self.every > 0, "every", self.every, "positive, or None")

    @property
    def name(self) -> str:
        """Names its columns and metrics; unique among the evaluators of an experiment."""
        return re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    def measures(self, stage: str, ends: Ends) -> bool:
        """Whether it measures the model of this stage, which is of the kind `ends`."""
        return ends == self.judges and (not self.only or stage in self.only)

    def needs(self) -> dict[str, Need]:
        """The stages that it reads besides the stage that it measures, by role."""
        return {}

    def optional(self) -> tuple[str, ...]:
        """The roles of `needs` that it can do without. It then also measures stages that train
        before those of these roles have finished (`Subject.has`)."""
        return ()

    def reads(self) -> tuple[str, ...]:
        """The names of the evaluators whose rows it reads."""
        return ()

    def columns(self) -> dict[str, Column]:
        """How the report shows the values of `summary`, in order. A value without an entry here is
        shown under its own name."""
        return {}

    def check(self, facts: Facts, grader: Callable[[], Callable]) -> None:
        """Raises UserError where no record remains for it, or where it needs a grader and the data
        source has none. It is called before the first step of any stage."""

    def check_shapes(self, build: Build, asked: EvaluationConfig) -> None:
        """Raises ConfigError where it cannot measure a model of this shape."""

    def programs(self, build: Build, asked: EvaluationConfig) -> dict[str, Program]:
        """Every program that it runs on a model with the shape build.shapes["subject"]."""
        return {}

    def rows(self, subject: Subject) -> Rows:
        """{"id": [N], column: [N], ...}: one row per item; NaN where a value is not defined.

        If there is a column "group", the report shows each group's summary too.
        """
        raise NotImplementedError

    def summary(self, rows: Rows, seed: int) -> Summary:
        """{column: an estimate with its interval, or a number}."""
        raise NotImplementedError

    def parts(self, rows: Rows) -> Parts:
        """{column: (totals, weights)} of the columns whose estimate is sum(totals) / sum(weights).
        `rlhf-jax compare` uses them to pair two models item by item; weight 0 omits an item."""
        return {}

    def findings(self, found: Found, seed: int) -> list[str]:
        """Sentences for the report that say what the numbers show."""
        return []

    def notes(self, item: Item) -> list[tuple[str, Look]]:
        """Short remarks about one item, shown beside its sample on the report's page."""
        return []

    def section(self, found: Found, others: Sequence[tuple["Evaluator", Found]]) -> str:
        """HTML that it adds to the page. others: the results of all evaluators."""
        return ""


def checked(evaluator: str, rows: Rows) -> dict[str, np.ndarray]:
    """The rows. Raises UserError unless ids are unique and all columns have one value per id."""
    lengths = {name: len(column) for name, column in rows.items()}
    if "id" not in rows or len(set(lengths.values())) > 1:
        raise UserError(f"{evaluator}: its rows have {lengths}: must have an id, and one value per "
                        "id in each column")  # fmt: skip
    if len(np.unique(rows["id"])) < len(rows["id"]):
        raise UserError(f"{evaluator}: two of its rows have the same id")
    return dict(rows)


def paired(one: Measured, other: Measured, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of two models' rows. Raises UserError unless both are of the same items."""
    return same_items(one.rows, other.rows, column)


def same_items(one: Rows, other: Rows, column: str) -> tuple[np.ndarray, np.ndarray]:
    if not np.array_equal(one["id"], other["id"]):
        raise UserError(f"{column}: two models were measured on different items")
    return one[column], other[column]


def number(value: Value) -> float | int | None:
    """The estimate without its interval; NaN or infinite where the model diverged."""
    return value.mean if isinstance(value, Interval) else value


def as_json(value: Value) -> dict | float | int | None:
    """The value for JSON: an interval as {"mean", "low", "high"}; None if it is not finite."""
    if isinstance(value, Interval):
        return value.as_json() if math.isfinite(value.mean) else None
    return value if value is None or math.isfinite(value) else None
