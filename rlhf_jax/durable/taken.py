"""A directory of one run (a stage's, or data/) that points to a directory of another run.

from.json   {"directory": of the other run, "beside": the same, relative to this directory,
             "holds": names of the files and folders that are read there, "sha256": their digest}
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from etils import epath

from rlhf_jax.durable.files import absolute, all_files, in_bucket, write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json

NAME = "from.json"
SMALL = 1 << 20  # bytes; of larger files only the size is hashed, not the content


def take(directory: epath.PathLike, other: epath.PathLike, holds: Sequence[str]) -> None:
    """Makes `directory` point to `other`. holds: names of the files and folders that are read in
    `other`."""
    content = pointer(directory, other, holds)
    write_atomically(absolute(directory) / NAME, json.dumps(content, indent=1).encode())


def pointer(directory: epath.PathLike, other: epath.PathLike, holds: Sequence[str]) -> dict:
    """What `located` finds `other` by, from a file in `directory`: JSON values."""
    directory, other = absolute(directory), absolute(other)
    apart = in_bucket(directory) or in_bucket(other)
    return {
        "directory": str(other),
        "beside": None if apart else os.path.relpath(other, directory),
        "holds": list(holds),
        "sha256": digest(other, holds),
    }


def is_taken(directory: epath.PathLike) -> bool:
    return (epath.Path(directory) / NAME).is_file()


def followed(directory: epath.PathLike) -> epath.Path:
    """The directory to read: itself, or the directory to which its from.json points.

    Raises UserError where that directory is missing or has changed since it was taken.
    """
    directory = epath.Path(directory)
    if not is_taken(directory):
        return directory
    return _checked(absolute(directory), (directory / NAME).read_bytes())


@functools.lru_cache(maxsize=1024)
def _checked(directory: epath.Path, content: bytes) -> epath.Path:
    """The directory to which a from.json points; checked once per process."""
    file, found = directory / NAME, None
    with contextlib.suppress(UserError):
        found = parse_json(content)
    if not is_pointer(found):
        raise UserError(f"{file}: is damaged; remove it, and what was taken is made here")
    advice = f"bring it back, or remove {file}: the same command then makes it here"
    return located(directory, found, f"{directory} is taken from", advice)


def is_pointer(found: Any) -> bool:
    return isinstance(found, dict) and found.keys() == {"directory", "beside", "holds", "sha256"}


def located(directory: epath.Path, found: dict, about: str, advice: str) -> epath.Path:
    """The directory to which a `pointer` in a file of `directory` points.

    Raises UserError, "<about> <place>, which ...; <advice>", where it is missing or has changed.
    """
    places = [epath.Path(found["directory"])]
    if found["beside"] is not None:  # both directories may have been moved together
        places.append(epath.Path(os.path.normpath(directory / found["beside"])))
    there = [place for place in places if place.is_dir()]
    if not there:
        raise UserError(f"{about} {places[0]}, which is not there; {advice}")
    for place in there:
        if digest(place, found["holds"]) == found["sha256"]:
            return place
    raise UserError(f"{about} {there[0]}, which has changed since; {advice}")


def digest(directory: epath.Path, holds: Sequence[str]) -> str:
    """One hash of the files' names and sizes and of the content of small files. A model's manifest
    is small and contains the hashes of its large files."""
    hashed = hashlib.sha256()
    for name in sorted(holds):
        place = directory / name
        files = all_files(place) if place.is_dir() else [place] if place.exists() else []
        for file in files:
            size = file.stat().length
            hashed.update(f"{file.relative_to(directory)} {size}\n".encode())
            if size <= SMALL:
                hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return hashed.hexdigest()
