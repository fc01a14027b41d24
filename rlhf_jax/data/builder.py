"""Records as TFDS data sets in ArrayRecord files, without TensorFlow.

A data set is the folder directory/name/1.0.0, the layout that `tensorflow_datasets` and Grain
read. It is written under another name and renamed when complete, so a killed run leaves no data
set. ArrayRecord cannot write to or read from a bucket. For a bucket, a copy on this host's disk is
written or read; dataset_info.json is uploaded last, and a folder without it is no data set.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from rlhf_jax.data.records import (
    Demonstration,
    Prompt,
    Ranking,
    Record,
    Scored,
    Text,
    to_json,
)
from rlhf_jax.durable.files import all_files, in_bucket, local_copy, write_atomically
from rlhf_jax.errors import RecordError, UserError, require

VERSION = "1.0.0"
INFO = "dataset_info.json"
KINDS = {kind.__name__: kind for kind in (Text, Prompt, Demonstration, Ranking, Scored)}


def _features(kind: type[Record]) -> tfds.features.FeaturesDict:
    text = tfds.features.Text()
    if kind is Text:
        return tfds.features.FeaturesDict({"text": text})
    if kind is Prompt:
        return tfds.features.FeaturesDict({"prompt": text, "fields": text})
    if kind is Demonstration:
        spans = tfds.features.Tensor(shape=(None,), dtype=np.int32)  # start, stop, start, stop, ...
        return tfds.features.FeaturesDict(
            {"prompt": text, "response": text, "trained": spans, "labeler": text}
        )
    if kind is Scored:
        # A number would be stored in float32.
        return tfds.features.FeaturesDict(
            {"prompt": text, "response": text, "score": text, "labeler": text}
        )
    return tfds.features.FeaturesDict(
        {
            "prompt": text,
            "responses": tfds.features.Tensor(shape=(None,), dtype=np.str_),
            "ranks": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "ended": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
            "labeler": text,
        }
    )


def _example(record: Record) -> dict[str, Any]:
    """The values of `_features`."""
    if isinstance(record, Prompt):
        return {"prompt": record.prompt, "fields": json.dumps(record.fields)}
    if isinstance(record, Text):
        return to_json(record)
    fields = to_json(record) | {"labeler": record.labeler or ""}
    if isinstance(record, Demonstration):
        ends = [end for span in record.trained for end in span]
        return fields | {"trained": np.array(ends, np.int32)}
    if isinstance(record, Scored):
        return fields | {"score": repr(record.score)}
    return fields | {"ended": record.ended}


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The builder of data sets of all record types; records keep their order."""

    VERSION = tfds.core.Version(VERSION)
    url_infos: ClassVar[dict] = {}  # nothing to download, so no checksum files to look for

    def __init__(
        self,
        directory: str | os.PathLike,
        name: str,
        splits: Mapping[str, Sequence[Record]],
        kind: type[Record],
        fingerprint: str,
    ) -> None:
        self.name = name
        self._splits = splits
        self._kind = kind
        self._fingerprint = fingerprint
        super().__init__(data_dir=str(directory), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self._kind.__name__} records",
            features=_features(self._kind),
            metadata=tfds.core.MetadataDict(
                kind=self._kind.__name__, fingerprint=self._fingerprint
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {name: self._generate_examples(name) for name in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, record in enumerate(self._splits[split]):
            yield number, _example(record)


def _kind_of(splits: Mapping[str, Sequence[Record]]) -> type[Record]:
    require(bool(splits), "splits", splits, "at least one split")
    kinds = set()
    for split, records in splits.items():
        require(re.fullmatch(r"[a-z][a-z0-9_]*", split) is not None, "split", split, "a-z, 0-9, _")
        if not records:
            raise RecordError(f"split {split!r}: expected at least one record, got none")
        kinds |= {type(record) for record in records}
    names = sorted(kind.__name__ for kind in kinds)
    if len(kinds) > 1 or names[0] not in KINDS:
        raise RecordError(f"expected records of one kind, got {' and '.join(names)}")
    return KINDS[names[0]]


def _fingerprint(splits: Mapping[str, Sequence[Record]], kind: type[Record]) -> str:
    digest = hashlib.sha256(kind.__name__.encode())
    for split in sorted(splits):
        digest.update(f"\n{split}\n".encode())
        for record in splits[split]:
            digest.update(json.dumps(to_json(record)).encode() + b"\n")
    return digest.hexdigest()


def write_dataset(
    directory: str | os.PathLike, name: str, splits: Mapping[str, Sequence[Record]]
) -> epath.Path:
    """Writes splits of records of one kind and returns their folder.

    Writing the same records again changes nothing.

    Raises:
      RecordError: an empty split, or records of several kinds.
      UserError: a data set of this name holds other records.
      OSError: the disk is full.
    """
    require(re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None, "name", name, "a-z, 0-9, _")
    kind = _kind_of(splits)
    fingerprint = _fingerprint(splits, kind)
    folder = epath.Path(directory) / name / VERSION
    make = lambda place: RecordsBuilder(place, name, splits, kind, fingerprint)
    if in_bucket(folder) and not (folder / INFO).exists():
        with tempfile.TemporaryDirectory() as place:
            _prepare(make(place), folder)
            _upload(epath.Path(place) / name / VERSION, folder)
    elif not folder.exists():
        _prepare(make(directory), folder)
    if _open(folder).info.metadata["fingerprint"] != fingerprint:
        raise UserError(f"{folder}: holds other records; remove it or choose another name")
    return folder


def _prepare(builder: tfds.core.DatasetBuilder, folder: epath.Path) -> None:
    tfds.disable_progress_bar()
    try:
        # Another process may have written it first: `write_dataset` then compares the fingerprint.
        with contextlib.suppress(FileExistsError), contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except RuntimeError as error:  # ArrayRecord's writer raises it for errors of the system
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


def _upload(place: epath.Path, folder: epath.Path) -> None:
    for path in sorted(all_files(place), key=lambda path: path.name == INFO):
        write_atomically(folder / path.relative_to(place), path.read_bytes())


def _open(folder: epath.Path) -> tfds.core.DatasetBuilder:
    if not folder.is_dir() or (in_bucket(folder) and not (folder / INFO).exists()):
        raise UserError(f"{folder}: no such data set")
    try:
        mark = (folder / INFO).read_bytes() if in_bucket(folder) else b""
        builder = tfds.builder_from_directory(local_copy(folder, mark))
        complete = builder.info.metadata["kind"] in KINDS
    except Exception as error:  # protobuf, JSON and file errors of many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{folder}: is not a data set of this package: {reason}") from None
    if not complete:
        raise UserError(f"{folder}: is not a data set of this package")
    return builder


class RecordSource(Sequence):
    """Random access to the records of a split; it is also a Grain source."""

    def __init__(self, folder: epath.Path, split: str) -> None:
        builder = _open(folder)
        self._kind = KINDS[builder.info.metadata["kind"]]
        if split not in builder.info.splits:
            there = ", ".join(sorted(builder.info.splits))
            raise UserError(f"{folder}: has no split {split!r}, only {there}")
        self._where = f"{folder}[{split}]"
        try:
            self._source = builder.as_data_source(split)
            self._count = len(self._source)
        except Exception as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, reason: str) -> RecordError:
        reason = reason.strip().partition("\n")[0]
        return RecordError(f"{self._where}: damaged or incomplete: {reason}")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> Record:
        if not 0 <= i < self._count:
            raise IndexError(i)
        try:
            fields = self._source[i]
        except Exception as error:
            raise self._damaged(str(error)) from None
        if any(value is None for value in fields.values()):  # the file was truncated
            raise self._damaged(f"record {i} is missing")
        if self._kind is Ranking:
            responses = tuple(response.decode("utf-8") for response in fields["responses"])
            # Older data sets lack this field: they have no cut responses.
            ended = fields.get("ended", np.ones(len(responses), np.bool_)).tolist()
            prompt, ranks = fields["prompt"].decode("utf-8"), tuple(fields["ranks"])
            return Ranking(prompt, responses, ranks, ended, _labeler(fields))
        # Older data sets lack `trained`: no earlier turn is.
        ends = fields.pop("trained", np.zeros(0, np.int32)).reshape(-1, 2).tolist()
        texts = {name: value.decode("utf-8") for name, value in fields.items()}
        if self._kind is Prompt:  # older data sets lack `fields`
            return Prompt(texts["prompt"], json.loads(texts.get("fields", "{}")))
        if self._kind is Text:
            return Text(**texts)
        texts["labeler"] = _labeler(fields)
        if self._kind is Scored:
            return Scored(**texts | {"score": float(texts["score"])})
        return Demonstration(**texts, trained=ends)


def _labeler(fields: Mapping[str, Any]) -> str | None:
    """None: there is none; older data sets lack the field."""
    return fields.get("labeler", b"").decode("utf-8") or None


def read_dataset(directory: str | os.PathLike, name: str, split: str) -> RecordSource:
    """The records of one split, read from disk when they are accessed.

    Raises:
      UserError: no such data set or split.
      RecordError: its files are damaged.
    """
    return RecordSource(epath.Path(directory) / name / VERSION, split)
