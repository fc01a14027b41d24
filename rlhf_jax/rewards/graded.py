"""The score that the data source's grader gives."""

import dataclasses
from typing import ClassVar

from rlhf_jax.rewards.reward import Reward


@dataclasses.dataclass(frozen=True)
class GradedReward(Reward):
    """The data source's grader: what people who follow its guidelines without error would say."""

    on_host: ClassVar = True

    def function(self, host):
        grade = host.grader()
        return lambda records, responses: [
            float(grade(record["prompt"], response).score)
            for record, response in zip(records, responses, strict=True)
        ]

    def of(self, judged):
        return judged.found
