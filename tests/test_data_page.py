"""docs/data.md: its example is built and run, shrunk; its tokenizer and experiment are taken."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.errors import UserError
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.sources import corpora
from rlhf_jax.sources.folder import FolderData

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLE, TOKENIZER, WITH_TEXT = re.findall(
    r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)
COMMAND = re.search(r"^    rlhf-jax (run \S+ --data.path my_records .*)$", PAGE, re.MULTILINE)[1]
SHRUNK = """--model.layers 1 --model.width 16 --model.heads 2 --model.context 128
    --sft.epochs 0.5 --reward.epochs 0.2 --dpo.epochs 0.2
    --ppo.iterations 1 --ppo.batch-size 8 --ppo.minibatches 1 --ppo.response-length 8
    --evaluation.response-length 8"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the example's folder."""
    monkeypatch.chdir(tmp_path)
    exec(EXAMPLE, {})
    return tmp_path


def test_the_example_runs_to_a_report_without_a_grader(place, capsys):
    command, experiment, *options = shlex.split(COMMAND)
    assert cli.command([command, str(ROOT / experiment), *options, *SHRUNK.split()]) == 0
    printed, folder = capsys.readouterr().out, place / "runs" / "folder"
    for line in re.findall(r"^    (data: .+)$", PAGE, re.MULTILINE):
        assert line + "\n" in printed
    report = json.loads((folder / "report.json").read_text())
    assert report["policies"].keys() == {"sft", "dpo", "ppo"}
    counts = report["records"]
    for stage, columns in report["policies"].items():
        assert {"reward_score", "reward_score_wins_vs_sft", "kl_to_sft", "sft_loss"} <= {*columns}
        assert (columns["kl_to_sft"]["mean"] == 0) == (stage == "sft")
    assert report["scorers"]["reward"]["accuracy_pairs"] == counts["rankings"]["valid"]
    assert report["prompts"] == {
        "all": counts["prompts"]["test"],
        "asked": counts["prompts"]["test"],
    }
    assert {"report.html", "report.png"} <= {file.name for file in folder.iterdir()}


def test_demonstrations_alone_are_enough_for_sft(place):
    (place / "my_records" / "rankings.train.jsonl").unlink()
    _, experiment, *options = shlex.split(COMMAND)
    given = [str(ROOT / experiment), *options, *SHRUNK.split(), "--sft.epochs", "0.05"]
    assert cli.command(["sft", *given]) == 0
    with pytest.raises(UserError, match=r"^reward reads rankings\.train\.jsonl, and the data have"):
        cli.command(["run", *given])


def test_the_command_of_the_page_adds_a_data_set_to_a_folder(tmp_path, monkeypatch, capsys):
    command = re.search(r"^    rlhf-jax (data train\.jsonl --to .*)$", PAGE, re.MULTILINE)[1]
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text(json.dumps({"prompt": "a", "completion": " b"}) + "\n")
    assert cli.command(shlex.split(command)) == 0
    assert "train.jsonl: TRL prompts and completions, " in capsys.readouterr().out
    line = Path("my_records/demonstrations.train.jsonl").read_text()
    assert json.loads(line) == {"prompt": "a", "response": " b"}


def test_the_tokenizer_of_the_page_is_taken(place, capsys):
    exec(TOKENIZER, {})
    option, size = capsys.readouterr().out.split()
    assert option == "--model.vocab-size"
    made = corpora.prepare(FolderData(path="my_records"), place / "run", int(size), 0).tokenizer
    assert (made.pad_id, made.bos_id, made.eos_id) == (0, 1, 2) and made.loss is None


def test_the_experiment_with_text_starts_sft_from_pretraining(place, monkeypatch):
    monkeypatch.delitem(sys.modules, "folder", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copy(ROOT / "experiments" / "folder.py", place)
    (place / "with_text.py").write_text(WITH_TEXT)
    config = load_experiment(str(place / "with_text.py"))
    assert list(config.stages) == ["pretrain", "sft", "reward", "dpo", "ppo"]
    assert config.stages["sft"].start == "pretrain" and config.evaluators[-1].length == 128
