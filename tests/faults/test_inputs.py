"""What does not belong together is refused by name before any step; nothing is unpickled."""

import ast
import dataclasses
import json
from pathlib import Path

import jax
import pytest

from rlhf_jax.data.tokenizer import train_sentencepiece
from rlhf_jax.errors import UserError
from rlhf_jax.models import score, transformer
from rlhf_jax.run import Run
from rlhf_jax.training.model_files import read_about, save_model
from tests.small_run import config

PACKAGE = Path(__file__).resolve().parents[2] / "rlhf_jax"
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch",
              "tarfile", "shutil.unpack_archive", "yaml"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose models up to the reward model are there, untrained."""
    directory = tmp_path_factory.mktemp("run")
    run, key = Run(dataclasses.replace(config, out=str(directory))), jax.random.key(0)
    params = transformer.init(config.model, key)
    for stage, kind in (("pretrain", "policy"), ("sft", "policy"), ("reward", "score")):
        tree = params if kind == "policy" else score.with_score_head(params, key)
        place = run.stage_directory(stage) / "model"
        save_model(place, config.model, tree, kind, run.tokenizer.fingerprint)
    return run


def replaced(run, stage, **changes):
    """The stage's model as one made with something else."""
    place = run.stage_directory(stage) / "model"
    about = read_about(place) | {"params": transformer.init(config.model, jax.random.key(0))}
    about |= changes
    if about["model"] != config.model:
        about["params"] = transformer.init(about["model"], jax.random.key(0))
    if about["kind"] == "score":
        about["params"] = score.with_score_head(about["params"], jax.random.key(0))
    save_model(place, about["model"], about["params"], about["kind"], about["tokenizer"])


@pytest.fixture
def restored(run):
    yield
    for stage in ("sft", "reward"):
        replaced(run, stage, model=config.model, tokenizer=run.tokenizer.fingerprint)


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
    replaced(run, stage, **changes)
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


def test_the_package_imports_nothing_that_unpickles_and_numpy_is_told_not_to():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not UNPICKLERS & {name.split(".")[0] for name in names}, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert given.get("allow_pickle") == "False", file
