"""FLOPs by formula, and the smallest number of bytes that FSDP can send."""

from rlhf_jax.models.config import TransformerConfig


def matrix_parameters(model: TransformerConfig) -> int:
    """The number of parameters in the matrices of all blocks."""
    width, wide = model.width, model.feed_forward_width
    ups = 2 if model.gated else 1
    attention = 2 * width * model.head_width * (model.heads + model.key_value_heads)
    return model.layers * (attention + (ups + 1) * width * wide)


def forward_flops(model: TransformerConfig, rows: int, time: int, logits: int) -> float:
    """FLOPs of a forward pass over [rows, time] with logits of `logits` positions per row:

    2 tokens P  +  4 rows time^2 L H hd  +  2 rows logits V D

    P is `matrix_parameters`. The second term is the scores and the weighted sums of attention, over
    all pairs of positions, because hidden pairs are computed too. A training step needs three times
    as many FLOPs.
    """
    blocks = 2 * rows * time * matrix_parameters(model)
    attention = 4 * rows * time**2 * model.layers * model.heads * model.head_width
    return float(blocks + attention + 2 * rows * logits * model.vocab_size * model.width)


def fsdp_bytes(model: TransformerConfig, chips: int) -> float:
    """The smallest number of bytes that a chip sends in an update of one micro-batch, with
    parameters cut over all n chips:

    (n - 1)/n  (2 P + 2 P + 4 P  +  2 E + 4 E)

    The blocks' matrices P are gathered in bfloat16 for the forward pass, and again for the backward
    pass, which recomputes it. Gradients are reduce-scattered in float32, their dtype. The head
    E = V D is gathered once. Several micro-batches send as many times these bytes.
    """
    head = model.vocab_size * model.width
    return (chips - 1) / chips * (8 * matrix_parameters(model) + 6 * head)
