"""FLOPs of a program, counted in its jaxpr, and by formula; the least that FSDP sends.

Matrix products only, 2 a multiply-add: all else is a thousandth of a large model's work. XLA's own
count takes the body of a loop once; a jaxpr tells how often a scan runs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from rlhf_jax.models.config import TransformerConfig

PETAFLOPS_DAY = 1e15 * 86400


def count_flops(function: Callable, *arguments: Any, while_turns: int = 1) -> float:
    """Of one call, recomputation in backward passes included. Nothing is run or allocated.

    Args:
        arguments: arrays or ShapeDtypeStructs.
        while_turns: of every `while` loop; a jaxpr does not tell them.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr, while_turns)


def _flops(jaxpr, while_turns: int) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            total += _product_flops(eqn)
        elif eqn.primitive.name == "cond":
            total += max(_flops(branch.jaxpr, while_turns) for branch in eqn.params["branches"])
        else:
            turns = {"scan": eqn.params.get("length", 1), "while": while_turns}
            inner = sum(_flops(j, while_turns) for j in jaxprs_in_params(eqn.params))
            total += turns.get(eqn.primitive.name, 1) * inner
    return total


def _product_flops(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)


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
