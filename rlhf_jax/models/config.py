"""The shape of a transformer, and named sizes."""

import dataclasses
from typing import Any, Literal

from rlhf_jax.errors import inside, require
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.models.lora import LoRA


def _later(default):
    return dataclasses.field(default=default, metadata=ADDED_LATER)


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """Slower rotary frequencies, for contexts longer than the model was first trained on.

    With `factor` alone all frequencies are divided by it (Chen et al. 2023, linear interpolation).
    With the other fields only those with fewer than `low` turns in `context` tokens are; those with
    more than `high` stay, and between them it goes over smoothly (Llama 3.1).

    Raises ConfigError when a value is impossible or only some of the fields of Llama 3.1 are given.
    """

    factor: float  # what a frequency is divided by
    low: float | None = None  # turns in `context` below which it is divided wholly
    high: float | None = None  # turns in `context` above which it is not
    context: int | None = None  # tokens of a sequence in the first training

    def __post_init__(self):
        require(self.factor > 0, "factor", self.factor, "positive")
        given = [value for value in (self.low, self.high, self.context) if value is not None]
        require(len(given) in (0, 3), "low", self.low, "given with high and context, or none")
        if given:
            require(0 < self.low < self.high, "low", self.low, f"positive, below {self.high}")
            require(self.context > 0, "context", self.context, "positive")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer: of the GPT-2/GPT-3 form (the defaults), or of another family
    whose published models can be loaded (models/families).

    Raises ConfigError when a field has an impossible value or two fields contradict each other.
    """

    vocab_size: int = 50257  # token ids; at least those of the tokenizer
    layers: int = 12  # blocks of attention and feed-forward
    width: int = 768  # width of the residual stream, D
    heads: int = 12  # attention heads, each of width / heads
    kv_heads: int | None = None  # heads of keys and values; None: as many as heads
    mlp_width: int | None = None  # width of the feed-forward layer; None: 4 x width
    context: int = 1024  # maximum number of tokens of a sequence
    positions: Literal["learned", "rotary"] = "learned"  # learned vectors, or rotary (Llama)
    rotary_base: float = 10000.0  # base of the rotary frequencies; rotary positions only
    norm: Literal["layer", "rms"] = "layer"  # layer norm, or RMS norm (Llama)
    norm_epsilon: float = 1e-5  # added to the variance in a norm
    # The feed-forward layer's activation: "gelu" is the tanh approximation; swiglu (Llama) and
    # geglu (Gemma) add a gate.
    activation: Literal["gelu", "exact_gelu", "swiglu", "geglu"] = "gelu"
    biases: bool = True  # whether products with weights add a bias
    tied_embeddings: bool = True  # whether the logits use the matrix of the token embeddings
    dropout: float = 0.0  # dropout rate on residual branches, in supervised training only
    # Number format of the operands of matrix products; "auto": bfloat16 where it is faster.
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    scan_layers: bool = True  # one compiled layer for all; False: slower to compile, faster to run
    # What the backward pass recomputes: "off" nothing, "dots" each layer except its products with
    # weights, "full" each layer. Neither recomputes the attention kernel of TPUs.
    remat: Literal["off", "dots", "full"] = "off"
    logit_chunk: int | None = None  # tokens per row whose logits exist at a time; None: all
    head_size: int | None = _later(None)  # width of an attention head; None: width / heads
    rotary_fraction: float = _later(1.0)  # share of a head that rotary positions turn (GPT-NeoX)
    rotary_scaling: RotaryScaling | None = _later(None)  # for longer contexts (Llama 3.1)
    rotary_local_base: float | None = _later(None)  # base of layers with a window; None: the same
    # Tokens that a token attends to in a layer with a window, itself included; None: all layers
    # attend to all tokens.
    window: int | None = _later(None)
    global_every: int | None = _later(None)  # every n-th layer has no window; None: all have one
    # What scores of attention are divided by is the root of this; None: of the head's width.
    score_width: float | None = _later(None)
    attention_softcap: float | None = _later(None)  # c: scores become c tanh(score / c) (Gemma 2)
    logit_softcap: float | None = _later(None)  # c: logits become c tanh(logit / c) (Gemma 2)
    qkv_bias: bool = _later(False)  # queries, keys and values add a bias though `biases` is off
    qk_norm: bool = _later(False)  # a norm over each query and key, before their rotation (Qwen3)
    parallel_residual: bool = _later(False)  # both halves of a layer read its input (GPT-NeoX)
    branch_norms: bool = _later(False)  # norms of what each half of a layer adds too (Gemma 2)
    norm_offset: bool = _later(False)  # a norm multiplies by 1 + its scale (Gemma)
    scaled_embeddings: bool = _later(False)  # token embeddings times the root of the width (Gemma)
    # How a pass over whole rows computes attention: "product", two matrix products; "fused",
    # jax.nn.dot_product_attention, which is cuDNN's kernel on NVIDIA GPUs, and a Pallas kernel on
    # TPUs; "auto": the kernel on GPUs alone. Packed rows on GPUs, and shapes that a kernel refuses,
    # always take the products.
    attention: Literal["auto", "product", "fused"] = _later("auto")
    # The form of the adapter beside its matrices; the field `lora` of stages sets it.
    lora: LoRA | None = _later(None)

    def __post_init__(self):
        for field in ("vocab_size", "layers", "width", "heads", "context", "rotary_base",
                      "norm_epsilon"):  # fmt: skip
            value = getattr(self, field)
            require(value > 0, field, value, "positive")
        for field in ("mlp_width", "logit_chunk", "head_size", "window", "score_width",
                      "attention_softcap", "logit_softcap", "rotary_local_base"):  # fmt: skip
            value = getattr(self, field)
            require(value is None or value > 0, field, value, "positive, or None")
        require(
            self.head_size is not None or self.width % self.heads == 0,
            "heads",
            self.heads,
            f"a divisor of {self.width}",
        )
        kv_heads = self.key_value_heads
        require(
            0 < kv_heads <= self.heads and self.heads % kv_heads == 0,
            "kv_heads",
            kv_heads,
            f"a divisor of heads = {self.heads}",
        )
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        require(not (self.biases and self.qkv_bias), "qkv_bias", True, "False where biases is on")
        if self.lora is not None and not self.gated:
            allowed = "without 'gate': this model has no gate"
            require("gate" not in self.lora.matrices, "lora.matrices", self.lora.matrices, allowed)
        self._check_positions()

    def _check_positions(self):
        if self.positions == "rotary":
            require(0 < self.rotary_fraction <= 1, "rotary_fraction", self.rotary_fraction,
                    "in (0, 1]")  # fmt: skip
            require(
                self.rotary_width > 0 and self.rotary_width % 2 == 0,
                "heads",
                self.heads,
                f"such that the {self.rotary_width} numbers of a head that are rotated are even",
            )
        else:
            require(self.rotary_scaling is None, "rotary_scaling", self.rotary_scaling,
                    "None with learned positions")  # fmt: skip
        if self.window is None:
            require(self.global_every is None, "global_every", self.global_every,
                    "None without a window")  # fmt: skip
            require(self.rotary_local_base is None, "rotary_local_base", self.rotary_local_base,
                    "None without a window")  # fmt: skip
        every = self.global_every
        require(every is None or every > 1, "global_every", every, "at least 2, or None")

    @property
    def key_value_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        return self.width // self.heads if self.head_size is None else self.head_size

    @property
    def rotary_width(self) -> int:
        """How many numbers of a head are rotated: the first ones."""
        return int(self.head_width * self.rotary_fraction)

    @property
    def score_scale(self) -> float:
        """What a score of attention is multiplied by."""
        return (self.score_width or self.head_width) ** -0.5

    @property
    def gated(self) -> bool:
        return self.activation in ("swiglu", "geglu")

    @property
    def period(self) -> int:
        """Layers after which the kinds of layers repeat."""
        return self.global_every or 1

    def is_local(self, layer: int) -> bool:
        """Whether a layer has the window."""
        every = self.global_every
        return self.window is not None and (every is None or (layer + 1) % every != 0)

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
            "attended": self.heads * self.head_width,
            "feed_forward": self.feed_forward_width,
            "rank": 0 if self.lora is None else self.lora.rank,
        }


# Fields that say how a model computes; they do not change its shape.
COMPUTATION = ("dropout", "compute_dtype", "attention", "scan_layers", "remat", "logit_chunk")


def different_fields(a: TransformerConfig, b: TransformerConfig) -> list[str]:
    """Names of the fields in which two models differ; those in COMPUTATION do not count."""
    names = [f.name for f in dataclasses.fields(a) if f.name not in COMPUTATION]
    resolved = lambda c: {
        **vars(c),
        "kv_heads": c.key_value_heads,
        "mlp_width": c.feed_forward_width,
        "head_size": c.head_width,
        "score_width": c.score_width or c.head_width,
    }
    return [name for name in names if resolved(a)[name] != resolved(b)[name]]


def from_json(fields: dict[str, Any]) -> TransformerConfig:
    """The config whose `dataclasses.asdict` these fields are; later fields may be missing.

    Raises TypeError where a field has another name or there are no fields, ConfigError where a
    value is impossible.
    """
    if not isinstance(fields, dict):
        raise TypeError(f"a model's fields are an object, not {fields!r}")
    scaling = fields.get("rotary_scaling")
    if scaling is not None:
        with inside("rotary_scaling"):
            fields = {**fields, "rotary_scaling": RotaryScaling(**scaling)}
    lora = fields.get("lora")
    if lora is not None:
        with inside("lora"):
            fields = {**fields, "lora": LoRA(**{**lora, "matrices": tuple(lora["matrices"])})}
    return TransformerConfig(**fields)


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
