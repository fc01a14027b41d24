"""Orbax checkpoints of everything that moves: state, data position, progress.

    <stage directory>/checkpoints/<step>/{state, data, progress}

A state is stored flat, {"params/layer_0/w": array, ...}, so that any part can be read alone.
"""

import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rlhf_jax.errors import UserError


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or not of the shape that is asked for."""


class Checkpoints:
    """Asynchronous, atomic saves into one stage directory; the last `keep` steps stay."""

    def __init__(self, directory: str | Path, keep: int):
        self.directory = Path(directory).absolute()
        _remove_incomplete(self.directory)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(_root(self.directory), options=options)

    def save(self, step: int, state: Any, data: dict, progress: dict) -> None:
        """Copies the state to the host, then writes it in the background.

        Args:
            state: pytree of jax arrays and typed or raw PRNG keys; None leaves hold nothing. It
                may be donated as soon as this returns.
            data, progress: JSON values.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_flatten(state)),
            data=ocp.args.JsonSave(_copy(data)),
            progress=ocp.args.JsonSave(_copy(progress)),
        )
        self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Blocks until all saves are on disk; a failed save raises here."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and lets the writing threads end."""
        self._manager.wait_until_finished()
        self._manager.close()


def steps(directory: str | Path) -> list[int]:
    """Steps of the whole checkpoints of a stage directory, ascending."""
    return sorted(int(path.name) for path in _folders(directory) if _is_whole(path))


def restore(directory: str | Path, template: Any, step: int | None = None):
    """Reads one checkpoint (the newest, unless `step` is given).

    Args:
        template: pytree of arrays or ShapeDtypeStructs; each array comes back with the template's
            sharding.
    Returns:
        (step, state, data, progress)
    Raises:
        CheckpointError: no checkpoint; or paths, shapes or dtypes differ from the template's.
    """
    folder = _folder(directory, step)
    state = _restore_state(folder, template, partial=False)
    return int(folder.name), state, _read_json(folder, "data"), _read_json(folder, "progress")


def restore_subtree(directory: str | Path, template: Any, step: int | None = None) -> Any:
    """Reads a part of a state, such as {"params": template}, from a finished stage.

    Raises:
        CheckpointError: as `restore`; or the stage has not reached its last step (name a `step`
            to read from an unfinished one).
    """
    folder = _folder(directory, step)
    progress = _read_json(folder, "progress")
    if step is None and int(folder.name) < progress.get("total_steps", 0):
        raise CheckpointError(
            f"{directory}: the stage stands at step {folder.name} of {progress['total_steps']}; "
            "finish it first, or name the step to read"
        )
    return _restore_state(folder, template, partial=True)


def _restore_state(folder: Path, template, partial: bool):
    flat = _flatten(template)
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            _check(folder, handler.metadata(folder / "state").tree, flat, partial)
            arguments = ocp.checkpoint_utils.construct_restore_args(flat)
            options = ocp.args.PyTreeRestore(flat, arguments, partial_restore=partial)
            arrays = handler.restore(folder / "state", args=options)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise CheckpointError(
            f"{folder} cannot be read and must be removed to go on without it: {reason}"
        ) from error
    leaves, structure = jax.tree.flatten_with_path(template)
    return structure.unflatten([_from_stored(arrays.pop(_name(p, x)), x) for p, x in leaves])


def _check(folder: Path, stored: dict, wanted: dict, partial: bool) -> None:
    """Every difference at once: Orbax itself would cast dtypes silently."""
    have = {name: _kind(x) for name, x in stored.items()}
    want = {name: _kind(x) for name, x in wanted.items()}
    names = want if partial else want | have
    lines = [
        f"  {name}: {have.get(name, 'absent')} in the checkpoint, {want.get(name, 'absent')} wanted"
        for name in sorted(names)
        if have.get(name) != want.get(name)
    ]
    if lines:
        raise CheckpointError(f"{folder} does not fit:\n" + "\n".join(lines))


def _kind(array) -> str:
    return f"{array.dtype}[{', '.join(map(str, array.shape))}]"


def _flatten(tree) -> dict[str, Any]:
    """{"path/of/leaf": array}; a typed key is stored as its data, its type in the name."""
    leaves = jax.tree.flatten_with_path(tree)[0]
    return {_name(path, leaf): _to_stored(path, leaf) for path, leaf in leaves}


def _name(path, leaf) -> str:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return f"{name}:{leaf.dtype}" if _is_typed_key(leaf) else name


def _to_stored(path, leaf):
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        raise TypeError(f"{name}: a state holds jax arrays, not {type(leaf).__name__}")
    if _is_typed_key(leaf):
        if isinstance(leaf, jax.Array):
            return jax.random.key_data(leaf)
        data = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=leaf.sharding)
    return leaf


def _from_stored(array, leaf):
    if isinstance(leaf, jax.Array) and not leaf.committed:
        # Orbax pins arrays to their devices; one that followed its neighbours shall do so again.
        array = jnp.array(np.asarray(array))
    if _is_typed_key(leaf):
        found = []  # traced, as key_impl knows nothing of a ShapeDtypeStruct
        jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
        return jax.random.wrap_key_data(array, impl=found[0])
    return array


def _is_typed_key(leaf) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _root(directory) -> Path:
    return Path(directory).absolute() / "checkpoints"


def _folders(directory) -> list[Path]:
    root = _root(directory)
    return [p for p in root.iterdir() if p.name.isdigit()] if root.is_dir() else []


def _folder(directory, step: int | None) -> Path:
    found = steps(directory)
    if not found:
        raise CheckpointError(f"{directory}: no checkpoint there")
    if step is not None and step not in found:
        raise CheckpointError(f"{directory}: no checkpoint of step {step}; there are {found}")
    return _root(directory) / str(found[-1] if step is None else step)


def _is_whole(folder: Path) -> bool:
    """Orbax renames a step into place once it is written; a copy of it may have been cut short."""
    try:
        metadata = json.loads((folder / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = ("state/_METADATA", "state/manifest.ocdbt", "data/metadata", "progress/metadata")
    committed = bool(metadata.get("commit_timestamp_nsecs"))
    return committed and all((folder / name).is_file() for name in files)


def _remove_incomplete(directory) -> None:
    for folder in _folders(directory):
        if not _is_whole(folder):
            logging.getLogger(__name__).warning("removing the half-written checkpoint %s", folder)
            shutil.rmtree(folder)


def _read_json(folder: Path, item: str) -> dict:
    return json.loads((folder / item / "metadata").read_text(encoding="utf-8"))


def _copy(value: dict) -> dict:
    """JSON items are written in the background, when their owner may have changed them."""
    return json.loads(json.dumps(value))
