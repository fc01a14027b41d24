"""Collecting rankings: K outputs of a policy for each prompt, ranked by a labeler."""

import random
from collections.abc import Callable, Sequence

from rlhf_jax.data.records import Ranking


def output_counts(prompts: int, fewest: int, most: int, seed: int) -> list[int]:
    """K of each prompt, uniform in fewest..most (InstructGPT: 4..9)."""
    return [random.Random(f"{seed}/{i}").randint(fewest, most) for i in range(prompts)]


def collect_rankings(
    prompts: Sequence[str],
    counts: Sequence[int],
    sample: Callable[[list[str]], list[str]],
    rank: Callable[[str, Sequence[str]], Sequence[int]],
) -> list[Ranking]:
    """Samples counts[i] responses to prompts[i], all in one go, and has each set ranked."""
    repeated = [p for p, count in zip(prompts, counts, strict=True) for _ in range(count)]
    responses = iter(sample(repeated))
    rankings = []
    for prompt, count in zip(prompts, counts, strict=True):
        outputs = tuple(next(responses) for _ in range(count))
        rankings.append(Ranking(prompt, outputs, tuple(rank(prompt, outputs))))
    return rankings
