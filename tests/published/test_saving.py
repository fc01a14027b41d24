"""What an exported model's folder holds: a scorer's bias, the tokenizer, the card."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from etils.epath import Path

from rlhf_jax.data.special_tokens import ADDED_PAD
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.data.tokenizer_training import train_sentencepiece
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models import score
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published import (
    card,
    folder,
    model,
    saving,
    sentencepiece_json,
    tokenizer_files,
)
from rlhf_jax.published import scorer as published_scorer
from rlhf_jax.published.tensor_file import read_header
from rlhf_jax.stages.stage import score_shapes
from tests.data.test_tokenizer import byte_level

GPT2 = TransformerConfig(vocab_size=40, layers=1, width=8, heads=2, context=16)
LLAMA = dataclasses.replace(
    GPT2, positions="rotary", norm="rms", activation="swiglu", biases=False, mlp_width=12
)


def scorer(shape):
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda x: draw(x.shape).astype(np.float32), score_shapes(shape))
    params["score"]["bias"] = np.float32(1.25)
    return params


def test_a_scorer_s_bias_goes_into_the_last_norm():
    params = scorer(GPT2)
    found, left = saving.without_score_bias(params)
    assert left == 0.0 and params["score"]["bias"] == 1.25
    normed = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    of = lambda p: score.scores({"score": {**p["score"], "bias": jnp.zeros(())}},
                                normed + p["final_norm"]["bias"])  # fmt: skip
    np.testing.assert_allclose(of(found), of(params) + 1.25, atol=1e-6)


def test_a_bias_that_fits_nowhere_is_told(tmp_path):
    told = saving.write_model(Path(tmp_path), LLAMA, scorer(LLAMA), scorer=True, fields={"x": 3})
    assert told == saving.Exported("LlamaForSequenceClassification", 1.25)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rlhf_jax_score_bias"] == 1.25 and config["x"] == 3
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "score"}
    header = read_header(tmp_path / "model.safetensors")
    assert header["score.weight"].shape == (1, 8) and "lm_head.weight" not in header
    # A head of zeros scores every response with its bias, which no norm can give.
    params = scorer(GPT2)
    params["score"]["weights"] = np.zeros(8, np.float32)
    assert saving.without_score_bias(params) == (params, 1.25)


@pytest.mark.parametrize("shape", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_written_scorer_is_read_as_it_was(tmp_path, shape):
    """The same score of a hidden state n + b, where b is the last norm's bias, if there is one."""
    params = scorer(shape)
    saving.write_model(Path(tmp_path), shape, params, scorer=True, fields={})
    found = folder.Folder(tmp_path)
    assert published_scorer.is_one(found)
    read = published_scorer.load(found, shape)
    assert jax.tree.structure(read) == jax.tree.structure(params)
    np.testing.assert_array_equal(read["blocks"]["qkv"], params["blocks"]["qkv"])
    normed = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    bias = lambda p: np.asarray(p["final_norm"].get("bias", np.zeros(8)))
    of = lambda p: score.scores(p, normed + bias(p))
    np.testing.assert_allclose(of(read), of(params), atol=1e-5)


