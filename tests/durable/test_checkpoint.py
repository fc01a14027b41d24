"""What was saved comes back, and nothing else is taken for it."""

import functools
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.durable import checkpoint
from rlhf_jax.durable.checkpoint import CheckpointError, Checkpoints, restore, restore_subtree
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.runner import make_runner

EIGHT = make_runner(ParallelConfig())


def _state(seed=0):
    params = {
        "layer/0": {"w": jax.random.normal(jax.random.key(seed), (8, 3)), "b": None},
        "list": [jnp.arange(4, dtype=jnp.bfloat16), jnp.asarray(seed)],
    }
    return {
        "params": params,
        "optimizer": optax.adamw(1e-3).init(params),
        "key": jax.random.key(seed + 1),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "raw": jax.random.PRNGKey(seed),
        "ema": None,
    }


def _bits(tree):
    def raw(x):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return str(x.dtype), np.asarray(jax.random.key_data(x) if is_key else x).tobytes()

    return jax.tree.structure(tree), [raw(x) for x in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 2, 4 and 6 were saved with keep=2; read only."""
    directory = tmp_path_factory.mktemp("stage")
    checkpoints = Checkpoints(directory, keep=2)
    for step in (2, 4, 6):
        progress = {"seconds": step / 3, "total_steps": 6}
        checkpoints.save(step, _state(step), {"position": [step, {"epoch": 1}]}, progress)
    checkpoints.close()
    return directory


def test_state_data_and_progress_come_back(saved):
    step, state, data, progress = restore(saved, _state())
    assert step == 6 and _bits(state) == _bits(_state(6))
    assert data == {"position": [6, {"epoch": 1}]}
    assert progress == {"seconds": 2.0, "total_steps": 6}
    assert isinstance(state["optimizer"][0], optax.ScaleByAdamState)


def test_the_last_steps_are_kept_and_an_older_one_can_be_named(saved):
    assert checkpoint.steps(saved) == [4, 6]
    assert _bits(restore(saved, _state(), step=4)[1]) == _bits(_state(4))
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 2; there are \[4, 6\]"):
        restore(saved, _state(), step=2)


def test_arrays_take_the_sharding_of_the_template(saved):
    mesh = EIGHT.layout.mesh
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        EIGHT.state(_state()),
    )
    rows = NamedSharding(mesh, PartitionSpec("data"))
    template["params"]["layer/0"]["w"] = jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=rows)
    state = restore(saved, template)[1]
    assert _bits(state) == _bits(_state(6))
    assert state["params"]["layer/0"]["w"].sharding == rows
    assert len(state["key"].sharding.device_set) == 8


def test_a_sharded_state_comes_back_on_one_device(tmp_path):
    mesh = EIGHT.layout.mesh
    checkpoints = Checkpoints(tmp_path, keep=1)
    rows = jax.device_put(jnp.arange(16.0), NamedSharding(mesh, PartitionSpec("data")))
    checkpoints.save(1, {"x": rows, "y": EIGHT.state(jnp.ones(3))}, {}, {})
    checkpoints.close()
    state = restore(tmp_path, {"x": jnp.zeros(16), "y": jnp.zeros(3)})[1]
    assert state["x"].tolist() == list(range(16)) and len(state["x"].sharding.device_set) == 1


def test_what_was_not_pinned_to_a_device_is_not_pinned_afterwards(tmp_path):
    """A counter made by jit goes with parameters on eight devices before a kill, and after it."""
    template = {"params": EIGHT.state(jnp.ones(8)), "count": jnp.zeros(())}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, template, {}, {})
    checkpoints.close()
    state = restore(tmp_path, template)[1]
    step = jax.jit(lambda state: state["params"] + state["count"] + 1)
    np.testing.assert_array_equal(step(template), step(state))


def test_a_part_is_read_alone(saved):
    part = restore_subtree(saved, {"params": _state()["params"]})
    assert _bits(part) == _bits({"params": _state(6)["params"]})


def test_an_unfinished_stage_is_not_read_by_another(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, {"params": jnp.ones(2)}, {}, {"total_steps": 10})
    checkpoints.close()
    template = {"params": jnp.zeros(2)}
    with pytest.raises(CheckpointError, match="is at step 3 of 10"):
        restore_subtree(tmp_path, template)
    assert restore_subtree(tmp_path, template, step=3)["params"].tolist() == [1, 1]


def test_a_misfit_names_every_path_with_both_kinds(saved):
    template = _state()
    params = template["params"]
    params["layer/0"]["w"] = jnp.zeros((8, 4))
    params["list"][0] = jnp.zeros(4, jnp.float32)
    params["extra"] = jnp.zeros(())
    template["key"] = jax.random.PRNGKey(0)
    with pytest.raises(CheckpointError) as error:
        restore(saved, template)
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        "  key: absent in the checkpoint, uint32[2] wanted",
        "  key:key<fry>: uint32[2] in the checkpoint, absent wanted",
        "  params/extra: absent in the checkpoint, float32[] wanted",
        "  params/layer/0/w: float32[8, 3] in the checkpoint, float32[8, 4] wanted",
        "  params/list/0: bfloat16[4] in the checkpoint, float32[4] wanted",
    ]
    with pytest.raises(CheckpointError, match="params/list/0: bfloat16"):
        restore_subtree(saved, {"params": {"list": [jnp.zeros(4, jnp.float32)]}})
    with pytest.raises(CheckpointError, match="raw: uint32"):
        restore(saved, {name: x for name, x in _state().items() if name != "raw"})


def _copy(saved, tmp_path):
    directory = tmp_path / "stage"
    shutil.copytree(saved, directory)
    return directory


def test_a_half_written_step_is_passed_over_and_removed(saved, tmp_path):
    directory = _copy(saved, tmp_path)
    (directory / "checkpoints" / "9").mkdir()
    (directory / "checkpoints" / "12.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (directory / "checkpoints" / "6" / "manifest.json").unlink()
    assert checkpoint.steps(directory) == [4]
    assert restore(directory, _state())[0] == 4
    checkpoints = Checkpoints(directory, keep=2)
    assert os.listdir(directory / "checkpoints") == ["4"]
    checkpoints.save(6, _state(66), {}, {})
    checkpoints.close()
    assert checkpoint.steps(directory) == [4, 6]
    assert _bits(restore(directory, _state())[1]) == _bits(_state(66))


def test_no_checkpoint(tmp_path):
    assert checkpoint.steps(tmp_path / "nowhere") == []
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        restore(tmp_path, {})


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    """The save copies before it returns: 16 MB are still being written when they change."""
    change = jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)
    state = {str(i): jnp.full((1024, 1024), float(i)) for i in range(4)}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, {}, {})
    for _ in range(5):
        state = change(state)
    jax.block_until_ready(state)
    checkpoints.close()
    restored = restore(tmp_path, state)[1]
    assert [float(x.min()) for x in restored.values()] == [0, 1, 2, 3]
    assert [float(x.max()) for x in restored.values()] == [0, 1, 2, 3]


def test_a_data_position_may_move_on_while_it_is_written(tmp_path, monkeypatch):
    checkpoints, data, handed = Checkpoints(tmp_path, keep=1), {"epochs": [1]}, []
    with monkeypatch.context() as patch:
        save = lambda path, args, force: handed.append(args)
        patch.setattr(checkpoints._checkpointer, "save", save)
        checkpoints.save(1, {"x": jnp.ones(2)}, data, {})
    data["epochs"].append(2)
    assert handed[0]["data"].item == {"epochs": [1]}
    checkpoints.close()


def test_a_restored_state_may_be_donated(saved):
    state = restore(saved, _state())[1]["params"]["layer/0"]["w"]
    double = functools.partial(jax.jit, donate_argnums=0)(lambda x: x * 2)
    expected = 2 * np.asarray(_state(6)["params"]["layer/0"]["w"])
    np.testing.assert_array_equal(double(state), expected)
    assert restore(saved, _state())[0] == 6


def test_only_jax_arrays_are_states(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(TypeError, match="step: a state holds jax arrays, not int"):
        checkpoints.save(1, {"step": 3}, {}, {})
    checkpoints.close()


def test_progress_is_plain_json(saved):
    text = (saved / "checkpoints" / "6" / "progress" / "metadata").read_text()
    assert json.loads(text)["total_steps"] == 6
