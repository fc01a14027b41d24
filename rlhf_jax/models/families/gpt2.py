"""GPT-2 (Radford et al. 2019): model_type "gpt2"."""

from typing import Any

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families.family import Family, Published, published
from rlhf_jax.models.families.fields import Fields

TANH = ("gelu_new", "gelu_pytorch_tanh")


class GPT2(Family):
    """GPT-2: learned positions, layer norms, and matrices that are stored [in, out]."""

    model_types = ("gpt2",)
    architecture = "GPT2LMHeadModel"
    classifier = "GPT2ForSequenceClassification"
    prefix = "transformer."
    buffers = r"\.attn\.(bias|masked_bias)$"

    def _shape(self, fields: Fields) -> TransformerConfig:
        fields.only("scale_attn_weights", True, (True,))
        fields.only("scale_attn_by_inverse_layer_idx", False, (False,))
        fields.only("add_cross_attention", False, (False,))
        act = fields.only("activation_function", "gelu_new", (*TANH, "gelu"))
        return TransformerConfig(
            vocab_size=fields.whole("vocab_size", 50257),
            layers=fields.layers("n_layer", 12),
            width=fields.whole("n_embd", 768),
            heads=fields.whole("n_head", 12),
            mlp_width=fields.whole("n_inner", None),
            context=fields.whole("n_positions", 1024),
            norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
            activation="gelu" if act in TANH else "exact_gelu",
            tied_embeddings=fields.flag("tie_word_embeddings", True),
        )

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "n_layer": config.layers,
            "n_embd": config.width,
            "n_head": config.heads,
            "n_inner": config.feed_forward_width,
            "n_positions": config.context,
            "n_ctx": config.context,
            "layer_norm_epsilon": config.norm_epsilon,
            "activation_function": "gelu_new" if config.activation == "gelu" else "gelu",
            "tie_word_embeddings": config.tied_embeddings,
            "resid_pdrop": config.dropout,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }

    def _trunk(self, config: TransformerConfig) -> list[Published]:
        width, wide = config.width, config.feed_forward_width
        heads, size = config.heads, config.head_width
        found = [
            published("transformer.wte.weight", "tokens", None, (config.vocab_size, width)),
            published("transformer.wpe.weight", "positions", None, (config.context, width)),
        ]
        # Matrices lie as here, [in, out]; query, key and value of all heads side by side.
        parts = {"split": (width, 3, heads, size), "order": (0, 2, 1, 3)}
        bias = {"split": (3, heads, size), "order": (1, 0, 2)}
        for layer in range(config.layers):
            tensors = (
                ("ln_1.weight", "attention_norm/scale", (width,), {}),
                ("ln_1.bias", "attention_norm/bias", (width,), {}),
                ("attn.c_attn.weight", "qkv", (width, 3 * width), parts),
                ("attn.c_attn.bias", "qkv_bias", (3 * width,), bias),
                ("attn.c_proj.weight", "out", (width, width), {}),
                ("attn.c_proj.bias", "out_bias", (width,), {}),
                ("ln_2.weight", "mlp_norm/scale", (width,), {}),
                ("ln_2.bias", "mlp_norm/bias", (width,), {}),
                ("mlp.c_fc.weight", "up", (width, wide), {}),
                ("mlp.c_fc.bias", "up_bias", (wide,), {}),
                ("mlp.c_proj.weight", "down", (wide, width), {}),
                ("mlp.c_proj.bias", "down_bias", (width,), {}),
            )
            for name, path, shape, how in tensors:
                name, path = f"transformer.h.{layer}.{name}", f"blocks/{path}"
                found.append(published(name, path, layer, shape, **how))
        for name in ("weight", "bias"):
            path = f"final_norm/{'scale' if name == 'weight' else 'bias'}"
            found.append(published(f"transformer.ln_f.{name}", path, None, (width,)))
        return found
