"""Metadata and tensors of GGUF files of Llama's form."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families.family import Published, published
from rlhf_jax.models.families.fields import Fields
from rlhf_jax.models.families.projections import trunk

NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "out": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}
WHOLE = {"tokens": "token_embd.weight", "final_norm": "output_norm.weight"}
HEAD = "output.weight"
# Factors of rotary frequencies and scores; without rope.scaling.type llama.cpp uses them too.
SCALES = ("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor")


def shape(
    metadata: Mapping[str, Any], names: Collection[str], architecture: str, **more: Any
) -> TransformerConfig:
    """The shape that a GGUF file's metadata (plain Python values) and tensor names describe.

    Raises UserError, which names the field, where one is missing or not supported.
    """
    given = {
        name.removeprefix(f"{architecture}."): value
        for name, value in metadata.items()
        if name.startswith(f"{architecture}.")
    }
    tokens = metadata.get("tokenizer.ggml.tokens")
    given.setdefault("vocab_size", None if tokens is None else len(tokens))
    fields = Fields(given, f"GGUF {architecture}", "metadata")
    fields.only("rope.scaling.type", "none", ("none",))
    for name in SCALES:
        fields.only(name, 1.0, (1.0, 1))
    context, window = fields.whole("context_length"), "attention.sliding_window"
    if 0 < fields.whole(window, 0) < context:
        raise fields.refuse(window, f"none, or context_length = {context}: no other is read here")
    width, heads = fields.whole("embedding_length"), fields.whole("attention.head_count")
    size = fields.whole("attention.key_length", None)
    if size is not None:
        fields.only("attention.value_length", size, (size,))
    head_width = width // heads if size is None else size
    fields.only("rope.dimension_count", head_width, (head_width,))
    try:
        return TransformerConfig(
            vocab_size=fields.whole("vocab_size"),
            layers=fields.layers("block_count"),
            width=width,
            heads=heads,
            kv_heads=fields.whole("attention.head_count_kv", None),
            head_size=size,
            mlp_width=fields.whole("feed_forward_length"),
            context=context,
            positions="rotary",
            rotary_base=_single(fields.number("rope.freq_base", 10000.0)),
            norm="rms",
            norm_epsilon=_single(fields.number("attention.layer_norm_rms_epsilon")),
            activation="swiglu",
            biases=False,
            tied_embeddings=HEAD not in names,
            **more,
        )
    except ConfigError as error:
        raise UserError(f"metadata: describes an impossible model: {error}") from None


def _single(value: float) -> float:
    """The shortest number with the same float32, in which GGUF stores it: 1e-05."""
    return float(str(np.float32(value)))


def tensors(config: TransformerConfig, paired: bool) -> list[Published]:
    """paired: queries and keys are permuted so that the numbers that rotate together are
    neighbours, as in files of the architecture "llama"."""
    found = trunk(config, NAMES, WHOLE, "blk.{}.", paired)
    if not config.tied_embeddings:
        found.append(published(HEAD, "head", None, (config.vocab_size, config.width)))
    return found
