"""One experiment: where feedback comes from, one shape of model, one config a stage."""

import dataclasses
import importlib.util
import traceback
from pathlib import Path

from rlhf_jax.durable.fingerprint import NOT_FINGERPRINTED
from rlhf_jax.errors import UserError, require
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models.config import TransformerConfig, different_fields
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.stages.dpo import DPOConfig
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.stages.reward_model import RewardConfig
from rlhf_jax.stages.supervised import SupervisedConfig
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.worlds.instruction import WorldConfig


@dataclasses.dataclass(frozen=True)
class WorldData:
    """Everything from the instruction world; simulated labelers rank the SFT model's outputs."""

    world: WorldConfig = WorldConfig()
    outputs: tuple[int, int] = (4, 9)  # fewest and most outputs a prompt, K
    agreement: float = 0.726  # of two labelers, on pairs (Ouyang et al. 2022, section 3.4)
    careless: float = 0.25  # of the demonstrations: wrong, rude, off the point or rambling
    few_shot: int = 3  # examples before a prompt of the prompted base

    def __post_init__(self):
        fewest, most = self.outputs
        require(2 <= fewest <= most, "outputs", self.outputs, "(fewest, most), at least 2")
        require(0 < self.agreement < 1, "agreement", self.agreement, "in (0, 1)")
        require(0 <= self.careless < 1, "careless", self.careless, "in [0, 1)")
        require(self.few_shot >= 1, "few_shot", self.few_shot, "at least 1")


@dataclasses.dataclass(frozen=True)
class HumanData:
    """Human comparisons and rankings from files in their original formats.

    Anthropic HH, OpenAssistant and PandaLM; text of WikiText-2 and tiny Shakespeare.
    """

    # None: the folder that RLHF_JAX_DATA names. Its files' digests are the records' identity.
    path: str | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)
    heldout: float = 0.1  # of the prompts of each source
    dedupe_characters: int = 100  # prompts that share so long a beginning count once
    prompt_characters: int = 400  # older turns of a longer prompt are cut, as wholes
    heldout_articles: int = 12  # of WikiText's 60 test articles, the first

    def __post_init__(self):
        require(0 < self.heldout < 1, "heldout", self.heldout, "in (0, 1)")
        for field in ("dedupe_characters", "prompt_characters", "heldout_articles"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")


@dataclasses.dataclass(frozen=True)
class FolderData:
    """Your own records: JSONL files of a folder (rlhf_jax/data/folder.py) and their tokenizer.

    How many demonstrations and rankings there are to train on may be said: reading then insists on
    it, and `rlhf-jax plan` counts the whole run without the files.

    The special tokens of a tokenizer.json are found by their usual names, or named here.
    """

    # None: the folder that RLHF_JAX_DATA names. Its files' digests are the records' identity.
    path: str | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)
    demonstrations: int | None = None
    rankings: int | None = None
    pad_token: str | None = None  # fills rows; must not occur in the texts, nor be another of these
    bos_token: str | None = None  # begins prompts and documents; eos_token where there is none
    eos_token: str | None = None  # ends responses and documents

    def __post_init__(self):
        for field in ("demonstrations", "rankings"):
            value = getattr(self, field)
            require(value is None or value > 0, field, value, "positive, or None")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How policies are sampled and compared."""

    sampling: SamplingConfig = SamplingConfig()
    batch_size: int = 64

    def __post_init__(self):
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The whole of InstructGPT: pretraining, SFT, reward model, PPO and PPO-ptx; DPO beside it.

    Raises ConfigError where stages do not fit each other or the model.
    """

    name: str
    data: WorldData | HumanData | FolderData
    model: TransformerConfig
    pretrain: SupervisedConfig
    sft: SupervisedConfig
    reward: RewardConfig
    ppo: PPOConfig
    ppo_ptx: PPOConfig
    dpo: DPOConfig | None = None  # on the reward model's rankings; None: no such stage
    # The shape of reward model and value function, None: the policy's; and the directory of the run
    # whose finished reward model serves here, None: this run trains its own from its SFT model.
    reward_model: TransformerConfig | None = None
    reward_from: str | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    loop: LoopConfig = LoopConfig()
    parallel: ParallelConfig = dataclasses.field(
        default=ParallelConfig(), metadata=NOT_FINGERPRINTED
    )
    seed: int = 0
    out: str | None = None  # None: runs/<name>

    def __post_init__(self):
        require(0 <= self.seed < 2**63, "seed", self.seed, "in [0, 2**63)")
        context = self.model.context
        for stage in ("pretrain", "sft", "dpo"):
            if (config := getattr(self, stage)) is not None:
                allowed = f"<= model.context = {context}"
                require(config.length <= context, f"{stage}.length", config.length, allowed)
        scorer, length = self.scorer, self.reward.length
        allowed = f"<= context of the reward model = {scorer.context}"
        require(length <= scorer.context, "reward.length", length, allowed)
        self._check_reward_model()
        context = min(self.model.context, scorer.context)
        for stage in ("ppo", "ppo_ptx"):
            config = getattr(self, stage)
            total = config.prompt_length + config.response_length
            name = f"{stage}.prompt_length + response_length"
            require(total <= context, name, total, f"<= model.context = {context}")
            name, longest = f"{stage}.ptx_length", self.model.context
            require(config.ptx_length <= longest, name, config.ptx_length, f"<= {longest}")
        coefficient = self.ppo_ptx.ptx_coefficient
        require(coefficient > 0, "ppo_ptx.ptx_coefficient", coefficient, "positive")
        require(
            self.pretrain.pretraining_fraction == 0,
            "pretrain.pretraining_fraction",
            self.pretrain.pretraining_fraction,
            "0: pretraining is all text",
        )
        if isinstance(self.data, WorldData):
            most = self.data.outputs[1]
            for stage in ("reward", "dpo"):
                if (config := getattr(self, stage)) is not None:
                    name, outputs = f"{stage}.outputs", config.outputs
                    require(outputs >= most, name, outputs, f">= {most}")

    def _check_reward_model(self):
        require(
            self.scorer.vocab_size == self.model.vocab_size,
            "reward_model.vocab_size",
            self.scorer.vocab_size,
            f"model.vocab_size = {self.model.vocab_size}: both read the same tokens",
        )
        require(
            self.reward_from is not None or different_fields(self.scorer, self.model) == [],
            "reward_model",
            self.reward_model,
            "of the policy's shape, or come from another run: reward_from",
        )

    @property
    def scorer(self) -> TransformerConfig:
        """The shape of reward model and value function."""
        return self.model if self.reward_model is None else self.reward_model

    def examples(self, kind: str) -> int | None:
        """How many "demonstrations" or "rankings" there are to train on, if the config tells."""
        if isinstance(self.data, FolderData):
            return {"demonstrations": self.data.demonstrations, "rankings": self.data.rankings}[
                kind
            ]
        if isinstance(self.data, WorldData) and kind == "demonstrations":
            return self.data.world.sft
        return None

    @property
    def directory(self) -> Path:
        return Path(self.out or f"runs/{self.name}")


def load_experiment(path: str) -> Experiment:
    """The `config` of an experiment file.

    Raises UserError where the file is absent, raises an error, as "file:line: what", or defines
    no Experiment of that name.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such experiment file")
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if spec is None:
        raise UserError(f"{path}: an experiment is a Python file, named *.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(_told(path, file, error)) from None
    config = vars(module).get("config")
    if not isinstance(config, Experiment):
        raise UserError(f"{path}: must define `config`, an rlhf_jax.experiment.Experiment")
    return config


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
