"""GPT-NeoX (Black et al. 2022) and Pythia: model_type "gpt_neox"."""

from typing import Any

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families.family import Family, Published, published
from rlhf_jax.models.families.fields import Fields, rotary, rotary_fields

# The tanh approximation by its names; "gelu_fast" has its constant with ten digits.
TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


class NeoX(Family):
    """GPT-NeoX: rotary positions in a share of each head, and parallel halves of a layer."""

    model_types = ("gpt_neox",)
    architecture = "GPTNeoXForCausalLM"
    classifier = "GPTNeoXForSequenceClassification"
    prefix = "gpt_neox."
    head = "embed_out.weight"
    buffers = r"\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)$"

    def _shape(self, fields: Fields) -> TransformerConfig:
        fields.only("attention_bias", True, (True,))
        act = fields.only("hidden_act", "gelu", ("gelu", *TANH))
        given = fields.inner("rope_parameters")
        base = fields.number("rotary_emb_base", fields.number("rope_theta", 10000.0))
        share = fields.number("rotary_pct", fields.number("partial_rotary_factor", 0.25))
        return TransformerConfig(
            vocab_size=fields.whole("vocab_size"),
            layers=fields.layers(),
            width=fields.whole("hidden_size"),
            heads=fields.whole("num_attention_heads"),
            mlp_width=fields.whole("intermediate_size"),
            context=fields.whole("max_position_embeddings", 2048),
            positions="rotary",
            rotary_fraction=float(given.number("partial_rotary_factor", share)),
            norm_epsilon=fields.number("layer_norm_eps", 1e-5),
            activation="exact_gelu" if act == "gelu" else "gelu",
            tied_embeddings=fields.flag("tie_word_embeddings", False),
            parallel_residual=fields.flag("use_parallel_residual", True),
            **rotary(fields, base),
        )

    def _fields(self, config: TransformerConfig) -> dict[str, Any]:
        turned = rotary_fields(config)
        base = turned.pop("rope_theta")
        return {
            "vocab_size": config.vocab_size,
            "num_hidden_layers": config.layers,
            "hidden_size": config.width,
            "num_attention_heads": config.heads,
            "intermediate_size": config.feed_forward_width,
            "max_position_embeddings": config.context,
            "layer_norm_eps": config.norm_epsilon,
            "hidden_act": "gelu_new" if config.activation == "gelu" else "gelu",
            "tie_word_embeddings": config.tied_embeddings,
            "use_parallel_residual": config.parallel_residual,
            "rotary_emb_base": base,
            "rotary_pct": config.rotary_fraction,
            "attention_bias": True,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            **turned,
        }

    def _trunk(self, config: TransformerConfig) -> list[Published]:
        width, wide = config.width, config.feed_forward_width
        heads, size = config.heads, config.head_width
        embedding = (config.vocab_size, width)
        found = [published("gpt_neox.embed_in.weight", "tokens", None, embedding)]
        # Head by head its query, key and value.
        parts = {"split": (heads, 3, size, width), "order": (3, 0, 1, 2)}
        turned = {"order": (1, 0)}
        for layer in range(config.layers):
            tensors = (
                ("input_layernorm.weight", "attention_norm/scale", (width,), {}),
                ("input_layernorm.bias", "attention_norm/bias", (width,), {}),
                ("attention.query_key_value.weight", "qkv", (3 * width, width), parts),
                ("attention.query_key_value.bias", "qkv_bias", (3 * width,),
                 {"split": (heads, 3, size)}),
                ("attention.dense.weight", "out", (width, width), turned),
                ("attention.dense.bias", "out_bias", (width,), {}),
                ("post_attention_layernorm.weight", "mlp_norm/scale", (width,), {}),
                ("post_attention_layernorm.bias", "mlp_norm/bias", (width,), {}),
                ("mlp.dense_h_to_4h.weight", "up", (wide, width), turned),
                ("mlp.dense_h_to_4h.bias", "up_bias", (wide,), {}),
                ("mlp.dense_4h_to_h.weight", "down", (width, wide), turned),
                ("mlp.dense_4h_to_h.bias", "down_bias", (width,), {}),
            )  # fmt: skip
            for name, path, shape, how in tensors:
                name, path = f"gpt_neox.layers.{layer}.{name}", f"blocks/{path}"
                found.append(published(name, path, layer, shape, **how))
        for name, path in (("weight", "scale"), ("bias", "bias")):
            name = f"gpt_neox.final_layer_norm.{name}"
            found.append(published(name, f"final_norm/{path}", None, (width,)))
        return found
