"""An experiment that starts from a published model: import, training, export, import again."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax import api, cli
from rlhf_jax.data.records import Demonstration, write_jsonl
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published import folder, hub, model, saving, tensor_file
from rlhf_jax.runs import export
from rlhf_jax.runs.evaluation import EvaluationConfig
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.runs.measured import of_run
from rlhf_jax.runs.reading import reading_run
from rlhf_jax.sources.folder import FolderData
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.test_tokenizer import byte_level

SHAPE = TransformerConfig(
    vocab_size=360, layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, context=64,
    positions="rotary", norm="rms", activation="swiglu", biases=False, tied_embeddings=False,
    head_size=8,  # config.json names it, though it is width / heads
    compute_dtype="float32",
)  # fmt: skip
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PAGE = Path(__file__).parents[1] / "docs" / "weights.md"
SMALLER = {  # the page's example in seconds
    "runs/published/smollm2": "MODEL", "my_records": "RECORDS",
    "context=512, scan_layers=False": 'compute_dtype="float32", context=32',
    "learning_rate=1e-5": "learning_rate=1e-3", "batch_size=8, length=256":
    "batch_size=4, length=24", "prompt_length=192, response_length=64":
    "prompt_length=16, response_length=8",
}  # fmt: skip


def page_s_example(place):
    """The experiment of docs/weights.md on a model and records in a folder."""
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    paths = {"MODEL": str(place / "model"), "RECORDS": str(place / "records")}
    for old, new in (SMALLER | paths).items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def write_published(place, shape, seed):
    """A published folder with random weights; returns them."""
    partial = saving.new_folder(place, "place")
    draw = np.random.default_rng(seed).standard_normal
    shapes = jax.eval_shape(lambda key: transformer.init(shape, key), jax.random.key(0))
    params = jax.tree.map(lambda x: np.float32(0.3) * draw(x.shape, np.float32), shapes)
    saving.write_model(partial, shape, params, scorer=False, fields={}, largest=20_000)
    byte_level(["<pad>", "<s>", "</s>"]).save(str(partial / "tokenizer.json"))
    saving.write_json(partial / "tokenizer_config.json", {"chat_template": TEMPLATE})
    (partial / "README.md").write_text("---\nlicense: mit\nbase_model:\n- own/name\n---\n# It\n")
    saving.finish(partial)
    return params


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a published model and an experiment that has run."""
    place = tmp_path_factory.mktemp("pretrained")
    params = write_published(place / "model", SHAPE, 0)
    records = [Demonstration(f"Say {n}:", f" {n}.") for n in range(8)]
    write_jsonl(place / "records" / "demonstrations.train.jsonl", records)
    (place / "experiment.py").write_text(page_s_example(place))
    cli.command(["sft", str(place / "experiment.py"), "--out", str(place / "run")])
    return place, params


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_stage_starts_from_the_file_s_weights_and_their_tokenizer(place):
    place, params = place
    loaded = api.load_policy(place / "run", "pretrained")
    words = loaded.tokenizer.vocab_size
    assert loaded.shape == dataclasses.replace(SHAPE, vocab_size=words, context=32) and words > 360
    for name in ("tokens", "head"):  # a row for each token that the model was published without
        mean = np.broadcast_to(params[name].mean(0, dtype=np.float64), (words - 360, 32))
        np.testing.assert_allclose(loaded.params[name][360:], mean, atol=1e-7)
    cut = lambda x: x[:360] if x.shape[0] == words else x
    equal(jax.tree.map(cut, loaded.params), params)
    trained = api.load_policy(place / "run", "sft")
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(), trained.params, loaded.params)
    assert min(jax.tree.leaves(change)) > 0 and max(jax.tree.leaves(change)) < 2.1e-3  # two steps
    published = load_tokenizer(place / "model" / "tokenizer.json")
    assert loaded.tokenizer.fingerprint == published.fingerprint
    assert loaded.tokenizer.config["chat_template"] == TEMPLATE


def test_training_records_of_a_published_model_are_not_those_of_the_run(place):
    config = load_experiment(str(place[0] / "experiment.py"))
    run = reading_run(dataclasses.replace(config, out=str(place[0] / "run")), "eval", False)
    found = {model.name: model.trained for model in of_run(run, ())}
    assert found["pretrained"] is None
    held_out = {f"Say {n}:  {n}." for n in range(8)} - set(found["sft"]())
    assert held_out == {"Say 3:  3."}


def test_api_loads_a_published_folder(place):
    place, _ = place
    found, run = api.load_policy(place / "model"), api.load_policy(place / "run", "pretrained")
    equal(found.params, run.params)
    assert found.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert found.ending.eos == run.ending.eos and found.ending.missing is None


