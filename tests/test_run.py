"""The whole chain in miniature: its report, and the same report through stops and kills."""

import io
import json
import re
from pathlib import Path

import jax
import pytest

from rlhf_jax import cli
from rlhf_jax.data.builder import read_dataset
from rlhf_jax.evaluation.policies import Sampler
from rlhf_jax.generation.ending import Ending
from rlhf_jax.randomness import random_key
from tests import small_run as driver
from tests.test_randomness import PURPOSES

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENT = str(ROOT / "tests" / "small_run.py")
ACTIONS = ["prepare", "stop:3", "pretrain:7", "feedback:3", "records", "dpo", "ppo:3", "report"]
STAGES = [name for name in driver.config.stages if name != "prompted"]  # which trains nothing


@pytest.fixture(scope="module")
def runs(small_run, tmp_path_factory):
    """The whole run, a killed one, and what the latter's processes print."""
    killed = tmp_path_factory.mktemp("runs") / "killed"
    return small_run.directory, killed, small_run.drive(killed, *ACTIONS)


def report_of(directory) -> dict:
    return json.loads((directory / "report.json").read_text())


def test_the_report_has_its_schema(runs):
    report = report_of(runs[0])
    assert report.keys() == {
        "policies", "scorers", "prompts", "records", "saved", "seconds", "seed", "findings",
        "columns", "interval",
    }  # fmt: skip
    assert list(report["policies"]) == ["pretrain", "prompted", "sft", "ppo", "ppo_ptx", "dpo"]
    for name, policy in report["policies"].items():
        preferences = {
            f"preference_{part}_on_feedback"
            for part in ("accuracy", "margin", "loss", "pairs", "over_long")
        }
        assert (preferences & policy.keys() == preferences) == (name in ("sft", "dpo"))
        assert policy.keys() - preferences == {
            "gold_score", "gold_score_wins_vs_sft", "followed", "hallucinated", "harmful",
            "kl_to_sft", "kl_to_sft_in_training", "pretraining_loss", "pretraining_loss_vs_sft",
            "sft_loss", "ended", "response_tokens",
        }  # fmt: skip
        score = policy["gold_score"]
        assert score.keys() == {"mean", "low", "high"}
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
        assert 0 < policy["pretraining_loss"] < 7
    for stage in ("ppo", "ppo_ptx"):
        last = (runs[0] / stage / "metrics.jsonl").read_text().splitlines()[-1]
        assert report["policies"][stage]["kl_to_sft_in_training"] == json.loads(last)["kl"]
    assert report["policies"]["sft"]["kl_to_sft_in_training"] is None
    assert report["policies"]["prompted"]["kl_to_sft"] is None
    kl = {name: report["policies"][name]["kl_to_sft"]["mean"] for name in ("sft", "ppo")}
    assert kl["sft"] == 0 < kl["ppo"]
    assert report["saved"] == {
        name: driver.config.stages[name].saved() for name in ("ppo", "ppo_ptx")
    }
    assert "34.3% of it is the policy at the start" in report["saved"]["ppo"]  # .7^3
    assert list(report["scorers"]) == ["reward"]
    assert report["scorers"]["reward"]["accuracy_on_feedback_prompts"] > 0
    assert report["prompts"] == {"all": 10, "asked": 10}
    assert report["seconds"].keys() == {*STAGES, "report"}
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


def test_stops_and_kills_change_no_ranking(runs):
    """Killed among the outputs, and between rankings that were written and the word that they
    are."""
    read = lambda run, split: list(read_dataset(run / "feedback/records", "rankings", split))
    for split, count in (("train", 18), ("valid", 2)):
        one, other = (read(run, split) for run in runs[:2])
        assert one == other and len(one) == count
    one, other = ((run / "feedback/records.json").read_text() for run in runs[:2])
    assert json.loads(one) == json.loads(other) == {"rankings": {"train": 18, "valid": 2}}


