"""The shape of a transformer, and named sizes."""

import dataclasses
from typing import Literal

from rlhf_jax.errors import require


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer of the GPT-2/GPT-3 form (the defaults) or the Llama family.

    Raises ConfigError when a field has an impossible value or two fields contradict each other.
    """

    vocab_size: int = 50257  # token ids; at least those of the tokenizer
    layers: int = 12  # blocks of attention and feed-forward
    width: int = 768  # width of the residual stream, D
    heads: int = 12  # attention heads, each of width / heads
    kv_heads: int | None = None  # heads of keys and values; None: as many as heads
    mlp_width: int | None = None  # width of the feed-forward layer; None: 4 x width
    context: int = 1024  # the most tokens of a sequence
    positions: Literal["learned", "rotary"] = "learned"  # learned vectors, or rotary (Llama)
    rotary_base: float = 10000.0  # base of the rotary frequencies; rotary positions only
    norm: Literal["layer", "rms"] = "layer"  # layer norm, or RMS norm (Llama)
    norm_epsilon: float = 1e-5  # added to the variance in a norm
    # The feed-forward layer's activation; swiglu adds a gate (Llama).
    activation: Literal["gelu", "swiglu"] = "gelu"
    biases: bool = True  # whether products with weights add a bias
    tied_embeddings: bool = True  # whether the logits use the matrix of the token embeddings
    dropout: float = 0.0  # dropout rate on residual branches, in supervised training only
    # Number format of the operands of matrix products; "auto": bfloat16 where it is faster.
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    scan_layers: bool = True  # one compiled layer for all; False: slower to compile, a tenth faster
    # What the backward pass recomputes: "off" nothing, "dots" each layer except its products with
    # weights, "full" each layer.
    remat: Literal["off", "dots", "full"] = "off"
    logit_chunk: int | None = None  # tokens per row whose logits exist at a time; None: all

    def __post_init__(self):
        for field in ("vocab_size", "layers", "width", "heads", "context"):
            value = getattr(self, field)
            require(value > 0, field, value, "positive")
        require(self.width % self.heads == 0, "heads", self.heads, f"a divisor of {self.width}")
        kv_heads = self.key_value_heads
        require(
            0 < kv_heads <= self.heads and self.heads % kv_heads == 0,
            "kv_heads",
            kv_heads,
            f"a divisor of heads = {self.heads}",
        )
        require(
            self.mlp_width is None or self.mlp_width > 0, "mlp_width", self.mlp_width, "positive"
        )
        require(
            self.positions == "learned" or self.head_width % 2 == 0,
            "heads",
            self.heads,
            "such that width / heads is even for rotary positions",
        )
        chunk = self.logit_chunk
        require(chunk is None or chunk > 0, "logit_chunk", chunk, "positive, or None")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        require(self.norm_epsilon > 0, "norm_epsilon", self.norm_epsilon, "positive")
        require(self.rotary_base > 0, "rotary_base", self.rotary_base, "positive")

    @property
    def key_value_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def feed_forward_width(self) -> int:
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def axis_sizes(self) -> dict[str, int]:
        """The size of each logical axis of the parameters."""
        return {
            "layers": self.layers,
            "vocabulary": self.vocab_size,
            "context": self.context,
            "width": self.width,
            "features": self.width,
            "heads": self.key_value_heads,
            "projections": self.heads // self.key_value_heads + 2,
            "head_width": self.head_width,
            "attended": self.width,
            "feed_forward": self.feed_forward_width,
        }


# Fields that say how a model computes; they do not change its shape.
COMPUTATION = ("dropout", "compute_dtype", "scan_layers", "remat", "logit_chunk")


def different_fields(a: TransformerConfig, b: TransformerConfig) -> list[str]:
    """Names of the fields in which two models differ; those in COMPUTATION do not count."""
    names = [f.name for f in dataclasses.fields(a) if f.name not in COMPUTATION]
    resolved = lambda c: {
        **vars(c),
        "kv_heads": c.key_value_heads,
        "mlp_width": c.feed_forward_width,
    }
    return [name for name in names if resolved(a)[name] != resolved(b)[name]]


def gpt(layers: int, width: int, heads: int, context: int = 2048, **changes) -> TransformerConfig:
    """A model of the GPT-3 form (Brown et al. 2020, table 2.1), with dense attention everywhere."""
    return TransformerConfig(layers=layers, width=width, heads=heads, context=context, **changes)


SIZES = {
    "tiny": gpt(4, 256, 4, context=128, vocab_size=8192),
    "gpt2": gpt(12, 768, 12, context=1024),
    "gpt3-1.3b": gpt(24, 2048, 16),
    "gpt3-6.7b": gpt(32, 4096, 32),
    "gpt3-175b": gpt(96, 12288, 96),
}
