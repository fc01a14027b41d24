"""Llama 2 and 3 (Touvron et al. 2023) and SmolLM2: model_type "llama"; Mistral (Jiang et al. 2023):
model_type "mistral"."""

from collections.abc import Collection, Mapping
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families import ggml
from rlhf_jax.models.families.family import Family, Published
from rlhf_jax.models.families.fields import Fields, rotary, rotary_fields
from rlhf_jax.models.families.projections import trunk


def shape(fields: Fields, base: float = 10000.0, **more: Any) -> TransformerConfig:
    """What the configs of this form have in common. base: rope_theta where it is missing."""
    fields.only("partial_rotary_factor", None, (None, 1.0))
    return TransformerConfig(
        vocab_size=fields.whole("vocab_size"),
        layers=fields.layers(),
        width=fields.whole("hidden_size"),
        heads=fields.whole("num_attention_heads"),
        mlp_width=fields.whole("intermediate_size"),
        context=fields.whole("max_position_embeddings"),
        positions="rotary",
        norm="rms",
        norm_epsilon=fields.number("rms_norm_eps", 1e-6),
        **({"biases": False, "activation": "swiglu"} | rotary(fields, base) | more),
    )


def fields_of(config: TransformerConfig) -> dict[str, Any]:
    """The inverse of `shape`."""
    return {
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.feed_forward_width,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embeddings,
        "attention_dropout": 0.0,
        **rotary_fields(config),
    }


class LlamaForm(Family):
    """A family whose tensors have Llama's names and layouts."""

    def _trunk(self, config: TransformerConfig) -> list[Published]:
        return trunk(config)


class Llama(LlamaForm):
    """Llama 1 to 3: with biases in all products of a layer, or in none."""

    model_types = ("llama",)
    architecture = "LlamaForCausalLM"
    classifier = "LlamaForSequenceClassification"
    gguf_architecture = "llama"

    def _shape(self, fields: Fields) -> TransformerConfig:
        fields.only("hidden_act", "silu", ("silu",))
        biases = fields.flag("attention_bias", False)
        if fields.flag("mlp_bias", False) != biases:
            raise fields.refuse("mlp_bias", "what attention_bias is: no other is computed here")
        return shape(
            fields,
            kv_heads=fields.whole("num_key_value_heads", None),
            head_size=fields.whole("head_dim", None),
            biases=biases,
            tied_embeddings=fields.flag("tie_word_embeddings", False),
        )

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        biases = {"attention_bias": config.biases, "mlp_bias": config.biases}
        return fields_of(config) | biases

    def from_gguf(self, metadata: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        if "rope_freqs.weight" in names:
            raise UserError(
                "tensor rope_freqs.weight: GGUF files with scaled rotary frequencies (Llama 3.1) "
                "are not read; take the model as safetensors"
            )
        return ggml.shape(metadata, names, self.gguf_architecture)

    def gguf(self, config: TransformerConfig) -> list[Published]:
        return ggml.tensors(config, paired=True)


class Mistral(LlamaForm):
    """Llama with a window in every layer, or in none."""

    model_types = ("mistral",)
    architecture = "MistralForCausalLM"
    classifier = "MistralForSequenceClassification"

    def _shape(self, fields: Fields) -> TransformerConfig:
        fields.only("hidden_act", "silu", ("silu",))
        return shape(
            fields,
            kv_heads=fields.whole("num_key_value_heads", 8),
            head_size=fields.whole("head_dim", None),
            tied_embeddings=fields.flag("tie_word_embeddings", False),
            window=fields.nullable("sliding_window", 4096),
        )

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        return fields_of(config) | {"sliding_window": config.window}
