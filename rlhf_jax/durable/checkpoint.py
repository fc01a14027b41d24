"""Orbax checkpoints of everything that moves: state, data position, progress.

    <stage directory>/checkpoints/<step>/{state, data, progress, manifest.json}

A state is stored flat, {"params/layer_0/w": array, ...}, so that any part can be read alone. The
manifest is hashed in the background; with it in place the folder gets its name, so that a
checkpoint is there whole or not at all. Damage that comes later is found by `restore`, which goes
back to the one before.
"""

import contextlib
import hashlib
import json
import logging
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from rlhf_jax.durable import formats, manifest
from rlhf_jax.durable.files import absolute, entries, in_bucket, remove
from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import read_json

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is being written
REMOVED = ".removed"
LOG = logging.getLogger(__name__)
# Orbax raises its errors where they are waited for; it need not print their stacks as well, nor
# those of the writes that end after the one that failed.
for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(lambda record: not record.exc_info)


def _unless_late(unraisable, hook=sys.unraisablehook) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


sys.unraisablehook = _unless_late


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or not of the shape that is asked for."""


class DamagedError(CheckpointError):
    """What is on disk is not what was written."""


class Checkpoints:
    """Asynchronous, atomic saves into one stage directory.

    The last `keep` steps stay, and the `keep_best` best of all by what their progress tells: the
    name of a metric as "best", with "-" where less is better, and its "mean".
    """

    def __init__(self, directory: epath.PathLike, keep: int, keep_best: int = 0):
        self.directory, self._keep = absolute(directory), keep
        self._keep_best = keep_best
        self._root = _root(self.directory)
        self._root.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            _remove_incomplete(self._root)
        self._writing = None  # the step that is being written
        options = ocp.AsyncOptions(post_finalization_callback=self._sign)
        self._checkpointer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(), async_options=options
        )

    def save(self, step: int, state: Any, data: dict, progress: dict) -> None:
        """Copies the state to the host, then writes and hashes it in the background.

        Args:
            state: pytree of jax arrays and typed or raw PRNG keys; None leaves hold nothing. It
                may be donated as soon as this returns.
            data, progress: JSON values.
        Raises:
            CheckpointError: this save, or the one before it, cannot be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(_flatten(state)),
            data=ocp.args.JsonSave(_copy(data)),
            progress=ocp.args.JsonSave(_copy(progress)),
        )
        self.wait()
        self._writing = step
        folder = self._root / str(step)
        with self._explained():
            if in_bucket(folder) and jax.process_index() == 0:
                _remove(folder)
            self._checkpointer.save(folder, args=items, force=True)

    def wait(self) -> None:
        """Blocks until all saves are on disk, then removes those that are no longer kept.

        Raises CheckpointError where the last save failed.
        """
        with self._explained():
            self._checkpointer.wait_until_finished()
            if jax.process_index() == 0:
                best = [step for step, _ in ranked(self.directory)[: self._keep_best]]
                for step in steps(self.directory)[: -self._keep]:
                    if step not in best:
                        _remove(self._root / str(step))

    def close(self) -> None:
        """Waits for the last save and lets the writing threads end."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # told by wait
                self._checkpointer.close()

    def set_aside(self, after: int) -> None:
        """Moves the checkpoints after a step, which could not be read, to <stage>/damaged; a
        bucket, which cannot move them, loses them."""
        for step in steps(self.directory):
            if step <= after:
                continue
            folder = self._root / str(step)
            if in_bucket(folder):
                _remove(folder)
                continue
            place = self.directory / "damaged" / str(step)
            remove(place)
            place.parent.mkdir(exist_ok=True)
            folder.rename(place)

    def _sign(self) -> None:
        """Called by Orbax when all files are written and, on a disk, the folder is still
        unnamed."""
        config = self.directory / "config.json"
        digest = hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else None
        if in_bucket(self._root):
            folders = [self._root / str(self._writing)]
        else:
            name = f"{self._writing}{UNFINISHED}"
            folders = [path for path in entries(self._root) if path.name.startswith(name)]
        for folder in folders:
            about = {"step": self._writing, "config": digest}
            manifest.write(folder, {formats.FIELD: formats.CHECKPOINT.now} | about)

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            left = steps(self.directory)
            last = f"the last good one is of step {left[-1]}" if left else "there is none yet"
            raise CheckpointError(
                f"{self._root}: the checkpoint of step {self._writing} cannot be written "
                f"({reason(error)}); {last}"
            ) from error


def steps(directory: epath.PathLike) -> list[int]:
    """Steps of the checkpoints of a stage directory that were written whole, ascending."""
    return sorted(int(path.name) for path in _folders(directory) if _is_whole(path))


def ranked(directory: epath.PathLike) -> list[tuple[int, str]]:
    """(step, its metric in words) of the checkpoints that tell how good they are, best first; by
    the metric of the newest, those by another are left out."""
    found, newest = [], None
    for step in reversed(steps(directory)):
        try:
            progress = _read_json(_root(directory) / str(step), "progress")
            name, mean = progress["best"], progress["mean"]
            order = mean if name.startswith("-") else -mean
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged, or of a stage that does not say
        newest = newest or name
        if name != newest:
            continue
        found.append((order, -step, f"{name.removeprefix('-')} {mean:.4g}"))
    return [(-step, words) for _, step, words in sorted(found)]


def restore(directory: epath.PathLike, template: Any, step: int | None = None):
    """Reads one checkpoint: the newest that is undamaged, unless `step` is given.

    Args:
        template: pytree of arrays or ShapeDtypeStructs; each array comes back with the template's
            sharding.
    Returns:
        (step, state, data, progress)
    Raises:
        CheckpointError: no checkpoint, or none that is undamaged; or paths, shapes or dtypes
            differ from the template's.
        UserError: another version wrote it in a format that is not read here.
    """
    return _newest(directory, template, step, partial=False)


def restore_subtree(directory: epath.PathLike, template: Any, step: int | None = None) -> Any:
    """Reads a part of a state, such as {"params": template}, from a finished stage.

    Raises:
        CheckpointError: as `restore`; or the stage has not reached its last step (name a `step`
            to read from an unfinished one).
    """
    found, state, _, progress = _newest(directory, template, step, partial=True)
    if step is None and found < progress.get("total_steps", 0):
        raise CheckpointError(
            f"{directory}: the stage stands at step {found} of {progress['total_steps']}; "
            "finish it first, or name the step to read"
        )
    return state


def _newest(directory, template, step: int | None, partial: bool):
    found = steps(directory)
    if not found:
        raise CheckpointError(f"{directory}: no checkpoint there")
    if step is not None and step not in found:
        raise CheckpointError(f"{directory}: no checkpoint of step {step}; there are {found}")
    lines = []
    for candidate in reversed(found) if step is None else [step]:
        folder = _root(directory) / str(candidate)
        try:
            read = _read(folder, template, partial)
        except DamagedError as error:
            lines.append(str(error))
            LOG.warning("%s", error)
            continue
        if lines:
            LOG.warning("going on from the checkpoint of step %d instead", candidate)
        return candidate, *read
    raise DamagedError(
        "\n".join(lines) + f"\n{directory}: no other checkpoint is left; "
        "remove the directory to begin anew"
    )


def check_format(folder: epath.Path) -> None:
    """Raises UserError where another version wrote a checkpoint in a format not read here."""
    content, damaged = manifest.signed(folder)
    if not damaged:
        formats.CHECKPOINT.check(content.get(formats.FIELD), folder)


def _read(folder: epath.Path, template, partial: bool):
    check_format(folder)
    if wrong := manifest.problems_of_all(folder):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DamagedError(f"{folder} is damaged: {wrong[0]}{more}")
    _compare_versions(folder)
    state = _restore_state(folder, template, partial)
    return state, _read_json(folder, "data"), _read_json(folder, "progress")


def _compare_versions(folder: epath.Path) -> None:
    """Says which packages have changed: a run goes on under them, but not to the same bits."""
    then, now = manifest.read(folder)[0]["versions"], manifest.versions()
    if changed := [f"{p} {v} (now {now[p]})" for p, v in then.items() if now.get(p, v) != v]:
        LOG.warning("%s was written by %s: expect other bits", folder, ", ".join(changed))


def _restore_state(folder: epath.Path, template, partial: bool):
    flat = _flatten(template)
    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            _check(folder, handler.metadata(folder / "state").tree, flat, partial)
            arguments = ocp.checkpoint_utils.construct_restore_args(flat)
            options = ocp.args.PyTreeRestore(flat, arguments, partial_restore=partial)
            arrays = handler.restore(folder / "state", args=options)
    except (ValueError, OSError) as error:
        raise DamagedError(f"{folder} cannot be read: {reason(error)}") from error
    leaves, structure = jax.tree.flatten_with_path(template)
    return structure.unflatten([_from_stored(arrays.pop(_name(p, x)), x) for p, x in leaves])


def _check(folder: epath.Path, stored: dict, wanted: dict, partial: bool) -> None:
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


def _root(directory) -> epath.Path:
    return absolute(directory) / "checkpoints"


def _folders(directory) -> list[epath.Path]:
    return [path for path in entries(_root(directory)) if path.name.isdigit()]


def _is_whole(folder: epath.Path) -> bool:
    return (folder / manifest.NAME).is_file()


def half_written(folder: epath.Path) -> bool:
    """Left by a kill while it was written or removed; the next run removes it."""
    named = UNFINISHED in folder.name or folder.name.endswith(REMOVED)
    return named or (folder.name.isdigit() and not _is_whole(folder))


def _remove_incomplete(root: epath.Path) -> None:
    for folder in filter(half_written, entries(root)):
        if folder.name.isdigit():
            LOG.warning("removing the half-written checkpoint %s", folder)
        remove(folder)


def _remove(folder: epath.Path) -> None:
    """First under another name, or in a bucket without its manifest, so that after a kill no
    folder counts as whole with half of its files."""
    if in_bucket(folder):
        (folder / manifest.NAME).unlink(missing_ok=True)
        remove(folder)
        return
    gone = folder.with_name(folder.name + REMOVED)
    folder.rename(gone)
    remove(gone)


def reason(error: Exception) -> str:
    """One line, and the usual word for a full disk however deep it comes from."""
    text = str(error)
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text or "ENOSPC" in text:
        return "no space left on the disk"
    lines = text.splitlines() or [type(error).__name__]
    return lines[0][:200]


def _read_json(folder: epath.Path, item: str) -> dict:
    return read_json(folder / item / "metadata")


def _copy(value: dict) -> dict:
    """JSON items are written in the background, when their owner may have changed them."""
    return json.loads(json.dumps(value))
