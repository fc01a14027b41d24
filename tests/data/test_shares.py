"""Of several processes each tokenises its own rows, and its share of all records once."""

from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.data.arrays import close_with_eos
from rlhf_jax.data.pipeline import (
    mixed_batches,
    prompt_batches,
    ranking_batches,
    supervised_batches,
    text_batches,
)
from rlhf_jax.data.records import Demonstration, Prompt, Ranking
from rlhf_jax.stages.facts import Measures
from tests.data.conftest import Letters

# The letter of a record is in all of its texts and in no other record's.
DEMONSTRATIONS = [Demonstration(a, a * (i % 4)) for i, a in enumerate("abcdefghijkl")]
RANKINGS = [Ranking(a, (a, a * 3, a * 2)[: 2 + i % 2], (0, 1, 1)[: 2 + i % 2])
            for i, a in enumerate("abcdefghijkl")]  # fmt: skip
TEXTS = [a * (3 + i % 7) for i, a in enumerate("mnopqrstuvwxyz")]
SIZES = {"batch_size": 4, "length": 9}


class Told(Letters):
    """Keeps the letters of the texts that it encodes, one for each call."""

    def __init__(self):
        self.encoded: list[str] = []

    def encode(self, text):
        self.encoded += text[:1]
        return super().encode(text)


def mixed(tokenizer, of, **how):
    demonstrations = supervised_batches(DEMONSTRATIONS, tokenizer, **SIZES, seed=3, **how)
    text = text_batches(TEXTS, tokenizer, batch_size=3, length=9, seed=4, **how)
    return mixed_batches(demonstrations, text, 0.5, 5, of=of, **how)


BUILD = {
    "demonstrations": lambda t, **how: supervised_batches(
        DEMONSTRATIONS, t, **SIZES, buckets=9, **how
    ),
    "packed": lambda t, **how: supervised_batches(DEMONSTRATIONS, t, **SIZES, packed=True, **how),
    "prompts": lambda t, **how: prompt_batches([*"abcdefghijkl"], t, **SIZES, **how),
    "rankings": lambda t, **how: ranking_batches(RANKINGS, t, **SIZES, outputs=3, buckets=4, **how),
    "packed rankings": lambda t, **how: ranking_batches(
        RANKINGS, t, batch_size=2, length=9, outputs=6, packed=2, buckets=6, row_length=18, **how
    ),
    "text": lambda t, **how: text_batches(TEXTS, t, **SIZES, **how),
    "mixed": lambda t, seed, **how: mixed(t, "rows", **how),
    "a fraction of the loss": lambda t, seed, **how: mixed(t, "loss", **how),
}


def letters_of(batches) -> set[str]:
    found = np.unique(np.concatenate([batch["tokens"].ravel() for batch in batches]))
    return {chr(ord("a") + i - 4) for i in found.tolist() if i > 3}


@pytest.mark.parametrize("kind", BUILD)
def test_a_process_tokenises_its_share_once_and_then_its_own_rows(kind, two):
    whole = BUILD[kind](Letters(), seed=3)
    expected = [next(whole) for _ in range(2)]
    rows = whole.batch_size // 2
    states = [whole.get_state()]

    def process(number):
        told, part = Told(), slice(number * rows, (number + 1) * rows)
        batches = BUILD[kind](told, seed=3, part=part)
        measured = len(told.encoded)
        found = [next(batches) for _ in range(2)]
        states.append(batches.get_state())
        return found, told.encoded, measured, batches.steps_per_epoch

    (first, *_, steps), (second, *_, also) = results = two(process)
    for batch, *parts in zip(expected, first, second, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([part[name] for part in parts]))
    assert steps == also == whole.steps_per_epoch and states[1] == states[2] == states[0]
    records = {"text": [TEXTS], "mixed": [DEMONSTRATIONS, TEXTS]}
    records["a fraction of the loss"] = records["mixed"]
    for number, (found, encoded, *_) in enumerate(results):
        share = set()
        for of in records.get(kind, [DEMONSTRATIONS]):
            half = len(of) // 2
            named = [each if isinstance(each, str) else each.prompt for each in of]
            share |= {name[0] for name in named[number * half : (number + 1) * half]}
        own = letters_of(found)
        assert set(encoded) == share | own
        assert len(share | own) < sum(map(len, records.get(kind, [DEMONSTRATIONS])))


def test_lengths_are_measured_in_shares_and_known_to_all(two):
    kinds = {"prompts": [Prompt(a) for a in "abcde"], "demonstrations": DEMONSTRATIONS,
             "rankings": RANKINGS}  # fmt: skip
    close = close_with_eos(Letters())

    def of(told):
        data = SimpleNamespace(
            tokenizer=told, where=lambda *of: of, read=lambda kind, _: kinds[kind]
        )
        return {kind: Measures(close).of(data, kind, "train") for kind in kinds}

    def process(number):
        told = Told()
        return of(told), told.encoded

    (one, encoded), (other, also) = two(process)
    assert one == other
    assert set(encoded) == set("abcdef") and set(also) == set("cdeghijkl")
    assert [found.tokens for found in one["demonstrations"]] == [3 + i % 4 for i in range(12)]
    assert [found.outputs for found in one["rankings"]] == [2, 3] * 6
    assert {found.reason for found in one["rankings"]} == {None}
