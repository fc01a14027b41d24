"""Every file of a run in a bucket, which has no rename, no append and no folders."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from rlhf_jax.data.builder import INFO, read_dataset, write_dataset
from rlhf_jax.data.records import Prompt
from rlhf_jax.data.tokenizer import find_tokenizer, load_tokenizer
from rlhf_jax.data.tokenizer_training import train_sentencepiece
from rlhf_jax.durable import checkpoint, files, lock, manifest, model_files
from rlhf_jax.durable.batch_file import read_batch, write_batch
from rlhf_jax.durable.checkpoint import Checkpoints, restore
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.model_files import has_model, load_model, save_model
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs import doctor
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.metrics import SPEED, MetricsWriter, read_metrics
from tests import bucket
from tests.compiling import xla_flags
from tests.training.test_metrics import scalars_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server():
    with bucket.serve() as served:
        yield served
        assert served.unknown == []  # nothing was asked for that a bucket does not have


@pytest.fixture
def place(server, tmp_path):
    """A directory of its own in the bucket."""
    return epath.Path(f"gs://tests/{tmp_path.name}")


def _state(seed):
    return {"w": jax.random.normal(jax.random.key(seed), (40, 9)), "n": jnp.asarray(seed)}


def _same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def _save(place, *steps, keep=2):
    checkpoints = Checkpoints(place, keep=keep)
    for step in steps:
        checkpoints.save(step, _state(step), {"position": step}, {"total_steps": 5})
    checkpoints.close()


def test_a_file_is_written_and_read_by_its_name(place):
    files.write_atomically(place / "a" / "counts.json", b'{"one": 1}')
    assert read_json(str(place / "a" / "counts.json")) == {"one": 1}
    assert [path.name for path in files.entries(place)] == ["a"]
    assert list(files.all_files(place)) == [place / "a" / "counts.json"]
    assert files.entries(place / "none") == []
    files.remove(place / "a")
    files.remove(place / "a")
    assert files.entries(place) == []
    with pytest.raises(UserError, match=r"gs://.*/none\.json: cannot be read: \S"):
        read_json(place / "none.json")


def test_a_place_that_takes_no_file_is_refused_with_what_to_do(place, monkeypatch):
    files.writable_directory(str(place), "out")
    assert files.entries(place) == []
    with pytest.raises(ConfigError, match=r"^out = 's3://x/run': must be .*gs://"):
        files.writable_directory("s3://x/run", "out")
    monkeypatch.setenv(bucket.URL, "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^out = 'gs://.*\[gcs\]' and .*refused"):
        files.writable_directory(str(place), "out")


def test_checkpoints_come_back_and_the_last_are_kept(place):
    _save(place, 1, 3, 5)
    assert checkpoint.steps(place) == [3, 5]
    step, state, data, progress = restore(place, _state(0))
    assert (step, data, progress) == (5, {"position": 5}, {"total_steps": 5})
    assert _same(state, _state(5))
    assert _same(restore(place, _state(0), step=3)[1], _state(3))


def test_a_half_written_checkpoint_is_none_and_is_removed(place):
    """A kill before the manifest is there; and one while a checkpoint was removed."""
    _save(place, 3, 5)
    (place / "checkpoints" / "5" / manifest.NAME).unlink()
    assert checkpoint.steps(place) == [3]
    _save(place, 4)
    assert [path.name for path in files.entries(place / "checkpoints")] == ["3", "4"]


def test_a_checkpoint_is_removed_manifest_first(place, monkeypatch):
    _save(place, 3)

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint._remove(place / "checkpoints" / "3")
    assert checkpoint.steps(place) == [] and files.entries(place / "checkpoints" / "3")


def test_a_checkpoint_is_whole_only_when_all_of_it_is_there(place, server):
    """Its manifest names every object but Orbax's word of commit, and is written after them."""
    _save(place, 5)
    folder = place / "checkpoints" / "5"
    prefix = str(folder).removeprefix("gs://") + "/"
    times = {name.removeprefix(prefix): server.objects[name][1] for name in server.names(prefix)}
    content, wrong = manifest.read(folder)
    assert not wrong
    listed = content["files"]
    assert times.keys() - listed.keys() == {
        manifest.NAME, "commit_success.txt", "_CHECKPOINT_METADATA"}  # fmt: skip
    assert times[manifest.NAME] > max(times[name] for name in listed)


