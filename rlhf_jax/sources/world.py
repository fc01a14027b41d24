"""Records of the instruction world, a small English world with a grader."""

import dataclasses
import functools

from rlhf_jax.data.records import Prompt, Text
from rlhf_jax.errors import require
from rlhf_jax.sources.source import Source
from rlhf_jax.worlds.instruction import InstructionWorld, WorldConfig


@dataclasses.dataclass(frozen=True)
class WorldData(Source):
    """Everything but rankings from the instruction world; a stage collects those."""

    world: WorldConfig = WorldConfig()
    careless: float = 0.25  # of the demonstrations: wrong, rude, off the point or rambling

    def __post_init__(self):
        require(0 <= self.careless < 1, "careless", self.careless, "in [0, 1)")

    def records(self, seed):
        """Counts how many demonstrations to train on are careless."""
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
    """Made once for all that grade and show examples."""
    return InstructionWorld(config, seed)
