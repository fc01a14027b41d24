"""Small config.json files of every family, and our parameters from published tensors."""

import functools

import jax
import numpy as np

from rlhf_jax.models import transformer

VOCABULARY = 40
_LLAMA = dict(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
_NEOX = dict(
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    max_position_embeddings=32,
    bos_token_id=1,
    eos_token_id=2,
)
CONFIGS = {
    "gpt2": dict(model_type="gpt2", vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=4,
                 n_positions=32, bos_token_id=1, eos_token_id=2),
    "llama2": dict(_LLAMA, model_type="llama", rms_norm_eps=1e-5),
    "llama3": dict(_LLAMA, model_type="llama", rope_theta=500000.0, rope_scaling=_LLAMA3,
                   tie_word_embeddings=True),
    "llama, linear": dict(_LLAMA, model_type="llama", attention_bias=True, mlp_bias=True,
                          rope_scaling={"type": "linear", "factor": 2.0}),
    "mistral": dict(_LLAMA, model_type="mistral", head_dim=8, sliding_window=4),
    "neox": dict(_NEOX, model_type="gpt_neox"),
    "neox, sequential": dict(_NEOX, model_type="gpt_neox", use_parallel_residual=False,
                             rotary_pct=1.0, hidden_act="gelu_new", tie_word_embeddings=True),
    "qwen2": dict(_LLAMA, model_type="qwen2", tie_word_embeddings=True, rope_theta=1e6),
    "qwen2, window": dict(_LLAMA, model_type="qwen2", use_sliding_window=True, sliding_window=4,
                          max_window_layers=0),
    "qwen3": dict(_LLAMA, model_type="qwen3", head_dim=8, rope_theta=1e6),
    "gemma": dict(_LLAMA, model_type="gemma", head_dim=8, num_key_value_heads=1,
                  hidden_act="gelu"),
    "gemma2": dict(_LLAMA, model_type="gemma2", head_dim=8, sliding_window=4,
                   query_pre_attn_scalar=12, attn_logit_softcapping=2.0,
                   final_logit_softcapping=1.5),
    "gemma3": dict(_LLAMA, model_type="gemma3_text", head_dim=8, num_hidden_layers=7,
                   sliding_window=4, sliding_window_pattern=3, query_pre_attn_scalar=12,
                   rope_scaling={"rope_type": "linear", "factor": 8.0}, rope_theta=1e6,
                   rope_local_base_freq=100.0),
}  # fmt: skip


def branch(params, tensor):
    """The parameter that a published tensor lies in."""
    return functools.reduce(lambda tree, name: tree[name], tensor.path.split("/"), params)


def part(params, tensor):
    """The part of our parameters that a published tensor fills."""
    whole = branch(params, tensor)
    whole = whole if tensor.layer is None else whole[tensor.layer]
    return whole[tensor.index] if tensor.index else whole


def filled(config, tensors, arrays):
    """Our parameters from published arrays; NaN where none lies."""
    shapes = jax.eval_shape(lambda key: transformer.init(config, key), jax.random.key(0))
    params = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), shapes)
    for tensor in tensors:
        assert arrays[tensor.name].shape == tensor.shape
        part(params, tensor)[...] = tensor.ours(arrays[tensor.name])
    return params