def test_import_export_import_is_bit_for_bit(place):
    place, _ = place
    to = place / "exported"
    cli.command(["export", str(place / "run"), "sft", str(to), "--largest", "0.00001"])
    assert len(list(to.glob("*.safetensors"))) > 3 and (to / tensor_file.INDEX).is_file()
    again, trained = folder.Folder(to), api.load_policy(place / "run", "sft")
    shape = model.shape_of(again)
    # Trained with 32 positions; the file's own 64 are exported.
    assert shape == dataclasses.replace(trained.shape, compute_dtype="auto", context=64)
    assert "config.json has the published context of 64" in (to / "README.md").read_text()
    equal(model.load(again, shape), trained.params)
    assert (to / "chat_template.jinja").read_text() == TEMPLATE
    words = json.loads((to / "tokenizer_config.json").read_text())
    assert words["pad_token"] == "<pad>" and words["model_max_length"] == 64
    tokenizer = trained.tokenizer
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id,
           "pad_token_id": tokenizer.pad_id}  # fmt: skip
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    for name, more in (("config.json", {}), ("generation_config.json", sampling)):
        assert json.loads((to / name).read_text()).items() >= (ids | more).items()
    known = {"stages": {"sft": {}, "ppo": {"temperature": 0.7}}}
    assert [export.temperature_of(known, stage) for stage in known["stages"]] == [1.0, 0.7]


def test_the_card_says_what_the_model_is(place):
    place, _ = place
    counts = place / "run" / "data" / "counts.json"
    before = counts.read_text()
    origin = {"licences": {"a.jsonl": "MIT"}, "test_sets": ["t.jsonl"]}
    counts.write_text(json.dumps(json.loads(before) | {"origin": origin}))
    export.export(place / "run", "sft", place / "card", export.ExportOptions(dtype="bfloat16"))
    counts.write_text(before)
    card = (place / "card" / "README.md").read_text()
    assert "| a.jsonl | MIT |" in card and "Trained on public test sets: t.jsonl." in card
    assert "pipeline_tag: text-generation" in card and "LlamaForCausalLM" in card
    digest = folder.Folder(place / "model").digest()
    assert "which ends with the token `</s>` (2)" in card and "null |" not in card
    assert f'"pretrained": "{digest}"' in card and '\nbase_model: "own/name"\n---\n' in card
    assert (f"The base model is `{place / 'model'}`, made from own/name (sha256 {digest}). "
            "Its licence: mit.\n") in card  # fmt: skip
    assert '"rlhf_jax.stages.sft:SFT"' in card and '"train": 7' in card and "| jax |" in card
    assert json.loads((place / "card" / "config.json").read_text())["dtype"] == "bfloat16"
    read = folder.Folder(place / "card").tensors()["lm_head.weight"].read()
    head = np.asarray(api.load_policy(place / "run", "sft").params["head"])
    np.testing.assert_array_equal(read, head.astype(read.dtype))


