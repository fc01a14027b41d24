"""A bit flipped in any byte of a real checkpoint is found, or changes nothing that is read."""

import os
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.durable import checkpoint, manifest
from rlhf_jax.durable.fingerprint import check_fingerprint

MOST = int(os.environ.get("RLHF_JAX_BITS", 20))  # flips a file


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stage")
    params = {"w": jax.random.normal(jax.random.key(0), (64, 32)), "b": jnp.zeros(32)}
    state = {"params": params, "moments": optax.adam(1e-3).init(params), "key": jax.random.key(1)}
    check_fingerprint(directory, {"seed": 0})
    checkpoints = checkpoint.Checkpoints(directory, keep=1)
    checkpoints.save(1, state, {"position": 7}, {"total_steps": 1})
    checkpoints.close()
    return directory, state


def _bits(read):
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(read[1])], read[2:]


def test_flips_over_every_file(saved):
    directory, template = saved
    folder, chance = directory / "checkpoints" / "1", random.Random(0)
    whole = _bits(checkpoint.restore(directory, template))
    found = harmless = 0
    unread = {"_CHECKPOINT_METADATA", "commit_success.txt", manifest.NAME}  # Orbax's; white space
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for byte in sorted(chance.sample(range(len(content)), min(MOST, len(content)))):
            flipped = bytearray(content)
            flipped[byte] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            if manifest.problems(folder):
                found += 1
            else:
                assert path.name in unread, path
                assert _bits(checkpoint.restore(directory, template)) == whole, (path, byte)
                harmless += 1
        path.write_bytes(content)
    print(f"{found} flipped bits found, {harmless} harmless, none read")
    assert found > 5 * harmless > 0
