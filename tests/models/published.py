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

# What the config.json of published models says of their shape, and their numbers of parameters as
# published with them.
_SMOLLM2 = dict(
    model_type="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536,
    num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, hidden_act="silu",
    max_position_embeddings=8192, rms_norm_eps=1e-05, rope_theta=100000, rope_scaling=None,
    rope_interleaved=False, tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
    pretraining_tp=1, is_llama_config=True, torch_dtype="bfloat16",
)  # fmt: skip
PUBLISHED = {
    "gpt2": (124_439_808, dict(
        model_type="gpt2", vocab_size=50257, n_embd=768, n_layer=12, n_head=12, n_positions=1024,
        n_ctx=1024, activation_function="gelu_new", layer_norm_epsilon=1e-05)),
    "Pythia 160M": (162_322_944, dict(
        model_type="gpt_neox", vocab_size=50304, hidden_size=768, intermediate_size=3072,
        num_hidden_layers=12, num_attention_heads=12, hidden_act="gelu", rotary_pct=0.25,
        rotary_emb_base=10000, max_position_embeddings=2048, use_parallel_residual=True,
        layer_norm_eps=1e-05, tie_word_embeddings=False)),
    "SmolLM2 135M": (134_515_008, _SMOLLM2),
    "Llama 3.2 1B": (1_235_814_400, dict(
        _SMOLLM2, vocab_size=128256, hidden_size=2048, intermediate_size=8192, head_dim=64,
        num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, rope_theta=500000.0,
        rope_scaling={"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                      "original_max_position_embeddings": 8192, "rope_type": "llama3"})),
    "Mistral 7B": (7_241_732_096, dict(
        model_type="mistral", vocab_size=32000, hidden_size=4096, intermediate_size=14336,
        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, hidden_act="silu",
        max_position_embeddings=32768, rms_norm_eps=1e-05, rope_theta=10000.0,
        sliding_window=4096, tie_word_embeddings=False)),
    "Qwen2.5 0.5B": (494_032_768, dict(
        model_type="qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864,
        num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, hidden_act="silu",
        max_position_embeddings=32768, rms_norm_eps=1e-06, rope_theta=1000000.0,
        sliding_window=32768, use_sliding_window=False, max_window_layers=24,
        tie_word_embeddings=True)),
    "Qwen3 0.6B": (596_049_920, dict(
        model_type="qwen3", vocab_size=151936, hidden_size=1024, intermediate_size=3072,
        num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        hidden_act="silu", max_position_embeddings=40960, rms_norm_eps=1e-06, rope_theta=1000000,
        rope_scaling=None, sliding_window=None, use_sliding_window=False, max_window_layers=28,
        attention_bias=False, tie_word_embeddings=True)),
    "Gemma 2B": (2_506_172_416, dict(
        model_type="gemma", vocab_size=256000, hidden_size=2048, intermediate_size=16384,
        num_hidden_layers=18, num_attention_heads=8, num_key_value_heads=1, head_dim=256,
        hidden_act="gelu", max_position_embeddings=8192, rms_norm_eps=1e-06, rope_theta=10000.0)),
    "Gemma 2 2B": (2_614_341_888, dict(
        model_type="gemma2", vocab_size=256000, hidden_size=2304, intermediate_size=9216,
        num_hidden_layers=26, num_attention_heads=8, num_key_value_heads=4, head_dim=256,
        hidden_activation="gelu_pytorch_tanh", max_position_embeddings=8192, rope_theta=10000.0,
        query_pre_attn_scalar=256, sliding_window=4096, attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0)),
    "Gemma 3 1B": (999_885_952, dict(
        model_type="gemma3_text", vocab_size=262144, hidden_size=1152, intermediate_size=6912,
        num_hidden_layers=26, num_attention_heads=4, num_key_value_heads=1, head_dim=256,
        hidden_activation="gelu_pytorch_tanh", max_position_embeddings=32768,
        query_pre_attn_scalar=256, sliding_window=512, sliding_window_pattern=6,
        attn_logit_softcapping=None, final_logit_softcapping=None, rope_theta=1000000,
        rope_local_base_freq=10000, rope_scaling=None)),
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
