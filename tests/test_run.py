"""The whole chain in miniature: its report, and the same report through stops and kills."""

import io
import json
import re
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.generation.ending import Response
from rlhf_jax.run import PIPELINE, STAGES, Run
from tests.test_randomness import PURPOSES

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = str(ROOT / "tests" / "small_run.py")
ACTIONS = ["prepare", "stop:3", "pretrain:7", "feedback", "dpo", "ppo:3", "report"]


@pytest.fixture(scope="module")
def runs(small_run, tmp_path_factory):
    """The whole run, a killed one, and what the latter's processes print."""
    killed = tmp_path_factory.mktemp("runs") / "killed"
    return small_run.directory, killed, small_run.drive(killed, *ACTIONS)


def report_of(directory) -> dict:
    return json.loads((directory / "report.json").read_text())


def test_the_report_has_its_schema(runs):
    report = report_of(runs[0])
    assert report.keys() == {"policies", "seconds", "seed", "findings"}
    assert list(report["policies"]) == ["base", "prompted", "sft", "ppo", "ppo_ptx", "dpo"]
    for policy in report["policies"].values():
        assert policy.keys() == {
            "gold_score", "win_rate_vs_sft", "followed", "hallucinated", "harmful", "kl",
            "training_kl", "pretraining_loss", "pretraining_loss_vs_sft",
        }  # fmt: skip
        score = policy["gold_score"]
        assert score.keys() == {"mean", "low", "high"}
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
        assert 0 < policy["pretraining_loss"] < 7
    for stage in ("ppo", "ppo_ptx"):
        last = (runs[0] / stage / "metrics.jsonl").read_text().splitlines()[-1]
        assert report["policies"][stage]["training_kl"] == json.loads(last)["kl"]
    assert report["policies"]["sft"]["training_kl"] is None
    assert report["policies"]["sft"]["kl"] == 0 < report["policies"]["ppo"]["kl"]
    assert set(PIPELINE) <= report["seconds"].keys()
    assert report["seed"] == 1 and all(isinstance(line, str) for line in report["findings"])
    for name in ("report.png", "report.html"):
        assert (runs[0] / name).stat().st_size > 1000


def test_stops_and_kills_change_no_figure(runs):
    whole, killed = map(report_of, runs[:2])
    for report in (whole, killed):
        del report["seconds"]
    assert killed == whole
    for stage in STAGES:
        one, other = ((run / stage / "metrics.jsonl").read_bytes() for run in runs[:2])
        assert one == other, stage


def test_a_stop_says_where_it_is_and_the_next_call_goes_on(runs):
    _, killed, printed = runs
    steps = len((killed / "pretrain/metrics.jsonl").read_text().splitlines())
    assert f"pretrain: stopped at step 3 of {steps}; the same command" in printed
    assert printed.count("pretrain: done") == 1


def test_each_use_of_randomness_has_its_purpose(small_run):
    """The purposes of a whole run are those of the table, each of one use."""
    asked = re.findall("^random: (.*)$", small_run.printed, re.MULTILINE)
    elsewhere = {
        "data/heldout", "generate/responses", "ppo/text", "sft/mix", "sft/text",
    }  # fmt: skip
    stages = {f"{stage}/training" for stage in STAGES}
    assert set(asked) == (PURPOSES - elsewhere) | stages
    often = {purpose for purpose in asked if asked.count(purpose) > 1}
    assert often == {"report/responses", "report/kl"}  # the same noise for every policy
    assert [asked.count(purpose) for purpose in sorted(often)] == [4, 6]


def test_a_short_stage_says_what_its_average_holds_of_the_start(small_run):
    for stage in ("ppo", "ppo_ptx"):  # .7^3
        told = f"\n{stage}: ema_decay = 0.7: after 3 iterations 34% of"
        assert small_run.printed.count(told) == 1


def main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["rlhf-jax", *arguments])
    monkeypatch.setattr(cli, "keep_pages", lambda: True)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize(
    "options, lines",
    [
        (["--sft.epochs", "2", "--sft.no-packed"],
         ["  sft.epochs: 5.0 there, 2.0 now", "  sft.packed: true there, false now"]),
        (["--seed", "7"], ["  seed: 1 there, 7 now"]),
        (["--ppo.response-length", "7"], ["  feedback.response_length: 8 there, 7 now"]),
    ],
)  # fmt: skip
def test_another_config_in_the_directory_is_refused_line_by_line(
    runs, monkeypatch, capsys, options, lines
):
    directory = str(runs[0])
    code, _, err = main(monkeypatch, capsys, "run", EXPERIMENT, "--out", directory, *options)
    assert code == 2
    assert err.splitlines()[0].startswith(f"rlhf-jax: {directory}")
    assert err.splitlines()[1:] == lines


def test_examples_that_leave_no_room_are_refused_before_any_training(monkeypatch, capsys, tmp_path):
    options = ["--data.few-shot", "9", "--reward.batch-size", "8"]  # rows for 8 devices
    arguments = ["run", EXPERIMENT, "--out", str(tmp_path), *options]
    code, _, err = main(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err.startswith("rlhf-jax: data.few_shot = 9: must be fewer") and err.count("\n") == 1
    assert not (tmp_path / "pretrain").exists()


def test_generate_reads_and_prints_a_line_each(runs, monkeypatch, capsys):
    asked = []

    def sample(self, stage, params, prompts, sampling, purpose):
        asked.append((stage, prompts, params["tokens"].shape, purpose))
        return [Response(text, (), True) for text in ("one\ntwo", " caf\u00e9")]

    monkeypatch.setattr(Run, "sample", sample)
    given = "User: Hi.\\nAssistant:\ncaf\u00e9 \u6f22\\\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    arguments = ["generate", EXPERIMENT, "--out", str(runs[0]), "--stage", "sft"]
    code, out, _ = main(monkeypatch, capsys, *arguments)
    assert code == 0
    prompts = ["User: Hi.\nAssistant:", "caf\u00e9 \u6f22\\"]
    assert asked == [("sft", prompts, (400, 32), "generate/responses/1")]
    assert out == "one\\ntwo\n caf\u00e9\n"


@pytest.mark.parametrize(
    "given, told", [("", "there was none"), ("short\n" + "long " * 100 + "\n", "line 2: ")]
)
def test_generate_refuses_no_prompt_and_one_without_room(runs, monkeypatch, capsys, given, told):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    code, _, err = main(monkeypatch, capsys, "generate", EXPERIMENT, "--out", str(runs[0]))
    assert code == 2
    assert told in err and err.count("\n") == 1