def test_a_step_that_is_done_again_asks_nothing_of_the_host_again(runs, small_run):
    steps = len((runs[0] / "feedback/metrics.jsonl").read_text().splitlines())
    expected = [str(step) for step in range(steps)]
    asked = lambda printed: re.findall("^host: outputs (.*)$", printed, re.MULTILINE)
    assert asked(small_run.printed) == expected == asked(runs[2])
    killed, resumed = runs[2].split("ended feedback:3 -9")
    start = int(re.search(r"^feedback  (\d)/6", resumed, re.MULTILINE)[1])
    assert start < len(asked(killed)) >= 3  # so some of its steps were done again
    assert not asked(resumed.split("ended records -9")[1])  # all were there


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
    stages = {f"{stage}/training" for stage in STAGES if stage != "feedback"}
    assert set(asked) == (PURPOSES - elsewhere) | stages
    often = {purpose for purpose in asked if asked.count(purpose) > 1}
    # The same noise for every policy; and feedback asks for K before and after sampling.
    assert often == {"report/responses", "report/kl", "feedback/counts"}
    assert [asked.count(purpose) for purpose in sorted(often)] == [2, 4, 6]


def test_a_short_stage_says_what_its_average_holds_of_the_start(small_run):
    for stage in ("ppo", "ppo_ptx"):  # .7^3
        told = f"\n{stage}: ema_decay = 0.7: after 3 iterations 34% of"
        assert small_run.printed.count(told) == 1


def main(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["rlhf-jax", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize(
    "options, lines",
    [
        (["--sft.epochs", "2", "--sft.no-packed"],
         ["  stages.sft.epochs: 5.0 there, 2.0 now", "  stages.sft.packed: true there, false now"]),
        (["--seed", "7"], ["  seed: 1 there, 7 now"]),
        (["--feedback.response-length", "7"],
         ["  stages.feedback.response_length: 8 there, 7 now"]),
        (["--ending.missing-eos-score", "-2"],
         ["  ending.missing_eos_score: -0.5 there, -2.0 now"]),
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


EIGHT = ["--reward.batch-size", "8", "--dpo.batch-size", "8"]  # rows for 8 devices


def test_examples_that_leave_no_room_are_refused_before_any_training(monkeypatch, capsys, tmp_path):
    options = ["--prompted.examples", "9", *EIGHT]
    arguments = ["run", EXPERIMENT, "--out", str(tmp_path), *options]
    code, _, err = main(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err == ("rlhf-jax: data set prompts.test: every prompt is too long together with the "
                   "worked examples of a policy\n")  # fmt: skip
    assert not (tmp_path / "pretrain").exists()


def asked_of(monkeypatch, text: str) -> None:
    """What standard input says."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_generate_answers_as_the_saved_model_does(chain, monkeypatch, capsys):
    prompts = chain.world.prompts("test")[:4]
    asked_of(monkeypatch, "".join(prompt.replace("\n", "\\n") + "\n" for prompt in prompts))
    arguments = ["generate", EXPERIMENT, "--out", str(chain.directory), "--stage", "ppo_ptx"]
    code, out, _ = main(monkeypatch, capsys, *arguments)
    config = chain.config.evaluation
    sampler = Sampler(
        chain.config.model,
        chain.tokenizer,
        config.sampling,
        Ending.of(chain.tokenizer, chain.config.ending),
        prompt_length=config.prompt_length,
        response_length=config.response_length,
        batch_size=config.batch_size,
    )
    key = random_key(1, "generate/responses/1")
    params = jax.tree.map(jax.numpy.asarray, chain.model("ppo_ptx"))
    expected = [response.text for response in sampler.responses(params, prompts, key)]
    assert code == 0 and out == "".join(t.replace("\n", "\\n") + "\n" for t in expected)
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    "given, told", [("", "there was none"), ("short\n" + "long " * 100 + "\n", "line 2: ")]
)
def test_generate_refuses_no_prompt_and_one_without_room(runs, monkeypatch, capsys, given, told):
    asked_of(monkeypatch, given)
    code, _, err = main(monkeypatch, capsys, "generate", EXPERIMENT, "--out", str(runs[0]))
    assert code == 2
    assert told in err and err.count("\n") == 1
