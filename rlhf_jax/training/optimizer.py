"""Adam, Lion or Adafactor with clipping, weight decay and a schedule, from one frozen config."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.errors import require

# Fields that a method does not read.
UNREAD = {
    "lion": ("epsilon", "epsilon_placement"),
    "adafactor": ("b1", "b2", "epsilon", "epsilon_placement", "moment_dtype"),
}


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """A method and its schedule; the defaults are InstructGPT's where the paper prints them.

    method             "adam"; "lion" (Chen et al. 2023, arXiv 2302.06675): the update is the sign
                       of one moment; "adafactor" (Shazeer & Stern 2018, arXiv 1804.04235): second
                       moments of rows and columns of each layer's matrix, update clipped to RMS 1,
                       no first moment, no scaling by the parameter. Lion and Adafactor need other
                       learning rates than Adam
    moment_dtype       dtype of the first moment of Adam and Lion; second moments are float32
    learning_rate      peak learning rate
    schedule           "constant", or "linear" / "cosine" from the peak to final_fraction x peak
    final_fraction     the fraction of the peak at which the schedule ends, after the last step
                       (InstructGPT's SFT and reward model: 0.1). A skipped step (a loss or a
                       gradient that is not finite) does not advance the schedule: after n skipped
                       steps a run ends n steps before the schedule's end
    warmup_steps       optimizer steps of linear warm-up from warmup_from x peak; the decay takes
                       the remaining steps (a PPO iteration has several optimizer steps)
    warmup_from        the fraction of the peak at which the warm-up starts
    b1, b2             decay rates of the moments of Adam and Lion
    epsilon            Adam's epsilon, added to the denominator
    epsilon_placement  "standard": m^ / (sqrt(v^) + eps); "tensorflow": eps is added to sqrt(v)
                       before the bias correction
    weight_decay       decoupled (AdamW), only for arrays of two or more dimensions
    max_grad_norm      a gradient of larger norm is scaled down to this norm; None never clips
    """

    learning_rate: float = 1e-5
    method: Literal["adam", "lion", "adafactor"] = "adam"
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_fraction: float = 0.1
    warmup_steps: int = 0
    warmup_from: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    epsilon_placement: Literal["standard", "tensorflow"] = "standard"
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0

    def __post_init__(self):
        rate, norm = self.learning_rate, self.max_grad_norm
        schedules, placements = ("constant", "linear", "cosine"), ("standard", "tensorflow")
        require(0 < rate < math.inf, "learning_rate", rate, "positive")
        require(self.schedule in schedules, "schedule", self.schedule, f"one of {schedules}")
        for field in ("final_fraction", "warmup_from"):
            value = getattr(self, field)
            require(0 <= value <= 1, field, value, "between 0 and 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        for field in ("b1", "b2"):
            value = getattr(self, field)
            require(0 <= value < 1, field, value, "in [0, 1)")
        require(self.epsilon > 0, "epsilon", self.epsilon, "positive")
        placement = self.epsilon_placement
        require(placement in placements, "epsilon_placement", placement, f"one of {placements}")
        methods, dtypes = ("adam", "lion", "adafactor"), ("float32", "bfloat16")
        require(self.method in methods, "method", self.method, f"one of {methods}")
        dtype = self.moment_dtype
        require(dtype in dtypes, "moment_dtype", dtype, f"one of {dtypes}")
        for field in UNREAD.get(self.method, ()):
            value, default = getattr(self, field), getattr(OptimizerConfig, field)
            require(value == default, field, value, f"{default!r}: {self.method} does not read it")
        tensorflow_in_float32 = placement == "standard" or dtype == "float32"
        require(tensorflow_in_float32, "moment_dtype", dtype, "float32 with TensorFlow's epsilon")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(norm is None or norm > 0, "max_grad_norm", norm, "positive, or None")


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Clip, method, decoupled weight decay, learning rate: a chain of optax transforms.

    Args:
        total_steps: optimizer steps of the whole run; the schedule ends there.
    """
    # The learning rate comes last, because `applied_updates` reads the count of the last transform.
    parts = [_method(config), optax.scale_by_learning_rate(_schedule(config, total_steps))]
    if config.weight_decay:
        parts.insert(1, optax.add_decayed_weights(config.weight_decay, mask=_is_matrix))
    if config.max_grad_norm is not None:
        parts.insert(0, clip_by_global_norm(config.max_grad_norm))
    return optax.chain(*parts)


def _method(config: OptimizerConfig) -> optax.GradientTransformation:
    b1, b2, dtype = config.b1, config.b2, config.moment_dtype
    if config.method == "lion":
        return optax.scale_by_lion(b1, b2, mu_dtype=dtype)
    if config.method == "adafactor":
        return scale_by_factored_moments()
    if config.epsilon_placement == "tensorflow":
        return scale_by_tensorflow_adam(b1, b2, config.epsilon)
    return optax.scale_by_adam(b1, b2, config.epsilon, mu_dtype=dtype)


def is_state(tree: Any) -> bool:
    """Whether a pytree is the state of a transform of optax's or of this module."""
    return isinstance(tree, FactoredMoments) or type(tree).__module__.split(".")[0] == "optax"


def applied_updates(opt_state) -> jax.Array:
    """The number of updates applied so far, from the state of `make_optimizer`'s transform. Skipped
    steps do not count."""
    return opt_state[-1].count


def learning_rate_at(config: OptimizerConfig, applied, total_steps: int) -> jax.Array:
    """The learning rate of the update after `applied` updates; `applied` may be traced."""
    return jnp.asarray(_schedule(config, total_steps)(applied), jnp.float32)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """g min(1, max_norm / |g|), |g| over all arrays together.

    Like optax's function, but it multiplies by one factor. The multiplication fuses into Adam;
    optax's division takes an extra pass over the gradient.
    """

    def update(gradients, state, params=None):
        del params
        scale = jnp.minimum(1.0, max_norm / optax.tree.norm(gradients))
        return jax.tree.map(lambda g: g * scale, gradients), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def scale_by_tensorflow_adam(b1: float, b2: float, epsilon: float) -> optax.GradientTransformation:
    """Adam with epsilon outside the bias correction, as in TensorFlow 1.

        u_t = sqrt(1 - b2^t) / (1 - b1^t) * m_t / (sqrt(v_t) + eps)

    Early steps are smaller than in the standard form: they are those of the standard form with
    epsilon = eps / sqrt(1 - b2^t).
    Source: Huang et al. 2023, "The N implementation details of RLHF with PPO", detail 21.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        count = jnp.zeros([], jnp.int32)
        return optax.ScaleByAdamState(count, mu=zeros, nu=jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        del params
        mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


class FactoredMoments(NamedTuple):
    """Running means of g^2 for each parameter: for each row and for each column of a matrix. For a
    vector `rows` holds one mean per element, and `columns` is 0."""

    count: jax.Array
    rows: Any
    columns: Any


def scale_by_factored_moments() -> optax.GradientTransformation:
    """Adafactor's step, separately for each layer's matrix [M, N]. A vector has a full v.

        v_m = d v_m + (1 - d) mean_n(g_mn^2 + 1e-30), v_n likewise over m, d = 1 - t^-0.8
        u = g / sqrt(v_m v_n / mean(v_m)),  u / max(1, rms(u))

    Like optax's scale_by_factored_rms and clip_by_block_rms. Those treat a stack of layers as one
    array and factor its two longest axes, if both are long. N is all axes of a matrix but the
    first.
    Source: Shazeer & Stern 2018 (arXiv 1804.04235), algorithms 4 and 5.
    """

    def init(params):
        def zeros(path, x, rows: bool):
            across, along = _axes(path, x)
            if not along:
                return jnp.zeros_like(x) if rows else jnp.zeros(())
            return jnp.mean(jnp.zeros_like(x), along if rows else across)

        each = lambda rows: jax.tree_util.tree_map_with_path(
            lambda path, x: zeros(path, x, rows), params
        )
        return FactoredMoments(jnp.zeros([], jnp.int32), each(True), each(False))

    def update(gradients, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        decay = 1 - count.astype(jnp.float32) ** -0.8
        moved = lambda old, new: decay * old + (1 - decay) * new

        def one(path, g, rows, columns):
            across, along = _axes(path, g)
            squares = jnp.square(g) + 1e-30
            if not along:
                rows = moved(rows, squares)
                return _clipped(g * jax.lax.rsqrt(rows), across), rows, columns
            rows = moved(rows, jnp.mean(squares, along))
            columns = moved(columns, jnp.mean(squares, across))
            shares = rows / jnp.mean(rows, across, keepdims=True)
            scale = [
                jnp.broadcast_to(jnp.expand_dims(jax.lax.rsqrt(v), axes), g.shape)
                for v, axes in ((shares, along), (columns, across))
            ]
            return _clipped(g * scale[0] * scale[1], (*across, *along)), rows, columns

        found = jax.tree_util.tree_map_with_path(one, gradients, state.rows, state.columns)
        inner = jax.tree.structure((0, 0, 0))
        updates, rows, columns = jax.tree.transpose(jax.tree.structure(gradients), inner, found)
        return updates, FactoredMoments(count, rows, columns)

    return optax.GradientTransformation(init, update)


def _clipped(update: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """u / max(1, rms(u) over the axes)."""
    squares = jnp.mean(jnp.square(update), axes, keepdims=True)
    return update / jnp.broadcast_to(jnp.maximum(1.0, jnp.sqrt(squares)), update.shape)


def _axes(path, x: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of one layer's array: (the first, the others) of a matrix, (all, none) of a vector.

    Layers are stacked over axis 0 below "blocks", unless "blocks" is a list.
    """
    stacked = any(getattr(key, "key", "") == "blocks" for key in path)
    listed = any(isinstance(key, jax.tree_util.SequenceKey) for key in path)
    own = tuple(range(int(stacked and not listed), x.ndim))
    return (own[:1], own[1:]) if len(own) > 1 and not _is_vector(path) else (own, ())


def _schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    peak, warmup = config.learning_rate, config.warmup_steps
    require(total_steps > warmup, "warmup_steps", warmup, f"below the run's {total_steps} steps")
    steps = total_steps - warmup
    if config.schedule == "constant":
        main = optax.constant_schedule(peak)
    elif config.schedule == "linear":
        main = optax.linear_schedule(peak, config.final_fraction * peak, steps)
    else:
        main = optax.cosine_decay_schedule(peak, steps, alpha=config.final_fraction)
    if not warmup:
        return main
    rise = optax.linear_schedule(config.warmup_from * peak, peak, warmup)
    return optax.join_schedules([rise, main], [warmup])


def _is_matrix(params):
    matrix = lambda path, x: x.ndim >= 2 and not _is_vector(path)
    return jax.tree_util.tree_map_with_path(matrix, params)


def _is_vector(path) -> bool:
    """Whether a parameter is a bias or a norm's scale; stacked over layers it is a matrix."""
    name = str(getattr(path[-1], "key", "")) if path else ""
    return name.endswith(("bias", "scale"))
