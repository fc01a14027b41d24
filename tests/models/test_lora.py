"""Adapters: products with them are those of the merged matrices, and a new one changes no bit."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.models import lora, parts, transformer
from rlhf_jax.models.lora import LoRA
from tests.models import test_transformer
from tests.models.test_parts import leaves
from tests.models.test_transformer import GPT, LLAMA, tokens_of

FORMS = {
    "gpt": (GPT, LoRA(3, 4.5)),
    "llama": (LLAMA, LoRA(5, 2.0)),
    "some": (GPT, LoRA(3, 4.5, ("qkv", "down"))),
}
NUMPY = {GPT: test_transformer.numpy_gpt, LLAMA: test_transformer.numpy_llama}


@functools.cache
def made(name):
    """(the shape with an adapter, the shape without, its noisy parameters)."""
    config, form = FORMS[name]
    adapted = dataclasses.replace(config, lora=form)
    return adapted, config, test_transformer.noisy(adapted)


def merged(params, form):
    """W + alpha / rank A B, layer by layer, in float64."""
    blocks = {k: v for k, v in params["blocks"].items() if k != "lora"}
    adapter = jax.tree.map(lambda x: np.asarray(x, np.float64), params["blocks"]["lora"])
    for name in {path.rsplit("_", 1)[0] for path in adapter}:
        a, b = adapter[f"{name}_a"], adapter[f"{name}_b"]
        change = [x @ y.reshape(len(y), -1) for x, y in zip(a, b, strict=True)]
        w = np.asarray(blocks[name], np.float64)
        blocks[name] = w + form.alpha / form.rank * np.reshape(change, w.shape)
    return {**params, "blocks": blocks}


@pytest.mark.parametrize("name", FORMS)
def test_the_products_are_those_of_the_merged_matrices_in_float64(name):
    adapted, config, params = made(name)
    adapter = {path.removesuffix("_a") for path in params["blocks"]["lora"] if path.endswith("a")}
    form = adapted.lora
    assert adapter == set(form.matrices or lora.MATRICES) - ({"gate"} if config == GPT else set())
    tokens = tokens_of(7)
    found = test_transformer.run(adapted, params, tokens, np.ones_like(tokens))
    for row, ids in zip(found, tokens, strict=True):
        expected = NUMPY[config](merged(params, form), ids)
        np.testing.assert_allclose(row, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", FORMS)
def test_what_is_merged_and_what_decodes_are_these_matrices(name):
    adapted, _, params = made(name)
    expected = leaves(merged(params, adapted.lora))
    for found in (lora.merged(adapted.lora, params), transformer.for_decoding(adapted, params)):
        found = leaves({k: v for k, v in found.items() if k != "columns"})
        assert found.keys() == expected.keys()
        for path, array in found.items():
            np.testing.assert_allclose(array, expected[path], rtol=1e-5, atol=1e-5, err_msg=path)
            if path.split("/")[-1] not in lora.MATRICES:
                np.testing.assert_array_equal(array, expected[path])


def test_a_new_adapter_changes_no_bit_and_nor_does_leaving_it_out():
    adapted, config, _ = made("gpt")
    plain = test_transformer.noisy(config)
    adapter = lora.init(adapted.lora, plain["blocks"], jax.random.key(5))
    for path, array in leaves(adapter).items():
        assert np.any(array) == path.endswith("_a")
    tokens = tokens_of(7)
    ask = lambda config, params: test_transformer.run(config, params, tokens, np.ones_like(tokens))
    off = ask(config, plain)
    np.testing.assert_array_equal(ask(adapted, parts.merge(plain, adapter)), off)
    np.testing.assert_array_equal(ask(adapted, plain), off)


def test_a_gradient_reaches_both_matrices_and_is_that_of_the_merged_matrix():
    """With G the gradient by W: dA = alpha / rank G B', dB = alpha / rank A' G."""
    adapted, config, params = made("some")
    tokens = tokens_of(6)

    def loss(config, params):
        states = transformer.hidden(config, params, tokens, np.ones_like(tokens))
        return (states[:, -1] @ np.arange(config.width, dtype=np.float32)).sum()

    of = jax.jit(jax.grad(loss, argnums=1), static_argnums=0)
    found = of(adapted, params)["blocks"]["lora"]
    gradients = of(config, lora.merged(adapted.lora, params))["blocks"]
    assert found.keys() == {"qkv_a", "qkv_b", "down_a", "down_b"}
    for name in ("qkv", "down"):
        g = np.asarray(gradients[name], np.float64)
        g = g.reshape(*g.shape[:2], -1)
        a, b = (np.asarray(params["blocks"]["lora"][f"{name}_{x}"], np.float64) for x in "ab")
        da = 1.5 * g @ b.reshape(*b.shape[:2], -1).swapaxes(1, 2)
        db = 1.5 * a.swapaxes(1, 2) @ g
        for part, wanted in (("a", da), ("b", db.reshape(b.shape))):
            array = found[f"{name}_{part}"]
            np.testing.assert_allclose(array, wanted, rtol=1e-3, atol=2e-3 * np.abs(wanted).max())


def test_a_begins_as_in_peft_and_does_not_depend_on_the_other_matrices():
    blocks = transformer.init(GPT, jax.random.key(0))["blocks"]
    make = lambda form: lora.init(form, blocks, jax.random.key(1))["blocks"]["lora"]
    alone, all_ = make(LoRA(200, matrices=("down",))), make(LoRA(200))
    np.testing.assert_array_equal(alone["down_a"], all_["down_a"])
    bound = (4 * GPT.width) ** -0.5  # of 64 inputs
    assert 0.99 * bound < np.abs(alone["down_a"]).max() <= bound
    np.testing.assert_allclose(np.std(alone["down_a"]), bound / 3**0.5, rtol=0.02)


REFUSED = {
    "rank = 0: must be positive": lambda: LoRA(0),
    "alpha = -1.0: must be positive": lambda: LoRA(4, -1.0),
    "matrices = 'head': must be of qkv, out, up, gate, down": lambda: LoRA(matrices=("head",)),
    r"lora.matrices = \('gate',\): must be without 'gate': this model has no gate":
        lambda: dataclasses.replace(GPT, lora=LoRA(matrices=("gate",))),
}  # fmt: skip


@pytest.mark.parametrize("told", REFUSED)
def test_a_form_that_cannot_be_is_refused(told):
    with pytest.raises(ConfigError, match=f"^{told}$"):
        REFUSED[told]()