def test_a_scorer_with_several_labels_or_without_a_head_is_refused(tmp_path):
    saving.write_model(Path(tmp_path), LLAMA, scorer(LLAMA), scorer=True, fields={})
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    tensors["score.weight"] = np.zeros((2, 8), np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    wrong = r"tensor 'score.weight': expected shape \[1, 8\] by config.json, got \[2, 8\]"
    with pytest.raises(UserError, match=wrong):
        published_scorer.load(folder.Folder(tmp_path), LLAMA)
    saving.write_json(Path(tmp_path) / "config.json", {"model_type": "llama"})
    assert not published_scorer.is_one(folder.Folder(tmp_path))


def test_a_shape_of_no_family_and_a_folder_that_is_not_empty_are_refused(tmp_path):
    shape = dataclasses.replace(GPT2, biases=False)
    with pytest.raises(UserError, match="no published family has a model of this shape"):
        saving.write_model(Path(tmp_path), shape, scorer(shape), scorer=True, fields={})
    with pytest.raises(ConfigError, match=r"^dtype = 'int8': must be one of float32"):
        saving.write_model(Path(tmp_path), GPT2, {}, scorer=False, dtype="int8", fields={})
    (tmp_path / "some").write_text("")
    with pytest.raises(ConfigError, match=r"^FOLDER = .*: must be a folder that is not there yet"):
        saving.new_folder(tmp_path, "FOLDER")


def test_a_partial_folder_is_removed_only_if_this_command_made_it(tmp_path):
    partial = saving.new_folder(tmp_path / "to", "FOLDER")
    (partial / "half").write_text("")
    assert not (saving.new_folder(tmp_path / "to", "FOLDER") / "half").exists()
    (partial / "whole").write_text("")
    place = saving.finish(partial)
    assert [path.name for path in place.iterdir()] == ["whole"]
    other = tmp_path / "other.partial"
    other.mkdir()
    assert saving.new_folder(tmp_path / "other", "FOLDER") == other  # it was empty
    (other / saving.MARK).unlink()
    (other / "mine").write_text("")
    with pytest.raises(ConfigError, match=r"^FOLDER = .*other': must be another: .*other.partial"):
        saving.new_folder(tmp_path / "other", "FOLDER")
    assert (other / "mine").is_file()


def test_a_number_format_that_no_parameter_has_is_refused_by_name(tmp_path):
    published_gpt2(tmp_path, **{"transformer.ln_f.bias": np.zeros(8, np.float64)})
    told = r"tensor 'transformer.ln_f.bias': dtype: expected one of F32, F16, BF16, got 'F64'"
    with pytest.raises(UserError, match=told):
        folder.Folder(tmp_path).tensors()


def test_a_sentencepiece_tokenizer_becomes_a_tokenizer_json(tmp_path):
    lines = ["The river Danube has 12 bridges.", "Name two rivers, the Rhine and the Danube:"] * 9
    ours = train_sentencepiece(lines, 330, tmp_path / "tokenizer.model")
    assert tokenizer_files.write(Path(tmp_path), Path(tmp_path / "tokenizer.model"), ours, 64) == []
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("The Rhine has\n 7 rivers.", "  two  spaces", "caf\u00e9 \U0001f600", "<s>the"):
        ids = made.encode(text, add_special_tokens=False).ids
        if "<s>" not in text:  # theirs reads special tokens in a text
            assert ids == ours.encode(text)
        assert made.encode(text).ids == [ours.bos_id, *ids]
        assert made.decode(ours.encode(text)) == text
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 64 and config["pad_token"] == "<pad>"
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    fields["model"]["merges"].reverse()
    assert sentencepiece_json.differing(ours, fields) is not None


def test_a_pad_token_that_was_added_is_in_the_files(tmp_path):
    byte_level(["<s>", "</s>"]).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    to = Path(tmp_path / "to")
    to.mkdir()
    tokenizer_files.write(to, Path(tmp_path / "tokenizer.json"), ours, 64)
    made = tokenizers.Tokenizer.from_file(str(to / "tokenizer.json"))
    assert made.token_to_id(ADDED_PAD) == ours.pad_id == ours.vocab_size - 1
    again = load_tokenizer(to / "tokenizer.json")
    assert (again.pad_id, again.bos_id, again.eos_id) == (ours.pad_id, ours.bos_id, ours.eos_id)
    assert again.vocab_size == ours.vocab_size


def test_the_card_has_every_part():
    about = card.Card(
        stage="reward", scorer=True, architecture="Some", parameters=1234, dtype="bfloat16",
        config={"seed": 7}, records={"kept": 3}, licences={"a|b.jsonl": "MIT"},
        tests=["test.jsonl"], figures=[("accuracy", "0.7 [0.6, 0.8]")], versions={"jax": "0.1"},
        notes=["Add 1.25."],
    )  # fmt: skip
    text = card.text(about)
    for part in ("pipeline_tag: text-classification", "A reward model (Some, 1,234 parameters in "
                 "bfloat16)", "**Add 1.25.**", "**Trained on public test sets: test.jsonl.",
                 "| accuracy | 0.7 [0.6, 0.8] |", r"| a\|b.jsonl | MIT |", '"kept": 3', '"seed": 7',
                 "| jax | 0.1 |", "AutoModelForSequenceClassification"):  # fmt: skip
        assert part in text
    policy = card.text(dataclasses.replace(about, scorer=False, tests=(), figures=()))
    assert "AutoModelForCausalLM" in policy and "public test sets" not in policy
    assert "There is no report of this model." in policy


def published_gpt2(place, **more):
    """A folder with a GPT-2, and further tensors."""
    params = {name: x for name, x in scorer(GPT2).items() if name != "score"}
    saving.write_model(Path(place), GPT2, params, scorer=False, fields={})
    stored = {name: each.read() for name, each in folder.Folder(place).tensors().items()}
    safetensors.numpy.save_file(stored | more, place / "model.safetensors")
    return params


def test_a_smaller_context_takes_the_first_positions(tmp_path):
    params = published_gpt2(tmp_path)
    small = model.computed_as(GPT2, TransformerConfig(context=5))
    found = model.load(folder.Folder(tmp_path), small)
    np.testing.assert_array_equal(found["positions"], params["positions"][:5])
    np.testing.assert_array_equal(found["tokens"], params["tokens"])


def test_a_head_may_repeat_the_token_embeddings_and_buffers_are_left_out(tmp_path):
    head = scorer(GPT2)["tokens"]
    mask = {"transformer.h.0.attn.bias": np.zeros((1, 1, 16, 16), bool),
            "transformer.h.0.attn.masked_bias": np.zeros(2, np.uint8)}  # fmt: skip
    published_gpt2(tmp_path, **mask, **{"lm_head.weight": head})
    found = folder.Folder(tmp_path)
    assert not {"lm_head.weight", *mask} & found.tensors().keys()
    other = head.copy()
    other[3, 4] += 1
    published_gpt2(tmp_path, **{"lm_head.weight": other})
    told = r"tensor 'lm_head.weight': differs from 'transformer.wte.weight', which it repeats"
    with pytest.raises(UserError, match=told):
        found.tensors()