def test_damage_is_gone_around_and_removed(place, server, caplog):
    _save(place, 3, 5)
    name = max(server.names(f"{str(place).removeprefix('gs://')}/checkpoints/5/state"))
    content, generation = server.objects[name]
    server.objects[name] = content[:-1] + b"!", generation
    with caplog.at_level(logging.WARNING):
        step, state, _, _ = restore(place, _state(0))
    assert step == 3 and _same(state, _state(3))
    assert "checkpoints/5 is damaged: state/" in caplog.text
    checkpoints = Checkpoints(place, keep=2)
    checkpoints.set_aside(after=3)
    checkpoints.close()
    assert checkpoint.steps(place) == [3]
    assert [path.name for path in files.entries(place)] == ["checkpoints"]


SHAPE = TransformerConfig(vocab_size=8, layers=1, width=4, heads=1, context=8)


def _params(value):
    shapes = jax.eval_shape(lambda key: transformer.init(SHAPE, key), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), shapes)


def test_a_model_is_whole_when_its_last_file_is_there(place, server, monkeypatch):
    directory = place / "model"
    save_model(directory, SHAPE, _params(0.5), "policy", "0")
    shape, params = load_model(directory, "policy", "0")
    assert shape == SHAPE and _same(params, _params(0.5))
    prefix = str(directory).removeprefix("gs://") + "/"
    times = {name.removeprefix(prefix): server.objects[name][1] for name in server.names(prefix)}
    assert max(times, key=times.get) == "model.json"

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # anew: what was there is none from the first moment
        patch.setattr(model_files, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(directory, SHAPE, _params(0.25), "policy", "0")
    assert not has_model(directory)
    with monkeypatch.context() as patch:
        patch.setattr(model_files.manifest, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            save_model(directory, SHAPE, _params(0.25), "policy", "0")
    assert files.entries(directory / "params") and not has_model(directory)
    save_model(directory, SHAPE, _params(0.25), "policy", "0")
    assert _same(load_model(directory, "policy", "0")[1], _params(0.25))


def test_configs_and_batches(place):
    check_fingerprint(place, {"seed": 0})
    check_fingerprint(str(place), {"seed": 0})
    with pytest.raises(UserError, match=r"gs://.* belongs to a run with another config"):
        check_fingerprint(place, {"seed": 1})
    write_batch(place / "b.npz", {"tokens": np.arange(6).reshape(2, 3)}, {"step": 3})
    batch, about = read_batch(str(place / "b.npz"))
    assert batch["tokens"].tolist() == [[0, 1, 2], [3, 4, 5]] and about == {"step": 3}


def test_metrics_are_there_from_each_sync_on_and_a_resume_cuts_them(place):
    writer = MetricsWriter(place, 0)
    for step in (1, 2):
        writer.write(step, {"loss": step / 2}, {"seconds": 0.5})
    assert not (place / "metrics.jsonl").exists()
    writer.sync()
    assert read_metrics(place) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]
    writer.write(3, {"loss": 9.0}, {"seconds": 0.5})
    writer.close()
    assert [line["step"] for line in read_metrics(place, SPEED)] == [1, 2, 3]
    writer = MetricsWriter(place, 2)
    assert [line["step"] for line in read_metrics(place)] == [1, 2]
    writer.write(3, {"loss": 0.25}, {"seconds": 0.5})
    writer.close()
    assert read_metrics(place)[2:] == [{"step": 3, "loss": 0.25}]


def test_events_of_each_sync_are_an_object_and_none_is_twice(place, tmp_path):
    writer = MetricsWriter(place, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 2}, {})
        writer.sync()
    writer.close()
    for file in files.entries(place / "tensorboard"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert len(files.entries(place / "tensorboard")) == 3
    assert scalars_of(tmp_path) == [(1, "loss", 0.5), (2, "loss", 1.0), (3, "loss", 1.5)]


def test_data_sets_are_read_and_one_cut_short_is_none(place, server):
    records = [Prompt(f"prompt {i}") for i in range(7)]
    write_dataset(place, "prompts", {"train": records, "test": records[:2]})
    assert list(read_dataset(place, "prompts", "train")) == records
    write_dataset(place, "prompts", {"train": records, "test": records[:2]})
    folder = str(place / "prompts" / "1.0.0").removeprefix("gs://")
    times = {name: server.objects[name][1] for name in server.names(folder)}
    assert max(times, key=times.get) == f"{folder}/{INFO}"
    del server.objects[f"{folder}/{INFO}"]  # as a kill during the upload leaves it
    with pytest.raises(UserError, match="no such data set"):
        read_dataset(place, "prompts", "train")
    write_dataset(place, "prompts", {"train": records[:3]})
    assert list(read_dataset(place, "prompts", "train")) == records[:3]


def test_a_tokenizer(place):
    texts = [f"line {i} of the {word}" for i in range(60) for word in ("sea", "hill", "town")]
    written = train_sentencepiece(texts, 300, place / "tokenizer.model")
    found = load_tokenizer(find_tokenizer(place))
    assert found.fingerprint == written.fingerprint
    assert found.decode(found.encode("line 7")) == "line 7"


def test_doctor_reads_it(place):
    _save(place / "sft", 3, 5)
    check_fingerprint(place / "sft", {"seed": 0})
    with lock.lock(place):
        assert f"process {os.getpid()} on" in lock.holder(place)
        findings, damaged = doctor.examine(str(place))
    assert [f.row for f in findings] == [
        ("sft", "step 5 of 5", "5 ok, 3 ok", "nothing yet", "write its result")
    ]
    assert damaged == [] and findings[0].damaged == [] and lock.holder(place) is None


# The lock


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "SIGN", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 0.5)


