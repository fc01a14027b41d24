"""Every parameter and activation has logical axes, and the rules put them where they were measured.

`python -m tests.parallel.test_layout` writes placements.txt anew.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import block, score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.lora import LoRA
from rlhf_jax.models.matmul import compiling_for
from rlhf_jax.models.placement import AXES, place, placing
from rlhf_jax.objectives.likelihood import token_log_probs
from rlhf_jax.parallel import layout
from rlhf_jax.parallel.layout import Layout
from rlhf_jax.stages import supervised
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer

PLACEMENTS = Path(__file__).parent / "placements.txt"
MESHES = ((8, 1, 1), (1, 8, 1), (1, 4, 2), (2, 2, 2))
# It has every parameter there is.
MODEL = TransformerConfig(
    vocab_size=400, layers=4, width=64, heads=8, kv_heads=4, context=32, activation="swiglu",
    tied_embeddings=False, mlp_width=96, qk_norm=True, branch_norms=True,
)  # fmt: skip
LLAMA = dataclasses.replace(MODEL, positions="rotary", norm="rms", biases=False)
KEY = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
TEXT = 16


def on(mesh) -> Layout:
    return Layout(AbstractMesh(mesh, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3))


@functools.cache
def parameters(model):
    """Shapes, with both heads."""

    def initial(key):
        params = transformer.init(model, key)
        return params | score.with_score_head(params, key)

    return jax.eval_shape(initial, KEY)


def named(tree) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def state(method="adam", model=MODEL):
    """Shapes of a training state."""
    optimizer = make_optimizer(OptimizerConfig(method=method), 10)
    initial = lambda params, key: supervised.initial_state(params, optimizer, key)
    return jax.eval_shape(initial, parameters(model), KEY)


def shown(spec) -> str:
    """A cut an axis: "data+fsdp . tensor"; "left" to the compiler where there is none."""
    cut = lambda axes: "+".join(axes) if isinstance(axes, tuple) else axes or "."
    return "left" if spec is None else " ".join(map(cut, spec)) or "."


def trained(model, rows: int):
    def loss(params, tokens):
        states = transformer.hidden(model, params, tokens, tokens)
        logits = transformer.logits(model, params, states)
        scores = score.at_last_token(score.scores(params, states), tokens)
        return token_log_probs(logits, tokens).sum() + scores.sum()

    tokens = jax.ShapeDtypeStruct((rows, TEXT), jnp.int32)
    jax.eval_shape(jax.grad(loss), parameters(model), tokens)


def decoded(model, rows: int):
    prompts = jax.ShapeDtypeStruct((rows, TEXT), jnp.int32)
    sample = functools.partial(
        generate, model, sampling=SamplingConfig(1.0), response_length=8, ending=Ending(2, 0)
    )
    jax.eval_shape(lambda *a: sample(*a), parameters(model), prompts, prompts, KEY)


PROGRAMS = {
    "training, 16 rows": (trained, 16),
    "training, 2 rows": (trained, 2),
    "decoding, 16 rows": (decoded, 16),
    "decoding, 2 rows": (decoded, 2),
}


def placed(program, rows, model=MODEL) -> set:
    """What `place` is asked while a program is traced for accelerators."""
    asked = set()

    def rule(x, axes, use):
        asked.add((x.shape, axes, use))
        return x

    parameters(model)  # made outside: at the start there is nothing to place
    with placing(rule), compiling_for("tpu"):
        program(model, rows)
    return asked


def activations(mesh, asked) -> dict[str, str]:
    name = lambda shape, axes, use: f"{' '.join(axes)} {shape} {use}"
    return {name(*each): shown(on(mesh).spec(*each)) for each in asked}


def leaves(mesh, method="adam", part="params") -> dict[str, str]:
    found = named(on(mesh)(state(method)))
    mine = {name: leaf for name, leaf in found.items() if part in name and leaf.ndim}
    return {f"{name} {leaf.shape}": shown(leaf.sharding.spec) for name, leaf in mine.items()}


def table(title: str, find) -> list[str]:
    columns = [find(mesh) for mesh in MESHES]
    rows = [" | ".join((row, *(column[row] for column in columns))) for row in columns[0]]
    return ["", title, *sorted(rows)]


def recorded() -> str:
    lines = ["shape | " + " | ".join("x".join(map(str, mesh)) for mesh in MESHES)]
    for title, (program, rows) in PROGRAMS.items():
        lines += table(title, functools.partial(activations, asked=placed(program, rows)))
    lines += table("state", leaves)
    for part in ("rows", "columns"):
        lines += table("Adafactor", functools.partial(leaves, method="adafactor", part=part))
    return "\n".join([*lines, ""])


def test_arrays_lie_where_they_were_measured():
    assert recorded().splitlines() == PLACEMENTS.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("change", [{"remat": "full"}, {"remat": "dots", "scan_layers": False}])
def test_remat_and_unrolled_layers_place_alike(change):
    changed = dataclasses.replace(MODEL, **change)
    assert placed(trained, 16, changed) == placed(trained, 16)


@pytest.mark.parametrize("method", ["adam", "lion"])
def test_moments_lie_as_their_parameters(method):
    laid = on((2, 2, 2))(state(method))
    specs = lambda tree: {name: leaf.sharding.spec for name, leaf in named(tree).items()}
    assert specs(laid.opt_state[1].mu) == specs(laid.params)
    assert specs(laid.params)["blocks/qkv"] == P(None, "fsdp", "tensor", None, None)


@pytest.mark.parametrize("model", [MODEL, LLAMA], ids=["gpt", "llama"])
def test_every_parameter_has_the_shape_of_its_axes(model):
    model = dataclasses.replace(model, lora=LoRA(3))
    sizes = model.axis_sizes
    for name, leaf in named(parameters(model)).items():
        assert leaf.shape == tuple(sizes[axis] for axis in layout.DECLARED[name])
    if model.biases:
        assert named(parameters(model)).keys() == layout.DECLARED.keys()


def test_an_adapter_is_cut_as_its_matrix():
    laid = on((2, 2, 2))(parameters(dataclasses.replace(MODEL, lora=LoRA(3))))
    specs = {name: leaf.sharding.spec for name, leaf in named(laid).items() if "lora" in name}
    assert specs["blocks/lora/qkv_a"] == P(None, ("fsdp", "tensor"), None)
    assert specs["blocks/lora/qkv_b"] == P(None, None, "tensor", None, None)
    assert specs["blocks/lora/down_a"] == P(None, "tensor", None)
    assert specs["blocks/lora/down_b"] == P(None, None, ("fsdp", "tensor"))


def test_every_axis_has_a_rule():
    tables = (layout.PARAMETERS, *layout.MANY_TOKENS, *layout.ONE_TOKEN)
    assert set().union(*tables) == AXES.keys()
    assert MODEL.axis_sizes.keys() == layout.PARAMETERS.keys()


def test_a_part_of_a_model_lies_as_in_the_whole():
    params, rules = parameters(MODEL), on((2, 2, 2))
    for name in ("head", "tokens", "score"):
        part = rules({"trained": {name: params[name]}})["trained"]
        whole = {name: rules(params)[name]}
        assert [(x.shape, x.sharding) for x in jax.tree.leaves(part)] == [
            (x.shape, x.sharding) for x in jax.tree.leaves(whole)
        ]
    tokens = jax.ShapeDtypeStruct((8, TEXT), jnp.int32)
    batch = rules({"tokens": tokens, "weights": tokens.update(dtype=jnp.float32)})
    assert {x.sharding.spec for x in batch.values()} == {P(("data", "fsdp"), None)}


def test_a_parameter_without_axes_is_refused():
    params = parameters(MODEL)
    for path, told in [("adapter", "adapter"), ("blocks", "blocks/adapter")]:
        new = {"adapter": jnp.zeros((4, 8))}
        changed = params | (new if path == "adapter" else {"blocks": params["blocks"] | new})
        with pytest.raises(ValueError, match=f"parameter {told} of shape .4, 8. has the axes None"):
            on((2, 2, 2))({"params": changed, "step": jnp.zeros((), jnp.int32)})
    deeper = params | {"head": jnp.zeros((2, 400, 64))}
    with pytest.raises(ValueError, match=r"parameter head of shape .* axes \('vocabulary', 'wid"):
        on((2, 2, 2))(deeper)
    with pytest.raises(ValueError, match="parameter blocks/more has no axes: declare them"):
        block._shape(MODEL, "blocks/more")


def test_an_activation_without_axes_is_refused():
    x = jnp.zeros((4, 8))
    for axes in [("rows",), ("rows", "breadth"), ()]:
        with pytest.raises(ValueError, match=r"shape \(4, 8\) is to be placed by the axes"):
            place(x, axes)
    with (
        placing(on((2, 2, 2)).place),
        pytest.raises(ValueError, match=r"no rule in .*layout cuts axis 'layers' of"),
    ):
        place(x, ("rows", "layers"))


if __name__ == "__main__":
    PLACEMENTS.write_text(recorded(), encoding="utf-8")
