"""Gives evaluators the models of a run's stages, at the end and during training."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.errors import UserError, inside, require
from rlhf_jax.evaluation.evaluator import (
    EvaluationConfig,
    Evaluator,
    Grade,
    Rows,
    Sampled,
    checked,
    number,
)
from rlhf_jax.evaluation.policies import Sampler, sampling_program
from rlhf_jax.generation.ending import Ending, Response
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs import chain
from rlhf_jax.stages.facts import Facts
from rlhf_jax.stages.stage import Build, Program, Prompting
from rlhf_jax.training.loop import Task
from rlhf_jax.training.metrics import METRICS, read_metrics

if TYPE_CHECKING:
    from rlhf_jax.runs.experiment import Experiment
    from rlhf_jax.runs.run import Run


PREFIX = "evaluation/"  # of an evaluator's columns among the training metrics


class TestPrompts(NamedTuple):
    """The test prompts that are not too long for any policy, its worked examples included: the
    first `evaluation.most_prompts` of them."""

    ids: np.ndarray  # their indices in the split
    texts: tuple[str, ...]
    fitting: int  # the number of prompts that are not too long
    all: int  # the number of prompts in the split


class Evaluation:
    """The evaluators of a run, and their results for its models."""

    def __init__(self, run: "Run"):
        self.run, self.config = run, run.config
        self.evaluators = {evaluator.name: evaluator for evaluator in self.config.evaluators}
        self.prompting = functools.cache(functools.partial(prompting_of, self.config))
        self.asked = functools.cache(functools.partial(asked_of, self.config))
        self.grader = functools.cache(lambda: self.config.data.grader(self.config.seed))
        self._compiled: dict[tuple, dict[str, Callable]] = {}
        self._finished: dict[str, StageModel] = {}
        needs = (need for e in self.config.evaluators for need in e.needs().values())
        self._needed = {need.stage for need in needs}

    def stages(self, evaluator: Evaluator) -> list[str]:
        """The stages whose models an evaluator measures."""
        return [n for n, stage in self.config.stages.items() if evaluator.measures(n, stage.ends)]

    def measuring(self, there: Collection[str]) -> list[Evaluator]:
        """The evaluators that can measure a model when these stages have finished."""
        return [
            evaluator
            for evaluator in self.evaluators.values()
            if chain.stages_of(self.evaluators, evaluator) <= set(there)
            and any(stage in there for stage in self.stages(evaluator))
        ]

    def check(self, evaluators: Sequence[Evaluator], count: Callable) -> None:
        """Raises UserError where the evaluators, or the evaluators that they read, cannot measure
        their stages' models.

        count(name, reader, check): calls check(facts) and stores the counts of records left out.
        """
        names = dict.fromkeys(name for e in evaluators for name in self._read_by(e))
        evaluators = [self.evaluators[name] for name in names]
        if any(evaluator.asks for evaluator in evaluators):
            count("evaluation", self, self._check_prompts)
        for evaluator in evaluators:
            for stage in self.stages(evaluator):
                build = build_of(self.config, self.run.ending, evaluator, stage)
                with inside(evaluator.name):
                    evaluator.check_shapes(build, self.asked(stage))
            check = functools.partial(evaluator.check, grader=self.grader)
            count(evaluator.name, evaluator, check)

    def _read_by(self, evaluator: Evaluator) -> list[str]:
        """The names of all evaluators that it reads, directly or indirectly, and its own last."""
        read = (self._read_by(self.evaluators[name]) for name in evaluator.reads())
        return [*itertools.chain.from_iterable(read), evaluator.name]

    def needs(self) -> dict:
        """The test prompts need no stage."""
        return {}

    def _check_prompts(self, facts: Facts) -> None:
        config = self.config.evaluation
        self.run.ending.check(config.response_length)
        for stage in self._policies:
            context = shape_of(self.config, self.run.ending, stage).context
            total = self.asked(stage).prompt_length + config.response_length
            allowed = f"<= the context of {stage} = {context}"
            require(total <= context, "prompt_length + response_length", total, allowed)
        fitting = facts.some("prompts", config.prompts, "prompt_length", config.prompt_length)
        left, where = self.test_prompts, facts.where("prompts", config.prompts)
        if behind := len(fitting) - left.fitting:
            print(f"evaluation: {where}: {behind} are too long together with the worked examples "
                  "of a policy and are left out for all")  # fmt: skip
        if not len(left.ids):
            raise UserError(
                f"{where}: every prompt is too long together with the worked examples of a policy"
            )
        if len(left.ids) < left.fitting:
            print(f"evaluation: {where}: the first {len(left.ids)} of {left.fitting} prompts are "
                  "used (evaluation.most_prompts)")  # fmt: skip

    @property
    def _policies(self) -> list[str]:
        return [name for name, stage in self.config.stages.items() if stage.ends == "policy"]

    @functools.cached_property
    def test_prompts(self) -> TestPrompts:
        split, prompt_ids = self.config.evaluation.prompts, self.run.tokenizer.prompt_ids
        rooms = {(self.prompting(stage).before, self.asked(stage).prompt_length)
                 for stage in self._policies}  # fmt: skip
        rooms.add(("", self.config.evaluation.prompt_length))
        fits = lambda prompt: all(len(prompt_ids(b + prompt)) <= room for b, room in rooms)
        texts = [record.prompt for record in self.run.corpora.read("prompts", split)]
        fitting = [i for i, text in enumerate(texts) if fits(text)]
        ids = fitting[: self.config.evaluation.most_prompts]
        texts_of = tuple(texts[i] for i in ids)
        return TestPrompts(np.array(ids), texts_of, len(fitting), len(texts))

    def finished(self, stage: str) -> "StageModel":
        """The model of a finished stage."""
        if stage not in self._finished:
            self._finished[stage] = StageModel(self, stage)
        return self._finished[stage]

    def release(self, stage: str) -> None:
        """Frees a stage's parameters, unless an evaluator needs them for other stages' models."""
        if stage not in self._needed:
            self.finished(stage).release()

    def programs(self, evaluator: Evaluator, stage: str) -> dict[str, Callable]:
        """An evaluator's programs for the model of a stage, compiled once per model shape."""
        build = build_of(self.config, self.run.ending, evaluator, stage)
        make = lambda: evaluator.programs(build, self.asked(stage))
        return self._compile(
            (evaluator.name, *sorted(build.shapes.items()), self.asked(stage)), make
        )

    def _compile(self, key: tuple, make: Callable[[], Mapping[str, Program]]) -> dict:
        if key not in self._compiled:
            runner = self.run.runner
            self._compiled[key] = {n: program.compile(runner) for n, program in make().items()}
        return self._compiled[key]

    def answers(
        self, stage: str, params: Any, prompts: Sequence[str], key: jax.Array
    ) -> list[Response | None]:
        """A response of a stage's policy to each prompt, prompted as the stage says; None where a
        prompt is too long."""
        found: list[Response | None] = [None] * len(prompts)
        for place, response, _ in self.answering(stage, params, prompts, key):
            found[place] = response
        return found

    def answering(
        self, stage: str, params: Any, prompts: Sequence[str], key: jax.Array
    ) -> Iterator[tuple[int, Response, float | None]]:
        """Like `answers`, batch by batch: (index of the prompt, response, log-probability) in the
        prompts' order. Prompts that are too long are left out.

        The log-probability is the sum over the sampled tokens, in nats at the temperature; None if
        the stage (`Prompting.until`) ended the response before the last sampled token.
        """
        how, asked, ending = self.prompting(stage), self.asked(stage), self.run.ending
        rows = min(asked.batch_size, max(1, len(prompts)))  # no row without a prompt
        asked = dataclasses.replace(asked, batch_size=rows)
        model = shape_of(self.config, ending, stage)
        make = lambda: {"sample": responses_program(model, asked, ending)}
        compiled = self._compile(("responses", model, asked), make)
        sampler = Sampler(
            model, self.run.tokenizer, asked.sampling, ending, **asked.shape, **compiled
        )
        behind = [how.before + prompt for prompt in prompts]
        for place, ids, log_probs in sampler.each(params, behind, key):
            sampled = ending.response(ids, self.run.tokenizer)
            response = self._until(how.until, sampled)
            whole = response is sampled
            yield place, response, float(np.sum(log_probs, dtype=np.float64)) if whole else None

    def _until(self, until: str | None, response: Response) -> Response:
        """The response, cut before the text `until`."""
        if until is None or until not in response.text:
            return response
        text = response.text.split(until)[0]
        ids = self.run.ending.close(self.run.tokenizer.encode(text), True)
        return Response(text, tuple(ids), True)

    def in_training(self, stage: str) -> list[Evaluator]:
        """The evaluators that measure the model of a stage during its training."""
        upstream = set(chain.builds_on(self.config.stages, stage))
        return [
            evaluator
            for evaluator in self.evaluators.values()
            if evaluator.every is not None
            and stage in self.stages(evaluator)
            and (not evaluator.within or stage in evaluator.within)
            and chain.stages_of(self.evaluators, evaluator, in_training=True) <= upstream
        ]

    def attach(self, task: Task) -> Task:
        """The task of a stage, with the evaluators that measure it during training."""
        found = self.in_training(task.name)
        if not found:
            return task

        def evaluate(step: int, state: Any) -> dict[str, float]:
            due = [evaluator for evaluator in found if step % evaluator.every == 0]
            model = StageModel(self, task.name, task.model(state)) if due else None
            numbers = {}
            for evaluator in due:
                summary = evaluator.summary(model.rows(evaluator.name), self.config.seed)
                numbers |= {PREFIX + column: number(value) for column, value in summary.items()}
            return {column: value for column, value in numbers.items() if value is not None}

        names = tuple(PREFIX + column for evaluator in found for column in evaluator.columns())
        return dataclasses.replace(task, evaluate=evaluate, evaluated=names)


