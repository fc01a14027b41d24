"""A config that is written and read back is itself: same classes, same fields."""

import dataclasses
import json
import types
import typing
from pathlib import Path

import pytest

from rlhf_jax.config_json import from_json
from rlhf_jax.durable.fingerprint import class_path, fingerprint_of
from rlhf_jax.errors import ConfigError
from rlhf_jax.experiment import Experiment, FolderData, HumanData, WorldData, load_experiment
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import AdaptiveController, FixedController
from rlhf_jax.stages.dpo import DPO, IPO, ORPO, DPOConfig, SimPO
from rlhf_jax.training.optimizer import OptimizerConfig
from tests import small_run

ROOT = Path(__file__).resolve().parents[1]
FILES = [p for p in sorted((ROOT / "experiments").glob("*.py")) if p.stem != "estimators"]


def written_and_read(config):
    return from_json(type(config), json.loads(json.dumps(fingerprint_of(config))))


def fingerprinted(config: Experiment) -> Experiment:
    """The config with the defaults of what a fingerprint leaves out."""
    fields = dataclasses.fields(Experiment)
    left_out = [f for f in fields if not f.metadata.get("fingerprint", True)]
    assert [f.name for f in left_out] == ["parallel"]
    loop = type(config.loop)()
    return dataclasses.replace(config, loop=loop, parallel=left_out[0].default)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_comes_back(path):
    config = load_experiment(str(path))
    assert written_and_read(config) == fingerprinted(config)


def unions_of(kind, found) -> dict:
    """{(class, field): the dataclasses that the field may hold}, where they are several."""
    for name, hint in typing.get_type_hints(kind).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        several = typing.get_origin(hint) in (typing.Union, types.UnionType)
        members = [x for x in (typing.get_args(hint) if several else (hint,))]
        members = [x for x in members if dataclasses.is_dataclass(x)]
        if len(members) > 1:
            found[kind.__name__, name] = set(members)
        for member in members:
            unions_of(member, found)
    return found


MEMBERS = {
    ("Experiment", "data"): (
        WorldData(outputs=(2, 3), careless=0.5),
        HumanData(heldout=0.5),
        FolderData(rankings=3, pad_token="p"),
    ),
    ("PPOConfig", "kl"): (FixedController(0.3), AdaptiveController(0.3, 5.0, 10_000)),
    ("DPOConfig", "objective"): (DPO(0.3), DPO(0.3, 0.1), IPO(0.3), SimPO(0.3, 0.2), ORPO(0.3)),
}


def test_every_union_and_all_of_its_members_are_tried():
    known = {where: {type(value) for value in values} for where, values in MEMBERS.items()}
    assert unions_of(Experiment, {}) == known


def in_experiment(where, value) -> Experiment:
    config, (kind, field) = small_run.config, where
    name = {"Experiment": None, "PPOConfig": "ppo", "DPOConfig": "dpo"}[kind]
    if name is None:
        return dataclasses.replace(config, **{field: value})
    stage = dataclasses.replace(getattr(config, name), **{field: value})
    return dataclasses.replace(config, **{name: stage})


@pytest.mark.parametrize(
    "where, value", [(where, value) for where, values in MEMBERS.items() for value in values]
)
def test_a_member_of_a_union_comes_back_as_its_class(where, value):
    config = in_experiment(where, value)
    assert written_and_read(config) == fingerprinted(config)


def test_an_ipo_does_not_come_back_as_a_dpo():
    config = DPOConfig(OptimizerConfig(), objective=IPO(0.3))
    assert fingerprint_of(IPO(0.3)) == {
        "class": "rlhf_jax.stages.dpo:IPO",
        "beta": 0.3,
        "per_token": False,
    }
    assert written_and_read(config).objective == IPO(0.3) != DPO(0.3)


@pytest.mark.parametrize(
    "path, told",
    [
        ("os:system", r"^config.objective.class = 'os:system': must be one of rlhf_jax"),
        (class_path(FixedController), "^config.objective.class = .*FixedController': must be one"),
        (7, "^config.objective.class = 7: must be one of"),
        (None, '^config.objective = .*: must be an object with its "class"'),
    ],
)
def test_only_classes_that_the_field_allows_are_read(path, told):
    value = fingerprint_of(DPOConfig(OptimizerConfig(), objective=IPO(0.3)))
    value["objective"]["class"] = path
    if path is None:
        del value["objective"]["class"]
    with pytest.raises(ConfigError, match=told):
        from_json(DPOConfig, value)


def test_a_config_s_own_class_is_read_too():
    with pytest.raises(ConfigError, match=r"^config.class = .*:DPO': must be one of .*:IPO$"):
        from_json(IPO, fingerprint_of(DPO(0.3)))
    assert written_and_read(TransformerConfig(vocab_size=300)).vocab_size == 300
