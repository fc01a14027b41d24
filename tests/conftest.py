"""Shared settings of the tests."""

import os
from pathlib import Path

# Simulated devices must be asked for before jax starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def human_data() -> Path:
    """The folder of human feedback: RLHF_JAX_DATA, or ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RLHF_JAX_DATA", default))
    if not (folder / "hh-rlhf").is_dir():
        pytest.skip("human feedback is not on this machine: set RLHF_JAX_DATA to its folder")
    return folder
