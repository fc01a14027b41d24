"""Where a model's arrays lie on a mesh: the model names their axes, a rule says how they are cut.

Given only the layout of arguments and results, the compiler may split the width of an activation
where the weights should be gathered instead. Therefore the model names the logical axes of the
arrays that it computes, and `placing` sets the rule that lays them out (parallel/layout.py).
"""

import contextlib
import contextvars
from collections.abc import Callable
from typing import Literal

import jax

# Every logical axis. An axis that is cut differently in two places has two names.
AXES = {
    # of parameters, some also of activations
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
    "rank": "of an adapter: the columns of A and the rows of B",
    # of activations only
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
Parts = Callable[..., jax.Array | None]
_rule: contextvars.ContextVar[Rule | None] = contextvars.ContextVar("placement", default=None)
_parts: contextvars.ContextVar[Parts | None] = contextvars.ContextVar("parts", default=None)
_groups: contextvars.ContextVar[int] = contextvars.ContextVar("row groups", default=1)


@contextlib.contextmanager
def placing(rule: Rule, parts: Parts | None = None, groups: int = 1):
    """Models traced inside lay out their arrays by `rule(array, axes, use)`, and compute on the
    parts that a device holds by `parts`, as `on_parts`. groups: of devices over which the rows of a
    batch are cut."""
    tokens = _rule.set(rule), _parts.set(parts), _groups.set(groups)
    try:
        yield
    finally:
        _rule.reset(tokens[0])
        _parts.reset(tokens[1])
        _groups.reset(tokens[2])


def row_groups() -> int:
    """The number of groups of devices over which the rows of a batch are cut; 1 without a rule."""
    return _groups.get()


def placed() -> bool:
    """Whether the model that is being traced is cut over a mesh: a rule lays out its arrays."""
    return _rule.get() is not None


def place(x: jax.Array, axes: tuple[str, ...], use: Use = "activation") -> jax.Array:
    """x, laid out by the current rule; unchanged without a rule.

    Args:
      axes: names from AXES, one for each axis of x.
      use: "activation"; for weights "kept" (laid out as the parameters are: gradients), "gathered"
        (products with many tokens per row) or "decoding" (products with one token per row).

    Raises ValueError where axes are missing or unknown, on a single device too.
    """
    if len(axes) != x.ndim or not AXES.keys() >= set(axes):
        raise ValueError(
            f"an array of shape {x.shape} is to be placed by the axes {axes}: name one for each "
            "of its axes, of those in models/placement.py"
        )
    rule = _rule.get()
    return x if rule is None else rule(x, axes, use)


def on_parts(
    function: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    axes: tuple[tuple[str, ...], ...],
    result: tuple[str, ...],
) -> jax.Array | None:
    """function(*arrays), each device on its own rows and heads; None where `time` is cut over
    devices, or the sizes do not divide.

    Args:
      function: mixes neither rows nor heads; the compiler cannot see into it.
      axes: names from AXES of each array. result: those of the result, all from the first array.
    """
    if _rule.get() is None:
        return function(*arrays)
    parts = _parts.get()
    return None if parts is None else parts(function, arrays, axes, result)
