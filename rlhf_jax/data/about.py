"""Where a folder's records come from: licences, and files that are public as test sets.

`rlhf-jax data` writes about.json beside the records; a run that trains on them keeps its content in
counts.json, as "origin", and the report and a model card tell it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.durable import formats
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.strict_json import read_json

NAME = "about.json"
NOT_KNOWN = "licence not known"
ORIGIN = "origin"  # in counts.json: {"licences": {file: licence}, "test_sets": [file, ...]}


def read(folder: Path) -> list[dict]:
    """What is known of each file that the folder's records were converted from; [] if nothing is.

    Raises UserError where about.json is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return []
    content = read_json(path)
    formats.CONVERTED.check(content.get(formats.FIELD) if isinstance(content, dict) else "", path)
    sources = content.get("sources")
    texts = ("name", "licence", "split")
    whole = isinstance(sources, list) and all(
        isinstance(each, dict)
        and all(isinstance(each.get(name), str) for name in texts)
        and isinstance(each.get("test"), bool)
        for each in sources
    )
    if not whole:
        raise UserError(f"{path}: expected sources with {', '.join(texts)} and test; convert the "
                        "files again")  # fmt: skip
    return sources


def write(folder: Path, sources: Sequence[dict]) -> None:
    content = {formats.FIELD: formats.CONVERTED.now, "sources": sources}
    write_atomically(folder / NAME, (json.dumps(content, indent=1) + "\n").encode())


def source(name: str, licence: str, test: bool, split: str = "train") -> dict:
    """What `origin` needs of a file. split: of the records that were made of it."""
    return {"name": name, "licence": licence, "test": test, "split": split}


def origin(sources: Sequence[Mapping[str, Any]], allow_test: bool, option: str) -> dict:
    """{"origin": {"licences": ..., "test_sets": ...}} of the files of the training records, for
    counts.json; {} if nothing is known.

    sources: see `source`; a licence "" is not known. option: how a message
    names the config field `allow_test`.
    Raises ConfigError where records of a file that is public as a test set would be trained on, and
    allow_test is false.
    """
    train = [each for each in sources if each["split"] == "train"]
    tests = [each["name"] for each in train if each["test"]]
    if tests and not allow_test:
        raise ConfigError(
            f"{option} = False: must be True to train on {', '.join(tests)}, which is public as a "
            "test set: scores on it would no longer say anything about the model"
        )
    licences = {each["name"]: each["licence"] or NOT_KNOWN for each in train}
    return {ORIGIN: {"licences": licences, "test_sets": tests}} if train else {}


def sentences(counts: Mapping[str, Any]) -> list[str]:
    """What report and model card tell of the training records. counts: of counts.json."""
    known = counts.get(ORIGIN, {"licences": {}, "test_sets": []})
    by_licence: dict[str, list[str]] = {}
    for name, licence in known["licences"].items():
        by_licence.setdefault(licence, []).append(name)
    told = [f"{', '.join(names)} ({licence})" for licence, names in by_licence.items()]
    found = [f"Trained on {'; '.join(told)}."] if told else []
    if tests := known["test_sets"]:
        found.append(f"Trained on public test sets: {', '.join(tests)}. Scores on them say nothing "
                     "about these models.")  # fmt: skip
    return found
