"""The conventions of tokens and batches, on examples small enough to write out.

a, b, c, ... are 4, 5, 6, ...; pad 0, bos 1, eos 2.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.arrays import first_fit
from rlhf_jax.data.pipeline import (
    prompt_pass,
    ranking_batches,
    ranking_pass,
    supervised_pass,
    text_pass,
)
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.generation.ending import Ending

WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=8)

LONG = {"too long": 1}


def assert_batch(batch, **expected):
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        want = np.float32 if name == "weights" else np.int32
        assert batch[name].dtype == want, name
        np.testing.assert_array_equal(batch[name], value, err_msg=name)


DEMONSTRATIONS = [
    Demonstration("ab", "c"),
    Demonstration("abc", "defg"),  # nine tokens: too long
    Demonstration("a", ""),
    Demonstration("abcd", "ef"),
]


def test_supervised(letters):
    batches = supervised_pass(DEMONSTRATIONS, letters, batch_size=2, length=8)
    assert (len(batches), batches.examples, batches.dropped) == (2, 3, LONG)
    assert_batch(
        batches[0],
        tokens=[[1, 4, 5, 6, 2, 0, 0, 0], [1, 4, 2, 0, 0, 0, 0, 0]],
        segments=[[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]],
        weights=[[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]],
    )
    assert_batch(
        batches[1],
        tokens=[[1, 4, 5, 6, 7, 8, 9, 2], [0] * 8],
        segments=[[1] * 8, [0] * 8],
        weights=[[0, 0, 0, 0, 0, 1, 1, 1], [0] * 8],
    )


def test_packed(letters):
    batches = supervised_pass(DEMONSTRATIONS, letters, batch_size=2, length=8, packed=True)
    assert (len(batches), batches.examples, batches.dropped) == (1, 3, LONG)
    assert_batch(
        batches[0],
        tokens=[[1, 4, 5, 6, 2, 1, 4, 2], [1, 4, 5, 6, 7, 8, 9, 2]],
        segments=[[1, 1, 1, 1, 1, 2, 2, 2], [1] * 8],
        weights=[[0, 0, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 1, 1, 1]],
    )


def test_prompts_are_left_padded(letters):
    prompts = ["abc", "abcdef", Prompt("a")]
    batches = prompt_pass(prompts, letters, batch_size=3, length=5)
    assert (len(batches), batches.examples, batches.dropped) == (1, 2, LONG)
    assert_batch(
        batches[0],
        tokens=[[0, 1, 4, 5, 6], [0, 0, 0, 1, 4], [0, 0, 0, 0, 0]],
        segments=[[0, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]],
        index=[0, 2, -1],
    )


def test_rankings(letters):
    rankings = [
        Ranking("a", ("b", "", "cd"), (1, 0, 1)),
        Ranking("a", ("b", "cdef"), (0, 1)),  # the second response is too long
        Ranking("ab", ("c", "d"), (0, 1)),
    ]
    batches = ranking_pass(rankings, letters, batch_size=3, length=5, outputs=3)
    assert (len(batches), batches.examples, batches.dropped) == (1, 2, LONG)
    empty = [0] * 5
    assert_batch(
        batches[0],
        tokens=[
            [[1, 4, 5, 2, 0], [1, 4, 2, 0, 0], [1, 4, 6, 7, 2]],
            [[1, 4, 5, 6, 2], [1, 4, 5, 7, 2], empty],
            [empty] * 3,
        ],
        segments=[
            [[1, 1, 1, 1, 0], [2, 2, 2, 0, 0], [3] * 5],
            [[1] * 5, [2] * 5, empty],
            [empty] * 3,
        ],
        weights=[
            [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]],
            [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1], empty],
            [empty] * 3,
        ],
        ranks=[[1, 0, 1], [0, 1, -1], [-1, -1, -1]],
    )


def test_a_response_that_was_cut_has_no_eos_and_none_as_a_target(letters):
    rankings = [Ranking("a", ("b", "cd", ""), (0, 1, 2), (False, True, False))]
    batch = ranking_pass(rankings, letters, batch_size=1, length=5, outputs=3)[0]
    assert_batch(
        batch,
        tokens=[[[1, 4, 5, 0, 0], [1, 4, 6, 7, 2], [1, 4, 0, 0, 0]]],
        segments=[[[1, 1, 1, 0, 0], [2] * 5, [3, 3, 0, 0, 0]]],
        weights=[[[0, 0, 1, 0, 0], [0, 0, 1, 1, 1], [0] * 5]],
        ranks=[[0, 1, 2]],
    )
    ending = Ending(letters.eos_id, letters.pad_id, stop=9, stop_after=1)
    given = {"batch_size": 1, "length": 5, "close": ending.close}
    batch = ranking_pass(rankings, letters, outputs=3, **given)[0]
    assert batch["tokens"].tolist() == [[[1, 4, 5, 0, 0], [1, 4, 6, 7, 9], [1, 4, 0, 0, 0]]]
    batch = supervised_pass([Demonstration("a", "bf")], letters, **given)[0]  # f is 9
    assert batch["tokens"].tolist() == [[1, 4, 5, 9, 0]]
    assert batch["weights"].tolist() == [[0, 0, 1, 1, 0]]


def test_packed_rankings_share_an_element_and_none_is_split(letters):
    rankings = [
        Ranking("a", ("b", "c"), (1, 0)),
        Ranking("b", ("c", "d", "e"), (0, 1, 1)),
        Ranking("c", ("abcd", "a"), (0, 1)),  # the first response is too long
        Ranking("d", ("", "a"), (0, 0)),
    ]
    batches = ranking_pass(rankings, letters, batch_size=2, length=5, outputs=4, packed=2)
    assert (len(batches), batches.examples, batches.dropped) == (1, 3, LONG)
    pair = lambda prompt, *letters: [[1, prompt, letter, 2, 0] for letter in letters]
    empty = [0] * 5
    assert_batch(
        batches[0],
        tokens=[
            [*pair(4, 5, 6), [1, 7, 2, 0, 0], *pair(7, 4)],
            [*pair(5, 6, 7, 8), empty],
        ],
        segments=[
            [[1, 1, 1, 1, 0], [2, 2, 2, 2, 0], [3, 3, 3, 0, 0], [4, 4, 4, 4, 0]],
            [[1, 1, 1, 1, 0], [2, 2, 2, 2, 0], [3, 3, 3, 3, 0], empty],
        ],
        weights=[
            [[0, 0, 1, 1, 0]] * 2 + [[0, 0, 1, 0, 0], [0, 0, 1, 1, 0]],
            [[0, 0, 1, 1, 0]] * 3 + [empty],
        ],
        ranks=[[[1, 0, -1, -1], [-1, -1, 0, 0]], [[0, 1, 1, -1], [-1] * 4]],
    )


def test_so_many_rankings_share_an_element_at_most_and_the_shape_says_how_many(letters):
    """Three rankings of two outputs each in elements of six."""
    rankings = [Ranking(prompt, ("c", "d"), (0, 1)) for prompt in "abc"]
    ranks_of = lambda packed: ranking_pass(
        rankings, letters, batch_size=2, length=5, outputs=6, packed=packed
    )[0]["ranks"].tolist()
    first, second, third = ([*[-1] * at, 0, 1, *[-1] * (4 - at)] for at in (0, 2, 4))
    none = [-1] * 6
    assert ranks_of(1) == [first, first]
    assert ranks_of(2) == [[first, second], [first, none]]
    assert ranks_of(4) == [[first, second, third, none], [none] * 4]


def test_equal_responses_tie_at_the_mean_of_their_ranks(letters):
    """Ranks of b, b, c: the two b's are one response, at 0.5 or at 1."""
    ranks = {(0, 1, 2): [0, 0, 1], (0, 2, 1): [0, 0, 0], (1, 2, 0): [1, 1, 0], (7, 7, 9): [0, 0, 1]}
    rankings = [Ranking("a", ("b", "b", "c"), given) for given in ranks]
    (batch,) = ranking_pass(rankings, letters, batch_size=4, length=5, outputs=3)
    np.testing.assert_array_equal(batch["ranks"], list(ranks.values()))


