"""How arrays are cut over a mesh of data x fsdp x tensor chips.

data    cuts the rows of a batch
fsdp    cuts the rows too; cuts parameters, optimizer and averages along the model width, and a
        layer's matrices are gathered for its products
tensor  cuts the heads and the feed-forward width, and so the KV cache
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.errors import require
from rlhf_jax.models import score, transformer
from rlhf_jax.models.placement import Use

ROWS = ("data", "fsdp")
D, F, T = ("data",), ("fsdp",), ("tensor",)
Rules = Mapping[str, tuple[str, ...]]  # logical axis -> the axes of the mesh that cut it

# How the axes of parameters are cut, by use. Where two axes of an array name the same axis of the
# mesh, the axis further up in this table gets it.
PARAMETERS = {
    #                 kept   gathered  decoding
    "layers":       ((),     (),       ()),
    "vocabulary":   ((),     (),       ()),
    "context":      ((),     (),       ()),
    "features":     ((),     (),       ()),
    "rank":         ((),     (),       ()),
    "projections":  ((),     (),       ()),
    "heads":        (T,      T,        T),
    "attended":     (T,      T,        T),
    "head_width":   ((),     (),       F),
    "feed_forward": (T,      T,        T + F),
    "width":        (F + T,  (),       F),
}  # fmt: skip
USES = {
    use: {axis: cuts[column] for axis, cuts in PARAMETERS.items()}
    for column, use in enumerate(("kept", "gathered", "decoding"))
}
# (cut of rows, cut of time) of a batch; the first pair that divides is taken. With fewer rows than
# chips, one axis of the mesh cuts the rows if possible, and the other axis cuts time.
CUTS = ((ROWS, ()), (F, D), (D, F), ((), ROWS))


def _whole(*axes: str) -> Rules:
    return dict.fromkeys(axes, ())


def _many_tokens(rows, time, spread) -> Rules:
    """Rules for activations with many tokens per row: each chip has some of the rows, and computes
    a share of the heads and of the feed-forward width."""
    return {
        "rows": rows,
        "time": time,
        "tokens": time,
        "spread": spread,
        "heads": T,
        "attended": T,
        "feed_forward": T,
        "logit_rows": rows,
        "cache_rows": rows if rows == ROWS else (),
        "lookup_rows": D,
        "lookup_width": F + T,
        "half_tokens": T,
        "half_width": F,
        **_whole("width", "stream", "final_width", "head_width", "projections", "groups"),
        **_whole("lookup_tokens", "vocabulary", "columns", "rank"),
    }


def _one_token(logit_rows) -> Rules:
    """Rules for activations with one token per row. They are smaller than the weights, so the
    tokens are gathered, and the weights stay cut over both axes of the mesh."""
    return {
        "rows": D,
        "heads": T,
        "head_width": F,
        "attended": T,
        "feed_forward": T + F,
        "stream": F,
        "final_width": F + T,
        "logit_rows": logit_rows,
        "lookup_rows": D,
        "half_width": F,
        **_whole("tokens", "spread", "half_tokens", "width", "projections", "vocabulary", "rank"),
    }


# Alternatives: the first that divides is taken. "tensor" cuts time in the residual stream too.
MANY_TOKENS = tuple(
    _many_tokens(rows, time, spread) for rows, time in CUTS for spread in (time + T, time)
)
ONE_TOKEN = tuple(_one_token(rows) for rows in (ROWS + T, ROWS))
TOKENS = ("tokens", "spread", "half_tokens")  # of length 1: one token a row
DECLARED = transformer.PARAMETERS | score.PARAMETERS


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Chips along each axis of the mesh."""

    data: int
    fsdp: int
    tensor: int

    def __post_init__(self):
        for axis in ("data", "fsdp", "tensor"):
            require(getattr(self, axis) > 0, axis, getattr(self, axis), "positive")

    @property
    def chips(self) -> int:
        return self.data * self.fsdp * self.tensor

    def __str__(self) -> str:
        return f"data {self.data} x fsdp {self.fsdp} x tensor {self.tensor}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rules above on one mesh."""

    mesh: Mesh

    def __call__(self, tree: Any) -> Any:
        """The tree's shapes, each with a sharding.

        Parameters, and trees with the same names such as moments, are cut by name. Scalars and keys
        are on every device. Other arrays are cut along their rows where these divide.

        Raises ValueError where a parameter has no declared axes.
        """

        def placed(path, x):
            if _is_parameters(x):
                return jax.tree_util.tree_map_with_path(self._parameter, x)
            return self._laid(x, self._rows(x))

        return jax.tree_util.tree_map_with_path(placed, tree, is_leaf=_is_parameters)

    def _parameter(self, path, x):
        name = _name(path)
        axes = DECLARED.get(name)
        if axes is None or x.ndim > len(axes):
            raise ValueError(
                f"parameter {name} of shape {x.shape} has the axes {axes}: declare one for each of "
                "its axes beside it (PARAMETERS in models/)"
            )
        # Adafactor's means over some of the axes: cut like a batch, not by name.
        fewer = x.ndim < len(axes)
        return self._laid(x, self._rows(x) if fewer else self.spec(x.shape, axes, "kept"))

    def _rows(self, x) -> P | None:
        return self.spec(x.shape[:2], ("rows", "time"), "activation") if x.ndim > 1 else None

    def _laid(self, x, spec: P | None) -> jax.ShapeDtypeStruct:
        """Without a spec (no rule divides) the array is whole on every device."""
        sharding = NamedSharding(self.mesh, spec or P())
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    @property
    def row_groups(self) -> int:
        """The number of devices, or groups of devices, over which rows are cut."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def keep(self, tree: Any) -> Any:
        """Inside a program: the state with the layout that it had as an argument."""

        def kept(x, laid):
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return x
            return jax.lax.with_sharding_constraint(x, laid.sharding)

        return jax.tree.map(kept, tree, self(tree))

    def spec(self, shape: tuple[int, ...], axes: tuple[str, ...], use: Use) -> P | None:
        """How an array with these logical axes is cut; None where no rule divides it.

        Raises ValueError where an axis has no rule.
        """
        if use in USES:
            alternatives = (USES[use],)
        else:
            sizes = dict(zip(axes, shape, strict=True))
            alternatives = ONE_TOKEN if 1 in map(sizes.get, TOKENS) else MANY_TOKENS
        every = (_cuts(axes, rules, use) for rules in alternatives)
        cuts = next((cuts for cuts in every if self._divide(cuts, shape)), None)
        return None if cuts is None else P(*(cut or None for cut in cuts))

    def _divide(self, cuts, shape) -> bool:
        parts = lambda cut: math.prod(self.mesh.shape[axis] for axis in cut)
        return all(side % parts(cut) == 0 for side, cut in zip(shape, cuts, strict=True))

    def place(self, x: jax.Array, axes: tuple[str, ...], use: Use) -> jax.Array:
        """The rule for models/placement.py; where nothing divides, the compiler decides."""
        spec = self.spec(x.shape, axes, use)
        if spec is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def on_parts(
        self,
        function: Callable[..., jax.Array],
        arrays: tuple[jax.Array, ...],
        axes: tuple[tuple[str, ...], ...],
        result: tuple[str, ...],
    ) -> jax.Array | None:
        """models/placement.py: on_parts, on this mesh."""
        pairs = zip(arrays, axes, strict=True)
        specs = tuple(self.spec(x.shape, names, "activation") for x, names in pairs)
        if any(spec is None for spec in specs):
            return None
        cuts = dict(zip(axes[0], specs[0], strict=True))
        if cuts["time"] is not None:
            return None
        out = P(*(cuts[axis] for axis in result))
        mapped = jax.shard_map(
            function, mesh=self.mesh, in_specs=specs, out_specs=out, check_vma=False
        )
        return mapped(*arrays)


def _is_parameters(tree: Any) -> bool:
    """Whether a dict is a model or a part of one: it has "blocks" or a declared floating-point
    parameter. A batch holds integers, so its "tokens" is no parameter."""
    if not isinstance(tree, dict):
        return False
    found = jax.tree_util.tree_leaves_with_path(tree)
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    return "blocks" in tree or any(_name(path) in DECLARED and floating(x) for path, x in found)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _cuts(axes: tuple[str, ...], rules: Rules, use: Use) -> list[tuple[str, ...]]:
    """The axes of the mesh that cut each logical axis."""
    if unknown := [axis for axis in axes if axis not in rules]:
        raise ValueError(f"no rule in {__name__} cuts axis {unknown[0]!r} of {axes} ({use})")
    cuts, taken = {}, set()
    for axis in sorted(axes, key=[*rules].index):
        cuts[axis] = tuple(part for part in rules[axis] if part not in taken)
        taken.update(cuts[axis])
    return [cuts[axis] for axis in axes]


def layout_of(devices: list, shape: MeshShape) -> Layout:
    """Raises ConfigError where the shape has another number of chips."""
    require(shape.chips == len(devices), "mesh", str(shape), f"{len(devices)} chips in all")
    grid = np.array(devices).reshape(shape.data, shape.fsdp, shape.tensor)
    return Layout(Mesh(grid, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3))


def bytes_a_device(tree: Any) -> int:
    """Bytes per device of a tree of shapes with shardings, without the compiler's padding."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total += math.prod(shape) * (8 if is_key else leaf.dtype.itemsize)
    return total
