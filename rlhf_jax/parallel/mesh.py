"""One "data" axis over the local devices: parameters replicated, batches split by rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rlhf_jax.errors import UserError


def make_mesh() -> Mesh:
    """A mesh of all local devices with the single axis "data"."""
    devices = np.array(jax.local_devices())
    return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Fresh copies of all arrays on every device of the mesh.

    They share no buffer with `tree`, so that a step may donate them and `tree` lives on
    (`device_put` alone can alias its argument, which a donation then deletes).
    """
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(jnp.copy(x), sharding), tree)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Splits the leading axis of every array over the devices; on one device, returns `batch`.

    Raises:
        UserError: the leading axis is not a multiple of the number of devices.
    """
    devices = mesh.size
    if devices == 1:
        return batch
    for x in jax.tree.leaves(batch):
        if x.shape[0] % devices:
            raise UserError(
                f"a batch of {x.shape[0]} rows does not divide over {devices} devices: "
                f"make the batch size a multiple of {devices}"
            )
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
