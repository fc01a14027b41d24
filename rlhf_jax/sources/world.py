"""Records of the generated world, a small English world with a grader."""

import dataclasses
import functools

from rlhf_jax.data.records import Prompt, Text
from rlhf_jax.errors import require
from rlhf_jax.sources.source import Source
from rlhf_jax.worlds.instruction import InstructionWorld, WorldConfig


@dataclasses.dataclass(frozen=True)
class WorldData(Source):
    """The generated world: text, demonstrations, prompts and a grader. It has no
    rankings; a feedback stage collects them."""

    world: WorldConfig = WorldConfig()
    careless: float = 0.25  # fraction of demonstrations that are wrong, rude, off-topic or rambling

    def __post_init__(self):
        require(0 <= self.careless < 1, "careless", self.careless, "in [0, 1)")

    def records(self, seed):
        """counts["careless"]: the number of careless training demonstrations."""
        world = InstructionWorld(self.world, seed)
        text = {split: [Text(t) for t in world.corpus(split)] for split in ("train", "valid")}
        prompts = {s: [Prompt(p) for p in world.prompts(s)] for s in ("feedback", "ppo", "test")}
        demonstrations = {
            "train": world.demonstrations("sft", self.careless),
            "valid": world.demonstrations("valid"),
        }
        hurried = world.hurried("sft", self.careless)
        counts = {"careless": {"demonstrations": sum(hurried), "of": len(hurried)}}
        return {"text": text, "demonstrations": demonstrations, "prompts": prompts}, counts

    def examples(self, kind):
        return self.world.sft if kind == "demonstrations" else None

    def grader(self, seed):
        return _world(self.world, seed).grade

    def worked_examples(self, count, seed):
        return _world(self.world, seed).few_shot(count)


@functools.lru_cache(2)
def _world(config: WorldConfig, seed: int) -> InstructionWorld:
    """The world of a config and seed; cached."""
    return InstructionWorld(config, seed)
