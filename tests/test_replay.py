"""A run that stopped over sick numbers: its batch replayed, its directory examined."""

import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax import cli
from rlhf_jax.data.records import Ranking
from rlhf_jax.durable.lock import lock
from rlhf_jax.durable.model_files import save_model
from rlhf_jax.errors import UserError
from rlhf_jax.models import transformer
from rlhf_jax.runs import doctor
from rlhf_jax.runs.origin import Origin
from rlhf_jax.runs.replay import replay
from rlhf_jax.runs.run import Run
from rlhf_jax.training.loop import SickError
from tests import small_run
from tests.small_run import config

OPTIONS = ("--loop.keep", "2", "--loop.max-skipped", "2", "--sft.epochs", "10", "--insist")
SICK = "sft/sick/step_5.npz"


def as_run(directory, epochs=10.0):
    sft = dataclasses.replace(config.stages["sft"], epochs=epochs)
    return dataclasses.replace(config.with_stages(sft=sft), out=str(directory))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A finished base model, and an SFT stage, started by the command line, whose fourth and fifth
    batch are sick; read only."""
    directory = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        run = Run(as_run(directory))
        params = transformer.init(config.model, jax.random.key(0))
        place = run.stage_directory("pretrain") / "model"
        save_model(place, config.model, params, "policy", run.tokenizer.fingerprint)
        _poison(patch)
        with pytest.raises(SickError), pytest.warns(RuntimeWarning):
            cli.command(["sft", small_run.__file__, "--out", str(directory), *OPTIONS])
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
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return ended.value.code or 0, out, err


def test_a_stage_keeps_the_file_and_the_options_that_it_was_started_with(stopped):
    found = Origin.read(stopped / "sft")
    assert found == Origin(small_run.__file__, ("--out", str(stopped), *OPTIONS))
    again = dataclasses.replace(found.config(), loop=config.loop)
    # Read once more, the file's classes are the same: of the package.
    assert again == as_run(stopped)


def test_replay_finds_what_was_sick(copy, monkeypatch, capsys):
    """In a directory that was moved, by the experiment file and the options of its start."""
    code, out, _ = command(monkeypatch, capsys, "replay", copy / SICK)
    assert code == 0
    assert re.search(r"^  loss +nan   <- not finite$", out, re.MULTILINE)
    assert re.search(r"^  skipped_steps +1$", out, re.MULTILINE)
    assert re.search(r"^  learning_rate +0\.01$", out, re.MULTILINE)
    assert re.search(r"^  batch/weights: \d+ of \d+ numbers are not finite$", out, re.MULTILINE)
    assert out.count("not finite") == 3  # loss, gradient norm, weights


GONE = {
    "sft/experiment.json": "sft was not started from the command line: give the config, as in repl",
    "sft/config.json": "config.json: cannot be read",
    "sft/sick/checkpoints": "sft/sick: no checkpoint",
    "pretrain/model": ": pretrain is not finished, sft needs it",
}


@pytest.mark.parametrize("gone", GONE)
def test_replay_names_what_it_lacks(copy, gone, monkeypatch, capsys):
    (copy / gone).unlink() if gone.endswith("json") else shutil.rmtree(copy / gone)
    code, _, err = command(monkeypatch, capsys, "replay", copy / SICK)
    assert code == 2 and err.startswith("rlhf-jax: ") and err.count("\n") == 1
    assert GONE[gone] in err


def test_a_run_that_python_made_is_replayed_with_its_config(copy):
    (copy / "sft/experiment.json").unlink()
    metrics, lines = replay(copy / SICK, as_run("elsewhere"))
    assert np.isnan(metrics["loss"]) and len(lines) == 1


def test_an_experiment_file_that_moved_is_told_and_given(copy, monkeypatch, capsys, tmp_path):
    place = copy / "sft/experiment.json"
    place.write_text(place.read_text().replace(small_run.__file__, "/gone/small_run.py"))
    code, _, err = command(monkeypatch, capsys, "replay", copy / SICK)
    assert (code, err.count("\n")) == (2, 1)
    assert err == (
        f"rlhf-jax: {copy / 'sft'} was made with /gone/small_run.py, which is not there any more: "
        f"give its new place, rlhf-jax replay {copy / SICK} --experiment FILE\n"
    )
    moved = shutil.copy(small_run.__file__, tmp_path / "moved.py")
    arguments = ("replay", copy / SICK, "--experiment", moved)
    code, out, _ = command(monkeypatch, capsys, *arguments)
    assert code == 0 and "<- not finite" in out


def test_a_config_other_than_the_stage_s_is_refused_by_what_differs(copy, monkeypatch, capsys):
    with pytest.raises(UserError, match=r"with:\n  stages.sft.epochs: 10.0 there, 9.0 now$"):
        replay(copy / SICK, as_run("elsewhere", epochs=9.0))
    config_json, before = copy / "sft/config.json", (copy / "sft/config.json").read_text()
    place = copy / "sft/experiment.json"
    place.write_text(place.read_text().replace('"10"', '"9"'))
    code, _, err = command(monkeypatch, capsys, "replay", copy / SICK)
    assert code == 2 and err.endswith("  stages.sft.epochs: 10.0 there, 9.0 now\n")
    assert config_json.read_text() == before


def test_no_class_that_a_run_s_json_names_is_imported(copy):
    file = copy / "sft/config.json"
    file.write_text(file.read_text().replace("rlhf_jax.stages.sft:SFT", "nowhere.module:SFT"))
    with pytest.raises(UserError, match=r"stages\.sft\.class: nowhere\.module:SFT there"):
        replay(copy / SICK)


def test_a_batch_of_no_stage_of_the_experiment_is_refused(copy):
    (copy / "sft").rename(copy / "other")
    with pytest.raises(UserError, match=r"expected a batch of a stage of the experiment 'small'"):
        replay(copy / "other/sick/step_5.npz", config)
    (copy / "other").rename(copy / "sft")
    left = {name: stage for name, stage in config.stages.items() if name == "pretrain"}
    with pytest.raises(UserError, match=r"\(pretrain\) in its directory, got one of sft$"):
        replay(copy / SICK, dataclasses.replace(config, stages=left, evaluators=()))


@pytest.mark.parametrize("content", ["{", "[]", '{"file": 3, "options": []}', '{"file": "a.py"}',
                                     '{"file": "a.py", "options": [1]}'])  # fmt: skip
def test_a_damaged_origin_is_named(copy, content):
    (copy / "sft/experiment.json").write_text(content)
    with pytest.raises(UserError, match=r"sft/experiment\.json: "):
        replay(copy / SICK)


def test_doctor_finds_a_healthy_run_healthy(stopped, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "doctor", stopped)
    assert code == 0 and out.endswith("nothing is damaged\n")
    rows = [re.split(r"  +", line) for line in out.splitlines()[:3]]
    steps = json.loads((stopped / "sft/checkpoints/5/progress/metadata").read_text())["total_steps"]
    assert rows[0] == ["stage", "progress", "checkpoints", "result", "a resume would"]
    assert ["pretrain", "nothing", "none", "a model, ok", "read it"] in rows
    progress = json.loads((stopped / "sft/checkpoints/4/progress/metadata").read_text())
    kept = f"5 ok, 4 ok (best: loss {progress['mean']:.4g})"
    assert ["sft", f"step 5 of {steps}", kept, "nothing yet", "go on from step 5"] in rows


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
    "sft/experiment.json": "experiment.json: cannot be read",
    "data/counts.json": "counts.json: cannot be read",
    "data/tokenizer.model": "tokenizer.model: expected a SentencePiece model",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_doctor_looks_at_every_kind_of_file(copy, name):
    (copy / name).write_text("{\n")
    findings, damaged = doctor.examine(copy)
    told = damaged + [line for finding in findings for line in finding.damaged]
    assert any(DAMAGE[name] in line for line in told), told


@pytest.fixture
def ranked(copy):
    """Three rankings, as a stage ends with them, in the run."""
    records = Run(as_run(copy)).collected("feedback")
    made = [Ranking(f"p{i}", ("a", "b"), (0, 1)) for i in range(3)]
    records.write("rankings", {"train": made[1:], "valid": made[:1]})
    return copy / "feedback"


def test_doctor_tells_the_rankings_that_a_stage_ends_with(ranked, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "doctor", ranked.parent)
    assert code == 0
    row = ["feedback", "nothing", "none", "2 rankings.train, 1 rankings.valid, ok", "read it"]
    assert row in [re.split(r"  +", line) for line in out.splitlines()]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


SPOILT = {
    "a file of records": (lambda d: _cut(next((d / "records").rglob("*train*array_record*"))),
                          r"damaged or incomplete"),
    "another count": (lambda d: (d / "records.json").write_text('{"rankings": {"train": 7}}'),
                      r"feedback/records: 2 rankings.train, 7 were written"),
    "no counts": (lambda d: (d / "records.json").write_text("[3]"), r"expected counts of records"),
    "no JSON": (lambda d: (d / "records.json").write_text("{"), r"records.json: cannot be read"),
    "no records": (lambda d: shutil.rmtree(d / "records"), r"no such data set"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_doctor_tells_rankings_that_are_damaged(ranked, name):
    spoil, told = SPOILT[name]
    spoil(ranked)
    finding = {finding.row[0]: finding for finding in doctor.examine(ranked.parent)[0]}["feedback"]
    assert any(re.search(told, line) for line in finding.damaged), finding
    assert finding.row[3].endswith("DAMAGED")
    records = f"{ranked / 'records.json'}, {ranked / 'records'}"
    assert finding.row[4] == f"refuse until what is damaged is removed: {records}"


def test_doctor_reads_what_the_host_wrote_down(ranked):
    (ranked / "host/outputs").mkdir(parents=True)
    (ranked / "host/outputs/1.json").write_text("[")
    damaged = [line for f in doctor.examine(ranked.parent)[0] for line in f.damaged]
    assert [line for line in damaged if "host/outputs/1.json: cannot be read" in line]


def test_doctor_tells_who_holds_a_run(copy, monkeypatch, capsys):
    with lock(copy):
        code, out, _ = command(monkeypatch, capsys, "doctor", copy)
    assert code == 0 and f"in use: {copy} by process " in out


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("replay",), ("doctor", "--all"), ("replay", "--experiment", "x.py")]
)
def test_doctor_and_replay_want_a_place(monkeypatch, capsys, arguments):
    code, _, err = command(monkeypatch, capsys, *arguments)
    assert code == 2 and f"rlhf-jax: {arguments[0]} needs" in err


def test_replay_takes_the_options_of_the_start_alone(monkeypatch, capsys):
    code, _, err = command(monkeypatch, capsys, "replay", "x.npz", "--seed", "1")
    assert (code, err) == (2, "rlhf-jax: --seed: no such option; options: --experiment\n")


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
        run.model("pretrain")
