"""Collecting rankings: K outputs of a policy for each prompt, ranked by a labeler."""

import random
from collections.abc import Callable, Sequence

from rlhf_jax.data.records import Ranking
from rlhf_jax.generation.ending import Response


def output_counts(prompts: int, fewest: int, most: int, seed: int) -> list[int]:
    """K of each prompt, uniform in fewest..most (InstructGPT: 4..9)."""
    return [random.Random(f"{seed}/{i}").randint(fewest, most) for i in range(prompts)]


def collect_rankings(
    prompts: Sequence[str],
    counts: Sequence[int],
    sample: Callable[[list[str]], list[Response]],
    rank: Callable[[str, Sequence[str]], Sequence[int]],
) -> list[Ranking]:
    """Samples counts[i] responses to prompts[i], all in one go, and has each set ranked by its
    texts. A record says which of its responses ended."""
    repeated = [p for p, count in zip(prompts, counts, strict=True) for _ in range(count)]
    responses = iter(sample(repeated))
    rankings = []
    for prompt, count in zip(prompts, counts, strict=True):
        sampled = [next(responses) for _ in range(count)]
        outputs = tuple(response.text for response in sampled)
        ended = tuple(response.ended for response in sampled)
        rankings.append(Ranking(prompt, outputs, tuple(rank(prompt, outputs)), ended))
    return rankings
