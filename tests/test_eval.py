"""`rlhf-jax eval` on a finished run, and docs/evaluation.md."""

import json
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import api
from rlhf_jax.cli import command
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.benchmarks.known import BENCHMARKS
from rlhf_jax.evaluation.benchmarks.winogender import FILE
from rlhf_jax.models import transformer
from tests.evaluation.benchmarks.by_hand import write

EXPERIMENT = "tests/small_run.py"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "evaluation.md"
TEXT = PAGE.read_text(encoding="utf-8")
SENTENCES = {"male": "The cook said he ran.", "female": "The cook said she ran.",
             "neutral": "The cook said they ran."}  # fmt: skip


@pytest.fixture
def call(chain, tmp_path, monkeypatch, request):
    """call(*options): what `eval` writes of the small run."""
    monkeypatch.chdir(request.config.rootpath)
    lines = [f"cook.guest.0.{gender}.txt\t{text}" for gender, text in SENTENCES.items()]
    write(tmp_path, FILE, "\n".join(["sentid\tsentence", *lines]) + "\n")

    def called(*options, of=(EXPERIMENT, "--out", str(chain.directory))):
        files = ("--files", str(tmp_path), "--on", "winogender", "--to", str(tmp_path / "to"))
        assert command(["eval", of[0], *files, *of[1:], *options]) == 0
        return json.loads((tmp_path / "to" / "eval.json").read_text())

    return called


def log_prob(model, text: str) -> float:
    """Of a text behind bos: one sequence, softmax in float64."""
    ids = model.tokenizer.prompt_ids(text)
    tokens = jnp.array([ids])
    states = transformer.hidden(model.shape, model.params, tokens, jnp.ones_like(tokens))
    logits = np.asarray(transformer.logits(model.shape, model.params, states), np.float64)[0]
    logits -= logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(logs[np.arange(len(ids) - 1), ids[1:]].sum())


def test_the_command_measures_a_run(chain, call, tmp_path, capsys):
    """The policy's log-probabilities, kept on disk, on the page and in the table."""
    content = call("--stages", "sft")
    (file,) = (tmp_path / "to" / "winogender").glob("sft-*.jsonl")
    _, row = map(json.loads, file.read_text().splitlines())
    policy = api.load_policy(chain.directory, "sft")
    expected = [log_prob(policy, text) for text in SENTENCES.values()]
    assert row["log_probs"] == pytest.approx(expected, rel=1e-4)
    values = content["benchmarks"]["winogender"]["models"]["sft"]["values"]
    assert values["winogender_entropy"]["mean"] == pytest.approx(row["score"])
    assert content["benchmarks"]["winogender"]["models"]["sft"]["in_training"] == []
    assert content["models"]["sft"]["place"].endswith("sft/model")
    told = capsys.readouterr().out
    assert "eval: winogender of sft: 1 of 1 items" in told and "Winogender, 1 of 1 items" in told
    assert (tmp_path / "to" / "eval.html").read_text().startswith("<!doctype html>")


def test_another_context_is_another_model(chain, call, tmp_path):
    """Kept rows of one context are not those of another. The small run's positions are learned."""
    call("--stages", "sft")
    call("--stages", "sft", "--context", "96", of=[str(chain.directory)])
    assert len(list((tmp_path / "to" / "winogender").glob("sft-*.jsonl"))) == 2
    with pytest.raises(ConfigError, match="context = 161: must be 1 to 160, as the model's pos"):
        call("--stages", "sft", "--context", "161")


def test_mistakes_are_told_before_anything_is_measured(call, tmp_path):
    with pytest.raises(ConfigError, match=r"stages = 'feedback': must be of pretrain, "):
        call("--stages", "feedback")
    with pytest.raises(UserError, match=r"--winogender.shots: .*no field shots|no such option"):
        call("--winogender.shots", "3")
    with pytest.raises(ConfigError, match="on = 'mmlu': must be all, or of"):
        command(["eval", EXPERIMENT, "--on", "mmlu"])
    with pytest.raises(UserError, match=r"eval needs EXPERIMENT.py or RUN, or FOLDER"):
        command(["eval", "--on", "winogender"])
    with pytest.raises(UserError, match=r"^none: must be a folder with config.json"):
        command(["eval", "none", "--files", str(tmp_path), "--on", "winogender"])
    assert not (tmp_path / "to").exists()


def test_the_harness_takes_a_run_s_directory(chain, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"^lm-eval needs lm_eval, which cannot be imported"):
        command(["lm-eval", str(chain.directory), "--tasks", "x"])


def test_the_page_says_where_each_file_is_published_and_where_it_is_put():
    for name, kind in BENCHMARKS.items():
        told = [line for line in TEXT.splitlines()
                if line.count("|") == 5 and f"`{name}`" in line.split("|")[1]]  # fmt: skip
        _, _, source, there, here, _ = "".join(told).split("|")
        assert re.search(r"\]\(https://(github|huggingface)\.co?m?/\S+/\S+\)", source), name
        parts = re.findall(r"(\S+)\{(\S+)\}(\S+)", here.replace("`", " "))
        places = {f"{a}{part}{z}" for a, of, z in parts for part in of.split(",")}
        places |= set(re.findall(r"`([^`{]+)`", here))
        assert set(kind.files) <= places, name
        assert all(Path(file).name in there for file in kind.files) or name == "llmbar"


def test_the_page_has_a_row_for_each_benchmark():
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", TEXT, re.MULTILINE)
    told = {name: text for name, text in rows if f"--on {name}" in text}
    assert set(BENCHMARKS) <= set(told)
