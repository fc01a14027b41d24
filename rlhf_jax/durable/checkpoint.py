"""Orbax checkpoints of everything that changes in training: state, data position, progress.

    <stage directory>/checkpoints/<step>/{state, data, progress, manifest.json}

A state is stored flat, {"params/layer_0/w": array, ...}, so that any part can be read alone. Files
are hashed in the background. The folder gets its final name only after its manifest is written, so
every named checkpoint is complete. `restore` finds damage that happens later, and falls back to the
checkpoint before.
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
# Orbax raises its errors in `wait`. These loggers would print their stack traces too, and those of
# other writes that end after a failed one.
for name in ("absl", "asyncio"):
    logging.getLogger(name).addFilter(lambda record: not record.exc_info)


def _unless_late(unraisable, hook=sys.unraisablehook) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


sys.unraisablehook = _unless_late


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or does not have the requested shape."""


class DamagedError(CheckpointError):
    """The files on disk differ from what was written."""


class Checkpoints:
    """Asynchronous, atomic saves into one stage directory.

    Keeps the last `keep` checkpoints, and the `keep_best` best of all. `progress` says how good a
    checkpoint is: "best" names a metric, with "-" in front if lower is better; "mean" is its value.
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
            state: pytree of jax arrays and typed or raw PRNG keys; None leaves are ignored. The
                state may be donated as soon as this returns.
            data, progress: JSON values.
        Raises:
            CheckpointError: this save, or the save before it, cannot be written.
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
        """Blocks until all saves are on disk, then removes checkpoints that are no longer kept.

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
            with contextlib.suppress(Exception):  # `wait` has raised it
                self._checkpointer.close()

    def set_aside(self, after: int) -> None:
        """Moves the checkpoints after step `after`, which could not be read, to <stage>/damaged. In
        a bucket, which cannot rename, they are deleted."""
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
        """Writes the manifest. Orbax calls this when all files are written; on a disk the folder
        still has its temporary name."""
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
    """Steps of the complete checkpoints of a stage directory, ascending."""
    return sorted(int(path.name) for path in _folders(directory) if _is_whole(path))


def ranked(directory: epath.PathLike) -> list[tuple[int, str]]:
    """(step, metric and value in words) of the checkpoints that store a metric, best first.

    Checkpoints that store another metric than the newest one does are left out."""
    found, newest = [], None
    for step in reversed(steps(directory)):
        try:
            progress = _read_json(_root(directory) / str(step), "progress")
            name, mean = progress["best"], progress["mean"]
            order = mean if name.startswith("-") else -mean
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged, or of a stage that stores no metric
        newest = newest or name
        if name != newest:
            continue
        found.append((order, -step, f"{name.removeprefix('-')} {mean:.4g}"))
    return [(-step, words) for _, step, words in sorted(found)]


def restore(directory: epath.PathLike, template: Any, step: int | None = None):
    """Reads the newest undamaged checkpoint, or the checkpoint of `step` if it is given.

    Args:
        template: pytree of arrays or ShapeDtypeStructs; each array is restored with the template's
            sharding.
    Returns:
        (step, state, data, progress)
    Raises:
        CheckpointError: there is no undamaged checkpoint, or its paths, shapes or dtypes differ
            from the template's.
        UserError: another version wrote it in a format that this version does not read.
    """
    return _newest(directory, template, step, partial=False)


def restore_subtree(directory: epath.PathLike, template: Any, step: int | None = None) -> Any:
    """Reads a part of a state, such as {"params": template}, from a finished stage.

    Raises:
        CheckpointError: as in `restore`; or the stage has not reached its last step (give a `step`
            to read from an unfinished stage).
    """
    found, state, _, progress = _newest(directory, template, step, partial=True)
    if step is None and found < progress.get("total_steps", 0):
        raise CheckpointError(
            f"{directory}: the stage is at step {found} of {progress['total_steps']}; "
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
        "remove the directory to start the stage again"
    )


def check_format(folder: epath.Path) -> None:
    """Raises UserError where another version wrote the checkpoint in a format not read here."""
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
    """Warns of changed package versions: the run can resume, but not with the same bits."""
    then, now = manifest.read(folder)[0]["versions"], manifest.versions()
    if changed := [f"{p} {v} (now {now[p]})" for p, v in then.items() if now.get(p, v) != v]:
        LOG.warning(
            "%s was written by %s: results may differ in the last bits", folder, ", ".join(changed)
        )


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
    """Raises CheckpointError that lists all differences. Orbax would cast dtypes silently."""
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
    """{"path/of/leaf": array}. A typed key is stored as its data, with its type in the name."""
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
        # Orbax commits arrays to devices; the template's array was uncommitted, and so is this one.
        array = jnp.array(np.asarray(array))
    if _is_typed_key(leaf):
        found = []  # traced, because key_impl does not accept a ShapeDtypeStruct
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
    """Whether a kill interrupted the writing or removal of a folder; the next run removes it."""
    named = UNFINISHED in folder.name or folder.name.endswith(REMOVED)
    return named or (folder.name.isdigit() and not _is_whole(folder))


def _remove_incomplete(root: epath.Path) -> None:
    for folder in filter(half_written, entries(root)):
        if folder.name.isdigit():
            LOG.warning("removing the half-written checkpoint %s", folder)
        remove(folder)


def _remove(folder: epath.Path) -> None:
    """Renames the folder first, or in a bucket deletes its manifest first: if a kill interrupts the
    removal, the rest does not count as a whole checkpoint."""
    if in_bucket(folder):
        (folder / manifest.NAME).unlink(missing_ok=True)
        remove(folder)
        return
    gone = folder.with_name(folder.name + REMOVED)
    folder.rename(gone)
    remove(gone)


def reason(error: Exception) -> str:
    """An error in one line; for a full disk always the same words."""
    text = str(error)
    if "No space left" in text or "RESOURCE_EXHAUSTED" in text or "ENOSPC" in text:
        return "no space left on the disk"
    lines = text.splitlines() or [type(error).__name__]
    return lines[0][:200]


def _read_json(folder: epath.Path, item: str) -> dict:
    return read_json(folder / item / "metadata")


def _copy(value: dict) -> dict:
    """A copy: JSON is written in the background, when the caller may have changed `value`."""
    return json.loads(json.dumps(value))
