"""Qwen2 and Qwen2.5 (Yang et al. 2024): model_type "qwen2"; Qwen3 (Yang et al. 2025): model_type
"qwen3"."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families import ggml
from rlhf_jax.models.families.family import Published
from rlhf_jax.models.families.fields import Fields, layer_types, windows
from rlhf_jax.models.families.llama import LlamaForm, fields_of, shape


class Qwen(LlamaForm):
    """What Qwen2 and Qwen3 share. own: the field of TransformerConfig that the family turns on."""

    own: ClassVar[Mapping[str, bool]]

    def from_gguf(self, metadata: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        return ggml.shape(metadata, names, self.gguf_architecture, **self.own)

    def gguf(self, config: TransformerConfig) -> list[Published]:
        return ggml.tensors(config, paired=False)


class Qwen2(Qwen):
    """Llama with biases of queries, keys and values."""

    model_types = ("qwen2",)
    architecture = "Qwen2ForCausalLM"
    classifier = "Qwen2ForSequenceClassification"
    gguf_architecture = "qwen2"
    own: ClassVar = {"qkv_bias": True}

    def _shape(self, fields: Fields) -> TransformerConfig:
        size = fields.whole("hidden_size") // fields.whole("num_attention_heads")
        return _shape(fields, size=fields.whole("head_dim", size), **self.own)

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        return _fields(config)


class Qwen3(Qwen):
    """Llama with norms of queries and keys."""

    model_types = ("qwen3",)
    architecture = "Qwen3ForCausalLM"
    classifier = "Qwen3ForSequenceClassification"
    gguf_architecture = "qwen3"
    own: ClassVar = {"qk_norm": True}

    def _shape(self, fields: Fields) -> TransformerConfig:
        fields.only("attention_bias", False, (False,))
        return _shape(fields, size=fields.whole("head_dim", 128), **self.own)

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        return _fields(config) | {"attention_bias": False}


def _shape(fields: Fields, size: int, **more: Any) -> TransformerConfig:
    fields.only("hidden_act", "silu", ("silu",))
    count = fields.layers()
    # The layers from max_window_layers on have the window, unless layer_types says which.
    first = fields.whole("max_window_layers", 28)
    kinds = fields.kinds("layer_types") or [
        "full_attention" if layer < first else "sliding_attention" for layer in range(count)
    ]
    window = None
    if fields.flag("use_sliding_window", False):
        window = fields.nullable("sliding_window", 4096)
    return shape(
        fields,
        kv_heads=fields.whole("num_key_value_heads", 32),
        head_size=size,
        tied_embeddings=fields.flag("tie_word_embeddings", False),
        **windows(fields, kinds, window),
        **more,
    )


def _fields(config: TransformerConfig) -> dict[str, Any]:
    used = config.window is not None
    return fields_of(config) | {
        "use_sliding_window": used,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
        # What transformers before layer_types read; it has no window in every n-th layer only.
        "max_window_layers": 0 if used else config.layers,
    }
