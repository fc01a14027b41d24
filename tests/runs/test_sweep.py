"""A sweep: its grid, what each run takes of others, what fails, what goes on; and `compare`."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.errors import UserError
from rlhf_jax.runs import sweep
from rlhf_jax.runs.compare import CompareOptions, cells_of, compare, read
from rlhf_jax.runs.items import figures_config
from rlhf_jax.runs.options import parse
from rlhf_jax.runs.origin import Origin
from rlhf_jax.runs.run import Stopped, has_ended
from rlhf_jax.sources import corpora
from tests import small_run as small

STAGES = ["pretrain", "sft", "feedback", "reward", "ppo"]
KL = "ppo.kl.coefficient"


@pytest.fixture
def ran(monkeypatch):
    """(cell, stage) of each stage that would be trained, in place of training it; `failing`: of
    which stage of which cell it fails; `stopping`: at which it is stopped."""

    class Ran(list):
        failing, stopping = {}, None

    made = Ran()

    class FakeRun:
        def __init__(self, config, stages=(), origin=None):
            self.config, self.origin = config, origin
            data = corpora.identity(config.data, config.model.vocab_size, config.seed)
            check_fingerprint(config.directory / "data", data)
            (config.directory / "data" / "counts.json").write_text("{}")

        def check(self, stages, report):
            assert report

        def finish(self, stage):
            cell, place = self.config.directory.name, self.config.directory_of(stage)
            if not self.config.trains(stage) or has_ended(place):
                return
            if made.stopping == (cell, stage):
                raise Stopped(f"{stage}: SIGTERM: saved at step 1")
            made.append((cell, stage))
            if cell in made.failing.get(stage, ()):
                raise UserError("numbers are not finite")
            check_fingerprint(place, self.config.fingerprint(stage))
            self.origin.write(place)
            (place / "model").mkdir()
            (place / "model" / "model.json").write_text("{}")

    def report(run, stages):
        config, score = run.config, float(len(run.config.directory.name))
        entry = {s: {"gold": {"mean": score, "low": 0.0, "high": 1.0}} for s in stages}
        found = {"policies": entry, "scorers": {}, "seed": config.seed}
        items = {
            "config": figures_config(config),
            "data": "",
            "models": dict.fromkeys(stages, config.directory.name),
            "columns": {"policies": {"gold": {"title": "gold"}}, "scorers": {}},
            "items": {"policies": {}, "scorers": {}},
        }
        (config.directory / "report.json").write_text(json.dumps(found))
        (config.directory / "items.json").write_text(json.dumps(items))
        made.append((config.directory.name, "report"))

    monkeypatch.setattr(sweep, "Run", FakeRun)
    monkeypatch.setattr(sweep, "report", report)
    return made


def swept(folder, *options, over=("--over", KL, "0.1", "0.4")) -> int:
    arguments = ["sweep", small.__file__, *over, "--out", str(folder), *options]
    return cli.command([*arguments, "--ppo.batch-size", "16", "--reward.batch-size", "8",
                        "--feedback.batch-size", "16"])  # fmt: skip


def cell(coefficient, seed) -> str:
    return f"{KL}={coefficient},seed={seed}"


def test_what_does_not_depend_on_what_is_varied_is_trained_once_a_seed(ran, tmp_path, capsys):
    assert swept(tmp_path, "--seeds", "1", "2", "--stages", "ppo") == 0
    both = [*STAGES, "report"]
    assert ran == [
        *((cell(0.1, 1), stage) for stage in both),
        *((cell(0.1, 2), stage) for stage in both),
        *((cell(0.4, 1), stage) for stage in ("ppo", "report")),
        *((cell(0.4, 2), stage) for stage in ("ppo", "report")),
    ]
    out = capsys.readouterr().out
    assert out.splitlines()[:7] == [
        f"4 runs in {tmp_path}",
        *(f"  {cell(c, seed)}" for c in (0.1, 0.4) for seed in (1, 2)),
        "trained 2 times for 4 runs: pretrain, sft, feedback, reward",
        "trained 4 times for 4 runs: ppo",
    ]
    link = json.loads((tmp_path / cell(0.4, 2) / "sft" / "from.json").read_text())
    assert link["directory"] == str(tmp_path / cell(0.1, 2) / "sft")
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["settings"] == {f"{KL}={c}": {KL: str(c)} for c in (0.1, 0.4)}
    for name in ("sweep.html", "sweep.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_same_command_runs_no_finished_run_again(ran, tmp_path, capsys):
    swept(tmp_path, "--stages", "sft")
    del ran[:]
    assert swept(tmp_path, "--stages", "sft") == 0
    assert ran == [] and capsys.readouterr().out.count("  has finished\n") == 2
    assert swept(tmp_path, "--stages", "reward") == 0  # more stages
    assert ran == [
        *((cell(0.1, 1), stage) for stage in ("feedback", "reward", "report")),
        (cell(0.4, 1), "report"),
    ]
    del ran[:]
    assert swept(tmp_path, "--stages", "sft", "--evaluation.batch-size", "5") == 0
    assert ran == [(cell(0.1, 1), "report"), (cell(0.4, 1), "report")]  # of other figures


def test_a_run_that_fails_is_told_and_the_others_go_on(ran, tmp_path, capsys):
    ran.failing = {"ppo": [cell(0.1, 1)]}
    assert swept(tmp_path, "--stages", "ppo") == 1
    out = capsys.readouterr().out
    assert out.count(f"{cell(0.1, 1)}: failed: numbers are not finite\n") == 2  # and in the table
    assert (cell(0.4, 1), "report") in ran and (cell(0.1, 1), "report") not in ran
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["failed"] == {cell(0.1, 1): "numbers are not finite"}
    assert "numbers are not finite" in (tmp_path / "sweep.html").read_text()
    ran.failing = {}
    assert swept(tmp_path, "--stages", "ppo") == 0
    assert json.loads((tmp_path / "sweep.json").read_text())["failed"] == {}


def test_a_stage_that_fails_is_not_tried_again_in_another_run(ran, tmp_path, capsys):
    ran.failing = {"sft": [cell(0.1, 1)]}
    assert swept(tmp_path, "--stages", "ppo") == 1
    assert ran == [(cell(0.1, 1), "pretrain"), (cell(0.1, 1), "sft")]
    out = capsys.readouterr().out
    told = f"{cell(0.4, 1)}: failed: sft: as in {cell(0.1, 1)}, numbers are not finite\n"
    assert told in out and "no run has finished: there is nothing to report" in out


def test_a_signal_ends_a_sweep_with_a_line_and_it_goes_on(ran, tmp_path, capsys):
    ran.stopping = cell(0.1, 1), "sft"
    assert swept(tmp_path, "--stages", "sft") == 0
    assert capsys.readouterr().out.endswith("sft: SIGTERM: saved at step 1\n")
    assert ran == [(cell(0.1, 1), "pretrain")]
    ran.stopping = None
    assert swept(tmp_path, "--stages", "sft") == 0
    assert ran[1:] == [
        *((cell(0.1, 1), stage) for stage in ("sft", "report")), (cell(0.4, 1), "report"),
    ]  # fmt: skip


def test_a_run_knows_the_command_that_makes_it_again(ran, tmp_path):
    """For `replay`: the experiment as it was run, without what is the sweep's own."""
    swept(tmp_path, "--seeds", "3", "4", "--stages", "ppo", "--loop.keep", "5")
    origin = Origin.read(tmp_path / cell(0.4, 4) / "ppo")
    made = origin.config()
    assert (made.seed, made.loop.keep, made.stages["ppo"].kl.coefficient) == (4, 5, 0.4)
    assert str(made.directory) == str(tmp_path / cell(0.4, 4))


