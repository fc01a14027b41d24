"""Where arrays lie on a mesh while a model computes: the model names their axes, others answer.

A compiler that is only told how arguments and results lie may well split an activation's width
where the weights were meant to be gathered. So the model names the axes of what it computes, and
`placing` gives the rule that puts it somewhere (parallel/layout.py).
"""

import contextlib
import contextvars
from collections.abc import Callable
from typing import Literal

import jax

# Every logical axis. One that is cut otherwise in another place has another name there.
AXES = {
    # of parameters, and of activations where both have them
    "layers": "a layer each",
    "vocabulary": "a token id each",
    "context": "a position each",
    "width": "of a token in the model: of matrices, and of tokens as a layer's products read them",
    "features": "the width of vectors: norms, biases, the scalar head",
    "heads": "of keys and values; the queries that share one lie with it",
    "projections": "of a head: its queries, its key and its value",
    "head_width": "of a query, a key or a value",
    "attended": "the queries' heads side by side: heads x groups x head_width",
    "feed_forward": "the width between the two products of a layer's second half",
    # of activations alone
    "rows": "of a batch",
    "time": "of a batch; of queries",
    "tokens": "time in a layer's products, where a chip needs all tokens of its rows",
    "spread": "time in the residual stream, where each token is by itself",
    "stream": "the width of the residual stream",
    "final_width": "of hidden states that are turned into logits",
    "logit_rows": "of logits",
    "lookup_rows": "of tokens just read from their table",
    "lookup_tokens": "their time",
    "lookup_width": "their width, cut as the table's",
    "half_tokens": "their time, half way to the residual stream",
    "half_width": "their width, half way",
    "groups": "queries that share a key",
    "cache_rows": "of cached keys and values",
    "columns": "the places of a cache",
}

Use = Literal["activation", "kept", "gathered", "decoding"]
Rule = Callable[[jax.Array, tuple[str, ...], Use], jax.Array]
_rule: contextvars.ContextVar[Rule | None] = contextvars.ContextVar("placement", default=None)


@contextlib.contextmanager
def placing(rule: Rule):
    """Models traced inside put their arrays where `rule(array, axes, use)` does."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


def place(x: jax.Array, axes: tuple[str, ...], use: Use = "activation") -> jax.Array:
    """x where the rule wants it; x itself where there is no rule.

    Args:
      axes: of AXES, one an axis of x.
      use: "activation"; or of weights: "kept" as the parameters are (gradients), "gathered" for a
        product with many tokens a row, "decoding" for products with one.

    Raises ValueError where axes are missing or unknown, on one device too.
    """
    if len(axes) != x.ndim or not AXES.keys() >= set(axes):
        raise ValueError(
            f"an array of shape {x.shape} is to be placed by the axes {axes}: name one for each "
            "of its axes, of those in models/placement.py"
        )
    rule = _rule.get()
    return x if rule is None else rule(x, axes, use)
