"""Metrics files stay valid JSON, and no step is in them twice."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from rlhf_jax.errors import UserError
from rlhf_jax.training.metrics import SPEED, MetricsWriter, read_metrics, to_numbers, trim


def test_lines_go_to_both_files_and_a_later_writer_cuts_them_back(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": step / 3, "count": step}, {"seconds": step + 0.5})
    writer.close()
    writer = MetricsWriter(tmp_path, 2)
    writer.write(3, {"loss": 0.25, "count": 7}, {"seconds": 9.0})
    writer.close()
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": 1 / 3, "count": 1},
        {"step": 2, "loss": 2 / 3, "count": 2},
        {"step": 3, "loss": 0.25, "count": 7},
    ]
    assert read_metrics(tmp_path, SPEED)[1:] == [
        {"step": 2, "seconds": 2.5},
        {"step": 3, "seconds": 9.0},
    ]


def test_a_line_cut_short_by_a_kill_is_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    trim(path, 5)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    trim(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_null_with_one_warning(tmp_path, value):
    writer = MetricsWriter(tmp_path, 0)
    with pytest.warns(RuntimeWarning, match="step 4: loss is .*written as null") as warned:
        writer.write(4, {"loss": value, "kl": 0.5}, {})
        writer.write(5, {"loss": value, "kl": 0.5}, {})
    writer.close()
    assert len(warned) == 1

    def refuse(name):
        raise ValueError(name)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    parsed = [json.loads(line, parse_constant=refuse) for line in lines]
    assert parsed == [{"step": s, "kl": 0.5, "loss": None} for s in (4, 5)]


def test_numbers_keep_their_kind_and_arrays_are_refused():
    numbers = to_numbers(
        {"b": jnp.float32(0.1), "a": jnp.int32(2**31 - 1), "c": 0.1, "d": jnp.bfloat16(1.5)}
    )
    assert numbers == {"a": 2**31 - 1, "b": float(np.float32(0.1)), "c": 0.1, "d": 1.5}
    assert isinstance(numbers["a"], int) and list(numbers) == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="metric 'x' must be a scalar, not of shape"):
        to_numbers({"x": jnp.zeros(3)})


def scalars_of(directory):
    """(step, tag, value) of all TensorBoard event files; each record is framed by 12 + 4 bytes."""
    found = []
    for file in sorted(directory.glob("events*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            at += size + 16
    return found


def test_tensorboard_has_both_kinds(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 2.5}, {"seconds": 0.5})
    writer.close()
    assert scalars_of(tmp_path / "tensorboard") == [(1, "loss", 2.5), (1, "speed/seconds", 0.5)]


def test_weights_and_biases_gets_every_line_and_one_run_for_a_directory(tmp_path, monkeypatch):
    calls = []

    class Module:
        @staticmethod
        def init(**arguments):
            calls.append(arguments)
            return Module

        log = staticmethod(lambda values, step: calls.append((step, values)))
        finish = staticmethod(lambda: calls.append("finish"))

    monkeypatch.setitem(sys.modules, "wandb", Module)
    for step in (0, 1):
        writer = MetricsWriter(tmp_path, step, "project")
        writer.write(step + 1, {"loss": 0.5}, {"seconds": 2.0})
        writer.close()
    first, line, end, again, *_ = calls
    assert (line, end) == ((1, {"loss": 0.5, "speed/seconds": 2.0}), "finish")
    assert first == again and first["project"] == "project" and first["resume"] == "allow"


def test_weights_and_biases_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'rlhf-jax\[wandb\]'"):
        MetricsWriter(tmp_path, 0, "project")
