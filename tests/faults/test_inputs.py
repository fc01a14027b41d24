"""What does not belong together is refused by name before any step; nothing is unpickled."""

import ast
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax.cli import main
from rlhf_jax.data.records import Ranking
from rlhf_jax.data.tokenizer_training import train_sentencepiece
from rlhf_jax.durable.model_files import save_model
from rlhf_jax.errors import UserError
from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.models import score, transformer
from rlhf_jax.runs.run import Run
from tests.small_run import config
from tests.stages.test_facts import RECORDS, experiment

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
    """A run whose models and rankings up to the reward model are there, untrained."""
    run = Run(dataclasses.replace(config, out=str(tmp_path_factory.mktemp("run"))))
    for stage in ("pretrain", "sft", "reward"):
        save(run, stage, config.model, run.tokenizer.fingerprint)
    ranked = [Ranking("a", ("b", "c"), (0, 1))]
    run.collected("feedback").write("rankings", {"train": ranked, "valid": ranked})
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
        r"sft/model/model.json: width: expected 32 \(sft\), got 16",
    ),
    "policy of another vocabulary": (
        "sft", {"model": dataclasses.replace(config.model, vocab_size=500)},
        "sft/model/model.json: vocab_size: expected 400 .*, got 500",
    ),
    "reward model of another depth": (
        "reward", {"model": dataclasses.replace(config.model, layers=1)},
        r"reward/model/model.json: layers: expected 2 \(reward\), got 1",
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
    wrong = dataclasses.replace(run.config, ending=EndingConfig(stop_token="no one token"))
    with pytest.raises(UserError, match=r"^ending.stop_token = 'no one token': must be one token"):
        Run(wrong)


def test_another_config_is_refused_and_goes_on_where_the_user_insists(run, capsys):
    stage = run.stage_directory("sft")
    run._same_config("sft")
    text = (stage / "config.json").read_text()
    changed = run.config.with_stages(sft=dataclasses.replace(config.stages["sft"], epochs=3.0))
    told = r"--insist to go on:\n  stages.sft.epochs: 5.0 there, 3.0 now"
    with pytest.raises(UserError, match=told):
        Run(changed).finish("sft")
    assert (stage / "config.json").read_text() == text
    Run(changed, insist=True).finish("sft")
    assert (
        "goes on under another config:\n  stages.sft.epochs: 5.0 there, 3.0 now"
        in capsys.readouterr().out
    )
    stored = json.loads((stage / "config.json").read_text())["config"]
    assert stored["stages"]["sft"]["epochs"] == 3.0
    Run(run.config, insist=True).finish("sft")


NINES = "9" * 5000
MALFORMED = {
    "a rank out of bounds": (
        "rankings.train", '{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 2147483648]}',
        "field 'ranks[1]': expected a whole number in [0, 2147483648), got 2147483648",
    ),
    "a rank of 5,000 digits": (
        "rankings.valid", f'{{"prompt": "a", "responses": ["b", "c"], "ranks": [{NINES}, 0]}}',
        "field 'ranks[0]': expected a whole number in [0, 2147483648), got a number of 5000 digits",
    ),
    "a prompt of 5,000 digits": (
        "prompts.ppo", f'{{"prompt": {NINES}}}',
        "field 'prompt': expected a string, got a number of 5000 digits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_record_that_no_field_takes_is_told_in_a_line(name, tmp_path, monkeypatch, capsys):
    """By the command, with file, line and field, and exit code 2."""
    file, line, told = MALFORMED[name]
    path = experiment(tmp_path).data.path
    with open(f"{path}/{file}.jsonl", "a") as records:
        records.write(line + "\n")
    (tmp_path / "experiment.py").write_text(
        "import dataclasses\nfrom rlhf_jax.sources.folder import FolderData\n"
        "from tests.stages.test_facts import config\n"
        "stages = {n: config.stages[n] for n in ('pretrain', 'sft')}\n"
        f"data = FolderData(path={path!r})\n"
        "config = dataclasses.replace(config, data=data, stages=stages, evaluators=())\n"
    )
    arguments = ["rlhf-jax", "sft", str(tmp_path / "experiment.py"), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    place = f"{path}/{file}.jsonl:{len(RECORDS[file]) + 1}"
    assert capsys.readouterr().err == f"rlhf-jax: {place}: {told}\n"


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
        # HumanEval's programs run in a process that may do nothing else.
        allowed = ["exec"] if file == PACKAGE / "evaluation" / "graders" / "confined.py" else []
        assert forbidden(file.read_text(encoding="utf-8")) == allowed, file
    bad = "import pickle\nfrom torch import load\nnp.load(f)\nnp.load(f, allow_pickle=True)\n"
    bad += "tar.extractall()\nexec(text)"
    assert len(forbidden(bad)) == 6
