"""Reads a folder with your own records: JSONL files by kind and split, and a tokenizer.

text.train.jsonl            text.valid.jsonl            {"text": ...}
demonstrations.train.jsonl  demonstrations.valid.jsonl  {"prompt": ..., "response": ...}
rankings.train.jsonl        rankings.valid.jsonl        {"prompt": ..., "responses": ..., "ranks": ...}
                                                        or {"prompt": ..., "chosen": ..., "rejected": ...}
scored.train.jsonl          scored.valid.jsonl          {"prompt": ..., "response": ..., "score": ...}
prompts.ppo.jsonl           prompts.test.jsonl          {"prompt": ..., any further field: ...}
tokenizer.json or tokenizer.model

A folder needs only the files that its stages read. docs/data.md says how missing
files are replaced.
"""  # noqa: E501

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.data import about, counting, held_out
from rlhf_jax.data.counting import Splits
from rlhf_jax.data.records import (
    Demonstration,
    Prompt,
    Ranking,
    Scored,
    Text,
    read_jsonl,
)
from rlhf_jax.data.special_tokens import BESIDE
from rlhf_jax.data.tokenizer import NAMES, find_tokenizer, load_tokenizer
from rlhf_jax.errors import UserError, require

FILES = {
    "text": (Text, ("train", "valid")),
    "demonstrations": (Demonstration, ("train", "valid")),
    "rankings": (Ranking, ("train", "valid")),
    "prompts": (Prompt, ("ppo", "test")),
    "scored": (Scored, ("train", "valid")),
}
RECORD_FILES = tuple(f"{kind}.{split}.jsonl" for kind, (_, both) in FILES.items() for split in both)


def find_folder(path: str | None) -> Path:
    """The folder `path`, or the folder that RLHF_JAX_DATA names.

    Raises UserError where the folder is missing, has no file of records, has a file of records with
    a name that is not read, or has held-out records but no training records of a kind.
    """
    named = path if path is not None else os.environ.get("RLHF_JAX_DATA")
    if not named:
        raise UserError("data: no folder named; set data.path or RLHF_JAX_DATA")
    folder = Path(named)
    if not folder.is_dir():
        raise UserError(f"data: {folder} is no folder")
    others = sorted(file.name for file in folder.iterdir() if file.name not in RECORD_FILES)
    for name in others:
        if name.endswith((".jsonl", ".jsonl.gz")) or name.split(".")[0] in FILES:
            raise UserError(f"{folder / name}: no file of this name is read{_meant(name)}; the "
                            f"names are {', '.join(RECORD_FILES)}")  # fmt: skip
    there = [name for name in RECORD_FILES if (folder / name).is_file()]
    if not there:
        raise UserError(f"data: {folder} has no records: expected {', '.join(RECORD_FILES)}, as "
                        f"far as stages read them; got {', '.join(others[:8]) or 'no file'}"
                        )  # fmt: skip
    for kind in ("text", "demonstrations", "rankings", "scored"):
        train, valid = (f"{kind}.{split}.jsonl" for split in FILES[kind][1])
        if valid in there and train not in there:
            raise UserError(f"data: {folder} has {valid}, but no {train}")
    return folder


def _meant(name: str) -> str:
    """A question with the most similar name that is read; "" if no name is similar. For a name
    without a split it is the training file."""
    kind, *rest = name.split(".")
    found = difflib.get_close_matches(name, RECORD_FILES, 1)
    if kind in FILES and not set(rest) & set(FILES[kind][1]):
        found = [f"{kind}.{FILES[kind][1][0]}.jsonl"]
    return f" (did you mean {found[0]}?)" if found else ""


def file_names(folder: Path) -> list[str]:
    """The names of the folder's files that a run reads."""
    tokenizer = find_tokenizer(folder)
    names = [name for name in (*RECORD_FILES, about.NAME) if (folder / name).is_file()]
    if tokenizer.is_file():
        beside = BESIDE if tokenizer.suffix == ".json" else ()
        names += [tokenizer.name, *(name for name in beside if (folder / name).is_file())]
    return names


def read_folder(
    path: str | None,
    *,
    share: float = 0.05,
    seed: int = 0,
    demonstrations: int | None = None,
    rankings: int | None = None,
    allow_test: bool = False,
) -> tuple[Splits, dict]:
    """(records by data set and split, counts). Counts are of empty, equal and tied responses, and
    of training records that are left out because they are also held out.

    If files of held-out records or of prompts are missing, these are drawn from the training
    records, and a line says so (rlhf_jax/data/held_out.py).

    If `rlhf-jax data` made the folder, counts["origin"] says where the training records come from.

    share: the fraction of prompts to hold out. allow_test: whether records of files that are public
    as test sets may be trained on. demonstrations, rankings: the expected numbers of
    training records. Raises UserError where a file is empty or malformed (the message names file,
    line and field), or does not have the expected number of records.
    """
    folder, splits = find_folder(path), {}
    counts = about.origin(about.read(folder), allow_test, "data.allow_test")
    for kind, (record, parts) in FILES.items():
        for split in parts:
            file = folder / f"{kind}.{split}.jsonl"
            if file.is_file():
                splits.setdefault(kind, {})[split] = _read(file, record, counts)
    splits, made = held_out.complete(splits, share, seed)
    counts |= {"made": made} if made else {}
    splits, both = counting.without_held_out(splits)
    said = {"demonstrations": demonstrations, "rankings": rankings}
    for kind, parts in splits.items():
        split = FILES[kind][1][0]
        file, found = folder / f"{kind}.{split}.jsonl", len(parts.get(split, ()))
        twice = f" that are not held out too ({both['held_out_too'].get(kind, 0)} are)"
        if split in parts and not found:
            raise UserError(f"{file}: expected records{twice}, got none")
        if said.get(kind) not in (None, found):
            raise UserError(
                f"{file}: expected {said[kind]} records (data.{kind}){twice}, got {found}"
            )
    return splits, counts | both


def _read(file: Path, kind: type, counts: dict) -> Sequence:
    records = read_jsonl(file, kind)
    if not records:
        raise UserError(f"{file}: expected records, got none")
    if kind is Ranking:
        records, counts[file.name] = counting.settle(records)
    if kind is Demonstration:
        counts[file.name] = {"empty": sum(not record.response.strip() for record in records)}
    return records


def copy_tokenizer(
    path: str | None, directory: Path, vocab_size: int, **special_tokens: str | None
) -> bool:
    """Copies the folder's tokenizer into `directory`, with the names of its special tokens. Returns
    False if the folder has no tokenizer.

    Raises ConfigError where the tokenizer has another number of tokens than the model, or where
    special tokens are named but the folder has no tokenizer.
    """
    folder = find_folder(path)
    file = find_tokenizer(folder)
    if not file.is_file():
        for field, token in special_tokens.items():
            require(token is None, f"data.{field}", token, f"None: {folder} has no tokenizer.json")
        told = f"one of at most {vocab_size} tokens (model.vocab_size)"
        print(f"data: {folder} has no {' or '.join(NAMES)}: {told} is trained on its training "
              "records", flush=True)  # fmt: skip
        return False
    tokenizer = load_tokenizer(file, **special_tokens)
    tokens = tokenizer.vocab_size
    require(tokens == vocab_size, "model.vocab_size", vocab_size, f"that of {file}, {tokens}")
    tokenizer.save(directory / file.name)
    return True