def test_rankings_that_say_nothing_are_left_out_of_training_and_counted(letters):
    useful = Ranking("a", ("b", "c"), (0, 1))
    nothing = [
        Ranking("b", ("b", "c"), (1, 1)),
        Ranking("c", ("b", "b"), (0, 1)),  # ranked apart from itself
        Ranking("d", ("b", "b", "c"), (0, 2, 1)),
        Ranking("e", ("b", "cdef"), (0, 0)),  # too long before all
    ]
    sizes = {"length": 5, "batch_size": 2, "outputs": 3, "seed": 0}
    batches = ranking_batches([*nothing, useful], letters, **sizes)
    assert batches.examples == 1
    assert batches.dropped == {"tied": 1, "equal": 2, "too long": 1}
    np.testing.assert_array_equal(next(batches)["tokens"][:, 0], [[1, 4, 5, 2, 0]] * 2)
    with pytest.raises(UserError, match=r"length = 5: all 4 rankings are left out: 1 tied, 2 equ"):
        ranking_batches(nothing, letters, **sizes)


def test_text_rows(letters):
    batches = text_pass(["abcde", Text("f"), "gh"], letters, batch_size=2, length=4)
    assert (len(batches), batches.examples, batches.dropped) == (2, 3, {})
    assert_batch(
        batches[0],  # the second row starts with c, where the first ended
        tokens=[[1, 4, 5, 6], [6, 7, 8, 2]],
        segments=[[1] * 4, [1] * 4],
        weights=[[0, 1, 1, 1], [0, 1, 1, 1]],
        document=[0, 0],
    )
    assert_batch(
        batches[1],  # a bos alone at a row's end comes again
        tokens=[[1, 9, 2, 1], [1, 10, 11, 2]],
        segments=[[1, 1, 1, 2], [1] * 4],
        weights=[[0, 1, 1, 0], [0, 1, 1, 1]],
        document=[1, 2],
    )