def _other(place, number=1, host="elsewhere"):
    """A lock that another process wrote."""
    content = json.dumps({"process": number, "host": host, "id": "other"}).encode()
    (place / lock.NAME).write_bytes(content)


def test_one_process_holds_a_directory_and_lets_it_go(place, quick):
    with lock.lock(place):
        with lock.lock(str(place)):  # twice in one process is no conflict
            pass
        generation = lock._Object(place / lock.NAME).read()[1]
        time.sleep(0.4)
        assert lock._Object(place / lock.NAME).read()[1] != generation  # it gives signs
        assert json.loads((place / lock.NAME).read_bytes())["process"] == os.getpid()
    assert not (place / lock.NAME).exists()
    with lock.lock(place):
        pass


def test_a_second_process_is_refused_by_the_name_of_the_first(place, quick, monkeypatch):
    """At its first sign, long before it would count as dead."""
    monkeypatch.setattr(lock, "SILENCE", 20.0)
    _other(place, 12, "elsewhere")
    started, ended = time.monotonic(), threading.Event()

    def signs():
        while not ended.wait(0.1):
            _other(place, 12, "elsewhere")

    alive = threading.Thread(target=signs)
    alive.start()
    try:
        message = r"gs://.* in use by process 12 on elsewhere: wait"
        with pytest.raises(UserError, match=message), lock.lock(place):
            pass
        assert time.monotonic() - started < 10
    finally:
        ended.set()
        alive.join()
    assert json.loads((place / lock.NAME).read_bytes())["process"] == 12


def test_of_two_that_find_no_lock_one_gets_it(place, quick, monkeypatch):
    read = lock._Object.read

    def slow(self):
        found = read(self)
        if found[0] is None:
            _other(place, 12, "elsewhere")  # it was faster
        return found

    monkeypatch.setattr(lock._Object, "read", slow)
    with pytest.raises(UserError, match=r"in use by process 12 on elsewhere"), lock.lock(place):
        pass


