"""Published names and layouts: they fill our parameters once, bit for bit, both ways."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models import families, score, transformer
from rlhf_jax.models.config import SIZES, different_fields
from tests.models import published


@pytest.fixture(params=published.CONFIGS)
def family(request):
    fields = published.CONFIGS[request.param]
    return families.of(fields["model_type"]), fields


def arrays(tensors, seed=0):
    rng = np.random.default_rng(seed)
    return {t.name: rng.normal(size=t.shape).astype(np.float32) for t in tensors}


def leaves(params):
    found = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in found}


def check_bijection(config, tensors, params):
    """Every number of ours is of one tensor, and what goes in comes out with the same bits."""
    assert len({t.name for t in tensors}) == len(tensors)
    assert sum(math.prod(t.shape) for t in tensors) == sum(x.size for x in leaves(params).values())
    given = arrays(tensors)
    for tensor in tensors:
        place = published.part(params, tensor)
        assert np.isnan(place).all()  # of no tensor yet
        place[...] = tensor.ours(given[tensor.name])
    assert not any(np.isnan(x).any() for x in leaves(params).values())
    for tensor in tensors:
        back = tensor.theirs(published.part(params, tensor))
        assert back.shape == tensor.shape
        np.testing.assert_array_equal(back, given[tensor.name])


def empty(config, scorer=False):
    def init(key):
        params = transformer.init(config, key)
        return score.with_score_head(params, key) if scorer else params

    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), shapes)


def test_tensors_fill_the_model_once_and_come_back(family):
    family, fields = family
    config = family.from_config(fields)
    check_bijection(config, family.tensors(config), empty(config))
    scorer = empty(config, scorer=True)
    del scorer["score"]["bias"]  # published reward models have none
    check_bijection(config, family.tensors(config, scorer=True), scorer)


def test_a_config_comes_back_and_of_config_finds_a_family_that_has_it(family):
    family, fields = family
    config = family.from_config(fields)
    written = family.to_config(config)
    assert different_fields(family.from_config(written), config) == []
    assert written["model_type"] == fields["model_type"]
    assert written["architectures"] == [family.architecture]
    other = families.of_config(config)
    assert different_fields(other.from_config(other.to_config(config)), config) == []


@pytest.mark.parametrize("name", published.PUBLISHED)
def test_published_models_have_as_many_parameters_as_published(name):
    count, fields = published.PUBLISHED[name]
    family = families.of(fields["model_type"])
    config = family.from_config(fields)
    assert sum(math.prod(t.shape) for t in family.tensors(config)) == count
    assert family.lacking(config) == []


def test_what_computes_otherwise_is_refused_by_name(family):
    family, fields = family
    for name, value in family_wrongs(fields):
        with pytest.raises(UserError, match=rf"config.json: (\w+: )?{name} = .*: a \w+ needs "):
            family.from_config(fields | value)


def family_wrongs(fields):
    yield "quantization_config", {"quantization_config": {"bits": 4}}
    if fields["model_type"] == "gpt2":
        yield "activation_function", {"activation_function": "relu"}
        yield "scale_attn_weights", {"scale_attn_weights": False}
        yield "n_layer", {"n_layer": "3"}
        yield "n_layer", {"n_layer": 10_001}
        return
    yield "num_hidden_layers", {"num_hidden_layers": True}
    yield "num_hidden_layers", {"num_hidden_layers": 10_001}
    if fields["model_type"] in ("qwen2", "gemma2", "gemma3_text"):
        local, whole = "sliding_attention", "full_attention"
        for kinds in (
            [local, whole, whole],
            [whole, local, local],
            [local, "chunked", local],
            [local, whole],
        ):
            yield "layer_types", {"layer_types": kinds, "use_sliding_window": True}
    if fields["model_type"] == "gemma3_text":
        return
    yield "hidden_size", {"hidden_size": None}
    yield "rope_type", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}
    yield "factor", {"rope_parameters": {"rope_type": "linear"}}


def test_impossible_and_unknown_models_are_refused():
    fields = published.CONFIGS["llama2"] | {"num_key_value_heads": 3}
    with pytest.raises(UserError, match=r"impossible model: kv_heads = 3: must be a divisor"):
        families.of("llama").from_config(fields)
    with pytest.raises(UserError, match=r"model_type = 'bert': expected one of gpt2, .*llama"):
        families.of("bert")
    with pytest.raises(UserError, match=r"general.architecture = 'bert': expected one of llama"):
        families.of_gguf("bert")
    shape = dataclasses.replace(SIZES["tiny"], norm="rms")
    with pytest.raises(UserError, match=r"the nearest, gpt2, has another norm$"):
        families.of_config(shape)
    with pytest.raises(UserError, match=r"a llama has no such shape: positions, norm, activation"):
        families.of("llama").to_config(SIZES["tiny"])
    odd = dataclasses.replace(SIZES["tiny"], heads=3, head_size=8)
    with pytest.raises(UserError, match=r"a gpt2 has no such shape: heads"):
        families.of("gpt2").to_config(odd)
    assert families.of_config(SIZES["tiny"]).architecture == "GPT2LMHeadModel"


def test_both_ways_to_write_rotary_positions_are_read():
    """transformers 4 wrote rope_theta and rope_scaling, 5 writes rope_parameters."""
    scaling = published.CONFIGS["llama3"]["rope_scaling"]
    old = published.CONFIGS["llama3"]
    new = {key: value for key, value in old.items() if not key.startswith("rope_")}
    new["rope_parameters"] = {"rope_theta": 500000.0, **scaling}
    family = families.of("llama")
    assert family.from_config(new) == family.from_config(old)
    assert family.from_config(old).rotary_scaling.low == 1.0


def test_the_names_of_a_trunk_alone_and_of_buffers_are_known():
    gpt2 = families.of("gpt2")
    assert gpt2.own_name("h.0.attn.c_attn.weight") == "transformer.h.0.attn.c_attn.weight"
    assert gpt2.own_name("transformer.wte.weight") == "transformer.wte.weight"
    assert gpt2.own_name("lm_head.weight") == "lm_head.weight"
    assert gpt2.own_name("h.0.attn.bias") is None
    assert gpt2.own_name("h.0.attn.c_attn.bias") is not None
    assert families.of("llama").own_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None


def test_gguf_of_a_llama_holds_the_same_model_with_paired_rotations():
    """llama.cpp stores rows i and i + hd / 2 of a query's or a key's head one after the other."""
    family, fields = families.of_gguf("llama"), published.CONFIGS["llama2"]
    config = family.from_config(fields)
    metadata = {
        "general.architecture": "llama", "llama.embedding_length": 16, "llama.block_count": 3,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.feed_forward_length": 24, "llama.context_length": 32,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "llama.rope.dimension_count": 4, "llama.vocab_size": 40,
    }  # fmt: skip
    tensors = family.gguf(config)
    names = [t.name for t in tensors]
    assert different_fields(family.from_gguf(metadata, names), config) == []
    assert family.from_gguf(metadata, set(names) - {"output.weight"}).tied_embeddings
    check_bijection(config, tensors, empty(config))
    with pytest.raises(UserError, match=r"rope_freqs.weight"):
        family.from_gguf(metadata, [*names, "rope_freqs.weight"])
    plain = {t.name: t for t in family.tensors(config)}
    mine = {t.name: t for t in tensors}
    weight = arrays([plain["model.layers.0.self_attn.q_proj.weight"]]).popitem()[1]
    rows = weight.reshape(4, 4, 16)  # heads, rows of a head
    permuted = rows[:, [0, 2, 1, 3]].reshape(16, 16)
    np.testing.assert_array_equal(
        mine["blk.0.attn_q.weight"].ours(permuted),
        plain["model.layers.0.self_attn.q_proj.weight"].ours(weight),
    )
