"""What happens to a checkpoint on disk is found, named, and gone around."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.durable import checkpoint, manifest
from rlhf_jax.durable.checkpoint import Checkpoints, DamagedError, restore, restore_subtree
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.model_files import has_model, save_model
from rlhf_jax.errors import UserError
from rlhf_jax.models.config import TransformerConfig


def _state(seed=0):
    return {
        "w": jax.random.normal(jax.random.key(seed), (40, 9)),
        "n": jnp.asarray(seed),
        "key": jax.random.key(seed),
    }


def _same(a, b) -> bool:
    raw = lambda x: np.asarray(jax.random.key_data(x) if x.dtype == a["key"].dtype else x)
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: (raw(x) == raw(y)).all(), a, b)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 3 and 5 of 5; read only."""
    directory = tmp_path_factory.mktemp("stage")
    check_fingerprint(directory, {"seed": 0})
    checkpoints = Checkpoints(directory, keep=2)
    for step in (3, 5):
        checkpoints.save(step, _state(step), {"position": step}, {"total_steps": 5})
    checkpoints.close()
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "stage")


def _files(directory, step=5):
    root = directory / "checkpoints" / str(step)
    return [p for p in sorted(root.rglob("*")) if p.is_file()]


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path, bit=None):
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


DAMAGE = {"cut": _cut, "flipped": _flip, "gone": lambda path: path.unlink()}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_named_and_the_one_before_is_used(copy, caplog, how):
    path = max(_files(copy), key=lambda p: p.stat().st_size if "/state/" in str(p) else 0)
    DAMAGE[how](path)
    with caplog.at_level(logging.WARNING):
        step, state, data, _ = restore(copy, _state())
    assert (step, data) == (3, {"position": 3}) and _same(state, _state(3))
    told = " ".join(caplog.messages)
    assert f"checkpoints/5 is damaged: {path.relative_to(copy / 'checkpoints' / '5')}" in told
    assert "going on from the checkpoint of step 3 instead" in told
    with pytest.raises(DamagedError, match="checkpoints/5 is damaged"):
        restore(copy, _state(), step=5)
    with pytest.raises(checkpoint.CheckpointError, match="is at step 3 of 5"):
        restore_subtree(copy, {"w": _state()["w"]})


def test_only_where_none_is_left_it_is_an_error_that_names_each(copy):
    for step in (3, 5):
        _cut(copy / "checkpoints" / str(step) / "progress" / "metadata")
    with pytest.raises(DamagedError) as error:
        restore(copy, _state())
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and "no other checkpoint is left" in lines[2]
    for line, step in zip(lines, (5, 3), strict=False):
        assert f"checkpoints/{step} is damaged: progress/metadata has" in line


