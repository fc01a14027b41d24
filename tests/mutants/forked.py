"""pytest in a process that is forked with jax and the other packages in place.

Importing them takes two seconds, which 500 mutants need not pay one by one. Nothing of this
repository is imported before the fork: each process reads its own copy.
"""

import importlib
import os
import sys
from multiprocessing import get_context
from pathlib import Path

PACKAGES = (
    "jax", "jax.numpy", "numpy", "scipy.special", "optax", "flax", "orbax.checkpoint", "chex",
    "grain", "tensorflow_datasets", "sentencepiece", "tokenizers", "tensorboardX", "tyro",
    "rich.progress", "matplotlib.figure", "hypothesis", "pytest",
)  # fmt: skip
CONTEXT = get_context("forkserver")


def preload(settings: dict[str, str]) -> None:
    """Before the first process: what jax reads of the environment when it is imported."""
    os.environ.update(settings)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    CONTEXT.set_forkserver_preload(list(PACKAGES))


def run_pytest(copy: Path, settings: dict[str, str], arguments: list[str], output: Path) -> None:
    """The body of a process: pytest in `copy`, all that it prints in the file `output`."""
    os.setsid()
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(copy)
    os.environ.clear()
    os.environ.update(settings)
    for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "rlhf_jax")]:
        del sys.modules[name]
    elsewhere = [place for place in sys.path if not Path(place, "rlhf_jax").is_dir()]
    sys.path[:] = [str(copy), *elsewhere]
    importlib.invalidate_caches()
    import pytest

    code = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(int(code))
