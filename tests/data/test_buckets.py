"""Batches are cut to the smallest size that holds their longest row, and lose no token."""

import itertools

import numpy as np
import pytest

from rlhf_jax.data.buckets import (
    bucket_count,
    bucket_for,
    bucket_sizes,
    most_rows,
    places_in_rows,
    shared_length,
)
from rlhf_jax.data.pipeline import (
    mixed_batches,
    ranking_batches,
    scored_batches,
    supervised_batches,
    text_batches,
)
from rlhf_jax.data.records import Demonstration, Ranking, Scored

# With bos and end token a demonstration has 3 to 9 tokens, an output 4 to 10.
DEMONSTRATIONS = [Demonstration("a", "b" * (i % 7)) for i in range(14)]
SCORED = [Scored("a", "b" * (i % 7), float(i)) for i in range(14)]
RANKINGS = [Ranking("a", ("b" * (1 + i % 7), "c", "dd"), (0, 1, 2)) for i in range(14)]
SIZES = {"batch_size": 2, "length": 12, "seed": 3}


@pytest.mark.parametrize(
    "full, count, sizes",
    [(12, 4, (3, 6, 9, 12)), (10, 4, (3, 5, 8, 10)), (2, 4, (1, 2)), (7, 1, (7,))],
)
def test_sizes_are_equal_steps_up_to_the_full_size(full, count, sizes):
    assert bucket_sizes(full, count) == sizes
    for need in range(full + 1):
        assert bucket_for(need, full, count) == min(size for size in sizes if size >= need)


def test_only_rows_longer_than_64_tokens_are_cut_by_default():
    assert [bucket_count(None, tokens) for tokens in (8, 64, 65, 2048)] == [1, 1, 4, 4]
    assert [bucket_count(given, 8) for given in (1, 3)] == [1, 3]


def mixed(tokenizer, buckets):
    demonstrations = supervised_batches(DEMONSTRATIONS, tokenizer, **SIZES, buckets=buckets)
    text = text_batches(["e" * 30], tokenizer, batch_size=1, length=12, seed=0)
    return mixed_batches(demonstrations, text, 0.2, 0)


BUILD = {
    "demonstrations": lambda t, n: supervised_batches(DEMONSTRATIONS, t, **SIZES, buckets=n),
    "packed": lambda t, n: supervised_batches(DEMONSTRATIONS, t, **SIZES, packed=True, buckets=n),
    "scored": lambda t, n: scored_batches(SCORED, t, **SIZES, buckets=n),
    "rankings": lambda t, n: ranking_batches(RANKINGS, t, **SIZES, outputs=4, buckets=n),
    "mixed": mixed,
}


@pytest.mark.parametrize("kind", BUILD)
def test_a_batch_ends_with_the_size_of_its_longest_row(kind, letters):
    """The fifth batch is that of a pipeline which was set to the position after four."""
    whole, cut, again = (BUILD[kind](letters, n) for n in (1, 4, 4))
    found = [next(cut) for _ in range(5)]
    for batch, expected in zip(found[:4], itertools.islice(whole, 4), strict=True):
        longest = 1 + max(np.flatnonzero(expected["segments"].reshape(-1, 12).any(axis=0)))
        width = batch["tokens"].shape[-1]
        assert width == bucket_for(longest, 12, 4)
        for name, array in expected.items():
            kept = array[..., :width] if name in ("tokens", "segments", "weights") else array
            np.testing.assert_array_equal(batch[name], kept, err_msg=name)
    assert len({batch["tokens"].shape for batch in found}) > 1
    for _ in range(4):
        next(again)
    assert cut.get_state() != again.get_state()
    later = BUILD[kind](letters, 4)
    later.set_state(again.get_state())
    np.testing.assert_array_equal(next(later)["tokens"], found[4]["tokens"])


def test_first_fit_needs_at_most_the_most_rows():
    rng = np.random.default_rng(0)
    for sequences, longest, length in itertools.product((1, 2, 7, 18), (3, 8), (8, 16, 25)):
        most = most_rows(sequences, longest, length)
        for _ in range(20):
            lengths = rng.integers(1, longest + 1, sequences).tolist()
            assert 1 + max(row for row, _ in places_in_rows(lengths, length)) <= most
        whole = places_in_rows([longest] * sequences, length)
        assert 1 + max(row for row, _ in whole) == most
    assert [shared_length(8, context) for context in (8, 15, 16, 99)] == [8, 8, 16, 16]


def test_places_in_rows_do_not_overlap():
    lengths = [5, 7, 3, 5, 2, 9, 1]
    places = places_in_rows(lengths, 10)
    assert places == [(0, 0), (1, 0), (0, 5), (2, 0), (0, 8), (3, 0), (1, 7)]


@pytest.mark.parametrize("row_length, rows", [(12, 2), (24, 1)])
def test_outputs_that_share_rows_are_the_same_outputs(letters, row_length, rows):
    """Each output's tokens and targets, by its segment; and an element has few rows."""
    alone = ranking_batches(RANKINGS, letters, **SIZES, outputs=4)
    shared = ranking_batches(
        RANKINGS, letters, **SIZES, outputs=4, buckets=4, row_length=row_length
    )
    for one, both in zip(itertools.islice(alone, 7), shared, strict=False):
        np.testing.assert_array_equal(one["ranks"], both["ranks"])
        for b, k in itertools.product(range(2), range(4)):
            for name in ("tokens", "weights"):
                pair = [batch[name][b][batch["segments"][b] == k + 1] for batch in (one, both)]
                np.testing.assert_array_equal(*pair)
                assert k not in (1, 2) or len(pair[0]) == 3 + k
        assert both["tokens"].shape == (2, rows, row_length)
        assert (both["segments"] > 0).any(axis=-1).all()
