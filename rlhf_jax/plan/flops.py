"""FLOPs by formula, and the least that FSDP sends."""

from rlhf_jax.models.config import TransformerConfig


def matrix_parameters(model: TransformerConfig) -> int:
    """Parameters of the matrices of all blocks: what each token is multiplied with."""
    width, wide = model.width, model.feed_forward_width
    ups = 2 if model.activation == "swiglu" else 1
    attention = width * model.head_width * (model.heads + 2 * model.key_value_heads) + width**2
    return model.layers * (attention + (ups + 1) * width * wide)


def forward_flops(model: TransformerConfig, rows: int, time: int, logits: int) -> float:
    """Of a forward pass over [rows, time] with the logits of `logits` positions a row:

    2 tokens P  +  4 rows time^2 L D  +  2 rows logits V D

    P: matrix_parameters; the second term is attention's scores and mixing, over all pairs and not
    only the visible half, as they are computed. A training step takes three times as much.
    """
    blocks = 2 * rows * time * matrix_parameters(model)
    attention = 4 * rows * time**2 * model.layers * model.width
    return float(blocks + attention + 2 * rows * logits * model.vocab_size * model.width)


def fsdp_bytes(model: TransformerConfig, chips: int) -> float:
    """The least that a chip sends in an update of one micro-batch, parameters cut over all chips:

    (n - 1)/n  (2 P + 2 P + 4 P  +  2 E + 4 E)

    The blocks' matrices P are gathered in bfloat16 for the forward pass, and again where the
    backward pass recomputes it; gradients are summed and cut in float32, as they are kept. The head
    E = V D is gathered once. The sum over micro-batches is as many times this.
    """
    head = model.vocab_size * model.width
    return (chips - 1) / chips * (8 * matrix_parameters(model) + 6 * head)