class StageModel:
    """The model of a stage and the evaluators' rows for it, each computed once.

    params: parameters during training; None: those of the finished stage.
    """

    def __init__(self, evaluation: Evaluation, stage: str, params: Any = None):
        self.evaluation, self.stage = evaluation, stage
        self._params, self.training = params, params is not None
        self._rows: dict[str, Rows] = {}

    @property
    def params(self) -> Any:
        if self._params is None:
            self._params = self.evaluation.run.model(self.stage)
        return self._params

    def release(self) -> None:
        self._params = None

    def rows(self, name: str) -> Rows:
        """The rows of an evaluator, by its name."""
        if name not in self._rows:
            evaluator = self.evaluation.evaluators[name]
            self._rows[name] = checked(name, evaluator.rows(OneSubject(self, evaluator)))
        return self._rows[name]

    @functools.cached_property
    def sampled(self) -> Sampled:
        evaluation = self.evaluation
        ids, prompts, *_ = evaluation.test_prompts
        key = evaluation.run.key("report/responses")  # the same random numbers for every policy
        responses = evaluation.answers(self.stage, self.params, prompts, key)
        return Sampled(ids, prompts, tuple(responses))

    def metrics(self) -> list[dict]:
        run = self.evaluation.run
        file = run.stage_directory(self.stage) / METRICS
        own = not self.training and run.trains(self.stage) and file.is_file()
        return read_metrics(file.parent) if own else []


