"""Every policy-gradient estimator against the exact gradient of an enumerated task.

    rlhf-jax estimators --out runs/estimators

or python experiments/estimators.py --out runs/estimators. It takes half a minute on two CPU cores.
Every field is an option, for example --samples 10000 or --rows.group 8.

Expected for 26 estimators with 4 responses per estimate, from 1e5 responses (40 possible responses,
52 logits, |dJ| = 0.34): all 26 agree with theory. The 99 % confidence ball around the mean error
(Bonferroni over the 26) contains 0 for the 11 unbiased estimators. For the 15 biased estimators it
contains the bias of theory and not 0. A baseline reduces REINFORCE's variance from 0.58 to 0.23,
leave-one-out to 0.32, exact values to 0.17. Dr. GRPO's gradient is shorter by 1/4 in the right
direction; k1 in the loss has no KL gradient (bias 0.15).

Off policy, with 40 steps on one batch of 32 responses, mean of 200 batches: J starts at 0.64. With
token ratios and no clip it rises to 1.24 and falls to 0.96 (KL to the sampler 2.9). With PPO's clip
it rises to 0.99 and stays there (KL 0.16): the clip makes training slower here, but stable.
"""

from pathlib import Path
from typing import Annotated

import tyro

from rlhf_jax.estimators.lab import LabConfig, run

config = LabConfig()


def main(
    config: Annotated[LabConfig, tyro.conf.arg(name="")] = config,
    out: Path = Path("runs/estimators"),
) -> None:
    run(config, out)


if __name__ == "__main__":
    tyro.cli(main)
