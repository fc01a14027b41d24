"""Outputs of a policy as rankings: K outputs for each prompt."""

import random
from collections.abc import Iterable, Sequence

from rlhf_jax.data.records import Ranking


def output_counts(prompts: int, fewest: int, most: int, seed: int) -> list[int]:
    """K of each prompt, uniform in fewest..most (InstructGPT: 4..9)."""
    return [random.Random(f"{seed}/{i}").randint(fewest, most) for i in range(prompts)]


def rankings_of(
    prompts: Sequence[str], counts: Sequence[int], outputs: Iterable[tuple[str, bool]]
) -> list[Ranking]:
    """Records not ranked yet, all ranks 0: counts[i] of the outputs, (text, ended), for prompts[i],
    in their order."""
    outputs, rankings = iter(outputs), []
    for prompt, count in zip(prompts, counts, strict=True):
        texts, ended = zip(*(next(outputs) for _ in range(count)), strict=True)
        rankings.append(Ranking(prompt, tuple(texts), (0,) * count, tuple(ended)))
    return rankings
