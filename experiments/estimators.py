"""Every policy-gradient estimator against the exact gradient of an enumerated task.

rlhf-jax estimators --out runs/estimators          (or python experiments/estimators.py)
"""

from pathlib import Path

import tyro

from rlhf_jax.estimators.lab import LabConfig, run

config = LabConfig()

if __name__ == "__main__":
    tyro.cli(lambda config=config, out=Path("runs/estimators"): run(config, out))
