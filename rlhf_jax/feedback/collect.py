"""Rankings of a policy's outputs: K outputs for each prompt."""

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence

from rlhf_jax.data.records import Ranking
from rlhf_jax.generation.ending import Response


def output_counts(prompts: int, fewest: int, most: int, seed: int) -> list[int]:
    """The number K of outputs of each prompt, uniform in fewest..most (InstructGPT: 4..9)."""
    return [random.Random(f"{seed}/{i}").randint(fewest, most) for i in range(prompts)]


def rankings_of(
    prompts: Sequence[str], counts: Sequence[int], outputs: Iterable[tuple[str, bool]]
) -> list[Ranking]:
    """Rankings with all ranks 0, to be ranked later: prompts[i] gets the next counts[i] of the
    outputs (text, ended)."""
    outputs, rankings = iter(outputs), []
    for prompt, count in zip(prompts, counts, strict=True):
        texts, ended = zip(*(next(outputs) for _ in range(count)), strict=True)
        rankings.append(Ranking(prompt, tuple(texts), (0,) * count, tuple(ended)))
    return rankings


def collect_rankings(
    prompts: Sequence[str],
    counts: Sequence[int],
    sample: Callable[[list[str]], list[Response]],
    rank: Callable[[str, Sequence[str]], Sequence[int]],
) -> list[Ranking]:
    """Samples counts[i] responses to each prompts[i], in one call of `sample`, and ranks the texts
    of each prompt by `rank`. A record says which of its responses ended."""
    repeated = [p for p, count in zip(prompts, counts, strict=True) for _ in range(count)]
    outputs = [(response.text, response.ended) for response in sample(repeated)]
    return [
        dataclasses.replace(r, ranks=tuple(rank(r.prompt, r.responses)))
        for r in rankings_of(prompts, counts, outputs)
    ]