def test_stages_of_another_run_are_taken_by_each_run_that_they_fit(ran, small_run, tmp_path):
    arguments = ["sweep", small.__file__, "--over", KL, "0.2", "0.4", "--stages", "ppo"]
    arguments += ["--from", str(small_run.directory), "--out"]
    assert cli.command([*arguments, str(tmp_path / "one")]) == 0
    assert ran == [(cell(c, 1), what) for c in (0.2, 0.4) for what in ("ppo", "report")]
    for c in (0.2, 0.4):
        link = json.loads((tmp_path / "one" / cell(c, 1) / "reward" / "from.json").read_text())
        assert link["directory"] == str(small_run.directory / "reward")
    told = f"^nothing can be taken from {small_run.directory}, as its data .* seed: 1 there, 5 now$"
    with pytest.raises(UserError, match=re.compile(told, re.DOTALL)):
        cli.command([*arguments, str(tmp_path / "two"), "--seeds", "5"])
    assert not list((tmp_path / "two").rglob("from.json"))


def test_values_are_of_the_option_s_type(tmp_path):
    config = dataclasses.replace(small.config, out=str(tmp_path))
    over, others = sweep.split_over([
        "--over", "sft.packed", "True", "false", "--seed", "1",
        "--over", "feedback.outputs", "2 2", "2 3",
    ])  # fmt: skip
    assert others == ["--seed", "1"]
    cells = sweep.grid(config, sweep.SweepOptions(), over, others, "sweep")
    found = [(c.config.stages["sft"].packed, c.config.stages["feedback"].outputs) for c in cells]
    assert found == [(True, (2, 2)), (True, (2, 3)), (False, (2, 2)), (False, (2, 3))]
    assert cells[1].name == "sft.packed=True,feedback.outputs=2-3,seed=1"
    assert str(cells[1].config.directory) == str(tmp_path / cells[1].name)


