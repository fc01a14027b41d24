"""Parameters in two parts: each in one of them, and together the whole, bit for bit."""

import jax
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.models import parts

MODEL = {
    "tokens": np.arange(6.0).reshape(3, 2),
    "blocks": {"up": np.float32([1, -0.0]), "norm": {"scale": np.float32(3), "bias": np.int32(4)}},
    "final": {"scale": np.float32(np.nan)},
    "score": {"weights": np.float32([5, 6]), "bias": np.float32(7)},
}
# What is trained, as paths, by what is asked for.
ALL = {"tokens", "blocks/up", "blocks/norm/scale", "blocks/norm/bias", "final/scale",
       "score/weights", "score/bias"}  # fmt: skip
TRAINED = {
    (): ALL,
    ("score",): {"score/weights", "score/bias"},  # a whole branch
    ("tokens",): {"tokens"},  # a leaf
    ("bias",): {"blocks/norm/bias", "score/bias"},  # at any depth
    ("scale", "up"): {"blocks/up", "blocks/norm/scale", "final/scale"},
    ("norm", "scale"): {"blocks/norm/scale", "blocks/norm/bias", "final/scale"},  # one in the other
    ("tokens", "blocks", "final", "score"): ALL,
}


def leaves(tree, above=()) -> dict:
    """{path: the array itself}."""
    if not isinstance(tree, dict):
        return {"/".join(above): tree}
    return {k: v for name, inner in tree.items() for k, v in leaves(inner, (*above, name)).items()}


def dicts(tree):
    """Every dict of the tree, the outermost too."""
    if isinstance(tree, dict):
        yield tree
        for inner in tree.values():
            yield from dicts(inner)


@pytest.mark.parametrize("train", TRAINED, ids=str)
def test_each_parameter_is_in_one_part_and_both_together_are_the_model(train):
    fixed, trained = parts.split(MODEL, train)
    whole = leaves(MODEL)
    assert leaves(trained).keys() == TRAINED[train]
    assert leaves(fixed).keys() == ALL - TRAINED[train]
    merged = parts.merge(fixed, trained)
    assert jax.tree.structure(merged) == jax.tree.structure(MODEL)
    for part in (fixed, trained, merged):
        for path, array in leaves(part).items():
            assert array is whole[path]  # neither copied nor changed
        assert {} not in list(dicts(part))[1:]  # no empty branch
    assert whole.keys() == leaves(MODEL).keys() == ALL


def test_what_is_not_there_cannot_be_trained():
    names = "bias, blocks, final, norm, scale, score, tokens, up, weights"
    refused = f"train = 'head': must be one of the model's parameters: {names}"
    with pytest.raises(ConfigError) as caught:
        parts.split(MODEL, ("score", "head"))
    assert str(caught.value) == refused
    with pytest.raises(ConfigError, match=r"^train = 'norm/bias': "):
        parts.split(MODEL, ("norm/bias",))  # names, not paths


def test_shapes_part_as_arrays_do():
    shapes = jax.eval_shape(lambda: jax.tree.map(np.float32, MODEL))
    fixed, trained = parts.split(shapes, ("bias",))
    assert leaves(trained).keys() == {"blocks/norm/bias", "score/bias"}
    assert jax.tree.structure(parts.merge(fixed, trained)) == jax.tree.structure(MODEL)


def test_a_part_that_adds_parameters_or_takes_the_place_of_some():
    """As an adapter does: the trained part's stand beside the fixed ones, or over them."""
    fixed = {"blocks": {"up": 1, "down": 2}, "tokens": 3}
    trained = {"blocks": {"up": 10, "adapter": {"a": 11}}, "score": 12}
    assert parts.merge(fixed, trained) == {
        "blocks": {"up": 10, "down": 2, "adapter": {"a": 11}}, "tokens": 3, "score": 12,
    }  # fmt: skip
    assert fixed == {"blocks": {"up": 1, "down": 2}, "tokens": 3}
    assert parts.merge({}, trained) == trained and parts.merge(fixed, {}) == fixed
