"""Whether the records leave something for each stage and for the report, and enough for a stage's
warm-up, checked before the first step of any stage by the lengths of tokenised records and their
numbers of outputs.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_jax.corpora import Corpora
from rlhf_jax.data.arrays import Close, first_fit, left_out, tokenised_ranking, told
from rlhf_jax.data.records import Demonstration, Prompt, Ranking
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError, require
from rlhf_jax.experiment import Experiment, FolderData, WorldData
from rlhf_jax.stages.dpo import DPOConfig
from rlhf_jax.stages.reward_model import RewardConfig


class Fact(NamedTuple):
    """What the check measures of a record."""

    tokens: int  # of its longest sequence
    outputs: int = 1
    reason: str | None = None  # why it says nothing


class Fitness:
    """The check of one run. left_out: {stage: {"rankings.train": {source: {reason: count}}}}."""

    def __init__(self, config: Experiment, corpora: Corpora, tokenizer: Tokenizer, close: Close):
        self._config, self._corpora, self._tokenizer = config, corpora, tokenizer
        self._close = close  # what ends a ranked response
        self._facts: dict[tuple[str, str], list[Fact]] = {}
        self._measures = {
            "prompts": self._prompt,
            "demonstrations": self._demonstration,
            "rankings": self._ranking,
        }
        self._checks = {
            "pretrain": lambda: None,  # any text will do
            "sft": self._sft,
            "reward": self._reward,
            "ppo": lambda: self._ppo("ppo"),
            "ppo_ptx": lambda: self._ppo("ppo_ptx"),
            "dpo": lambda: self._rankings("dpo", self._config.dpo),
            "report": self._report,
        }
        self._checked: set[str] = set()
        self.left_out: dict[str, dict] = {}

    def check(self, stages: Sequence[str]) -> None:
        """Counts and prints, by source, what stages (or "report") leave out, each once.

        Raises UserError naming the data set and the field where nothing is left of it, or naming
        the warm-up where it is as long as all of the stage's steps.
        """
        for stage in stages:
            if stage not in self._checked:
                self.left_out[stage] = {}
                self._checks[stage]()
                self._checked.add(stage)

    def _sft(self) -> None:
        config = self._config.sft
        facts = self._some("sft", "demonstrations", "train", "length", config.length)
        if config.packed:
            facts = first_fit([fact.tokens for fact in facts], config.length)
        self._warms_up("sft", len(facts) / (1 - config.pretraining_fraction))

    def _reward(self) -> None:
        config = self._config.reward
        self._rankings("reward", config)
        if config.normalise != "none":
            self._some("reward", "demonstrations", "train", "length", config.length)

    def _ppo(self, stage: str) -> None:
        length = getattr(self._config, stage).prompt_length
        self._some(stage, "prompts", "ppo", "prompt_length", length)

    def _report(self) -> None:
        if isinstance(self._config.data, WorldData):
            return
        rooms = {stage: getattr(self._config, stage).prompt_length for stage in ("ppo", "ppo_ptx")}
        stage = min(rooms, key=rooms.get)
        self._some("report", "prompts", "test", f"{stage}.prompt_length", rooms[stage])
        self._some("report", "rankings", "valid", "reward.length", self._config.reward.length)

    def _rankings(self, stage: str, config: RewardConfig | DPOConfig) -> None:
        """Checks rankings. The world's do not exist before its feedback: until then, that prompts
        leave room for responses."""
        if isinstance(self._config.data, WorldData) and not self._corpora.has("rankings"):
            lengths = [fact.tokens for fact in self._measured("prompts", "feedback")]
            self._fits("prompts", "feedback", f"{stage}.length", config.length, min(lengths) + 1)
            response, context = self._config.ppo.response_length, self._config.model.context
            self._fits("prompts", "feedback", "model.context", context, max(lengths) + response)
            self._warms_up(stage, len(lengths))  # some are held out or tied: one row each at most
            return
        most = max(fact.outputs for fact in self._measured("rankings", "train"))
        where = self._where("rankings", "train")
        allowed = f"at least {most}, the longest ranking of {where}"
        require(config.outputs >= most, f"{stage}.outputs", config.outputs, allowed)
        facts = self._some(stage, "rankings", "train", "length", config.length)
        if config.packed:
            facts = first_fit([fact.outputs for fact in facts], config.outputs)
        self._warms_up(stage, len(facts))

    def _warms_up(self, stage: str, rows: float) -> None:
        """That the warm-up ends before the stage does, of so many rows an epoch."""
        config = getattr(self._config, stage)
        steps = max(1, round(config.epochs * math.ceil(rows / config.batch_size)))
        warmup, field = config.optimizer.warmup_steps, f"{stage}.optimizer.warmup_steps"
        require(warmup < steps, field, warmup, f"below the run's {steps} steps")

    def _fits(self, name: str, split: str, field: str, length: int, needed: int) -> None:
        allowed = f"at least {needed}, for the prompts of {self._where(name, split)}"
        require(length >= needed, field, length, allowed)

    def _some(self, stage: str, name: str, split: str, field: str, length: int) -> list[Fact]:
        """Those records that are left."""
        facts, where = self._measured(name, split), self._where(name, split)
        reasons = ["too long" if fact.tokens > length else fact.reason for fact in facts]
        field = field if "." in field else f"{stage}.{field}"
        shortest = min((fact.tokens for fact in facts if fact.tokens > length), default=None)
        room = f" ({field} = {length}; those too long have {shortest} tokens or more)"
        limit = lambda found: room if "too long" in found else ""
        counts, start = {}, 0
        for source, count in self._corpora.sources(name, split).items():
            found = Counter(filter(None, reasons[start : start + count]))
            start += count
            if found:
                counts[source] = dict(found)
                about = f"{told(found)} of {count} left out{limit(found)}"
                print(f"{stage}: {where}: {source}: {about}")
        self.left_out[stage][f"{name}.{split}"] = counts
        if all(reasons):
            found = Counter(reasons)
            raise UserError(f"{where}: nothing is left for {stage}: {told(found)}{limit(found)}")
        return [fact for fact, reason in zip(facts, reasons, strict=True) if reason is None]

    def _where(self, name: str, split: str) -> str:
        if isinstance(self._config.data, FolderData):
            return f"{name}.{split}.jsonl"
        return f"data set {name}.{split}"

    def _measured(self, name: str, split: str) -> list[Fact]:
        if (name, split) not in self._facts:
            measure, records = self._measures[name], self._corpora.read(name, split)
            self._facts[name, split] = [measure(record) for record in records]
        return self._facts[name, split]

    def _prompt(self, record: Prompt) -> Fact:
        return Fact(1 + len(self._tokenizer.encode(record.prompt)))

    def _demonstration(self, record: Demonstration) -> Fact:
        encode = self._tokenizer.encode
        return Fact(2 + len(encode(record.prompt)) + len(encode(record.response)))

    def _ranking(self, record: Ranking) -> Fact:
        ranked = tokenised_ranking(record, self._tokenizer, self._close)
        longest = max(len(ids) for ids, _ in ranked[0])
        return Fact(longest, len(ranked[1]), left_out(record, ranked, math.inf))