class OneSubject:
    """The `evaluation.evaluator.Subject` of one model for one evaluator."""

    def __init__(self, model: StageModel, evaluator: Evaluator):
        self._model, self._evaluator, self._evaluation = model, evaluator, model.evaluation
        self.stage, self.metrics = model.stage, model.metrics
        self._run = self._evaluation.run
        self.tokenizer = self._run.tokenizer
        self.asked: EvaluationConfig = self._evaluation.asked(self.stage)
        self.behind = self._evaluation.prompting(self.stage).before
        own = self._run.config.stages[self.stage]
        self.needs, self.trained_to_end = own.needs(), own.trained_to_end
        self.scored = any(
            stage.ends == "score" or stage.scores_responses
            for stage in self._run.config.stages.values()
        )
        self.build = build_of(self._run.config, self._run.ending, evaluator, self.stage)

    @property
    def params(self) -> Any:
        return self._model.params

    @property
    def ids(self) -> np.ndarray:
        return self._evaluation.test_prompts.ids

    @property
    def prompts(self) -> tuple[str, ...]:
        return self._evaluation.test_prompts.texts

    @property
    def programs(self) -> Mapping[str, Callable]:
        return self._evaluation.programs(self._evaluator, self.stage)

    def has(self, role: str) -> bool:
        stage = self._evaluator.needs()[role].stage
        return not self._model.training or stage in chain.builds_on(
            self._run.config.stages, self.stage
        )

    def model(self, role: str) -> Any:
        needs, name = self._evaluator.needs(), self._evaluator.name
        if role not in needs:
            raise UserError(f"{name}: model({role!r}): its `needs` has no such role: it has "
                            f"{', '.join(needs) or 'none'}")  # fmt: skip
        return self._evaluation.finished(needs[role].stage).params

    def sampled(self) -> Sampled:
        return self._model.sampled

    def rows(self, evaluator: str, stage: str | None = None) -> Rows:
        model = self._model if stage is None else self._evaluation.finished(stage)
        return model.rows(evaluator)

    def _collector(self, kind: str) -> str | None:
        needs = self._evaluator.needs()
        return needs[kind].stage if kind in needs else None

    def records(self, kind: str, split: str) -> Sequence:
        return self._run.records(kind, split, self._collector(kind))

    def sources(self, kind: str, split: str) -> Mapping[str, int]:
        stage = self._collector(kind)
        data = self._run.corpora if stage is None else self._run.collected(stage)
        return data.sources(kind, split)

    def grader(self) -> Callable[[str, str], Grade]:
        return self._evaluation.grader()

    def key(self, use: str) -> jax.Array:
        return self._run.key(f"report/{use}")


