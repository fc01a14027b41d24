"""A directory remembers the config it was made with."""

import dataclasses
import json
from pathlib import Path

import pytest

from rlhf_jax.durable import formats
from rlhf_jax.durable.fingerprint import check_fingerprint, fingerprint_of
from rlhf_jax.errors import UserError
from rlhf_jax.fields import ADDED_LATER, NOT_FINGERPRINTED
from rlhf_jax.stages.dpo import DPO, IPO
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class _Stage:
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    lengths: tuple[int, ...] = (16, 32)
    data: Path | None = None
    stop_after_steps: int | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)
    bend: float = dataclasses.field(default=1.0, metadata=ADDED_LATER)


def test_the_file_holds_the_whole_nested_config(tmp_path):
    check_fingerprint(tmp_path / "new", fingerprint_of(_Stage()))
    content = json.loads((tmp_path / "new" / "config.json").read_text())
    assert content.keys() == {"format", "config"} and content["format"] == formats.RUN.now
    stored = content["config"]
    rate = {"class": "rlhf_jax.training.optimizer:OptimizerConfig"}
    assert stored["optimizer"] == rate | dataclasses.asdict(OptimizerConfig())
    assert stored["lengths"] == [16, 32] and stored["data"] is None
    assert stored["loop"] == {"class": "rlhf_jax.training.loop:LoopConfig"}
    assert "stop_after_steps" not in stored


def test_the_same_config_and_other_logging_pass(tmp_path):
    check_fingerprint(tmp_path, fingerprint_of(_Stage()))
    other = _Stage(loop=LoopConfig(log_every=7), stop_after_steps=3)
    check_fingerprint(tmp_path, fingerprint_of(other))


def test_a_field_added_later_counts_where_it_is_not_its_default():
    assert "bend" not in fingerprint_of(_Stage())
    assert fingerprint_of(_Stage(bend=0.0))["bend"] == 0.0


def test_each_changed_field_has_a_line(tmp_path):
    check_fingerprint(tmp_path, fingerprint_of(_Stage()))
    other = _Stage(OptimizerConfig(learning_rate=3e-5), lengths=(16, 64, 128), data=Path("x"))
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError) as error:
        check_fingerprint(tmp_path, fingerprint_of(other))
    assert str(error.value).splitlines()[1:] == [
        '  data: null there, "x" now',
        "  lengths.1: 32 there, 64 now",
        "  lengths.2: (absent) there, 128 now",
        "  optimizer.learning_rate: 1e-05 there, 3e-05 now",
    ]
    assert (tmp_path / "config.json").read_text() == before


def test_another_class_has_a_line_by_its_name(tmp_path):
    check_fingerprint(tmp_path, {"objective": DPO(0.3)})
    with pytest.raises(UserError) as error:
        check_fingerprint(tmp_path, {"objective": IPO(0.3)})
    assert str(error.value).splitlines()[1:] == [
        "  objective.class: DPO there, IPO now",
        "  objective.label_smoothing: 0.0 there, (absent) now",
        "  objective.per_token: (absent) there, false now",
    ]


def test_two_classes_without_fields_differ(tmp_path):
    """Also where they have one name in two modules: then the line names the modules."""
    one, other = (dataclasses.make_dataclass("None_", [], frozen=True) for _ in range(2))
    one.__module__, other.__module__ = "here", "there"
    assert fingerprint_of(one()) == {"class": "here:None_"}
    check_fingerprint(tmp_path, {"penalty": one()})
    with pytest.raises(UserError, match=r"\n  penalty\.class: here:None_ there, there:None_ now$"):
        check_fingerprint(tmp_path, {"penalty": other()})


def test_floats_survive_and_what_json_lacks_is_text(tmp_path):
    config = {"rate": 0.1 + 0.2, "clip": float("inf"), "none": None, 3: True}
    check_fingerprint(tmp_path, config)
    check_fingerprint(tmp_path, config)
    assert "Infinity" not in (tmp_path / "config.json").read_text()


def test_a_value_without_a_meaning_is_refused():
    with pytest.raises(TypeError, match="no place"):
        fingerprint_of({"f": print})


def test_a_class_of_an_experiment_file_is_the_same_where_the_file_has_another_name(tmp_path):
    def made(module, value=1, name="Mine"):
        kind = dataclasses.make_dataclass(name, [("value", int)], frozen=True)
        kind.__module__, kind.__qualname__ = module, name
        return {"stage": kind(value)}

    check_fingerprint(tmp_path, made("experiment_first"))
    check_fingerprint(tmp_path, made("experiment_my-second.v2"))
    for other, line in (
        (made("experiment_first", 2), "stage.value: 1 there, 2 now"),
        (made("experiment_second", name="Other"), "stage.class: Mine there, Other now"),
        (made("elsewhere"), "stage.class: experiment_first:Mine there, elsewhere:Mine now"),
    ):
        with pytest.raises(UserError, match=line):
            check_fingerprint(tmp_path, other)
