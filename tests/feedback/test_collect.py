"""K outputs of each prompt, in order, each set ranked once."""

import pytest

from rlhf_jax.feedback.collect import collect_rankings, output_counts
from rlhf_jax.generation.ending import Response


def test_counts_cover_the_range_evenly_and_depend_on_the_prompt_s_place_only():
    counts = output_counts(3000, 4, 9, seed=1)
    assert set(counts) == set(range(4, 10))
    assert all(400 < counts.count(k) < 600 for k in range(4, 10))
    assert output_counts(10, 4, 9, seed=1) == counts[:10]
    assert output_counts(3000, 4, 9, seed=2) != counts


def test_each_prompt_gets_its_own_outputs_ranked():
    asked, ranked = [], []

    def sample(prompts):
        asked.append(prompts)
        return [Response(f"{prompt}{i}", (), i % 3 > 0) for i, prompt in enumerate(prompts)]

    def rank(prompt, outputs):
        ranked.append((prompt, outputs))
        return [len(outputs) - 1 - i for i in range(len(outputs))]

    rankings = collect_rankings(["p", "q", "r"], [2, 3, 2], sample, rank)
    assert asked == [["p", "p", "q", "q", "q", "r", "r"]]  # one call, so that batches are full
    outputs = [("p0", "p1"), ("q2", "q3", "q4"), ("r5", "r6")]
    assert [(r.prompt, r.responses) for r in rankings] == list(zip("pqr", outputs, strict=True))
    assert ranked == list(zip("pqr", outputs, strict=True))
    assert [r.ranks for r in rankings] == [(1, 0), (2, 1, 0), (1, 0)]
    assert [r.ended for r in rankings] == [(False, True), (True, False, True), (True, False)]


def test_as_many_counts_as_prompts():
    with pytest.raises(ValueError):
        collect_rankings(["p", "q"], [2], lambda prompts: prompts, lambda *_: (0, 0))