def test_an_exported_adapter_names_its_base_and_the_base_says_nothing_of_training(place):
    place, _ = place
    text = page_s_example(place).replace("length=24", "length=24, lora=LoRA(2, 4.0)")
    file = place / "adapted.py"
    file.write_text(f"from rlhf_jax.models.lora import LoRA\n{text}")
    cli.command(["sft", str(file), "--out", str(place / "adapted")])
    cli.command(["export", str(place / "adapted"), "sft", str(place / "lora"), "--adapter"])
    base = str(place / "model")
    config = json.loads((place / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base
    card = (place / "lora" / "README.md").read_text()
    assert f'base = AutoModelForCausalLM.from_pretrained("{base}")\n' in card
    cli.command(["export", str(place / "adapted"), "pretrained", str(place / "base")])
    assert "In training" not in (place / "base" / "README.md").read_text()


def test_files_that_have_changed_are_refused(place, capsys):
    place, _ = place
    command = ["sft", str(place / "experiment.py"), "--out", str(place / "run")]
    other = place / "other"
    shutil.copytree(place / "model", other)
    cli.command([*command, "--pretrained", str(other)])  # the same content in another place
    assert "nothing is left to run" in capsys.readouterr().out
    write_published(place / "seed", SHAPE, 1)
    with pytest.raises(UserError, match=r"another config.*\n  pretrained: "):
        cli.command([*command, "--pretrained", str(place / "seed")])
    shutil.copyfile(other / "tokenizer_config.json", other / "chat_template.jinja")
    with pytest.raises(UserError, match=r"another config.*\n  tokenizer: "):
        cli.command([*command, "--pretrained", str(other)])


def test_a_finished_run_needs_the_published_files_no_more(place, monkeypatch, tmp_path, capsys):
    """Not on another machine, nor are they hashed again while they are as they were."""
    place, _ = place
    arguments = ["--out", str(place / "run"), "--n", "1", "--prompts", str(tmp_path / "asked.txt")]
    command = ["generate", str(place / "experiment.py"), *arguments]
    (tmp_path / "asked.txt").write_text("Say 1:\n")
    hashed = []
    digest = folder._digest
    monkeypatch.setattr(folder, "_digest", lambda files: hashed.append(files) or digest(files))
    cli.command(command)
    here = capsys.readouterr().out
    config = load_experiment(str(place / "experiment.py"))
    config = dataclasses.replace(config, out=str(place / "run"))
    there, before = config.fingerprint("sft"), config.model
    assert hashed == []
    (place / "model").rename(place / "moved")
    try:
        cli.command(command)
        assert capsys.readouterr().out == here
        gone = load_experiment(str(place / "experiment.py"))
        gone = dataclasses.replace(gone, out=str(place / "run"))
        assert gone.fingerprint("sft") == there and gone.model == before
        with pytest.raises(UserError, match=r"^pretrained = '.*/model': its tensors are not there"):
            gone.published.tensors()
        other = dataclasses.replace(gone, pretrained=str(place / "other-name"))
        with pytest.raises(UserError, match=r"^pretrained = '.*/other-name': must be a folder"):
            other.fingerprint("sft")
    finally:
        (place / "moved").rename(place / "model")
    assert there["pretrained"] == digest(folder.Folder(place / "model").files())
    about = place / "run" / "pretrained" / "published.json"
    content = about.read_text()
    about.write_text(json.dumps(json.loads(content) | {"name": "own/name"}))
    monkeypatch.setattr(hub, "folder", None)  # the hub is not asked
    on_hub = dataclasses.replace(config, pretrained="own/name")
    assert on_hub.fingerprint("sft") == there
    about.write_text("{}")
    with pytest.raises(UserError, match=r"published.json: name: expected str; remove the file"):
        config.fingerprint("sft")
    about.write_text(content)


def test_what_is_kept_of_the_files_does_not_hide_a_change(place):
    place, _ = place
    config = load_experiment(str(place / "experiment.py"))
    config = dataclasses.replace(config, out=str(place / "run"))
    before, file = config.fingerprint("sft"), place / "model" / "config.json"
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    assert config.fingerprint("sft")["pretrained"] != before["pretrained"]
    file.write_bytes(content)
    assert config.fingerprint("sft") == before


def test_what_a_run_changes_of_the_published_model_is_told(place):
    found = folder.Folder(place[0] / "model")
    wide = model.shape_of(found)
    assert wide.vocab_size > 360
    (told,) = model.changes(found, wide)
    assert f"no embeddings of {wide.vocab_size - 360} tokens of the tokenizer" in told
    assert model.changes(found, dataclasses.replace(wide, context=16))[1] == (
        "the published context of 64 tokens is cut to 16 (model.context)"
    )
    assert model.changes(found, SHAPE) == []


def experiment(**fields):
    known = {
        "name": "some",
        "data": FolderData(),
        "stages": {"sft": SFT(OptimizerConfig(), length=8, start="pretrained")},
        "evaluation": EvaluationConfig(prompt_length=4, response_length=4),
    }
    return Experiment(**known | fields)


def test_an_experiment_has_the_published_shape(place):
    there = str(place[0] / "model")
    found = experiment(pretrained=there)
    words = found.model.vocab_size
    assert found.model == dataclasses.replace(SHAPE, vocab_size=words, compute_dtype="auto")
    assert list(found.stages) == ["pretrained", "sft"]
    given = TransformerConfig(layers=7, context=16, remat="full", logit_chunk=4)
    found = experiment(pretrained=there, model=given)
    assert found.model == dataclasses.replace(
        SHAPE, vocab_size=words, context=16, remat="full", logit_chunk=4, compute_dtype="auto"
    )
    assert dataclasses.replace(found, seed=3).stages == found.stages
    # A plan needs no files where the experiment gives the shape.
    assert experiment(pretrained="not-there", model=given).model == given


def test_what_is_wrong_with_pretrained_is_one_line(place):
    there = str(place[0] / "model")
    with pytest.raises(UserError, match=r"^pretrained = 'not-there': must be a folder with config"):
        experiment(pretrained="not-there")
    with pytest.raises(ConfigError, match=r"^model = None: must be a TransformerConfig"):
        experiment()
    with pytest.raises(ConfigError, match=r"^data.bos_token = '<s>': must be left out: pretrained"):
        experiment(pretrained=there, data=FolderData(bos_token="<s>"))
    stages = {"pretrained": SFT(OptimizerConfig(), length=8, start=None)}
    with pytest.raises(ConfigError, match=r"^stages = 'pretrained': must be another name"):
        experiment(pretrained=there, stages=stages)
    broken = place[0] / "broken"
    shutil.copytree(there, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").unlink()
    with pytest.raises(UserError, match=f"^{broken}: expected config.json: it is not there$"):
        experiment(pretrained=str(broken))
    (broken / "config.json").write_text("{")
    with pytest.raises(UserError, match=f"^{broken}/config.json: cannot be read: expected JSON"):
        experiment(pretrained=str(broken))
    (broken / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(UserError, match=r"broken/config.json: hidden_act = 'relu'"):
        experiment(pretrained=str(broken))
    (broken / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(UserError, match=r"up_proj.weight': expected shape \[40, 32\]"):
        cli.command(["sft", str(place[0] / "experiment.py"), "--pretrained", str(broken),
                     "--out", str(place[0] / "refused")])  # fmt: skip
    assert not (place[0] / "refused" / "data").exists()
    shape = model.shape_of(folder.Folder(broken))
    with pytest.raises(UserError, match=r"broken: tensor 'model.layers.0.mlp.up_proj.weight': "
                       r"expected shape \[40, 32\] by config.json, got \[48, 32\]"):  # fmt: skip
        model.load(folder.Folder(broken), shape)
