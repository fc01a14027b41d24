"""Tensors of the families whose layers have q_proj, k_proj, v_proj and o_proj (Llama's form)."""

from collections.abc import Callable, Mapping

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families.family import Published, published

# The parts of a layer, by our name, as transformers calls them.
NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
TRUNK = {"tokens": "model.embed_tokens.weight", "final_norm": "model.norm.weight"}


def trunk(
    config: TransformerConfig,
    names: Mapping[str, str] = NAMES,
    whole: Mapping[str, str] = TRUNK,
    block: str = "model.layers.{}.",
    paired: bool = False,
) -> list[Published]:
    """The tensors of a model of this form without its head.

    names: of the parts of a layer, in front of .weight and .bias. whole: of the tensors of no
    layer. block: what a layer's names begin with.
    paired: in queries and keys the two numbers that rotate together lie side by side (GGUF).
    """
    width = config.width
    found = [published(whole["tokens"], "tokens", None, (config.vocab_size, width))]
    for layer in range(config.layers):
        prefix = block.format(layer)
        for part, tensors in _layer(config, paired).items():
            for suffix, make in tensors.items():
                found.append(make(f"{prefix}{names[part]}.{suffix}", layer))
    found.append(published(whole["final_norm"], "final_norm/scale", None, (width,)))
    return found


Make = Callable[[str, int], Published]


def _layer(config: TransformerConfig, paired: bool) -> dict[str, dict[str, Make]]:
    """How each tensor of a layer is made from its name and layer."""
    width, wide, size = config.width, config.feed_forward_width, config.head_width
    attended = config.heads * size
    found = {
        **_heads(config, paired),
        "out": _matrix("out", attended, width, config.biases),
        "up": _matrix("up", width, wide, config.biases),
        "down": _matrix("down", wide, width, config.biases),
        "attention_norm": _vector("attention_norm", width),
        "mlp_norm": _vector("mlp_norm", width),
    }
    if config.gated:
        found["gate"] = _matrix("gate", width, wide, config.biases)
    if config.qk_norm:
        found |= {name: _vector(name, size) for name in ("q_norm", "k_norm")}
    if config.branch_norms:
        found |= {name: _vector(name, width) for name in ("attention_out_norm", "mlp_out_norm")}
    return found


def _vector(name: str, size: int) -> dict[str, Make]:
    return {"weight": lambda n, layer: published(n, f"blocks/{name}/scale", layer, (size,))}


def _matrix(name: str, inside: int, outside: int, bias: bool) -> dict[str, Make]:
    """Published matrices are [out, in]."""
    found = {
        "weight": lambda n, layer: published(
            n, f"blocks/{name}", layer, (outside, inside), order=(1, 0)
        )
    }
    if bias:
        found["bias"] = lambda n, layer: published(n, f"blocks/{name}_bias", layer, (outside,))
    return found


def _heads(config: TransformerConfig, paired: bool) -> dict[str, dict[str, Make]]:
    """Queries, keys and values: parts of blocks/qkv [D, KV, G + 2, hd]."""
    width, shared, size = config.width, config.key_value_heads, config.head_width
    groups = config.heads // shared
    every = slice(None)
    # (heads of a part, where they lie in the axis of projections)
    parts = {"q": ((shared, groups), slice(0, groups)), "k": ((shared,), groups),
             "v": ((shared,), groups + 1)}  # fmt: skip

    def of(part):
        heads, place = parts[part]
        swapped = paired and part != "v"
        inner = (size // 2, 2) if swapped else (size,)
        first = len(heads)
        order = (*range(first), *((first + 1, first) if swapped else (first,)))
        rows = shared * size * (groups if part == "q" else 1)
        weight = lambda n, layer: published(
            n, "blocks/qkv", layer, (rows, width),
            split=(*heads, *inner, width), order=(len(order), *order),
            into=(width, *heads, size), index=(every, every, place),
        )  # fmt: skip
        bias = lambda n, layer: published(
            n, "blocks/qkv_bias", layer, (rows,),
            split=(*heads, *inner), order=order, into=(*heads, size), index=(every, place),
        )  # fmt: skip
        return {"weight": weight} | ({"bias": bias} if config.biases or config.qkv_bias else {})

    return {part: of(part) for part in parts}
