"""The score of a reward model."""

import dataclasses

from rlhf_jax.rewards.reward import Reward


@dataclasses.dataclass(frozen=True)
class LearnedReward(Reward):
    """The score that a stage's reward model gives at the response's last token."""

    stage: str  # the stage that ends with the reward model

    def scorers(self):
        return (self.stage,)

    def of(self, judged):
        return judged.scores[self.stage]
