"""Where arrays lie on a mesh while a model computes: the model asks, others answer.

A compiler that is only told how arguments and results lie may well split an activation's width
where the weights were meant to be gathered. So the model names what it computes, and `placing`
gives the rule that puts it somewhere.
"""

import contextlib
import contextvars
from collections.abc import Callable

import jax

Rule = Callable[[jax.Array, str], jax.Array]
_rule: contextvars.ContextVar[Rule | None] = contextvars.ContextVar("placement", default=None)


@contextlib.contextmanager
def placing(rule: Rule):
    """Models traced inside put their arrays where `rule(array, name)` does."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


def place(x: jax.Array, name: str) -> jax.Array:
    """x where the rule wants it; x itself where there is no rule.

    name: "rows" [B, ...]; "looked up", "half way" and "residual", from the table of tokens on,
    [B, T, D]; "attended" [B, T, KV, G, hd]; "cache" [B, KV, ., .]; "decoding qkv" and the like, a
    layer's matrix for products with one token a row; and of a product with weights, as
    "btd,df->btf": "btd,df->btf in", "... weights", "... out", and "... gradient" of each.
    """
    rule = _rule.get()
    return x if rule is None else rule(x, name)
