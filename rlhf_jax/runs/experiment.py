"""One experiment: where records come from, a shape of model, stages by name, evaluators."""

import ast
import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Mapping

from etils.epath import Path

from rlhf_jax.data.rendering import ChatConfig
from rlhf_jax.durable import manifest, taken
from rlhf_jax.durable.files import place
from rlhf_jax.durable.fingerprint import EXPERIMENT, fingerprint_of
from rlhf_jax.errors import UserError, require, require_a, require_form
from rlhf_jax.evaluation.evaluator import EvaluationConfig, Evaluator
from rlhf_jax.fields import ADDED_LATER, NOT_FINGERPRINTED
from rlhf_jax.generation.ending import Ending, EndingConfig
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.published import kept
from rlhf_jax.published.folder import PublishedModel, need_model
from rlhf_jax.published.model import computed_as, shape_of
from rlhf_jax.runs import chain
from rlhf_jax.sources.source import Source
from rlhf_jax.stages.elsewhere import Published
from rlhf_jax.stages.stage import Stage
from rlhf_jax.training.loop import LoopConfig

COMMANDS = (
    *("run", "sweep", "compare", "report", "generate", "score", "doctor", "replay", "plan"),
    *("estimators", "export", "fetch", "data", "label", "eval", "lm-eval", "cross-validate"),
)
PRETRAINED = "pretrained"  # the field, and the name of the stage that it adds


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A chain of stages on one source of data. Its stages run in the order of what they need.

    name    names the run's directory, runs/<name>, unless `out` names another
    pretrained  a published model: a folder with config.json, model.safetensors and a tokenizer, a
            .gguf file, or a name on the Hugging Face hub. Stages start from it by the name
            `pretrained`; its tokenizer is the run's
    model   the shape of the models that stages train from random weights. With `pretrained` the
            shape is the published model's; only the fields that say how it computes are kept, and a
            `context` that is smaller
    stages  by name; the name is the stage's directory, command and prefix of options
    chat    the chat template that turns messages into prompts and responses
    ending  when a response ends, and the score of a response that does not end
    evaluators  what the report measures of the models that stages end with
    seed    the seed of the data and of every random number; for `generate`, of the responses
    out     the run's directory; None: runs/<name>

    Raises ConfigError where stages do not fit each other or the model.
    """

    name: str
    data: Source
    model: TransformerConfig | None = dataclasses.field(default=None, kw_only=True)
    pretrained: str | None = dataclasses.field(default=None, kw_only=True)
    stages: Mapping[str, Stage]
    evaluation: EvaluationConfig
    evaluators: tuple[Evaluator, ...] = ()
    ending: EndingConfig = EndingConfig()
    loop: LoopConfig = LoopConfig()
    parallel: ParallelConfig = dataclasses.field(
        default=ParallelConfig(), metadata=NOT_FINGERPRINTED
    )
    chat: ChatConfig = dataclasses.field(default=ChatConfig(), metadata=ADDED_LATER, kw_only=True)
    seed: int = 0
    out: str | None = None

    def __post_init__(self):
        if self.pretrained is not None:
            self._start_from_published()
        self._check_kinds()
        require(0 <= self.seed < 2**63, "seed", self.seed, "in [0, 2**63)")
        allowed = "None: `lora` is a field of stages"
        require(self.model.lora is None, "model.lora", self.model.lora, allowed)
        total = self.evaluation.prompt_length + self.evaluation.response_length
        field, context = "evaluation.prompt_length + response_length", self.model.context
        require(total <= context, field, total, f"<= model.context = {context}")
        fields = {field.name for field in dataclasses.fields(self)}
        own = () if self.pretrained is None else (PRETRAINED,)
        reserved = sorted({*COMMANDS, *fields}.difference(own))
        chain.check_chain(self.stages, self.model, Ending.planned(self.ending), reserved)
        chain.check_evaluators(self.stages, self.evaluators, self.loop.best)

    def _start_from_published(self):
        """Gives `model` the published shape, and adds the stage that reads the published model."""
        require_a(str, PRETRAINED, self.pretrained, "a folder, a .gguf file or a name on the hub")
        shape = self.model
        if (there := kept.find(self.pretrained, self._kept_in, weights=False)) is not None:
            shape = computed_as(shape_of(there), self.model)
        elif shape is None:  # otherwise the stages can be listed and planned by `model`
            need_model(self.pretrained, field=PRETRAINED)
        object.__setattr__(self, "model", shape)
        require_a(Mapping, "stages", self.stages, "a dict of stages by name")
        stage = Published()
        same = self.stages.get(PRETRAINED, stage) == stage
        require_form(same, "stages", PRETRAINED, "another name: the published model has it")
        object.__setattr__(self, "stages", {PRETRAINED: stage, **self.stages})

    def _check_kinds(self):
        """Raises ConfigError where a field holds another kind of thing, such as a class in place of
        an instance."""
        is_instance = lambda value: not isinstance(value, type)
        require_a(TransformerConfig, "model", self.model)
        require_a(EvaluationConfig, "evaluation", self.evaluation)
        require_a(EndingConfig, "ending", self.ending)
        require_a(LoopConfig, "loop", self.loop)
        require_a(ChatConfig, "chat", self.chat)
        require_a(ParallelConfig, "parallel", self.parallel)
        require_a(int, "seed", self.seed, "a whole number")
        ok = hasattr(self.data, "records") and is_instance(self.data)
        require_form(ok, "data", self.data, "a data source, such as FolderData()")
        for name, token in self.data.special_tokens().items() if self.pretrained else ():
            require(token is None, f"data.{name}", token, "left out: pretrained has its tokenizer")
        require_a(Mapping, "stages", self.stages, "a dict of stages by name")
        for name, stage in self.stages.items():
            ok = hasattr(stage, "ends") and is_instance(stage)
            require_form(ok, f"stages.{name}", stage, "a stage, such as SFT(...)")
        require_a((tuple, list), "evaluators", self.evaluators, "a tuple of evaluators")
        for number, evaluator in enumerate(self.evaluators):
            ok = hasattr(evaluator, "judges") and is_instance(evaluator)
            require_form(ok, f"evaluators.{number}", evaluator, "an evaluator, such as GoldScore()")

    @property
    def published(self) -> PublishedModel | None:
        """The model that `pretrained` names. Raises UserError where it is not there."""
        if self.pretrained is None:
            return None
        there = kept.find(self.pretrained, self._kept_in)
        return there or need_model(self.pretrained, field=PRETRAINED)

    @property
    def _kept_in(self) -> Path:
        """The directory of the stage that reads the published model."""
        return taken.followed(self.directory / PRETRAINED)

    def with_stages(self, **stages: Stage) -> "Experiment":
        """The experiment with other stages of these names."""
        return dataclasses.replace(self, stages={**self.stages, **stages})

    @property
    def directory(self) -> Path:
        return place(self.out or f"runs/{self.name}", "out")

    def directory_of(self, stage: str) -> Path:
        """A stage's own, or that of the stage that stands in for it, in this run or another.

        Raises UserError where it was taken from another run and is not there as it was.
        """
        elsewhere = self.stages[stage].elsewhere(self.directory_of)
        return elsewhere or taken.followed(self.directory / stage)

    def trains(self, stage: str) -> bool:
        """Whether the stage is this run's own, and not another's that stands in for it."""
        return self.stages[stage].elsewhere(self.directory_of) is None

    def is_another_run_s(self, stage: str) -> bool:
        """Whether what stands in for it is no stage of this run."""
        return not self.trains(stage) and not self.stages[stage].needs()

    def fingerprint(self, stage: str) -> dict:
        """The config of a stage and of all that it depends on, upstream stages included."""
        names = chain.in_order(self.stages, [stage])
        shared = {"seed": self.seed, "data": self.data, "model": self.model, "ending": self.ending}
        shared |= {} if self.chat == ChatConfig() else {"chat": self.chat}
        found = {name: fingerprint_of(value) for name, value in shared.items()}
        found["stages"] = {name: fingerprint_of(self.stages[name]) for name in names}
        others = [name for name in names if self.is_another_run_s(name)]
        if others:  # of other runs: which model it is, the path alone does not say
            directory = {name: self.directory_of(name) / "model" for name in others}
            found["models"] = {name: manifest.digest(path) for name, path in directory.items()}
        if self.pretrained is not None and PRETRAINED in names:
            found[PRETRAINED] = kept.digest(self.published, self._kept_in)
        return found


def load_experiment(path: str) -> Experiment:
    """The `config` of an experiment file, which may import what lies beside it, as a script may.

    Raises UserError where the file is absent, raises an error or names two stages alike, as
    "file:line: what", or defines no Experiment of that name.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such experiment file")
    spec = importlib.util.spec_from_file_location(EXPERIMENT + file.stem, file)
    if spec is None:
        raise UserError(f"{path}: an experiment is a Python file, named *.py")
    folder = str(file.absolute().parent)
    sys.path[:] = [folder, *(place for place in sys.path if place != folder)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for classes that the file defines: their types and comments
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(_told(path, file, error)) from None
    _refuse_repeated_keys(path, file)
    config = vars(module).get("config")
    if not isinstance(config, Experiment):
        raise UserError(f"{path}: must define `config`, an rlhf_jax.runs.experiment.Experiment")
    return config


def _refuse_repeated_keys(path: str, file: Path) -> None:
    """Of a dict written with one key twice Python keeps the last alone: a stage would be lost."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        seen = set()
        for key in node.keys if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Constant) and key.value in seen:
                raise UserError(f"{path}:{key.lineno}: {key.value!r} stands twice in this dict")
            if isinstance(key, ast.Constant):
                seen.add(key.value)


def _told(path: str, file: Path, error: BaseException) -> str:
    """Where in an experiment file an error came from, and what it says, in one line."""
    what = (str(error).splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file.absolute()]
    if isinstance(error, SyntaxError):
        what = error.msg
        if error.filename not in (None, str(file.absolute())):  # of a file that it imports
            path = error.filename
        lines = [error.lineno]
    place = f"{path}:{lines[-1]}" if lines and lines[-1] else path
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{place}: {kind}{what}"
