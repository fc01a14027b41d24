"""A file is whole or as it was."""

import os
import stat

import pytest

from rlhf_jax.durable import files
from rlhf_jax.durable.files import write_atomically


def test_a_file_is_replaced_as_a_whole_and_may_be_read_by_all(tmp_path):
    path = tmp_path / "new" / "counts.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two\n")
    assert path.read_bytes() == b"two\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["counts.json"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "counts.json"
    write_atomically(path, b"one")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["counts.json"]


def test_the_content_is_on_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        fsync(handle)

    def note_replace(source, target):
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", note_fsync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    write_atomically(tmp_path / "folder" / "counts.json", b"one")
    assert done == ["content", "replace", "folder"]
