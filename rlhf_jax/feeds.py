"""Batches for the stages of a run: of every batch, the rows that this process loads."""

from collections.abc import Sequence

from rlhf_jax.corpora import Corpora
from rlhf_jax.data import pipeline
from rlhf_jax.data.arrays import Close
from rlhf_jax.data.batches import Batches
from rlhf_jax.data.records import Ranking
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.parallel.runner import Runner
from rlhf_jax.randomness import shuffle_seed
from rlhf_jax.stages.dpo import DPOConfig
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.stages.reward_model import RewardConfig
from rlhf_jax.stages.supervised import SupervisedConfig


class Feeds:
    """The data sets of a run as endless batches, each shuffled for a purpose (randomness.py)."""

    def __init__(self, corpora: Corpora, tokenizer: Tokenizer, runner: Runner, seed: int):
        self._corpora, self._tokenizer, self.runner, self._seed = corpora, tokenizer, runner, seed

    def _shuffled(self, purpose: str) -> int:
        return shuffle_seed(self._seed, purpose)

    def text(self, rows: int, length: int, purpose: str, whole: bool = False) -> Batches:
        """Plain text; whole: all rows in every process."""
        return pipeline.text_batches(
            self._corpora.read("text", "train"),
            self._tokenizer,
            batch_size=rows,
            length=length,
            seed=self._shuffled(purpose),
            part=pipeline.ALL if whole else self.runner.own_rows(rows),
        )

    def demonstrations(self, config: SupervisedConfig) -> Batches:
        """Demonstrations, with plain text among them where the config wants it."""
        part, mixed = self.runner.own_rows(config.batch_size), config.pretraining_fraction > 0
        batches = pipeline.supervised_batches(
            self._corpora.read("demonstrations", "train"),
            self._tokenizer,
            batch_size=config.batch_size,
            length=config.length,
            seed=self._shuffled("sft/demonstrations"),
            packed=config.packed,
            part=pipeline.ALL if mixed else part,
        )
        if not mixed:
            return batches
        text = self.text(config.batch_size, config.length, "sft/text", whole=True)
        fraction = config.pretraining_fraction
        seed, of = self._shuffled("sft/mix"), config.pretraining_fraction_of
        return pipeline.mixed_batches(batches, text, fraction, seed, part, of)

    def rankings(
        self,
        rankings: Sequence[Ranking],
        config: RewardConfig | DPOConfig,
        purpose: str,
        close: Close,
    ) -> Batches:
        """close: what ends a response (`Ending.close`)."""
        return pipeline.ranking_batches(
            rankings,
            self._tokenizer,
            batch_size=config.batch_size,
            length=config.length,
            outputs=config.outputs,
            seed=self._shuffled(purpose),
            packed=config.packed,
            part=self.runner.own_rows(config.batch_size),
            close=close,
        )

    def prompts(self, config: PPOConfig, purpose: str) -> Batches:
        return pipeline.prompt_batches(
            self._corpora.read("prompts", "ppo"),
            self._tokenizer,
            batch_size=config.batch_size,
            length=config.prompt_length,
            seed=self._shuffled(purpose),
            part=self.runner.own_rows(config.batch_size),
        )


class PPOBatches:
    """Prompts, and text for ptx beside them; one position for both."""

    def __init__(self, feeds: Feeds, config: PPOConfig, stage: str):
        self.prompts = feeds.prompts(config, f"{stage}/prompts")
        self.text, self._runner = None, feeds.runner
        if self.prompts.dropped:
            print(f"{stage}: prompts: {self.prompts.left_out} (length = {config.prompt_length})")
        rows = config.batch_size * config.ptx_ratio
        self._rows = {"prompts": config.batch_size, "text": rows}
        if config.ptx_coefficient > 0:
            self.text = feeds.text(rows, config.ptx_length, f"{stage}/text")

    def place(self, batch: dict) -> dict:
        """On the devices."""
        return {name: self._runner.rows(part, self._rows[name]) for name, part in batch.items()}

    def whole(self, batch: dict) -> dict:
        """Of all processes."""
        return {name: self._runner.gather(part, self._rows[name]) for name, part in batch.items()}

    def __next__(self) -> dict:
        batch = {"prompts": next(self.prompts)}
        return batch if self.text is None else batch | {"text": next(self.text)}

    def get_state(self) -> dict:
        text = {} if self.text is None else {"text": self.text.get_state()}
        return {"prompts": self.prompts.get_state()} | text

    def set_state(self, state: dict) -> None:
        self.prompts.set_state(state["prompts"])
        if self.text is not None:
            self.text.set_state(state["text"])
