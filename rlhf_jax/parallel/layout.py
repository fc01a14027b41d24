"""How arrays lie on a mesh of data x fsdp x tensor chips.

fsdp    parameters, optimizer and averages are cut along the model width, and gathered layer by
        layer where they are multiplied with; rows of a batch are cut over data and fsdp
tensor  heads and the feed-forward width are cut, and with them the KV cache
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.errors import require

ROWS = ("data", "fsdp")
EVERY, WIDE = ("fsdp", "tensor"), ("tensor", "fsdp")
# Parameters by name: number of axes, blocks' leading layer axis included, and how they are cut.
PARAMETERS = {
    "tokens": (2, P(None, EVERY)),
    "positions": (2, P(None, EVERY)),
    "head": (2, P(None, EVERY)),
    "qkv": (5, P(None, "fsdp", "tensor")),
    "qkv_bias": (4, P(None, "tensor")),
    "out": (3, P(None, "tensor", "fsdp")),
    "up": (3, P(None, "fsdp", "tensor")),
    "up_bias": (2, P(None, "tensor")),
    "gate": (3, P(None, "fsdp", "tensor")),
    "gate_bias": (2, P(None, "tensor")),
    "down": (3, P(None, "tensor", "fsdp")),
}
# How rows and time of a batch are cut: the first that divides. With fewer rows than chips, one
# axis of the mesh cuts the rows still, if it can, and time is cut over the other.
CUTS = ((ROWS, ()), ("fsdp", ("data",)), ("data", ("fsdp",)), (None, ROWS))
BATCHES = tuple(P(rows, time or None) for rows, time in CUTS)
# What a model computes: the first that divides. A layer's first product of two gathers the tokens
# and makes a share of the heads or of the feed-forward width; the second sums over the shares.
# Between them the residual stream is cut along time over "tensor" too (Korthikanti et al. 2022).
WHOLE = BATCHES
SHARE = tuple(P(rows, time or None, "tensor") for rows, time in CUTS)
STREAM = tuple(P(rows, cut or None) for rows, time in CUTS for cut in ((*time, "tensor"), time))


def _first_product(spec: str) -> dict:
    return _product(spec, P(None, "tensor"), P("fsdp", "tensor"), WHOLE, SHARE, SHARE, STREAM)


def _second_product(spec: str) -> dict:
    return _product(spec, P("tensor"), P("tensor", "fsdp"), SHARE, STREAM, WHOLE, SHARE)


def _product(spec, weights, gradient, inputs, out, out_gradient, in_gradient) -> dict:
    return {
        f"{spec} weights": (weights,),
        f"{spec} weights gradient": (gradient,),
        f"{spec} in": inputs,
        f"{spec} out": out,
        f"{spec} out gradient": out_gradient,
        f"{spec} in gradient": in_gradient,
    }


COMPUTED = {  # by the names of models/placement.py
    "rows": BATCHES,
    # From the table, cut along the width, to rows: one axis at a time, else the compiler gathers.
    "looked up": (P("data", None, EVERY),),
    "half way": (P("data", "tensor", "fsdp"),),
    "residual": STREAM,
    "attended": SHARE,
    "cache": (P(ROWS, "tensor"), P(None, "tensor")),
    **_first_product("btd,dkgh->btkgh"),
    **_second_product("bte,ed->btd"),
    **_first_product("btd,df->btf"),
    **_second_product("btf,fd->btd"),
    "decoding qkv": (P(None, "tensor", None, "fsdp"),),
    "decoding out": (P("tensor", "fsdp"),),
    "decoding up": (P(None, WIDE),),
    "decoding gate": (P(None, WIDE),),
    "decoding down": (P(WIDE),),
    **_product("btd,vd->btv", P(), P(None, EVERY), STREAM, STREAM, STREAM, STREAM),
}
# The same of one token a row: less than the weights, which stay cut over both axes, along heads and
# feed-forward width; it is the tokens that are gathered.
SLICE = (P("data", None, "fsdp"),)
PART = (P("data", None, "tensor"),)
ONE_TOKEN = {
    "half way": SLICE,
    "residual": SLICE,
    "btd,dkgh->btkgh in": (P("data"),),
    "btd,dkgh->btkgh out": (P("data", None, "tensor", None, "fsdp"),),
    "bte,ed->btd in": PART,
    "bte,ed->btd out": SLICE,
    "btd,df->btf in": (P("data"),),
    "btd,df->btf out": (P("data", None, WIDE),),
    "btf,fd->btd in": (P("data", None, WIDE),),
    "btf,fd->btd out": SLICE,
    "btd,vd->btv in": (P("data", None, EVERY),),
    "btd,vd->btv out": (P((*ROWS, "tensor")), P(ROWS)),
}


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Chips along each axis."""

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
        """A tree of shapes with a sharding each: parameters and what mirrors them by name, whole
        numbers and keys everywhere, else rows where they divide over the mesh."""
        return jax.tree_util.tree_map_with_path(self._placed, tree)

    def _placed(self, path, x):
        last = path[-1] if path else None
        name = last.key if isinstance(last, jax.tree_util.DictKey) else ""
        axes, spec = PARAMETERS.get(name, (0, P()))
        if axes == len(x.shape) and x.dtype != jnp.int32:
            specs = (spec,)
        elif len(x.shape) > 1 and name != "scale" and not name.endswith("bias"):
            specs = BATCHES
        else:
            specs = ()
        spec = self._first(specs, x.shape) or P()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec))

    @property
    def row_groups(self) -> int:
        """Devices, or groups of them, that rows are cut over."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def keep(self, tree: Any) -> Any:
        """Inside a program: a state that comes out as it went in."""

        def kept(x, laid):
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return x
            return jax.lax.with_sharding_constraint(x, laid.sharding)

        return jax.tree.map(kept, tree, self(tree))

    def _first(self, specs, shape):
        return next((spec for spec in specs if self._divides(spec, shape)), None)

    def _divides(self, spec, shape) -> bool:
        def parts(cut) -> int:
            axes = cut if isinstance(cut, tuple) else (cut,) if cut else ()
            return math.prod(self.mesh.shape[axis] for axis in axes)

        pairs = zip(shape, spec, strict=False)
        return len(spec) <= len(shape) and all(side % parts(cut) == 0 for side, cut in pairs)

    def place(self, x: jax.Array, name: str) -> jax.Array:
        """The rule that models/placement.py asks; what does not divide is left to the compiler."""
        one_token = ONE_TOKEN.get(name) if x.shape[1] == 1 else None
        spec = self._first(one_token or COMPUTED[name], x.shape)
        if spec is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


def layout_of(devices: list, shape: MeshShape) -> Layout:
    """Raises ConfigError where the shape has another number of chips."""
    require(shape.chips == len(devices), "mesh", str(shape), f"{len(devices)} chips in all")
    grid = np.array(devices).reshape(shape.data, shape.fsdp, shape.tensor)
    return Layout(Mesh(grid, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3))


def bytes_a_device(tree: Any) -> int:
    """Of a tree of placed shapes, without the compiler's padding."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        total += math.prod(shape) * (8 if is_key else leaf.dtype.itemsize)
    return total
