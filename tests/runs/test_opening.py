"""The first lines of a run: devices, numbers, and what will run."""

import dataclasses

import jax
import pytest

from rlhf_jax.durable import taken
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models.matmul import resolve_dtype
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.runs import opening, run
from rlhf_jax.runs.run import Run
from rlhf_jax.sources import corpora
from rlhf_jax.stages.elsewhere import FromRun
from tests import small_run


def finish(directory):
    (directory / "model").mkdir(parents=True)
    (directory / "model" / "model.json").write_text("{}")


class DataReached(Exception):
    pass


@pytest.fixture
def told(monkeypatch, capsys, tmp_path):
    """told(stages, **changes) -> the lines that a run prints before it reaches its data."""

    def stop(*_):
        raise DataReached

    monkeypatch.setattr(corpora, "prepare", stop)
    config = dataclasses.replace(small_run.config, out=str(tmp_path / "run"))

    def lines(*stages, **changes):
        with pytest.raises(DataReached):
            Run(dataclasses.replace(config, **changes), stages=stages)
        return capsys.readouterr().out.splitlines()

    return lines


EIGHT = f"devices: 8 x {jax.devices()[0].device_kind}, "


def test_devices_mesh_runner_processes_and_dtypes(told):
    first = f"{EIGHT}mesh data 2 x fsdp 2 x tensor 2, runner jit, 1 process"
    parallel = ParallelConfig(fsdp=2, tensor=2)
    found = told("pretrain", parallel=parallel)
    assert found[:2] == [first, "numbers: parameters float32, products of matrices float32"]
    model = dataclasses.replace(small_run.config.model, compute_dtype="bfloat16")
    found = told("pretrain", model=model)
    assert found[0] == f"{EIGHT}mesh data 8 x fsdp 1 x tensor 1, runner jit, 1 process"
    assert found[1] == "numbers: parameters float32, products of matrices bfloat16"
    auto = dataclasses.replace(model, compute_dtype="auto")
    assert told("pretrain", model=auto)[1].endswith(f" {resolve_dtype('auto')}")
    pmap = opening.lines(small_run.config, make_runner(ParallelConfig(runner="pmap")), ["sft"], [])
    assert pmap[0] == f"{EIGHT}mesh data 8 x fsdp 1 x tensor 1, runner jit, 1 process"


def test_several_processes_are_counted(monkeypatch):
    monkeypatch.setattr(opening.jax, "process_count", lambda: 4)
    config = dataclasses.replace(small_run.config, parallel=ParallelConfig(runner="pmap"))
    found = opening.lines(config, make_runner(ParallelConfig()), ["sft"], ["sft"])
    assert found[0].endswith("runner pmap, 4 processes")


def test_what_runs_what_has_finished_and_what_is_read_elsewhere(told, tmp_path):
    here, other = tmp_path / "run", tmp_path / "other"
    assert told("pretrain", "sft")[2:] == ["to run: pretrain, sft"]
    finish(here / "pretrain")
    finish(other / "sft")
    taken.take(here / "sft", other / "sft", ["model"])
    stages = small_run.config.stages | {"reward": FromRun(str(other), "rm")}
    found = told("pretrain", "prompted", "sft", "reward", "ppo", stages=stages)
    assert found[2:] == [
        "to run: ppo",
        "finished: pretrain",
        f"read elsewhere: prompted ({here}/pretrain), sft ({other}/sft), reward ({other}/rm)",
    ]


def test_a_stage_that_has_finished_says_where_its_model_is(told, tmp_path):
    finish(tmp_path / "run" / "pretrain")
    assert told("pretrain")[2:] == [
        "finished: pretrain",
        f"nothing is left to run: the result of pretrain is in {tmp_path}/run/pretrain",
    ]


def test_a_config_that_differs_is_refused_before_anything_is_told(capsys, tmp_path):
    """Of data, and of a stage that is asked for, unless the user insists on the stage."""
    config = dataclasses.replace(small_run.config, out=str(tmp_path))
    run.check_fingerprint(tmp_path / "sft", {"seed": 7})
    with pytest.raises(UserError, match=r"sft belongs to a run with another config; .* --insist"):
        Run(config, stages=["pretrain", "sft"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "counts.json").write_text("{}")
    run.check_fingerprint(tmp_path / "data", {"seed": 7})
    for insist in (False, True):
        with pytest.raises(UserError, match=r"data belongs to a run with another config"):
            Run(config, stages=["sft"], insist=insist)
        assert (capsys.readouterr().out == "") is not insist


def test_nothing_is_told_where_rows_do_not_fit(monkeypatch, capsys, tmp_path):
    def refuse(*_):
        raise ConfigError("no")

    monkeypatch.setattr(run, "check_rows", refuse)
    with pytest.raises(ConfigError):
        Run(dataclasses.replace(small_run.config, out=str(tmp_path)), stages=["pretrain"])
    assert capsys.readouterr().out == ""
