"""A folder of one's own records: JSONL files by kind and split, and the tokenizer they go with.

text.train.jsonl            text.valid.jsonl            {"text": ...}
demonstrations.train.jsonl  demonstrations.valid.jsonl  {"prompt": ..., "response": ...}
rankings.train.jsonl        rankings.valid.jsonl        {"prompt": ..., "responses": ..., "ranks": ...}
prompts.ppo.jsonl           prompts.test.jsonl          {"prompt": ..., any further field: ...}
tokenizer.json or tokenizer.model
"""  # noqa: E501

import os
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.data import counting
from rlhf_jax.data.records import (
    Demonstration,
    Prompt,
    Ranking,
    Text,
    read_jsonl,
)
from rlhf_jax.data.tokenizer import NAMES, find_tokenizer, load_tokenizer
from rlhf_jax.errors import UserError, require

FILES = {
    "text": (Text, ("train", "valid")),
    "demonstrations": (Demonstration, ("train", "valid")),
    "rankings": (Ranking, ("train", "valid")),
    "prompts": (Prompt, ("ppo", "test")),
}


def find_folder(path: str | None) -> Path:
    """The folder `path`, else the one that RLHF_JAX_DATA names.

    Raises UserError where it, or one of its files, is absent: all that are missing by name.
    """
    named = path if path is not None else os.environ.get("RLHF_JAX_DATA")
    if not named:
        raise UserError("data: no folder named; set data.path or RLHF_JAX_DATA")
    folder = Path(named)
    if not folder.is_dir():
        raise UserError(f"data: {folder} is no folder")
    needed = [f"{name}.{split}.jsonl" for name, (_, splits) in FILES.items() for split in splits]
    missing = [name for name in needed if not (folder / name).is_file()]
    if not find_tokenizer(folder).is_file():
        missing.append(" or ".join(NAMES))
    if missing:
        raise UserError(f"data: {folder} lacks {', '.join(missing)}")
    return folder


def file_names(folder: Path) -> list[str]:
    """The names of the folder's files that a run reads."""
    names = [f"{name}.{split}.jsonl" for name, (_, splits) in FILES.items() for split in splits]
    return [*names, find_tokenizer(folder).name]


def read_folder(
    path: str | None, demonstrations: int | None = None, rankings: int | None = None
) -> tuple[dict[str, dict[str, Sequence]], dict]:
    """Records by data set and split, and counts: {"heldout": {"folder": held-out rankings}}, what
    stands on both sides (it is left out of training), empty, equal and tied responses.

    Raises UserError where a file is missing, empty or malformed (file, line and field named), or
    has another number of records to train on than was said.
    """
    folder = find_folder(path)
    splits = {
        name: {split: read_jsonl(folder / f"{name}.{split}.jsonl", kind) for split in parts}
        for name, (kind, parts) in FILES.items()
    }
    for name, parts in splits.items():
        for split, records in parts.items():
            if not records:
                raise UserError(f"{folder / f'{name}.{split}.jsonl'}: expected records, got none")
    counts = {"heldout": {"folder": len(splits["rankings"]["valid"])}}
    for split, records in splits["rankings"].items():
        splits["rankings"][split], counts[f"rankings.{split}.jsonl"] = counting.settle(records)
    for split, records in splits["demonstrations"].items():
        empty = sum(not record.response.strip() for record in records)
        counts[f"demonstrations.{split}.jsonl"] = {"empty": empty}
    splits, both = counting.without_held_out(splits)
    said = {"demonstrations": demonstrations, "rankings": rankings}
    for name, parts in splits.items():
        split = next(iter(parts))
        file, found = folder / f"{name}.{split}.jsonl", len(parts[split])
        twice = f" that are not held out too ({both['held_out_too'].get(name, 0)} are)"
        if not found:
            raise UserError(f"{file}: expected records{twice}, got none")
        if said.get(name) not in (None, found):
            raise UserError(
                f"{file}: expected {said[name]} records (data.{name}){twice}, got {found}"
            )
    return splits, counts | both


def copy_tokenizer(
    path: str | None, directory: Path, vocab_size: int, **special_tokens: str | None
) -> None:
    """Puts the folder's tokenizer into `directory`, with the names of its special tokens.

    Raises ConfigError where it has another number of tokens than the model.
    """
    file = find_tokenizer(find_folder(path))
    tokenizer = load_tokenizer(file, **special_tokens)
    tokens = tokenizer.vocab_size
    require(tokens == vocab_size, "model.vocab_size", vocab_size, f"that of {file}, {tokens}")
    tokenizer.save(directory / file.name)