MISTAKES = {
    "nothing to vary": ((), "sweep needs what to vary, as in --over ppo.kl.coefficient"),
    "no value": (("--over", KL), f"--over: expected a field and its values, .*, got {KL}$"),
    "no field": (("--over",), "--over: expected a field and its values, .*, got none$"),
    "an unknown field": (
        ("--over", "ppo.kl.coeficient", "1"),
        "--ppo.kl.coeficient: .* did you mean --ppo.kl.coefficient",
    ),
    "a value that cannot be": (("--over", KL, "0.1", "-1"), f"{KL} = -1.0: must be "),
    "a flag that is none": (("--over", "sft.packed", "1"), "sft.packed = '1': must be True or"),
    "the seed": (("--over", "seed", "1"), "--over seed: cannot be varied: --seeds varies it"),
    "parallel": (("--over", "parallel.fsdp", "1"), "--over parallel.fsdp: cannot be varied: it"),
    "twice a field": (
        ("--over", KL, "1", "--over", KL, "2"), f"--over {KL}: it stands twice; give all",
    ),
    "equal values": (("--over", KL, "0.1", "0.10"), "--over: 0.1 and 0.10 give the same config"),
    "equal names": (
        ("--over", "name", "a"), "--over name: cannot be varied: it names the sweep's folder",
    ),
    "a seed twice": (("--seeds", "1", "1"), "seeds = (1, 1): must be different"),
    "an unknown stage": (("--seeds", "1", "--stages", "fly"), "stages = 'fly': must be a stage"),
    "rows that do not fit": (
        ("--over", "sft.batch_size", "8", "12", "--stages", "sft"),
        "sft.batch_size = 12: must be a multiple or a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_anything_runs(ran, tmp_path, name):
    arguments, told = MISTAKES[name]
    told = told if name.startswith(("no ", "an unknown field")) else re.escape(told)
    with pytest.raises(UserError, match=told):
        swept(tmp_path / "out", over=arguments)
    assert not ran and not (tmp_path / "out").exists()


def test_without_a_folder_it_is_named_by_what_is_varied():
    over, _ = sweep.split_over(["--over", KL, "1", "--over", "ppo.epochs", "2"])
    named = lambda how, over: str(sweep.in_folder(small.config, how, over, []).directory)
    assert named(sweep.SweepOptions(), over) == f"runs/small-{KL}-ppo.epochs"
    assert named(sweep.SweepOptions((1, 2)), []) == "runs/small-seeds"


# Compare.


def reported(folder, score=0.5, **changes) -> Path:
    """A run's report, of a changed config."""
    config, path = dataclasses.replace(small.config, **changes), Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    entry = {"sft": {"gold": {"mean": score, "low": 0.0, "high": 1.0}}}
    found = {"policies": entry, "scorers": {}, "seed": config.seed}
    items = {
        "config": json.loads(json.dumps(figures_config(config))),
        "data": "", "models": {"sft": str(score)},
        "columns": {"policies": {"gold": {"title": "gold"}}, "scorers": {}},
        "items": {"policies": {}, "scorers": {}},
    }  # fmt: skip
    (path / "report.json").write_text(json.dumps(found))
    (path / "items.json").write_text(json.dumps(items))
    return path


def with_kl(coefficient):
    kl = dataclasses.replace(small.config.stages["ppo"].kl, coefficient=coefficient)
    return small.config.with_stages(
        ppo=dataclasses.replace(small.config.stages["ppo"], kl=kl)
    ).stages


def test_settings_are_told_apart_by_the_fields_that_differ(tmp_path):
    runs = [
        reported(tmp_path / f"{c}-{seed}", stages=with_kl(c), seed=seed, out=str(tmp_path / "x"))
        for c in (0.1, 0.4)
        for seed in (1, 2)
    ]
    found = cells_of([read(run) for run in runs])
    assert [(c.setting, c.seed) for c in found] == [
        (f"{KL}={c}", seed) for c in (0.1, 0.4) for seed in (1, 2)
    ]


def test_runs_of_one_config_and_seed_are_told_apart_by_their_directories(tmp_path):
    runs = [reported(tmp_path / name) for name in ("one", "other")]
    assert [c.setting for c in cells_of([read(r) for r in runs])] == ["run=one", "run=other"]


def test_where_much_differs_the_first_run_names_the_setting(tmp_path):
    model = dataclasses.replace(small.config.model, layers=3, width=64, heads=4, vocab_size=500)
    changed = {"model": dataclasses.replace(model, context=200)}
    runs = [reported(tmp_path / "a", seed=1), reported(tmp_path / "b", seed=1, **changed),
            reported(tmp_path / "c", seed=2, **changed)]  # fmt: skip
    found = cells_of([read(run) for run in runs])
    assert [(c.setting, c.seed) for c in found] == [("run=a", 1), ("run=b", 1), ("run=b", 2)]


def test_compare_writes_its_files_and_prints_a_difference(tmp_path, capsys):
    runs = [str(reported(tmp_path / str(c), c, stages=with_kl(c), seed=1)) for c in (0.25, 0.5)]
    out = tmp_path / "out"
    a, b = (f"sft@{KL}={c}" for c in (0.5, 0.25))
    assert cli.command(["compare", *runs, "--out", str(out), "--between", a, b]) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "comparison.html", "comparison.json", "comparison.png",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert (
        f"{a} minus {b}, with 95 % intervals\n  gold  +0.250 (no interval)  (not paired)" in printed
    )
    with pytest.raises(UserError, match=r"^dpo: no such model; there are sft@"):
        compare(runs, CompareOptions(str(tmp_path / "none"), ("sft@x", "dpo")[::-1]))
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_compared_is_told(tmp_path):
    run = reported(tmp_path / "run")
    for told, file in (
        (r"its report is of an earlier version, without items.json; rlhf-jax report", "items.json"),
        (r"has no report; rlhf-jax report EXPERIMENT.py --out .*run writes it", "report.json"),
    ):
        (run / file).unlink()
        with pytest.raises(UserError, match=told):
            read(run)
    with pytest.raises(UserError, match=r"none: no such directory"):
        read(tmp_path / "none")
    run = reported(tmp_path / "run")
    (run / "items.json").write_text("{}")
    with pytest.raises(UserError, match=r"items\.json: expected columns, config, data, items, mod"):
        read(run)
    with pytest.raises(UserError, match=r"^compare needs RUN"):
        cli.command(["compare", "--out", "x"])
    with pytest.raises(UserError, match=r"^between = "):
        parse([CompareOptions()], ["--between", "a"], "compare")


def test_the_report_s_items_pair_two_runs(small_run):
    """Of the small run: whose items are those of its evaluators, and a run beside itself."""
    items = json.loads((small_run.directory / "items.json").read_text())
    report = json.loads((small_run.directory / "report.json").read_text())
    assert items["models"].keys() == set(small.config.stages)
    assert items["config"] == json.loads(json.dumps(figures_config(small.config)))
    for section, stages in items["items"].items():
        for stage, columns in stages.items():
            for column, parts in columns.items():
                known = report[section][stage][column]
                mean = known["mean"] if isinstance(known, dict) else known
                if sum(parts["weights"]):
                    rate = sum(parts["totals"]) / sum(parts["weights"])
                    assert rate == pytest.approx(mean, abs=1e-6), (stage, column)
    policies = items["items"]["policies"]
    every = {"gold_score", "gold_score_wins_vs_sft", "followed", "hallucinated", "harmful",
             "kl_to_sft", "pretraining_loss", "ended", "response_tokens"}  # fmt: skip
    assert policies["sft"].keys() >= every
    assert policies["ppo"].keys() >= every | {"pretraining_loss_vs_sft"}
    assert policies["prompted"].keys() >= every - {"kl_to_sft"}  # which is not known of it
    assert "kl_to_sft" not in policies["prompted"]
    of = lambda stage, column: policies[stage][column]["of"]
    assert of("sft", "gold_score") == of("ppo", "gold_score") == of("ppo", "kl_to_sft")
    assert of("sft", "gold_score") != of("sft", "pretraining_loss") == of("ppo", "pretraining_loss")
