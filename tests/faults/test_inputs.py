"""What does not belong together is refused by name before any step; nothing is unpickled."""

import ast
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax.data.tokenizer import train_sentencepiece
from rlhf_jax.errors import UserError
from rlhf_jax.models import score, transformer
from rlhf_jax.run import Run
from rlhf_jax.training.model_files import save_model
from tests.small_run import config

PACKAGE = Path(__file__).resolve().parents[2] / "rlhf_jax"
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch",
              "tarfile", "yaml"}  # fmt: skip
CODE_OR_ARCHIVES = {"eval", "exec", "extract", "extractall", "unpack_archive"}


def save(run, stage, model, tokenizer):
    """A stage's model as one of this shape and this tokenizer, all zeros."""
    kind = "score" if stage == "reward" else "policy"

    def init(key):
        params = transformer.init(model, key)
        return score.with_score_head(params, key) if kind == "score" else params

    shapes = jax.eval_shape(init, jax.random.key(0))
    params = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), shapes)
    save_model(run.stage_directory(stage) / "model", model, params, kind, tokenizer)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose models up to the reward model are there, untrained."""
    run = Run(dataclasses.replace(config, out=str(tmp_path_factory.mktemp("run"))))
    for stage in ("pretrain", "sft", "reward"):
        save(run, stage, config.model, run.tokenizer.fingerprint)
    return run


@pytest.fixture
def restored(run):
    yield
    for stage in ("sft", "reward"):
        save(run, stage, config.model, run.tokenizer.fingerprint)


MISFITS = {
    "policy of another tokenizer": (
        "sft", {"tokenizer": "f" * 64}, "sft/model/model.json: tokenizer: expected",
    ),
    "reward model of another tokenizer": (
        "reward", {"tokenizer": "f" * 64}, "reward/model/model.json: tokenizer: expected",
    ),
    "policy of another width": (
        "sft", {"model": dataclasses.replace(config.model, width=16)},
        "sft/model/model.json: width",
    ),
    "policy of another vocabulary": (
        "sft", {"model": dataclasses.replace(config.model, vocab_size=500)},
        "sft/model/model.json: vocab_size: expected 400 .*, got 500",
    ),
    "reward model of another depth": (
        "reward", {"model": dataclasses.replace(config.model, layers=1)},
        "reward/model/model.json: layers",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_models_that_do_not_fit_are_refused_before_any_step(run, restored, name):
    stage, changes, told = MISFITS[name]
    fitting = {"model": config.model, "tokenizer": run.tokenizer.fingerprint}
    save(run, stage, **fitting | changes)
    for each in ("sft", "reward"):
        run._same_config(each)  # as the stages themselves would have left it
    with pytest.raises(UserError, match=told):
        run.finish("ppo")
    assert not (run.stage_directory("ppo") / "checkpoints").exists()


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(tmp_path):
    """Where the tokenizer's file was put in place of the run's own."""
    experiment = dataclasses.replace(config, out=str(tmp_path))
    run = Run(experiment)
    texts = [record.text for record in run.corpora.read("text", "train")]
    train_sentencepiece(texts, 420, tmp_path / "data" / "tokenizer.model")
    with pytest.raises(UserError, match=r"model.vocab_size = 400: must be the tokenizer's 420"):
        Run(experiment)
    assert run.tokenizer.vocab_size == 400


def test_a_stop_token_that_is_several_tokens_is_refused_before_any_stage(run):
    wrong = dataclasses.replace(config.ppo_ptx, stop_token="no one token")
    with pytest.raises(UserError, match=r"^ppo_ptx.stop_token = 'no one token': must be one token"):
        Run(dataclasses.replace(run.config, ppo_ptx=wrong))


def test_another_config_is_refused_and_goes_on_where_the_user_insists(run, capsys):
    stage = run.stage_directory("sft")
    run._same_config("sft")
    text = (stage / "config.json").read_text()
    changed = dataclasses.replace(
        run.config, sft=dataclasses.replace(config.sft, epochs=3.0), loop=config.loop
    )
    with pytest.raises(UserError, match=r"--insist to go on:\n  sft.epochs: 1.0 there, 3.0 now"):
        Run(changed).finish("sft")
    assert (stage / "config.json").read_text() == text
    Run(changed, insist=True).finish("sft")
    assert (
        "goes on under another config:\n  sft.epochs: 1.0 there, 3.0 now" in capsys.readouterr().out
    )
    assert json.loads((stage / "config.json").read_text())["sft"]["epochs"] == 3.0
    Run(run.config, insist=True).finish("sft")


def forbidden(source: str) -> list[str]:
    """What in a module could run code out of a file, or write an archive's members."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        found += [name for name in names if name.split(".")[0] in UNPICKLERS]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            pickles = called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False"
            if pickles or called.split(".")[-1] in CODE_OR_ARCHIVES:
                found.append(called)
    return found


def test_the_package_unpickles_nothing_and_unpacks_no_archive():
    for file in PACKAGE.rglob("*.py"):
        assert forbidden(file.read_text(encoding="utf-8")) == [], file
    bad = "import pickle\nfrom torch import load\nnp.load(f)\nnp.load(f, allow_pickle=True)\n"
    bad += "tar.extractall()\nexec(text)"
    assert len(forbidden(bad)) == 6
