"""Low-rank adapters beside a layer's matrices (Hu et al. 2021, LoRA, arXiv 2106.09685).

A layer's product x W becomes x W + (alpha / rank) (x A) B. W is fixed, A [in, rank] and B
[rank, out] are trained. B starts at 0: a new adapter changes no bit of the model's numbers.

A and B of matrix "up" are the parameters blocks/lora/up_a and blocks/lora/up_b, stacked over
layers, so `parts.split(params, ("lora",))` separates the adapter from its trunk.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.errors import require
from rlhf_jax.models import parts
from rlhf_jax.models.matmul import WeightProduct

MATRICES = ("qkv", "out", "up", "gate", "down")  # of a layer
# The branches (models/parts.py) of a policy, and of a model with a scalar head, that a stage with
# an adapter trains and that its file holds.
TRAINED = {"policy": ("lora",), "score": ("lora", "score")}
LOW = ("rows", "tokens", "rank")  # the axes of x A


@dataclasses.dataclass(frozen=True)
class LoRA:
    """The form of an adapter.

    rank      columns of A and rows of B
    alpha     what A B is multiplied by is alpha / rank
    matrices  the matrices of a layer that have an adapter, of "qkv", "out", "up", "gate" and
              "down"; none named: all that the model has
    """

    rank: int = 16
    alpha: float = 32.0
    matrices: tuple[str, ...] = ()

    def __post_init__(self):
        require(self.rank > 0, "rank", self.rank, "positive")
        require(self.alpha > 0, "alpha", self.alpha, "positive")
        for name in self.matrices:
            require(name in MATRICES, "matrices", name, f"of {', '.join(MATRICES)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def adapts(self, name: str) -> bool:
        """Whether the matrix of this name has an adapter, if the model has the matrix."""
        return name in (self.matrices or MATRICES)


def products(of: WeightProduct) -> tuple[WeightProduct, WeightProduct]:
    """The products with A and with B, of an adapter beside the product `of`."""
    operands, out = of.spec.split("->")
    left, right = operands.split(",")
    given, low = right[0], left.replace(right[0], "r")
    first, *rest = of.weights
    into = WeightProduct(f"{left},{given}r->{low}", of.inputs, (first, "rank"), LOW,
                         of.input_gradient, LOW)  # fmt: skip
    back = WeightProduct(f"{low},r{right[1:]}->{out}", LOW, ("rank", *rest), of.outputs, LOW,
                         of.output_gradient)  # fmt: skip
    return into, back


def parameters(matrices: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The logical axes of the adapters' parameters, from those of the matrices, by name."""
    found = {}
    for name in MATRICES:
        layers, given, *out = matrices[f"blocks/{name}"]
        found[f"blocks/lora/{name}_a"] = (layers, given, "rank")
        found[f"blocks/lora/{name}_b"] = (layers, "rank", *out)
    return found


def init(lora: LoRA, blocks: Any, key: jax.Array) -> Any:
    """A new adapter for a model, {"blocks": {"lora": ...}}, float32: A uniform in +-1/sqrt(in), as
    in peft, and B = 0.

    blocks: the model's "blocks", stacked over layers; only shapes are read.
    """
    adapter = {}
    for number, name in enumerate(MATRICES):
        if name in blocks and lora.adapts(name):
            layers, given, *out = blocks[name].shape
            bound, shape = given**-0.5, (layers, given, lora.rank)
            of_matrix = jax.random.fold_in(key, number)
            adapter[f"{name}_a"] = jax.random.uniform(of_matrix, shape, minval=-bound, maxval=bound)
            adapter[f"{name}_b"] = jnp.zeros((layers, lora.rank, *out))
    return {"blocks": {"lora": adapter}}


def merged_matrices(lora: LoRA, params: Any) -> Any:
    """W + (alpha / rank) A B of every matrix that has an adapter: {"blocks": {name: ...}}, float32.

    params: a model with its adapter. Sums are in full float32 on every platform.
    """
    blocks, found = params["blocks"], {}
    adapter = blocks["lora"]
    for name in MATRICES:
        if f"{name}_a" in adapter:
            a, b = adapter[f"{name}_a"], adapter[f"{name}_b"]
            change = jnp.einsum("lir,lr...->li...", a, b, precision=jax.lax.Precision.HIGHEST)
            found[name] = blocks[name] + lora.scale * change
    return {"blocks": found}


def trunk_of(params: Any) -> Any:
    """The model without its adapter, with the same arrays. A model without one is its own trunk."""
    there = "lora" in params["blocks"]
    return parts.split(params, TRAINED["policy"]).fixed if there else params


def merged(lora: LoRA, params: Any) -> Any:
    """The model without its adapter, with matrices that give the same products."""
    return parts.merge(trunk_of(params), merged_matrices(lora, params))
