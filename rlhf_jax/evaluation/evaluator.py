"""What an evaluator is: rows for the model of a stage, an item each, and their summary.

An evaluator is a frozen dataclass under `Evaluator`, in the package or outside of it. The report's
columns are whatever an experiment's evaluators give.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.generation.ending import Response
from rlhf_jax.stages.facts import Facts
from rlhf_jax.stages.stage import Build, Ends, Need, Program


class Sampled(NamedTuple):
    """One response of a policy to each test prompt that leaves room for one."""

    prompts: tuple[str, ...]
    responses: tuple[Response, ...]


class Subject(Protocol):
    """The model of a stage, and what an evaluator may read beside it."""

    stage: str
    ends: Ends
    build: Build  # shapes: of the evaluator's `needs`, and the model's own as "subject"
    params: Any
    tokenizer: Tokenizer
    seed: int

    def model(self, role: str) -> Any:
        """The parameters of the stage of that role in the evaluator's `needs`."""

    def sampled(self) -> Sampled:
        """The policy's responses to the test prompts, the same for every evaluator."""

    def rows(self, evaluator: str, stage: str | None = None) -> dict[str, np.ndarray]:
        """The rows of another evaluator, by name, of this subject or of another stage's model."""

    def records(self, kind: str, split: str, role: str | None = None) -> Sequence:
        """Of the data source, or of the stage of a role."""

    def grader(self) -> Callable[[str, str], Any]: ...

    def key(self, use: str) -> jax.Array:
        """The random key of a use, the same for each subject."""

    def compile(self, name: str, program: Program) -> Callable:
        """A program by name, compiled once for all subjects."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Measures the models that stages end with.

    every: the stages' models are measured in training too, every so many steps; None: only at the
    end.
    """

    judges: ClassVar[Ends] = "policy"  # the models that it measures
    every: int | None = None

    @property
    def name(self) -> str:
        """Of its columns, files and metrics."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def needs(self) -> dict[str, Need]:
        """The stages that it reads beside the one that it measures, by role."""
        return {}

    def check(self, facts: Facts) -> None:
        """Raises UserError, before the first step of any stage, where the records leave nothing."""

    def programs(self, build: Build) -> dict[str, Program]:
        """Every program that it runs on a model, build.shapes["subject"]."""
        return {}

    def rows(self, subject: Subject) -> Mapping[str, np.ndarray]:
        """{"id": [N], column: [N], ...}: one row an item; NaN where an item says nothing."""
        raise NotImplementedError

    def summary(self, rows: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
        """{column: {"mean", "low", "high"}, a number, or None where it is not known}."""
        raise NotImplementedError

    def findings(self, summaries: Mapping[str, Mapping], rows: Mapping[str, Mapping]) -> list[str]:
        """What the figures say, a sentence each. Both by stage."""
        return []
