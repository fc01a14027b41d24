"""Gemma (Mesnard et al. 2024): model_type "gemma"; Gemma 2 (Riviere et al. 2024): "gemma2"; Gemma 3
(Kamath et al. 2025) without images: "gemma3_text"."""

from typing import Any

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families.family import Family, Published
from rlhf_jax.models.families.fields import Fields, layer_types, scaling, windows
from rlhf_jax.models.families.llama import fields_of, shape
from rlhf_jax.models.families.projections import NAMES, trunk

TANH = ("gelu_pytorch_tanh", "gelu_new")
AROUND = NAMES | {
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}


class Gemma(Family):
    """The first Gemma: Llama's layers with GEGLU, scaled embeddings and offset norms."""

    model_types = ("gemma",)
    architecture = "GemmaForCausalLM"
    classifier = "GemmaForSequenceClassification"

    def _shape(self, fields: Fields) -> TransformerConfig:
        # Files say hidden_act "gelu", and mean the tanh approximation.
        fields.only("hidden_act", "gelu_pytorch_tanh", (*TANH, "gelu"))
        fields.only("hidden_activation", None, (None, *TANH))
        return _shape(fields, heads=16)

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        return _fields(config) | {"hidden_act": TANH[0]}

    def _trunk(self, config: TransformerConfig) -> list[Published]:
        return trunk(config)


class Gemma2(Family):
    """Gemma with soft caps, norms after each half of a layer, and windows in every other layer."""

    model_types = ("gemma2",)
    architecture = "Gemma2ForCausalLM"
    classifier = "Gemma2ForSequenceClassification"

    def _shape(self, fields: Fields) -> TransformerConfig:
        fields.only("hidden_activation", TANH[0], TANH)
        return _shape(
            fields,
            heads=4,
            branch_norms=True,
            score_width=fields.number("query_pre_attn_scalar", 256),
            attention_softcap=fields.nullable("attn_logit_softcapping", 50.0),
            logit_softcap=fields.nullable("final_logit_softcapping", 30.0),
            **_windows(fields, every=2),
        )

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        return _fields(config) | _alternating(config)

    def _trunk(self, config: TransformerConfig) -> list[Published]:
        return trunk(config, AROUND)


class Gemma3(Family):
    """Gemma 2 with query and key norms, and other rotary frequencies where windows are."""

    model_types = ("gemma3_text",)
    architecture = "Gemma3ForCausalLM"
    classifier = "Gemma3TextForSequenceClassification"

    def _shape(self, fields: Fields) -> TransformerConfig:
        fields.only("hidden_activation", TANH[0], TANH)
        more = _windows(fields, every=fields.whole("sliding_window_pattern", 6))
        local = float(fields.number("rope_local_base_freq", 10000.0))
        if "rope_parameters" in fields:
            given = fields.inner("rope_parameters")
            near, far = given.inner("sliding_attention"), given.inner("full_attention")
            near.only("rope_type", "default", ("default",))
            local = float(near.number("rope_theta", local))
            base = far.number("rope_theta", fields.number("rope_theta", 1e6))
            more |= {"rotary_base": float(base), "rotary_scaling": scaling(far, fields)}
        return _shape(
            fields,
            base=1e6,
            heads=4,
            branch_norms=True,
            qk_norm=True,
            score_width=fields.number("query_pre_attn_scalar", 256),
            attention_softcap=fields.nullable("attn_logit_softcapping", None),
            logit_softcap=fields.nullable("final_logit_softcapping", None),
            rotary_local_base=local if "window" in more else None,
            **more,
        )

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        found = _fields(config) | _alternating(config)
        if config.rotary_local_base is not None:
            found["rope_local_base_freq"] = config.rotary_local_base
        if config.global_every is not None:
            found["sliding_window_pattern"] = config.global_every
        return found

    def _trunk(self, config: TransformerConfig) -> list[Published]:
        return trunk(config, AROUND)


def _shape(fields: Fields, heads: int, **more: Any) -> TransformerConfig:
    """What all three have. heads: of keys and values, where the field is missing."""
    fields.only("attention_bias", False, (False,))
    fields.only("use_bidirectional_attention", False, (False, None))
    return shape(
        fields,
        kv_heads=fields.whole("num_key_value_heads", heads),
        head_size=fields.whole("head_dim", 256),
        activation="geglu",
        tied_embeddings=fields.flag("tie_word_embeddings", True),
        norm_offset=True,
        scaled_embeddings=True,
        **more,
    )


def _windows(fields: Fields, every: int) -> dict[str, Any]:
    count = fields.layers()
    kinds = fields.kinds("layer_types") or [
        "sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(count)
    ]
    return windows(fields, kinds, fields.nullable("sliding_window", 4096))


def _fields(config: TransformerConfig) -> dict[str, Any]:
    found = fields_of(config) | {"hidden_activation": TANH[0], "attention_bias": False}
    del found["hidden_act"]
    return found


def _alternating(config: TransformerConfig) -> dict[str, Any]:
    scale = config.score_width or config.head_width
    return {
        "query_pre_attn_scalar": int(scale) if scale == int(scale) else scale,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }
