"""The rows in which a policy-gradient stage computes its episodes: little of them is padding."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.buckets import bucket_for, most_rows, places_in_rows
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig

if TYPE_CHECKING:
    from rlhf_jax.stages.policy_gradient_config import PolicyGradientConfig


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["starts"],
    meta_fields=["rows", "length", "response"],
)
@dataclasses.dataclass(frozen=True)
class Fit:
    """How a program computes episodes. Each other `rows`, `length` and `response` is another
    compiled program.

    starts    the place of each episode's first token in `rows` rows of `length` tokens, counted row
              by row: [B], or [updates, B] for minibatches. Several episodes share a row. None: each
              has its own
    response  the columns of responses that are computed; None: all
    """

    starts: jax.Array | None = None
    rows: int = 0
    length: int = 0
    response: int | None = None

    @property
    def size(self) -> tuple:
        """What a program is compiled for."""
        return self.rows, self.length, self.response

    def cut(self, rollout: Any) -> Any:
        """The columns [B, R] that are computed."""
        return jax.tree.map(lambda x: x[:, : self.response], rollout)

    def places(self, segments: jax.Array, pieces: int) -> int:
        """Tokens that fit into the rows, of episodes [B, T] computed in so many pieces."""
        return segments.size if self.starts is None else self.rows * self.length * pieces


WHOLE = Fit()


def last_states(
    model: TransformerConfig, params, tokens, segments, last: int, fit: Fit = WHOLE
) -> jax.Array:
    """Hidden states [B, last, D] of the last tokens of episodes [B, T], in the rows of `fit`.

    Those of padding have no meaning.
    """
    if fit.starts is None:
        return transformer.hidden(model, params, tokens, segments, last=last, packed=False)
    count, size = len(tokens), fit.rows * fit.length
    first = jnp.argmax(segments > 0, axis=1)[:, None]
    columns = jnp.arange(tokens.shape[1])[None]
    places = jnp.where(segments > 0, fit.starts[:, None] + columns - first, size)
    numbers = jnp.broadcast_to(1 + jnp.arange(count, dtype=segments.dtype)[:, None], places.shape)
    into_rows = lambda x: jnp.zeros(size, x.dtype).at[places].set(x, mode="drop")
    rows = (into_rows(x).reshape(fit.rows, fit.length) for x in (tokens, numbers))
    states = transformer.hidden(model, params, *rows)
    return states.reshape(size, -1)[jnp.minimum(places[:, -last:], size - 1)]


def shared_rows(lengths: np.ndarray, pieces: int, length: int) -> tuple[np.ndarray, int]:
    """(starts [B], rows): where first-fit packs episodes of these lengths into rows of `length`,
    each of the pieces i, i + pieces, ... by itself; and the most rows of a piece."""
    starts, most = np.zeros(len(lengths), np.int32), 0
    for piece in range(pieces):
        places = places_in_rows(lengths[piece::pieces].tolist(), length)
        starts[piece::pieces] = [row * length + column for row, column in places]
        most = max(most, 1 + max(row for row, _ in places))
    return starts, most


class Fitting:
    """fits(key, step, prompts' segments, responses' mask) -> (`Fit` of scoring, `Fit` of the
    update), for whole batches on the host.

    orders   (key, step) -> the rows of each update [updates, B / minibatches]
    buckets  the number of sizes
    length   the tokens of a row that several episodes share; the number of rows is then cut. None:
             the columns of responses are cut
    """

    def __init__(
        self, config: "PolicyGradientConfig", orders: Callable, buckets: int, length: int | None
    ):
        self.config, self.orders = config, jax.jit(orders)
        self.buckets, self.length = buckets, length

    def __call__(self, key, step, segments: np.ndarray, mask: np.ndarray) -> tuple[Fit, Fit]:
        responses = mask.sum(axis=1).astype(np.int64)
        if self.length is None:
            full = mask.shape[1]
            kept = bucket_for(int(responses.max()), full, self.buckets)
            cut = WHOLE if kept == full else Fit(response=kept)
            return cut, cut
        config, lengths = self.config, responses + (segments > 0).sum(axis=1)
        length, micro = self.length, config.micro_batches
        scoring, most = shared_rows(lengths, config.minibatches * micro, length)
        orders = np.asarray(self.orders(key, step))
        updates = [shared_rows(lengths[rows], micro, length) for rows in orders]
        longest = segments.shape[1] + mask.shape[1]
        full = most_rows(orders.shape[1] // micro, longest, length)
        rows = bucket_for(max(most, *(needed for _, needed in updates)), full, self.buckets)
        if rows == full:
            return WHOLE, WHOLE
        starts = np.stack([starts for starts, _ in updates])
        return Fit(scoring, rows, length), Fit(starts, rows, length)
