import itertools
import json
import time
from collections import Counter

import numpy as np
import pytest

from rlhf_jax.data.batches import Finite
from rlhf_jax.data.builder import read_dataset, write_dataset
from rlhf_jax.data.pipeline import (
    mixed_batches,
    prompt_batches,
    prompt_pass,
    ranking_batches,
    supervised_batches,
    text_batches,
)
from rlhf_jax.data.records import Demonstration, Ranking, Text
from rlhf_jax.errors import ConfigError, UserError

NAMES = [a + b for a in "abcdefgh" for b in "abcdefgh"]
SIZES = {"batch_size": 4, "length": 12}


def demonstrations(count=10):
    return [
        Demonstration(name, name[::-1] + "xyz"[: i % 4]) for i, name in enumerate(NAMES[:count])
    ]


def rankings(count=10):
    return [Ranking(name, ("x", "y", "z")[: 2 + i % 2], (0, 1, 1)[: 2 + i % 2])
            for i, name in enumerate(NAMES[:count])]  # fmt: skip


def texts(count=10):
    return [name * (1 + i % 7) for i, name in enumerate(NAMES[:count])]


def mixed(tokenizer, seed, fraction=0.3, count=10):
    return mixed_batches(
        supervised_batches(demonstrations(count), tokenizer, **SIZES, seed=seed),
        text_batches(texts(count), tokenizer, batch_size=3, length=12, seed=seed),
        fraction,
        seed,
    )


BUILD = {
    "supervised": lambda t, s, n=10: supervised_batches(demonstrations(n), t, **SIZES, seed=s),
    "packed": lambda t, s, n=10: supervised_batches(
        demonstrations(n), t, **SIZES, seed=s, packed=True
    ),
    "text": lambda t, s, n=10: text_batches(texts(n), t, **SIZES, seed=s),
    "prompts": lambda t, s, n=10: prompt_batches(NAMES[:n], t, **SIZES, seed=s),
    "rankings": lambda t, s, n=10: ranking_batches(rankings(n), t, **SIZES, outputs=3, seed=s),
    "packed rankings": lambda t, s, n=10: ranking_batches(
        rankings(n), t, **SIZES, outputs=5, seed=s, packed=2
    ),
    "mixed": lambda t, s, n=10: mixed(t, s, count=n),
}
ALL_KINDS = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@ALL_KINDS
@pytest.mark.parametrize("done", [0, 1, 3, 20])
def test_goes_on_bit_for_bit_from_a_saved_state(build, done, letters):
    batches = build(letters, 7)
    for _ in range(done):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(9)]
    resumed = build(letters, 7)
    next(resumed)
    for each in (resumed, batches):  # another process, and a step back in this one
        each.set_state(state)
        assert each.get_state() == state
        assert all(same(next(each), batch) for batch in expected)
    assert not all(same(a, b) for a, b in itertools.pairwise(expected))


@ALL_KINDS
def test_seeds_differ_and_repeat(build, letters):
    def first(seed):
        batches = build(letters, seed)
        return [next(batches) for _ in range(4)]

    assert all(map(same, first(1), first(1)))
    assert not all(map(same, first(1), first(2)))


@ALL_KINDS
def test_fewer_examples_than_a_batch_holds(build, letters):
    batches = build(letters, 0, 2)
    shapes = [{name: array.shape for name, array in next(batches).items()} for _ in range(5)]
    assert all(shape == shapes[0] for shape in shapes)
    assert shapes[0]["tokens"][0] == SIZES["batch_size"]


def test_an_epoch_holds_every_example_once_in_an_order_of_its_own(letters):
    batches = prompt_batches(NAMES[:12], letters, **SIZES, seed=0)
    assert batches.steps_per_epoch == 3
    epochs = [np.concatenate([next(batches)["index"] for _ in range(3)]) for _ in range(4)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(12))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
    assert epochs[0].tolist() != list(range(12))


def test_an_epoch_of_text_holds_every_target_once(letters):
    documents = texts()
    batches = text_batches(documents, letters, batch_size=1, length=6, seed=3)
    wanted = Counter(i for text in documents for i in [*letters.encode(text), letters.eos_id])
    found = Counter()
    while sum(found.values()) < sum(wanted.values()):
        batch = next(batches)
        found.update(batch["tokens"][batch["weights"] == 1].tolist())
    overshoot = sum((found - wanted).values())
    assert overshoot < 6  # the last row runs into the next epoch
    assert not wanted - found


def test_sizes_and_counts(letters):
    items = [*demonstrations(9), Demonstration("abcdefgh", "abcdefgh")]
    batches = supervised_batches(items, letters, **SIZES, seed=0)
    assert (batches.examples, batches.dropped, batches.steps_per_epoch) == (9, {"too long": 1}, 3)
    prompts = prompt_batches(["a" * n for n in range(1, 15)], letters, **SIZES, seed=0)
    assert (prompts.examples, prompts.dropped) == (11, {"too long": 3})
    seen = np.concatenate([next(prompts)["index"] for _ in range(9)])
    assert set(seen.tolist()) == set(range(11))
    ranked = ranking_batches(
        [*rankings(4), Ranking("a", ("b", "c" * 10), (0, 1))], letters, **SIZES, outputs=4, seed=0
    )
    assert (ranked.examples, ranked.dropped, ranked.steps_per_epoch) == (4, {"too long": 1}, 1)
    text = text_batches(["abcdefgh"] * 8, letters, batch_size=2, length=6, seed=0)
    assert (text.examples, text.dropped, text.steps_per_epoch) == (8, {}, 8)


