"""A subject of tiny models: what an evaluator reads, made by hand."""

import dataclasses
import zlib

import jax
import numpy as np

from rlhf_jax.evaluation.evaluator import EvaluationConfig, Sampled
from rlhf_jax.generation.ending import Ending, Response
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.stage import Build
from tests.data.conftest import Characters
from tests.stages import tiny

LETTERS = Characters()
PROMPTS = ("ab", "c", "def", "z", "gh")
IDS = np.array([0, 1, 3, 4, 6])  # places in a split of which others were left out
ASKED = EvaluationConfig(
    prompt_length=6, response_length=5, sampling=SamplingConfig(0.9), batch_size=3
)
RESPONSES = tuple(
    Response(text, tuple(LETTERS.encode(text)) + (tiny.EOS,) * ended, ended)
    for text, ended in (("xy", True), ("abc", False), ("", True), ("q", True), ("zzz", False))
)


def as_run_compiles(program):
    """Jitted; every call is of the types that the program names, and of its shapes or smaller ones.
    `seen`: the shapes of the last argument of each call."""
    function = jax.jit(program.function)

    def compare(given, named):
        assert given.dtype == named.dtype and np.ndim(given) == len(named.shape)
        assert np.all(np.array(np.shape(given)) <= np.array(named.shape))

    def called(*arguments):
        jax.tree.map(compare, arguments, tuple(program.arguments))
        called.seen.append(jax.tree.map(np.shape, arguments[-1]))
        return jax.device_get(function(*arguments))

    called.seen = []
    return called


@dataclasses.dataclass
class Subject:
    """Of one evaluator. others: {(evaluator, stage): rows}."""

    evaluator: object
    params: object = None
    stage: str = "ppo"
    models: dict = dataclasses.field(default_factory=dict)
    others: dict = dataclasses.field(default_factory=dict)
    data: dict = dataclasses.field(default_factory=dict)  # (kind, split) -> {source: records}
    grade: object = None
    logged: tuple = ()
    needs: dict = dataclasses.field(default_factory=dict)  # of the stage
    behind: str = ""
    trained_to_end: bool = True
    scored: bool = True
    before: bool = False  # in the training of a stage that builds on no other
    ending: Ending = dataclasses.replace(tiny.ENDING, missing=-1.0)
    asked: EvaluationConfig = ASKED
    ids: np.ndarray = dataclasses.field(default_factory=lambda: IDS)
    prompts: tuple = PROMPTS
    responses: tuple = RESPONSES
    tokenizer = LETTERS

    def __post_init__(self):
        roles = [role for role, n in self.evaluator.needs().items() if n.ends != "rankings"]
        shapes = dict.fromkeys((*roles, "subject"), tiny.MODEL)
        self.build = Build(self.stage, tiny.MODEL, shapes, self.ending)
        programs = self.evaluator.programs(self.build, self.asked)
        self.programs = {name: as_run_compiles(p) for name, p in programs.items()}

    def has(self, role):
        return not self.before

    def model(self, role):
        return self.models[role]

    def sampled(self):
        return Sampled(self.ids, self.prompts, self.responses)

    def rows(self, evaluator, stage=None):
        return self.others[evaluator, stage]

    def records(self, kind, split):
        return [record for records in self.data[kind, split].values() for record in records]

    def sources(self, kind, split):
        return {source: len(records) for source, records in self.data[kind, split].items()}

    def grader(self):
        return self.grade

    def key(self, use):
        return jax.random.key(zlib.crc32(use.encode()))

    def metrics(self):
        return list(self.logged)
