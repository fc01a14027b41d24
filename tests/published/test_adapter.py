"""An exported adapter: B A is the change of each published matrix, and peft computes as we do."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils.epath import Path

from rlhf_jax.models import families, lora, parts, score
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.lora import TRAINED, LoRA
from rlhf_jax.published import saving, tensor_file
from rlhf_jax.published.adapter import matrices, write_adapter
from rlhf_jax.runs.models import base_of
from tests.runs.test_models import BASE_SHAPE, stored  # noqa: F401
from tests.stages import tiny

GPT2 = dataclasses.replace(tiny.MODEL, norm_epsilon=1e-5)
LLAMA = TransformerConfig(
    vocab_size=40, layers=2, width=16, heads=4, kv_heads=2, mlp_width=24, context=32,
    positions="rotary", norm="rms", activation="swiglu", biases=False, tied_embeddings=False,
    compute_dtype="float32",
)  # fmt: skip
SHAPES = {"gpt2": GPT2, "llama": LLAMA}


FORM = LoRA(3, 4.5)


def adapted(shape, form=FORM):
    base = tiny.policy_params(1, shape)
    adapter = lora.init(form, base["blocks"], jax.random.key(2))
    return dataclasses.replace(shape, lora=form), parts.merge(base, tiny.noisy(adapter, 2))


@pytest.mark.parametrize("name", SHAPES)
def test_b_a_is_the_change_of_each_published_matrix(name):
    shape, params = adapted(SHAPES[name])
    merged, found = lora.merged(shape.lora, params), 0
    for each in families.of_config(SHAPES[name]).tensors(SHAPES[name]):
        matrix = each.path.rpartition("/")[2]
        if f"{matrix}_a" not in params["blocks"]["lora"]:
            continue
        a, b, transposed = matrices(shape, params, each)
        assert transposed == (name == "gpt2") and a.shape[0] == b.shape[1] == 3
        change = 1.5 * (b.astype(np.float64) @ a)
        change = change.T if transposed else change
        before, after = (
            np.asarray(p["blocks"][matrix], np.float64)[each.layer] for p in (params, merged)
        )
        expected = each.theirs((after - before)[each.index])
        np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-5)
        found += 1
    assert found == 2 * (4 if name == "gpt2" else 7)


def test_the_folder_says_what_peft_asks(tmp_path):
    shape, params = adapted(LLAMA, LoRA(2, 3.0, ("qkv",)))
    scorer = score.with_score_head(params, jax.random.key(0))
    scorer = {**scorer, "score": {**scorer["score"], "bias": np.float32(0.25)}}
    small = parts.split(scorer, TRAINED["score"]).trained
    assert write_adapter(Path(tmp_path), shape, small, True, "sft") == 0.25
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"self_attn.{x}_proj" for x in "kqv"]
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (2, 3.0, "SEQ_CLS")
    assert config["modules_to_save"] == ["score"] and not config["fan_in_fan_out"]
    header = tensor_file.read_header(tmp_path / "adapter_model.safetensors")
    first = "base_model.model.model.layers.1.self_attn.k_proj.lora_"
    assert header[f"{first}A.weight"].shape == (2, 16)
    assert header[f"{first}B.weight"].shape == (8, 2)
    weights = header["base_model.model.score.weight"].read()
    np.testing.assert_array_equal(weights, np.asarray(scorer["score"]["weights"])[None])
    assert len(header) == 2 * 3 * 2 + 1


def test_the_base_of_an_adapter_is_the_model_that_is_exported_as_its_trunk(stored):  # noqa: F811
    run, _ = stored
    found = {stage: base_of(run / stage / "model").name for stage in ("sft", "reward", "ppo")}
    assert found == {"sft": "base", "reward": "base", "ppo": "sft"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("scorer", [False, True], ids=["policy", "scorer"])
def test_peft_computes_as_we_do(name, scorer, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from rlhf_jax.models import transformer

    shape, params = adapted(SHAPES[name])
    base = lora.trunk_of(params)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    saving.write_model(Path(tmp_path), SHAPES[name], base, False, fields=ids)
    if scorer:
        params = score.with_score_head(params, jax.random.key(4))
    small = parts.split(params, TRAINED["score" if scorer else "policy"]).trained
    folder = Path(tmp_path / "adapter")
    folder.mkdir()
    write_adapter(folder, shape, small, scorer, "base")
    tokens = np.random.default_rng(0).integers(3, 40, (2, 9)).astype(np.int32)
    states = transformer.hidden(shape, params, tokens, np.ones_like(tokens))
    if scorer:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            str(tmp_path), num_labels=1
        )
        expected = np.asarray(score.scores(params, states))[:, -1:]
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path))
        expected = np.asarray(transformer.logits(shape, params, states))
    model = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    with torch.no_grad():
        found = model(torch.tensor(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