def test_an_epoch_of_packed_rankings_holds_each_once(letters):
    batches = ranking_batches(
        rankings(16), letters, batch_size=2, length=12, outputs=5, seed=0, packed=2
    )
    assert (batches.examples, batches.steps_per_epoch) == (16, 4)  # eight elements of 2 + 3
    found = []
    for _ in range(4):
        batch = next(batches)
        for tokens, ranks in zip(batch["tokens"], batch["ranks"], strict=True):
            prompts = [{tuple(row[1:3]) for row in tokens[of >= 0].tolist()} for of in ranks]
            assert all(len(prompt) == 1 for prompt in prompts)  # one prompt a ranking
            found += [
                (prompt.pop(), (of >= 0).sum()) for prompt, of in zip(prompts, ranks, strict=True)
            ]
    wanted = [(tuple(letters.encode(r.prompt)), len(r.ranks)) for r in rankings(16)]
    assert sorted(found) == sorted(wanted)


def test_the_targets_of_a_ranking_are_its_responses_and_their_eos(letters):
    batches = ranking_batches(rankings(4), letters, batch_size=4, length=12, outputs=3, seed=0)
    batch = next(batches)
    for name, count in (("tokens", 10), ("segments", 10)):
        assert np.count_nonzero(batch[name]) > count
    for tokens, weights, segments in zip(
        *(batch[name].reshape(-1, 12) for name in ("tokens", "weights", "segments")), strict=True
    ):
        length = np.count_nonzero(segments)
        prompt = 1 + len(letters.encode(NAMES[0])) if length else 0
        np.testing.assert_array_equal(weights, (np.arange(12) >= prompt) & (segments > 0))
        assert not length or tokens[weights == 1].tolist()[-1] == letters.eos_id


def test_mixing_takes_its_share_and_skips_no_row(letters):
    a = supervised_batches(
        [Demonstration(f"{name}", "a") for name in NAMES[:30]], letters, **SIZES, seed=0
    )
    b = text_batches(["zzzzzzzzzz"] * 6, letters, batch_size=3, length=12, seed=0)
    batches = mixed_batches(a, b, 0.25, 5)
    assert (batches.examples, batches.steps_per_epoch) == (30, 10)
    from_a, places = [], Counter()
    for _ in range(10):
        batch = next(batches)
        is_b = (batch["tokens"] == 29).any(axis=1)
        assert np.count_nonzero(is_b) == 1
        places.update(np.flatnonzero(is_b).tolist())
        from_a += [tuple(row) for row in batch["tokens"][~is_b].tolist()]
    assert len(from_a) == len(set(from_a)) == 30
    assert len(places) > 1


def test_a_fraction_of_the_loss_scales_the_weights_of_text(letters):
    """The share of text in each batch's weight is the fraction; demonstrations keep theirs."""

    def build(of, part=slice(None)):
        a = supervised_batches(
            [Demonstration(name, "ab"[: 1 + i % 2]) for i, name in enumerate(NAMES[:30])],
            letters, **SIZES, seed=0,
        )  # fmt: skip
        b = text_batches(["zzzzzzzzzz"] * 6, letters, batch_size=3, length=12, seed=0)
        return mixed_batches(a, b, 0.25, 5, part, of)

    by_rows, by_loss, own = build("rows"), build("loss"), build("loss", slice(0, 2))
    for _ in range(5):
        plain, scaled, part = next(by_rows), next(by_loss), next(own)
        is_b = (plain["tokens"] == 29).any(axis=1)
        np.testing.assert_array_equal(scaled["tokens"], plain["tokens"])
        np.testing.assert_array_equal(scaled["weights"][~is_b], plain["weights"][~is_b])
        total = scaled["weights"].sum(dtype=np.float64)
        assert scaled["weights"][is_b].sum() / total == pytest.approx(0.25, rel=1e-6)
        assert plain["weights"][is_b].sum() / plain["weights"].sum() > 0.4
        ours, text = plain["weights"][~is_b].sum(), plain["weights"][is_b].sum()
        expected = plain["weights"][is_b] * (ours / 3 / text)
        np.testing.assert_allclose(scaled["weights"][is_b], expected, rtol=1e-6)
        np.testing.assert_array_equal(part["weights"], scaled["weights"][:2])
    with pytest.raises(UserError, match="data state: of was 'loss' when saved, it is 'rows' now"):
        by_rows.set_state(by_loss.get_state())


