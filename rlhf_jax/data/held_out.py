"""Draws held-out records and prompts from the training records if a folder has no files of them.

Records are held out by prompt, for all kinds together: a prompt that is drawn here is in no
training record of any kind. Text is held out by document.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from rlhf_jax.data.counting import Splits
from rlhf_jax.data.messages import plain
from rlhf_jax.data.records import Prompt, Record, Text

SIDES = {
    "text": ("train", "valid"),
    "demonstrations": ("train", "valid"),
    "rankings": ("train", "valid"),
    "prompts": ("ppo", "test"),
    "scored": ("train", "valid"),
}  # what is trained on, what is held out


ANSWERED = ("demonstrations", "rankings", "scored")  # kinds whose records have prompts


def complete(splits: Splits, share: float, seed: int) -> tuple[Splits, dict[str, dict]]:
    """(the splits, missing splits included; counts of the splits that were made or changed). The
    counts, such as {"rankings.valid": {"records": 5, "of": 100}}, are printed too.

    share: the fraction of a kind's different prompts, or of documents, to hold out; at least one is
    held out, and never all.
    """
    splits, made = _draw(splits, share, seed)
    for name, counts in made.items():
        _tell(name, counts, share)
    prompts = dict(splits.get("prompts", {}))
    for side, split in enumerate(SIDES["prompts"]):
        if split not in prompts and (found := _prompts_of(splits, side)):
            prompts[split] = found
            made[f"prompts.{split}"] = {"records": len(found)}
            where = ("training", "held-out")[side]
            kinds = " and ".join(
                kind for kind in ANSWERED if SIDES[kind][side] in splits.get(kind, {})
            )
            print(f"data: no prompts.{split}.jsonl: {len(found)} {where} prompts of {kinds}",
                  flush=True)  # fmt: skip
    return (splits | {"prompts": prompts} if prompts else splits), made


def _tell(name: str, counts: dict, share: float) -> None:
    about = f"{counts['records']} of {counts['of']} records"
    if name.split(".")[1] in ("valid", "test"):
        by = "document" if name.startswith("text") else "prompt"
        told = f"no {name}.jsonl: {about} are held out, by {by} (data.held_out = {share})"
    else:
        told = f"{name}.jsonl: {about} left out, because their prompt is held out"
    print(f"data: {told}", flush=True)


def _draw(splits: Splits, share: float, seed: int) -> tuple[Splits, dict[str, dict]]:
    missing = [kind for kind, (train, held) in SIDES.items()
               if train in splits.get(kind, {}) and held not in splits[kind]]  # fmt: skip
    held = {_what(record) for kind, (_, side) in SIDES.items()
            for record in splits.get(kind, {}).get(side, ())}  # fmt: skip
    drawn = set()
    for kind in missing:
        found = sorted({_what(record) for record in splits[kind][SIDES[kind][0]]})
        free = [what for what in found if what not in held]
        count = max(1, round(share * len(found))) - (len(found) - len(free))
        order = np.random.default_rng((seed, list(SIDES).index(kind))).permutation(len(free))
        drawn |= {free[i] for i in order[: max(0, min(count, len(free) - 1))]}
        held |= drawn
    completed, made = dict(splits), {}
    for kind in splits:
        train, side = SIDES[kind]
        out = held if kind in missing else drawn
        records = splits[kind].get(train, ())
        kept = [record for record in records if _what(record) not in out]
        taken = [record for record in records if _what(record) in out]
        if taken:
            given = {train: kept, side: taken} if kind in missing else {train: kept}
            completed[kind] = {**splits[kind], **given}
            name = f"{kind}.{side if kind in missing else train}"
            made[name] = {"records": len(taken), "of": len(records)}
    return completed, made


def _what(record: Record) -> Hashable:
    """The part of a record that must be on one side only: its prompt, or a text's document."""
    return (0, record.text) if isinstance(record, Text) else (1, plain(record.prompt))


def _prompts_of(splits: Splits, side: int) -> Sequence[Prompt]:
    """The different prompts of one side of all kinds of ANSWERED, in order."""
    found = dict.fromkeys(
        record.prompt
        for kind in ANSWERED
        for record in splits.get(kind, {}).get(SIDES[kind][side], ())
    )
    return [Prompt(prompt) for prompt in found]