def test_a_lock_without_signs_is_taken_over(place, quick, capsys):
    _other(place, 12, "elsewhere")
    started = time.monotonic()
    with lock.lock(place):
        assert time.monotonic() - started >= 0.5
        assert json.loads((place / lock.NAME).read_bytes())["process"] == os.getpid()
    assert "held by process 12 on elsewhere; waiting up to 0 s" in capsys.readouterr().out


def test_a_process_of_this_host_that_has_ended_holds_nothing(place):
    ended = subprocess.Popen(["true"])
    ended.wait()
    _other(place, ended.pid, socket.gethostname())
    assert lock.holder(place) is None
    started = time.monotonic()
    with lock.lock(place):
        assert time.monotonic() - started < lock.SIGN / 10


def test_a_process_of_this_host_that_runs_is_named(place):
    _other(place, os.getppid(), socket.gethostname())
    assert lock.holder(place) == f"process {os.getppid()} on {socket.gethostname()}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_who_lost_the_lock_ends(place, quick, monkeypatch, capsys):
    left = threading.Event()

    def end(code):
        assert code == 2
        left.set()
        raise SystemExit

    monkeypatch.setattr(lock.os, "_exit", end)
    with lock.lock(place):
        _other(place, 12, "elsewhere")
        assert left.wait(5)
    assert "was taken over by process 12 on elsewhere" in capsys.readouterr().err
    assert json.loads((place / lock.NAME).read_bytes())["process"] == 12  # theirs, not deleted


# A training there


def _train(directory, *kills):
    command = [sys.executable, "-m", "tests.training.small_training", str(directory), *kills]
    environment = os.environ | {"XLA_FLAGS": xla_flags()}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    ends = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ended")]
    assert ends == [[kill, "-9"] for kill in kills] + [["None", "0"]], done.stderr[-2000:]
    return read_json(epath.Path(directory) / "result.json")


def test_a_training_that_is_killed_ends_in_the_bits_of_one_on_a_disk(place, tmp_path):
    whole = _train(tmp_path / "whole")
    killed = _train(place, "step:3", "step:7", "while_writing:8")
    assert killed == whole
    metrics = (place / "metrics.jsonl").read_bytes()
    assert metrics == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [line["step"] for line in read_metrics(place, SPEED)] == list(range(1, 13))
    assert checkpoint.steps(place) == [12]
    assert [path.name for path in files.entries(place / "checkpoints")] == ["12"]
    assert not (place / lock.NAME).exists()


def _sft(out) -> subprocess.Popen:
    """The small run's SFT by the command line, as that run does it."""
    command = [sys.executable, "-m", "tests.bucket", "sft", "tests/small_run.py", "--out", str(out)]
    environment = os.environ | {"XLA_FLAGS": xla_flags()}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def _kill_at_first(process: subprocess.Popen, server, name: str) -> None:
    end = time.monotonic() + 300
    while name not in server.objects:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_run_is_killed_and_goes_on_to_the_lines_of_one_on_a_disk(place, server, small_run):
    name = str(place).removeprefix("gs://")
    _kill_at_first(_sft(place), server, f"{name}/sft/metrics.jsonl")
    assert not has_model(place / "sft" / "model")
    second = _sft(place)
    printed = second.communicate(timeout=300)[0]
    assert second.returncode == 0 and f"sft: {place}/sft\n" in printed, printed
    assert "sft: done" in printed and "pretrain: done" not in printed
    for stage in ("pretrain", "sft"):
        lines = (place / stage / "metrics.jsonl").read_bytes()
        assert lines == (small_run.directory / stage / "metrics.jsonl").read_bytes()
        assert {path.name for path in files.entries(place / stage)} == {
            "checkpoints", "config.json", "experiment.json", "metrics.jsonl", "model",
            "speed.jsonl", "tensorboard"}  # fmt: skip
    data, local = {path.name for path in files.entries(place / "data")}, {"lock", "downloads"}
    assert data == {path.name for path in (small_run.directory / "data").iterdir()} - local
    assert {path.name for path in files.entries(place)} == {"data", "pretrain", "sft"}
    findings, damaged = doctor.examine(place)
    assert damaged == [] and [f.row[-1] for f in findings] == ["read it", "read it"]