@pytest.mark.parametrize(("fraction", "counts"), [(0.1, [0, 0, 1, 0, 1]), (0.6, [2, 2, 3, 2, 3])])
def test_a_fraction_of_rows_that_is_no_whole_number(fraction, counts, letters):
    a = supervised_batches([Demonstration("a", "b")], letters, **SIZES, seed=0)
    b = text_batches(["zzzzzzzzzz"] * 6, letters, batch_size=2, length=12, seed=0)
    batches = mixed_batches(a, b, fraction, 0)
    found = [int((next(batches)["tokens"] == 29).any(axis=1).sum()) for _ in range(5)]
    assert found == counts


def test_rows_that_do_not_mix(letters):
    a = supervised_batches(demonstrations(), letters, **SIZES, seed=0)
    short = text_batches(texts(), letters, batch_size=4, length=8, seed=0)
    with pytest.raises(ConfigError, match="mixed_batches: rows differ"):
        next(mixed_batches(a, short, 0.5, 0))
    with pytest.raises(ConfigError, match="mixed_batches: rows differ"):
        next(mixed_batches(a, prompt_batches(NAMES, letters, **SIZES, seed=0), 0.5, 0))
    with pytest.raises(ConfigError, match=r"fraction = 1: must be in \[0, 1\)"):
        mixed_batches(a, short, 1, 0)


def test_a_state_of_other_data_is_refused(letters):
    state = BUILD["prompts"](letters, 7).get_state()
    for other, message in [
        (prompt_batches(NAMES[:9], letters, **SIZES, seed=7), "examples was 10 when saved"),
        (BUILD["prompts"](letters, 8), "seed was 7 when saved, it is 8 now"),
        (BUILD["supervised"](letters, 7), "kind was 'prompts' when saved"),
    ]:
        with pytest.raises(UserError, match=message):
            other.set_state(state)


def test_batches_packed_otherwise_are_other_batches(letters):
    of = lambda packed: ranking_batches(
        rankings(), letters, **SIZES, outputs=6, seed=7, packed=packed
    )
    for packed in (1, 3):
        with pytest.raises(UserError, match="data state: kind was 'rankings, packed 2' when saved"):
            of(packed).set_state(of(2).get_state())
    of(2).set_state(of(2).get_state())


def test_a_pass_goes_on_from_its_position_and_ends(letters):
    batches = prompt_pass(NAMES[:10], letters, **SIZES)
    finite, resumed = Finite(batches), Finite(batches)
    assert finite.get_state() == {"position": 0}
    assert next(finite)["index"].tolist() == [0, 1, 2, 3]
    state = json.loads(json.dumps(finite.get_state()))
    for each in (resumed, finite):  # another process, and the same one
        each.set_state(state)
        assert next(each)["index"].tolist() == [4, 5, 6, 7]
        assert next(each)["index"].tolist() == [8, 9, -1, -1]
        assert each.get_state() == {"position": 3}
        with pytest.raises(StopIteration):
            next(each)
        assert each.get_state() == {"position": 3}


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range(seed, letters):
    with pytest.raises(ConfigError, match="seed ="):
        prompt_batches(NAMES, letters, **SIZES, seed=seed)


def test_text_is_read_only_when_its_turn_comes(letters):
    class Watched(list):
        read = 0

        def __getitem__(self, i):
            self.read += 1
            return super().__getitem__(i)

    source = Watched(["abcdefgh"] * 1000)
    next(text_batches(source, letters, batch_size=2, length=10, seed=0))
    assert source.read == 2


def test_text_from_a_data_set_on_disk(letters, tmp_path):
    write_dataset(tmp_path, "text", {"train": [Text(text) for text in texts()]})
    source = read_dataset(tmp_path, "text", "train")
    stored = text_batches(source, letters, **SIZES, seed=1)
    direct = text_batches(texts(), letters, **SIZES, seed=1)
    assert all(same(next(stored), next(direct)) for _ in range(5))


@pytest.mark.parametrize("kind", ["supervised", "packed", "text", "prompts", "rankings", "mixed"])
def test_two_hundred_batches_a_second(kind, trained):
    """32 x 64 tokens on one core; the best of three, in processor time."""
    long = [Demonstration(f"Name the rivers of {name}.", " The Danube." * 4) for name in NAMES]
    sizes = {"batch_size": 32, "length": 64, "seed": 0}
    plain = [demonstration.response * 20 for demonstration in long]
    ranked = [Ranking(each.prompt, (each.response, ""), (0, 1)) for each in long]
    build = {
        "supervised": lambda: supervised_batches(long, trained, **sizes),
        "packed": lambda: supervised_batches(long, trained, **sizes, packed=True),
        "text": lambda: text_batches(plain, trained, **sizes),
        "prompts": lambda: prompt_batches([each.prompt for each in long], trained, **sizes),
        "rankings": lambda: ranking_batches(ranked, trained, **sizes, outputs=2),
        "mixed": lambda: mixed_batches(build["supervised"](), build["text"](), 0.1, 0),
    }
    batches = build[kind]()
    assert batches.dropped == {}
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(40):
            next(batches)
        seconds.append(time.process_time() - start)
    assert 40 / min(seconds) > 200
