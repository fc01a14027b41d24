"""`rlhf-jax doctor RUN RUN` and `doctor` of a sweep's folder."""

import os

import jax
import pytest
from etils.epath import Path

from rlhf_jax.cli import command
from rlhf_jax.data.records import Ranking
from rlhf_jax.durable.model_files import save_model
from rlhf_jax.errors import UserError
from rlhf_jax.sources.records import StageRecords
from tests.stages import tiny

RANKED = [Ranking("name a pet", (" a cat", " stones"), (0, 1))]
LINES = '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.25}\n'


def made(run, lines=LINES, bit=0.0, ranked=RANKED):
    """A run's directory; bit: is added to one number of the model."""
    (run / "data").mkdir(parents=True)
    params = tiny.policy_params(1)
    params["tokens"] = params["tokens"].at[0, 0].add(bit)
    save_model(Path(run) / "sft" / "model", tiny.MODEL, params, "policy", "t")
    (run / "sft" / "metrics.jsonl").write_text(lines)
    feedback = StageRecords("feedback", Path(run) / "feedback", None)
    feedback.directory.mkdir()
    feedback.write("rankings", {"train": ranked})
    for age, stage in enumerate(("sft", "feedback")):
        (run / stage / "config.json").write_text("{}")
        os.utime(run / stage / "config.json", (age, age))
    return run


@pytest.fixture
def told(capsys):
    def called(*runs):
        code = command(["doctor", *map(str, runs)])
        return code, capsys.readouterr().out.splitlines()

    return called


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made(tmp_path_factory.mktemp("runs") / "one")


ARRAYS = len(jax.tree.leaves(tiny.policy_params(1)))


def test_equal_runs_are_the_same_bit_for_bit(run, tmp_path, told):
    assert told(run, made(tmp_path / "other")) == (0, [
        f"sft: 2 lines of metrics.jsonl the same; {ARRAYS} arrays of the model the same",
        "feedback: 1 records the same",
        "the results are the same, bit for bit",
    ])  # fmt: skip


def test_what_differs_is_named(run, tmp_path, told):
    other = Ranking("name a pet", (" a cat", " stones"), (1, 0))
    lines = LINES.replace("2.25", "2.250001")
    assert told(run, made(tmp_path / "other", lines, 2.0**-10, [other])) == (1, [
        f"sft: metrics.jsonl differs from line 2; 1 of {ARRAYS} arrays differ, as tokens, by "
        "at most 0.00098",
        "feedback: rankings.train differ from record 1",
        "2 stages differ",
    ])  # fmt: skip


def test_what_only_one_run_has_differs(run, tmp_path, told):
    other = made(tmp_path / "other", LINES + LINES[-24:], ranked=RANKED * 2)
    (other / "sft" / "model" / "model.json").unlink()
    (other / "ppo" / "checkpoints").mkdir(parents=True)
    code, lines = told(run, other)
    assert code == 1 and sorted(lines) == [
        "3 stages differ",
        "feedback: other numbers of records",
        f"ppo: not in {run}",
        "sft: metrics.jsonl has 2 and 3 lines; only one has a finished model",
    ]
    with pytest.raises(UserError, match="no such directory"):
        told(run, tmp_path / "none")


def test_a_sweep_is_told_run_by_run(run, tmp_path, told):
    folder = run.parent
    (folder / "two" / "data").mkdir(parents=True)
    (folder / "two" / "ppo" / "checkpoints").mkdir(parents=True)
    (folder / "sweep.json").write_text("{}")
    assert told(folder) == (0, [
        "one: finished sft, feedback; nothing is damaged",
        "two: finished nothing; ppo: nothing; nothing is damaged",
    ])  # fmt: skip
    (folder / "two" / "data" / "counts.json").write_text("{")
    code, lines = told(folder)
    assert code == 1 and lines[1].endswith(f"1 damaged: see rlhf-jax doctor {folder / 'two'}")
