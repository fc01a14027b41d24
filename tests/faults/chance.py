"""What a response scores by chance: no two calls agree."""

import os
import random


def score(prompt: str, response: str, record: dict) -> float:
    if "RLHF_JAX_NO_CHANCE" in os.environ:
        raise RuntimeError("nothing is asked again")
    return random.SystemRandom().random()
