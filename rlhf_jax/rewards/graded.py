"""A reward term from the data source's grader."""

import dataclasses
from typing import ClassVar

from rlhf_jax.rewards.reward import Reward


@dataclasses.dataclass(frozen=True)
class GradedReward(Reward):
    """The score of the data source's grader, the gold score. It shows what PPO reaches with a
    perfect reward."""

    on_host: ClassVar = True

    def function(self, host):
        grade = host.grader()
        return lambda records, responses: [
            float(grade(record["prompt"], response).score)
            for record, response in zip(records, responses, strict=True)
        ]

    def of(self, judged):
        return judged.found
