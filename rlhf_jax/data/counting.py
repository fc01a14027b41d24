"""Counts about records: equal and tied responses, repeated records, training records that are also
held out, and texts that the tokenizer changes."""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Sequence

from rlhf_jax.data.records import (
    Demonstration,
    Prompt,
    Ranking,
    Record,
    Scored,
    Text,
    tie_equal,
)
from rlhf_jax.data.tokenizer import Tokenizer

Splits = dict[str, dict[str, Sequence]]
Counts = dict[str, int]
HELD_OUT = ("valid", "test")


def texts_of(record: Record) -> tuple[str, ...]:
    """Every text of a record that is tokenised."""
    if isinstance(record, Ranking):
        return (record.prompt, *record.responses)
    if isinstance(record, Prompt):
        return (record.prompt,)
    return (record.text,) if isinstance(record, Text) else (record.prompt, record.response)


def settle(rankings: Sequence[Ranking]) -> tuple[list[Ranking], Counts]:
    """(the rankings with equal responses tied, counts).

    Counts: "equal", rankings with equal responses of different rank; "tied", rankings in which now
    all responses tie, so that no stage trains on them."""
    settled = [
        dataclasses.replace(r, ranks=tie_equal([*zip(r.responses, r.ended, strict=True)], r.ranks))
        for r in rankings
    ]
    equal = sum(a.ranks != b.ranks for a, b in zip(rankings, settled, strict=True))
    return settled, {"equal": equal, "tied": sum(ranking.tied for ranking in settled)}


def _identity(record: Record) -> Hashable:
    """Equal for records with the same content, whatever the order of responses, the labeler or the
    further fields of a prompt."""
    if isinstance(record, Ranking):
        return record.prompt, tuple(
            sorted(zip(record.responses, record.ranks, record.ended, strict=True))
        )
    if isinstance(record, Prompt):
        return record.prompt
    if isinstance(record, Demonstration | Scored):
        return dataclasses.replace(record, labeler=None)
    return record


def without_held_out(splits: Splits) -> tuple[Splits, dict[str, Counts]]:
    """The splits without training records that are also in a held-out split.

    Counts by data set: "held_out_too", records left out; "prompt_held_out_too", training records
    that are kept although a held-out record of some data set has the same prompt.
    """
    prompts = {
        record.prompt
        for parts in splits.values()
        for split in HELD_OUT
        for record in parts.get(split, ())
        if not isinstance(record, Text)
    }
    kept, same, alike = {}, Counter(), Counter()
    for name, parts in splits.items():
        held = {_identity(record) for split in HELD_OUT for record in parts.get(split, ())}
        kept[name] = dict(parts)
        for split in parts.keys() - set(HELD_OUT):
            kept[name][split] = [r for r in parts[split] if _identity(r) not in held]
            same[name] += len(parts[split]) - len(kept[name][split])
            alike[name] += sum(getattr(r, "prompt", None) in prompts for r in kept[name][split])
    return kept, {"held_out_too": dict(+same), "prompt_held_out_too": dict(+alike)}


def repeats(splits: Splits) -> Counts:
    """The number of records of each split that repeat an earlier one: {"rankings.train": 3}."""
    return {
        f"{name}.{split}": count
        for name, parts in splits.items()
        for split, records in parts.items()
        if (count := len(records) - len(set(map(_identity, records))))
    }


def changed_by(tokenizer: Tokenizer, splits: Splits) -> Counts:
    """The number of records of each split that encoding and decoding changes."""
    changes = lambda text: tokenizer.decode(tokenizer.encode(text)) != text
    return {
        f"{name}.{split}": sum(any(map(changes, texts_of(record))) for record in records)
        for name, parts in splits.items()
        for split, records in parts.items()
    }