@given(WORDS, st.integers(2, 9), st.integers(1, 4))
def test_every_token_of_text_is_a_target_once(documents, length, batch_size):
    from tests.data.conftest import Letters

    letters = Letters()
    batches = list(text_pass(documents, letters, batch_size=batch_size, length=length))
    targets, of_document, ends = [], [], 0
    for batch in batches:
        for tokens, segments, weights, document in zip(*batch.values(), strict=True):
            targets += tokens[weights == 1].tolist()
            of_document += (document + segments - 1)[weights == 1].tolist()
            ends += np.count_nonzero(segments)
            starts = np.flatnonzero(np.diff(segments, prepend=0))
            assert not weights[starts].any()
            assert not weights[segments == 0].any()
    assert targets == [i for text in documents for i in [*letters.encode(text), letters.eos_id]]
    assert of_document == [n for n, text in enumerate(documents) for _ in range(len(text) + 1)]


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=9), st.text("def", max_size=9))))
def test_packing_keeps_each_demonstration_whole_and_alone(pairs):
    from tests.data.conftest import Letters

    letters, length = Letters(), 16
    demonstrations = [Demonstration(*pair) for pair in [("a", "d"), *pairs]]
    batches = supervised_pass(demonstrations, letters, batch_size=2, length=length, packed=True)
    found = []
    for batch in batches:
        for tokens, segments, weights in zip(*batch.values(), strict=True):
            used = np.count_nonzero(segments)
            assert segments[:used].all()
            assert (tokens[used:] == letters.pad_id).all()
            for number in range(1, segments.max() + 1):
                here = segments == number
                assert np.count_nonzero(np.diff(here.astype(int), prepend=0) == 1) == 1
                found.append((tokens[here].tolist(), weights[here].tolist()))
    fitting = [d for d in demonstrations if len(d.prompt) + len(d.response) + 2 <= length]
    expected = [
        (
            [1, *letters.encode(d.prompt), *letters.encode(d.response), 2],
            [0] * (1 + len(d.prompt)) + [1] * (len(d.response) + 1),
        )
        for d in fitting
    ]
    assert sorted(found) == sorted(expected)
    long = len(demonstrations) - len(fitting)
    assert batches.examples == len(fitting)
    assert batches.dropped == ({"too long": long} if long else {})


def test_first_fit():
    assert first_fit([5, 5, 3, 4, 1, 8], 8) == [[0, 2], [1, 4], [3], [5]]
    assert first_fit([], 8) == []


def test_first_fit_closes_a_bin_that_holds_the_most():
    assert first_fit([2, 2, 2, 2, 3], 8, most=2) == [[0, 1], [2, 3], [4]]
    assert first_fit([5, 5, 3, 4, 1, 8], 8, most=1) == [[0], [1], [2], [3], [4], [5]]
    assert first_fit([7, 2, 1, 2], 8, most=2) == [[0, 2], [1, 3]]  # full by room, full by number
    assert first_fit([0, 0, 0], 0, most=2) == [[0, 1], [2]]


def test_what_cannot_make_batches(letters):
    with pytest.raises(
        UserError, match="length = 3: all 1 demonstrations are left out: 1 too long"
    ):
        supervised_pass([Demonstration("abc", "d")], letters, batch_size=1, length=3)
    with pytest.raises(ConfigError, match=r"prompts = .*at least one record"):
        prompt_pass([], letters, batch_size=1, length=3)
    with pytest.raises(ConfigError, match=r"texts = .*at least one record"):
        text_pass([], letters, batch_size=1, length=3)
    with pytest.raises(ConfigError, match="length = 1: must be at least 2"):
        text_pass(["a"], letters, batch_size=1, length=1)
    with pytest.raises(ConfigError, match="outputs = 2: must be at least 3, the longest ranking"):
        ranking = Ranking("a", ("b", "c", "d"), (0, 1, 2))
        ranking_pass([ranking], letters, batch_size=1, length=9, outputs=2)
    with pytest.raises(ConfigError, match="batch_size = 0"):
        prompt_pass(["a"], letters, batch_size=0, length=3)
    with pytest.raises(IndexError):
        prompt_pass(["a"], letters, batch_size=1, length=3)[1]
