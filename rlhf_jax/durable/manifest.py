"""A manifest holds a checksum of every file in a folder. It is written last.

    <folder>/manifest.json   {"files": {"state/_METADATA": {"bytes", "sha256"}, ...}, "versions",
                              ..., "sha256": of the manifest's other fields}

A folder without a manifest is half-written. A folder whose files differ from it is damaged.
"""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import PurePath

import jax
from etils import epath

from rlhf_jax.durable.files import all_files, write_atomically
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import processes
from rlhf_jax.strict_json import parse_json

NAME = "manifest.json"
# Orbax writes the time of commit there after everything else; nothing reads it.
UNCHECKED = {NAME, "_CHECKPOINT_METADATA"}
PART = 1 << 22  # bytes read at once
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "rlhf-jax")


def write(folder: epath.PathLike, about: dict, later: dict[str, bytes] | None = None) -> None:
    """Hashes every file of `folder`.

    about: more JSON values, stored with the hashes. later: files that will be written afterwards.
    """
    folder, hashed = epath.Path(folder), hashlib.sha256
    there = [path for path in all_files(folder) if path.name not in UNCHECKED]
    files = {str(path.relative_to(folder)): _describe(path) for path in there}
    for name, bytes_ in (later or {}).items():
        files[name] = {"bytes": len(bytes_), "sha256": hashed(bytes_).hexdigest()}
    files = dict(sorted(files.items()))
    content = about | {"versions": versions(), "files": files}
    content["sha256"] = _digest(content)
    write_atomically(folder / NAME, (json.dumps(content, indent=1) + "\n").encode())


def read(folder: epath.PathLike) -> tuple[dict, list[str]]:
    """(the manifest of a folder, a list with one line about what is wrong with it, or empty)."""
    content, wrong = signed(folder)
    if not wrong and not _has_its_form(content):
        return {}, [f"{NAME} is not a manifest"]
    return content, wrong


def signed(folder: epath.PathLike) -> tuple[dict, list[str]]:
    """Like `read`, but for any format: checks only that the manifest's own checksum is right."""
    try:
        content = parse_json((epath.Path(folder) / NAME).read_bytes())
    except OSError as error:
        return {}, [f"{NAME} cannot be read: {error.strerror or error}"]
    except UserError:
        return {}, [f"{NAME} is not JSON"]
    if not isinstance(content, dict) or content.pop("sha256", None) != _digest(content):
        return {}, [f"{NAME} has changed since it was written"]
    return content, []


def problems(folder: epath.PathLike, part: tuple[int, int] = (0, 1)) -> list[str]:
    """A line for each file that is missing or differs from what was written; empty if none is.

    part: (i, n) checks only every n-th file, from file i on; (0, 1) checks all.
    """
    folder, (mine, parts) = epath.Path(folder), part
    content, found = read(folder)
    for name, wanted in list(content.get("files", {}).items())[mine::parts]:
        try:
            have = _describe(folder / name)
        except OSError as error:
            found.append(f"{name} cannot be read: {error.strerror or error}")
            continue
        except ValueError:  # a name with NUL
            found.append(f"{name!r} is no name of a file")
            continue
        if have["bytes"] != wanted["bytes"]:
            found.append(f"{name} has {have['bytes']} bytes, not {wanted['bytes']}")
        elif have != wanted:
            found.append(f"{name} has changed since it was written")
    return found


def problems_of_all(folder: epath.PathLike) -> list[str]:
    """Like `problems`, but all processes must call it together. Each checks its part of the files;
    if one finds a problem, the result is not empty in any process."""
    found = problems(folder, (jax.process_index(), jax.process_count()))
    elsewhere = processes.total(len(found)) > len(found)
    return found + ["another process cannot read all of it"] * elsewhere


def digest(folder: epath.PathLike) -> str | None:
    """One hash of a folder's content; None where its manifest is absent or damaged."""
    content, wrong = read(folder)
    return None if wrong else _digest(content)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine a run's results bit by bit."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"  # run from a copy of the source
    return found


def _has_its_form(content: dict) -> bool:
    tables = content.get("files"), content.get("versions")
    if not all(isinstance(table, dict) for table in tables):
        return False
    files, packages = tables
    keys = {"bytes", "sha256"}
    described = all(isinstance(file, dict) and file.keys() == keys for file in files.values())
    inside = not any(PurePath(name).is_absolute() or ".." in PurePath(name).parts for name in files)
    return described and inside and all(isinstance(version, str) for version in packages.values())


def _describe(path: epath.Path) -> dict:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(PART):
            digest.update(part)
            size += len(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
