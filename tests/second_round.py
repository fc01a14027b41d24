"""What comes after the small run, in a copy of its directory.

    python -m tests.second_round DIRECTORY

The same kinds a second time, side by side and one after the other: a second round of feedback,
reward model and PPO, which starts from the first round's policy and stays near SFT; PPO from DPO's
policy; and stages of the small run under other names that keep their streams.
"""

import dataclasses
import os
import sys
from pathlib import Path

from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.run import Run
from tests import observed, small_run

STAGES = small_run.config.stages


def renamed(stage: str, **changes):
    """The stage, to stand under another name, with its numbers."""
    return dataclasses.replace(STAGES[stage], stream=stage, **changes)


ADDED = {
    "feedback_2": dataclasses.replace(STAGES["feedback"], policy="ppo"),
    "reward_2": dataclasses.replace(STAGES["reward"], rankings="feedback_2"),
    "ppo_2": small_run.ppo(start="ppo", reference="sft", rewards=(LearnedReward("reward_2"),)),
    "ppo_dpo": small_run.ppo(start="dpo"),
    "again": renamed("ppo"),
    "base": renamed("pretrain"),
    "tuned": renamed("sft", start="base"),
    "chosen": renamed("dpo", start="tuned"),
}
SAME = {"again": "ppo", "base": "pretrain", "tuned": "sft", "chosen": "dpo"}  # as their streams
config = small_run.config.with_stages(**ADDED)


def main(directory: str) -> None:
    if folder := os.environ.get("SMALL_RUN_OBSERVED"):
        observed.observe(Path(folder))
    run = Run(dataclasses.replace(config, out=directory))
    for stage in ("ppo_2", "ppo_dpo", "again", "chosen"):  # and what they build on
        run.finish(stage)


if __name__ == "__main__":
    main(sys.argv[1])