def test_a_misfit_is_no_damage(copy):
    with pytest.raises(checkpoint.CheckpointError, match="does not fit") as error:
        restore(copy, _state() | {"w": jnp.zeros((4, 9))})
    assert not isinstance(error.value, DamagedError)


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_flipped_bit_in_any_file_is_found_or_harmless(copy, place):
    """One bit of each file at a time: 3 places x 8 bits; the note counts what was found."""
    found = harmless = 0
    for path in _files(copy):
        whole = path.read_bytes()
        byte = {"first": 0, "middle": len(whole) // 2, "last": len(whole) - 1}[place]
        for bit in range(8):
            _flip(path, byte * 8 + bit)
            if manifest.problems(copy / "checkpoints" / "5"):
                found += 1
            else:
                assert _same(restore(copy, _state(), step=5)[1], _state(5)), path
                harmless += 1
            path.write_bytes(whole)
    assert found > 8 * len(_files(copy)) - 20 and found + harmless == 8 * len(_files(copy))


def test_what_was_damaged_is_set_aside_before_its_step_is_saved_again(copy):
    _flip(_files(copy)[-1])
    checkpoints = Checkpoints(copy, keep=2)
    checkpoints.set_aside(after=3)
    checkpoints.save(5, _state(55), {}, {})
    checkpoints.close()
    assert _same(restore(copy, _state(), step=5)[1], _state(55))
    assert (copy / "damaged" / "5" / manifest.NAME).is_file()


def test_the_manifest_holds_versions_and_the_hash_of_the_config(saved, copy, caplog):
    content, wrong = manifest.read(saved / "checkpoints" / "5")
    assert not wrong and content["step"] == 5 and len(content["config"]) == 64
    assert content["versions"]["jax"] == jax.__version__
    folder = copy / "checkpoints" / "5"
    content["versions"]["jax"] = "0.1"
    del content["files"]
    about = {"step": 5, "config": content["config"]}
    real = manifest.versions
    manifest.versions = lambda: real() | {"jax": "0.1"}
    try:
        manifest.write(folder, about)
    finally:
        manifest.versions = real
    assert restore(copy, _state())[0] == 5
    told = f"jax 0.1 (now {jax.__version__}): results may differ in the last bits"
    assert told in caplog.text


def _as_process(monkeypatch, index, count, lines_elsewhere):
    monkeypatch.setattr(manifest.jax, "process_index", lambda: index)
    monkeypatch.setattr(manifest.jax, "process_count", lambda: count)
    monkeypatch.setattr(manifest.processes, "total", lambda number: number + lines_elsewhere)


def test_processes_share_the_files_and_what_one_finds_all_are_told(copy, monkeypatch):
    folder, read = copy / "checkpoints" / "5", []
    describe = manifest._describe
    monkeypatch.setattr(manifest, "_describe", lambda path: read.append(path) or describe(path))
    shares = []
    for index in range(3):
        with monkeypatch.context() as patch:
            _as_process(patch, index, 3, lines_elsewhere=0)
            assert manifest.problems_of_all(folder) == []
        shares.append(read.copy())
        read.clear()
    files = manifest.read(folder)[0]["files"]
    assert sorted(str(p.relative_to(folder)) for share in shares for p in share) == sorted(files)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with monkeypatch.context() as patch:
        _as_process(patch, 0, 3, lines_elsewhere=1)
        assert manifest.problems_of_all(folder) == ["another process cannot read all of it"]
        with pytest.raises(DamagedError, match="5 is damaged: another process cannot read"):
            restore(copy, _state(), step=5)


@pytest.mark.parametrize("name", ["../3/data/metadata", "/etc/hostname", "data/../../3/state"])
def test_a_manifest_that_leads_out_of_its_folder_is_none(copy, name):
    folder = copy / "checkpoints" / "5"
    content, _ = manifest.read(folder)
    content["files"][name] = {"bytes": 1, "sha256": "0"}
    content["sha256"] = manifest._digest(content)
    (folder / manifest.NAME).write_text(json.dumps(content))
    assert manifest.problems(folder) == ["manifest.json is not a manifest"]


def test_a_damaged_config_is_told_in_a_line(copy):
    (copy / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"config.json: cannot be read: .*; remove it") as error:
        check_fingerprint(copy, {"seed": 0})
    assert "\n" not in str(error.value)


def test_a_save_that_fails_leaves_the_last_good_one(copy, monkeypatch):
    checkpoints = Checkpoints(copy, keep=1)

    def full(folder, about, later=None):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        checkpoints.save(7, _state(7), {}, {})
        with pytest.raises(checkpoint.CheckpointError, match="no space left on the disk") as error:
            checkpoints.wait()
    assert "the last good one is of step 5" in str(error.value)
    checkpoints.close()
    assert checkpoint.steps(copy) == [5] and restore(copy, _state())[0] == 5


def test_a_model_that_does_not_fit_on_the_disk_is_told_in_a_line(tmp_path, monkeypatch):
    def full(folder, about, later=None):
        raise OSError(28, "No space left on device")

    shape = TransformerConfig(vocab_size=8, layers=1, width=4, heads=1, context=8)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        with pytest.raises(UserError, match=r"model: cannot be written \(no space left on") as told:
            save_model(tmp_path / "model", shape, {"w": jnp.ones(4)}, "policy", "0")
    assert "\n" not in str(told.value) and not has_model(tmp_path / "model")
    save_model(tmp_path / "model", shape, {"w": jnp.ones(4)}, "policy", "0")
    assert has_model(tmp_path / "model")


def test_damage_and_none_before_it_never_trains_from_the_start_in_silence(copy):
    shutil.rmtree(copy / "checkpoints" / "3")
    _cut(_files(copy)[-1])
    with pytest.raises(DamagedError, match="remove the directory to start the stage again"):
        restore(copy, _state())
