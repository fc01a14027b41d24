"""What passes between the parts of the chain, written down while it runs and read by a test.

A record is one pickle: a name, and arrays on the host. Nothing that is computed changes.
"""

import dataclasses
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.evaluation.policies import Sampler
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.training import loop

PROGRAMS = ("sample", "experience")  # of feedback and of PPO; they donate nothing


def host(tree):
    """Copies as NumPy arrays, random keys as their data."""
    is_key = lambda x: jnp.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key)
    plain = lambda x: np.array(jax.random.key_data(x) if is_key(x) else x)
    return jax.tree.map(plain, tree)


def records(folder: Path) -> dict[str, list]:
    """{name: what was written under it, in its order}."""
    found: dict[str, list] = {}
    for path in sorted(folder.iterdir()):
        name, value = pickle.loads(path.read_bytes())
        found.setdefault(name, []).append(value)
    return found


def observe(folder: Path) -> None:
    """Writes into `folder` from here on.

    "STAGE state", the first and one a step; "STAGE batch", one a step; "STAGE PROGRAM" of each call
    of PROGRAMS, its arguments and its result; "sampled", a call of the sampler.
    """
    folder.mkdir(parents=True)

    def write(name: str, value) -> None:
        path = folder / f"{len(list(folder.iterdir())):06d}.pkl"
        path.write_bytes(pickle.dumps((name, host(value))))

    _observe_stages(write)
    _observe_programs(write)
    _observe_sampler(write)


def _observe_stages(write) -> None:
    run = loop.run

    def observed(task, *arguments, **named):
        write(f"{task.name} state", task.state)

        def step(state, batch):
            write(f"{task.name} batch", batch)
            state, metrics = task.step(state, batch)
            write(f"{task.name} state", state)
            return state, metrics

        return run(dataclasses.replace(task, step=step), *arguments, **named)

    loop.run = observed


def _observe_programs(write) -> None:
    compiled = StageInputs.compile

    def observed(inputs, programs):
        def wrapped(name, program):
            def call(*arguments):
                found = program(*arguments)
                write(f"{inputs.build.name} {name}", {"arguments": arguments, "found": found})
                return found

            return call if name in PROGRAMS else program

        return {name: wrapped(name, made) for name, made in compiled(inputs, programs).items()}

    StageInputs.compile = observed


def _observe_sampler(write) -> None:
    batches = Sampler.batches

    def observed(sampler, params, prompts, key):
        found = list(batches(sampler, params, prompts, key))
        rows = [
            row
            for batch, rollout in found
            for row in zip(batch["index"], *rollout, strict=True)
            if row[0] >= 0
        ]
        write("sampled", {"params": params, "prompts": np.array(prompts), "rows": rows})
        return iter(found)

    Sampler.batches = observed
