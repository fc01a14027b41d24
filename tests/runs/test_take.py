"""Stages taken from another run: what is taken, what not and why, and who sees it."""

import dataclasses
import json
import re
import shutil
from types import SimpleNamespace

import pytest

from rlhf_jax import cli
from rlhf_jax.durable.model_files import load_model
from rlhf_jax.errors import UserError
from rlhf_jax.runs import doctor, report
from rlhf_jax.runs.run import Run
from rlhf_jax.runs.take import take_from
from tests import small_run as small
from tests.chain import same
from tests.observed import host

STAGES = ("pretrain", "sft", "feedback", "reward", "ppo")


@pytest.fixture
def there(small_run):
    return small_run.directory


def changed(folder, **stages):
    """The small experiment in a directory of its own, with changed fields of stages."""
    made = {
        name: dataclasses.replace(small.config.stages[name], **fields)
        for name, fields in stages.items()
    }
    return dataclasses.replace(small.config, out=str(folder)).with_stages(**made)


def kept(folder) -> dict:
    """Every file of a run with its content, but for locks."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_what_is_equal_is_taken_and_what_differs_is_told(there, tmp_path, capsys):
    config, before = changed(tmp_path, reward={"batch_size": 8}), kept(there)
    take_from(config, there, STAGES)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"pretrain, sft, feedback: taken from {there}"
    assert others == [
        f"reward, ppo: not taken from {there}, each has another config:",
        "  stages.reward.batch_size: 6 there, 8 now",
    ]
    assert sorted(d.name for d in tmp_path.iterdir() if d.is_dir()) == [
        "data", "feedback", "pretrain", "sft",
    ]  # fmt: skip
    run = Run(config)
    assert run.left(STAGES) == ["reward", "ppo"]
    for stage in ("pretrain", "sft"):
        run.finish(stage)
        known = there / stage / "model", "policy", run.tokenizer.fingerprint
        assert same(host(run.model(stage)), host(load_model(*known)[1]))
    run.finish("feedback")
    for split in ("train", "valid"):
        one = run.records("rankings", split, "feedback")
        assert list(one) == list(Run(small_in(there)).records("rankings", split, "feedback"))
    run.check(STAGES)  # which counts what each stage leaves out: of this run, not of the other
    counted = run.corpora.counts["left_out"].keys()
    assert {"reward", "ppo"} <= counted and not {"pretrain", "sft", "dpo"} & counted
    assert kept(there) == before


def small_in(folder):
    return dataclasses.replace(small.config, out=str(folder))


def test_a_second_call_takes_nothing_twice_and_a_third_run_reads_the_first(there, tmp_path, capsys):
    config = changed(tmp_path / "second", reward={"epochs": 2.0})
    take_from(config, there, STAGES)
    before = kept(tmp_path / "second")
    capsys.readouterr()
    take_from(config, there, STAGES)
    assert "taken from" not in capsys.readouterr().out.splitlines()[0].replace("not taken from", "")
    assert kept(tmp_path / "second") == before
    third = changed(tmp_path / "third", reward={"epochs": 3.0})
    take_from(third, tmp_path / "second", STAGES)
    for stage in ("data", "pretrain", "feedback"):
        link = json.loads((tmp_path / "third" / stage / "from.json").read_text())
        assert link["directory"] == str(there / stage)
    assert third.directory_of("sft") == there / "sft"
    assert Run(third).left(STAGES) == ["reward", "ppo"]


def test_a_stage_that_has_begun_here_stays(there, tmp_path, capsys):
    config = changed(tmp_path)
    (tmp_path / "sft").mkdir()
    shutil.copy(there / "sft" / "config.json", tmp_path / "sft")
    take_from(config, there, STAGES)
    assert capsys.readouterr().out == f"pretrain, feedback, reward, ppo: taken from {there}\n"
    assert config.directory_of("sft") == tmp_path / "sft"


def test_a_stage_that_the_other_run_does_not_have_is_trained_here(there, tmp_path, capsys):
    config = changed(tmp_path)
    config = config.with_stages(again=config.stages["reward"], more=config.stages["reward"])
    take_from(config, there, ["pretrain", "again"])
    assert capsys.readouterr().out.splitlines() == [
        f"pretrain: taken from {there}",
        f"again is not in {there} and is trained here",
    ]
    take_from(config, there, ["pretrain", "again", "more"])
    told = f"again, more are not in {there} and are trained here\n"
    assert capsys.readouterr().out == told
    shutil.copytree(there / "reward", tmp_path / "more")
    take_from(config, there, ["pretrain", "again", "more"])
    assert capsys.readouterr().out == f"again is not in {there} and is trained here\n"


def test_the_time_of_a_stage_is_without_that_of_what_it_builds_on(
    there, tmp_path, capsys, monkeypatch
):
    config, now = changed(tmp_path), [0.0]
    take_from(config, there, [])
    monkeypatch.setattr("rlhf_jax.runs.run.time", SimpleNamespace(monotonic=lambda: now[0]))
    spend = {"pretrain": 7.0, "sft": 5.0}
    monkeypatch.setattr(Run, "_run", lambda run, stage: now.append(now.pop() + spend[stage]))
    Run(config).finish("sft")
    told = re.findall(r"(\w+): done, (\d+) s", capsys.readouterr().out)
    assert told == [("pretrain", "7"), ("sft", "5")]


def test_the_whole_of_a_run_without_what_is_not_asked(there, tmp_path):
    config = changed(tmp_path)
    take_from(config, there, ["pretrain", "prompted", "sft"])
    assert not (tmp_path / "prompted").exists() and not (tmp_path / "feedback").exists()
    assert config.directory_of("prompted") == there / "pretrain"
    assert Run(config).finished("prompted")


def refused(*arguments) -> str:
    with pytest.raises(UserError) as told:
        take_from(*arguments)
    return str(told.value)


def test_where_nothing_can_be_taken_is_refused_and_nothing_is_written(there, tmp_path):
    out = tmp_path / "out"
    assert refused(changed(out), tmp_path / "no", STAGES) == (
        f"{tmp_path / 'no'}: holds no run to take stages from"
    )
    assert refused(changed(there), there, STAGES).startswith(f"{there} is the run's own directory")
    told = refused(dataclasses.replace(changed(out), seed=5), there, STAGES)
    assert told.splitlines() == [
        f"nothing can be taken from {there}, as its data were made with another config:",
        "  seed: 1 there, 5 now",
    ]
    told = refused(changed(out, pretrain={"epochs": 2.0}), there, ["pretrain", "sft"])
    assert told.splitlines() == [
        f"nothing can be taken from {there}: pretrain, sft: not taken from {there}, each has "
        "another config:",
        "  stages.pretrain.epochs: 0.035 there, 2.0 now",
    ]
    part = tmp_path / "part"
    shutil.copytree(there / "data", part / "data")
    told = refused(changed(out), part, ["pretrain"])
    assert told.endswith(f"pretrain: not taken from {part}, it is not there")
    (part / "pretrain").mkdir()
    told = refused(changed(out), part, ["pretrain"])
    assert told.endswith(f"pretrain: not taken from {part}, it has not finished there")
    assert not out.exists()


def test_records_of_other_files_are_refused(there, tmp_path):
    """Their config may be equal: of files the digests are the identity."""
    part = tmp_path / "part"
    shutil.copytree(there, part, ignore=shutil.ignore_patterns("checkpoints"))
    written = {"folder": "/data/one", "files": {"text.train.jsonl": "abc" * 20}}
    (part / "data" / "sources.json").write_text(json.dumps(written))
    own = tmp_path / "own"
    (own / "data").mkdir(parents=True)
    written["files"]["text.train.jsonl"] = "xyz" * 20
    (own / "data" / "sources.json").write_text(json.dumps(written))
    told = refused(changed(own), part, STAGES)
    assert told.startswith(
        "data: text.train.jsonl changed: sha256 abcabcabcabc there, xyzxyzxyzxyz"
    )
    (own / "data" / "sources.json").write_text((part / "data" / "sources.json").read_text())
    take_from(changed(own), part, STAGES)


def test_a_changed_config_of_a_taken_stage_is_refused_and_insisting_writes_nothing(there, tmp_path):
    take_from(changed(tmp_path), there, STAGES)
    before = kept(there)
    run = Run(changed(tmp_path, sft={"epochs": 9.0}), insist=True)
    with pytest.raises(UserError) as told:
        run.finish("sft")
    lines = str(told.value).splitlines()
    assert lines[0].startswith(
        f"{tmp_path / 'sft'} is taken from {there / 'sft'}, which has another"
    )
    assert lines[1:] == ["  stages.sft.epochs: 5.0 there, 9.0 now"]
    assert kept(there) == before


def test_data_whose_counts_a_kill_left_out_are_made_here(there, tmp_path):
    take_from(changed(tmp_path), there, STAGES)
    (tmp_path / "data" / "counts.json").unlink()
    run = Run(changed(tmp_path))
    assert not (tmp_path / "data" / "from.json").exists()
    assert run.tokenizer.fingerprint == Run(small_in(there)).tokenizer.fingerprint
    assert run.left(STAGES) == []  # the data are the same, so the models are right


def test_doctor_tells_what_is_taken_and_what_is_gone(there, tmp_path):
    moved = shutil.copytree(there, tmp_path / "there", ignore=shutil.ignore_patterns("checkpoints"))
    own = tmp_path / "own"
    take_from(changed(own), moved, STAGES)
    findings, wrong = doctor.examine(own)
    rows = {finding.row[0]: finding.row[1:] for finding in findings}
    assert rows.keys() == set(STAGES) and not wrong
    assert rows["sft"] == ("taken", "none", f"a model, ok, of {moved / 'sft'}", "read it")
    assert rows["feedback"][2].startswith("18 rankings.train, 2 rankings.valid, ok, of ")
    assert not any(finding.damaged for finding in findings)
    shutil.rmtree(moved / "sft")
    (own / "sft" / "from.json").write_text((own / "sft" / "from.json").read_text() + " ")
    (sft,) = [f for f in doctor.examine(own)[0] if f.row[0] == "sft"]
    assert sft.row[3:] == (
        "missing",
        f"refuse until what is damaged is removed: {own / 'sft' / 'from.json'}",
    )
    assert re.search("is taken from .*/there/sft, which is not there", sft.damaged[0])


# The command line.


def test_run_of_some_stages_trains_them_takes_those_below_and_reports_what_has_finished(
    there, tmp_path, monkeypatch, capsys
):
    reported, asked = [], []
    monkeypatch.setattr(report, "report_finished", reported.append)
    monkeypatch.setattr(Run, "finish", lambda run, stage: asked.append(stage))
    arguments = ["--from", str(there), "--out", str(tmp_path), "--stages", "reward", "dpo",
                 "--reward.batch-size", "8", "--dpo.batch-size", "8"]  # fmt: skip
    assert cli.command(["run", small.__file__, *arguments]) == 0
    out = capsys.readouterr().out
    assert f"pretrain, sft, feedback: taken from {there}\n" in out and "reward: not" not in out
    (run,) = reported
    assert asked == ["pretrain", "sft", "feedback", "reward", "dpo"]
    assert run.left(list(small.config.stages)) == ["reward", "ppo", "ppo_ptx", "dpo"]
    with pytest.raises(UserError, match=r"^stages = 'flying': must be a stage of this experiment"):
        cli.command(["run", small.__file__, *arguments[:-4], "flying"])


def test_only_evaluators_that_have_a_model_are_checked(there, tmp_path):
    run = Run(changed(tmp_path))
    names = lambda *stages: [e.name for e in run.evaluation.measuring(stages)]
    whole = [evaluator.name for evaluator in small.config.evaluators]
    assert names(*small.config.stages) == whole
    assert {"gold_score", "behaviour", "samples"} <= set(names("pretrain"))
    assert not {"kl_to_sft", "accuracy_on_feedback"} & set(names("pretrain"))
    assert {"gold_score", "kl_to_sft"} <= set(names("pretrain", "sft"))
    assert names("reward") == [] and names("reward", "feedback") == ["accuracy_on_feedback"]
