"""Writes the golden trajectories anew: python -m tests.golden.record

Only after a change that is meant to change numbers; say in the commit which.
"""

import json
from pathlib import Path

from tests.golden.trajectories import STAGES, STEPS, Setting, ppo_ptx, trajectory

FILE = Path(__file__).with_name("golden.json")


def record() -> dict:
    responses: list = []
    ppo_ptx(Setting(), STEPS, None, responses.append)
    found = {stage: trajectory(stage, Setting(), STEPS, responses) for stage in STAGES}
    digits = lambda values: [float(f"{x:.9g}") for x in values]
    rounded = {stage: {name: digits(x) for name, x in f.items()} for stage, f in found.items()}
    return {"trajectories": rounded, "responses": responses}


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  eight simulated devices, before jax starts them

    FILE.write_text(json.dumps(record()) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")
