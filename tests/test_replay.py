"""A run that stopped over sick numbers: its batch replayed, its directory examined."""

import dataclasses
import io
import json
import re
import shutil

import jax
import numpy as np
import pytest

from rlhf_jax import cli, doctor
from rlhf_jax.durable.lock import lock
from rlhf_jax.durable.model_files import save_model
from rlhf_jax.errors import UserError
from rlhf_jax.models import transformer
from rlhf_jax.run import Run
from rlhf_jax.training.loop import LoopConfig, SickError
from tests.small_run import config


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A finished base model, and an SFT stage whose fourth and fifth batch are sick; read only."""
    directory = tmp_path_factory.mktemp("run")
    experiment = dataclasses.replace(
        config,
        loop=LoopConfig(checkpoint_every=2, keep=2, max_skipped=2),
        sft=dataclasses.replace(config.sft, epochs=10.0),
        out=str(directory),
    )
    with pytest.MonkeyPatch.context() as patch:
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        run = Run(experiment)
        params = transformer.init(experiment.model, jax.random.key(0))
        place = run.stage_directory("pretrain") / "model"
        save_model(place, experiment.model, params, "policy", run.tokenizer.fingerprint)
        _poison(patch)
        with pytest.raises(SickError), pytest.warns(RuntimeWarning):
            run.finish("sft")
        jax.config.update("jax_disable_most_optimizations", before)
    return directory


def _poison(patch):
    """Weights of the fourth and fifth batch of demonstrations are not numbers."""
    from rlhf_jax.data.batches import Batches

    plain, count = Batches.__next__, iter(range(1, 1000))

    def poisoned(self):
        batch = dict(plain(self))
        if next(count) in (4, 5):
            batch["weights"] = np.where(batch["weights"] > 0, np.nan, 0).astype(np.float32)
        return batch

    patch.setattr(Batches, "__next__", poisoned)


@pytest.fixture
def copy(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["rlhf-jax", *map(str, arguments)])
    monkeypatch.setattr(cli, "keep_pages", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return ended.value.code or 0, out, err


def test_replay_finds_what_was_sick(copy, monkeypatch, capsys):
    """In a directory that was moved, by its saved config alone."""
    code, out, _ = command(monkeypatch, capsys, "replay", copy / "sft" / "sick" / "step_5.npz")
    assert code == 0
    assert re.search(r"^  loss +nan   <- not finite$", out, re.MULTILINE)
    assert re.search(r"^  skipped_steps +1$", out, re.MULTILINE)
    assert re.search(r"^  learning_rate +0\.01$", out, re.MULTILINE)
    assert re.search(r"^  batch/weights: \d+ of \d+ numbers are not finite$", out, re.MULTILINE)
    assert out.count("not finite") == 3  # loss, gradient norm, weights


@pytest.mark.parametrize("gone", ["sft/experiment.json", "sft/sick/checkpoints", "pretrain/model"])
def test_replay_names_what_it_lacks(copy, gone, monkeypatch, capsys):
    (copy / gone).unlink() if gone.endswith("json") else shutil.rmtree(copy / gone)
    code, _, err = command(monkeypatch, capsys, "replay", copy / "sft" / "sick" / "step_5.npz")
    assert code == 2 and err.startswith("rlhf-jax: ") and err.count("\n") == 1


def test_doctor_finds_a_healthy_run_healthy(stopped, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "doctor", stopped)
    assert code == 0 and out.endswith("nothing is damaged\n")
    rows = [re.split(r"  +", line) for line in out.splitlines()[:3]]
    steps = json.loads((stopped / "sft/checkpoints/5/progress/metadata").read_text())["total_steps"]
    assert rows[0] == ["stage", "stands at", "checkpoints", "model", "a resume would"]
    assert ["pretrain", "nothing", "none", "ok", "read the model"] in rows
    progress = json.loads((stopped / "sft/checkpoints/4/progress/metadata").read_text())
    kept = f"5 ok, 4 ok (best: loss {progress['mean']:.4g})"
    assert ["sft", f"step 5 of {steps}", kept, "none", "go on from step 5"] in rows


def test_doctor_tells_damage_and_what_a_resume_makes_of_it(copy, monkeypatch, capsys):
    file = copy / "sft" / "checkpoints" / "5" / "data" / "metadata"
    file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
    code, out, _ = command(monkeypatch, capsys, "doctor", copy / "sft")
    assert code == 1
    assert "5 DAMAGED, 4 ok" in out and "go on from step 4" in out
    assert f"damaged: {file.parents[1]}: data/metadata has changed" in out


DAMAGE = {
    "pretrain/model/model.json": "pretrain/model: model.json has",
    "sft/metrics.jsonl": "metrics.jsonl:1: is damaged",
    "sft/config.json": "config.json: cannot be read",
    "data/counts.json": "counts.json: cannot be read",
    "data/tokenizer.model": "tokenizer.model: expected a SentencePiece model",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_doctor_looks_at_every_kind_of_file(copy, name):
    (copy / name).write_text("{\n")
    findings, damaged = doctor.examine(copy)
    told = damaged + [line for finding in findings for line in finding.damaged]
    assert any(DAMAGE[name] in line for line in told), told


def test_doctor_tells_who_holds_a_run(copy, monkeypatch, capsys):
    with lock(copy):
        code, out, _ = command(monkeypatch, capsys, "doctor", copy)
    assert code == 0 and f"in use: {copy} by process " in out


@pytest.mark.parametrize("arguments", [("doctor",), ("replay",), ("doctor", "--all")])
def test_doctor_and_replay_want_a_place(monkeypatch, capsys, arguments):
    code, _, err = command(monkeypatch, capsys, *arguments)
    assert code == 2 and f"rlhf-jax {arguments[0]} needs" in err


def test_doctor_of_another_directory(tmp_path):
    with pytest.raises(UserError, match="no stage of a run in it"):
        doctor.examine(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        doctor.examine(tmp_path / "none")


def test_a_damaged_model_is_refused_by_name(copy):
    file = max((copy / "pretrain/model").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    run = Run(dataclasses.replace(config, out=str(copy)))
    with pytest.raises(UserError, match=r"pretrain/model is damaged: .* has changed since"):
        run._load(copy / "pretrain/model", "policy", config.model, "model")
