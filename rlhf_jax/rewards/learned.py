"""The score of a reward model."""

import dataclasses

from rlhf_jax.rewards.reward import Reward


@dataclasses.dataclass(frozen=True)
class LearnedReward(Reward):
    """What a stage that ends with a score says of the response, read at its last token."""

    stage: str

    def scorers(self):
        return (self.stage,)

    def of(self, judged):
        return judged.scores[self.stage]