def prompting_of(config: "Experiment", stage: str) -> Prompting:
    return config.stages[stage].prompting(config.data, config.seed)


def asked_of(config: "Experiment", stage: str) -> EvaluationConfig:
    """How the policy of a stage is sampled."""
    length = prompting_of(config, stage).prompt_length or config.evaluation.prompt_length
    return dataclasses.replace(config.evaluation, prompt_length=length)


def shape_of(config: "Experiment", ending: Ending, stage: str) -> TransformerConfig:
    """The shape of the model that a stage produces."""
    build = chain.build_of(config.stages, stage, config.model, ending)
    return config.stages[stage].shape(build)


def build_of(config: "Experiment", ending: Ending, evaluator: Evaluator, stage: str) -> Build:
    """The `Build` from which an evaluator's programs for a stage's model are made."""
    needs = {role: n.stage for role, n in evaluator.needs().items() if n.ends != "rankings"}
    named = needs | {"subject": stage}
    shapes = {role: shape_of(config, ending, name) for role, name in named.items()}
    return Build(stage, config.model, shapes, ending)


def responses_program(model: TransformerConfig, asked: EvaluationConfig, ending: Ending) -> Program:
    """The program that samples the responses of a model to the prompts of a report."""
    return sampling_program(model, asked.sampling, ending, decoding=asked.decoding, **asked.shape)


def report_programs(config: "Experiment", ending: Ending, stage: str) -> dict[str, Program]:
    """Every program that the report runs on the model of a stage."""
    asked, found = asked_of(config, stage), {}
    judging = [e for e in config.evaluators if e.measures(stage, config.stages[stage].ends)]
    if any(evaluator.asks for evaluator in judging):
        model = shape_of(config, ending, stage)
        found["responses"] = responses_program(model, asked, ending)
    for evaluator in judging:
        build = build_of(config, ending, evaluator, stage)
        programs = evaluator.programs(build, asked).items()
        found |= {f"{evaluator.name} {name}": program for name, program in programs}
    return found
