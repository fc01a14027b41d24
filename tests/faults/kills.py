"""A stage of a small run, killed at random moments until it is done.

    python -m tests.faults.kills DIRECTORY STAGE KILLS SEED [DEVICES LAST [OPTION ...]]

Each kill is one process, forked from here before jax starts its devices. It tells through a pipe
where it is; a SIGKILL meets it a random time after a random one of these moments. One more process
then finishes. DEVICES are simulated in those that are killed, LAST in the one that finishes, which
alone takes the OPTIONs of the command line.
"""

import dataclasses
import os
import random
import signal
import sys
import time

import jax

from rlhf_jax import cli
from rlhf_jax.stages import ppo
from rlhf_jax.training import checkpoint, loop
from rlhf_jax.training.optimizer import OptimizerConfig
from tests import small_run

LOOP = loop.LoopConfig(checkpoint_every=2, log_every=1, keep=2)
ITERATIONS = int(os.environ.get("RLHF_JAX_ITERATIONS", 60))
# A stage: the field's changes that give it some 60 steps, and the moments at which it is killed.
TRAINING = ("step", "save", "sign")
# At which rounding does not grow, as it does at the small run's own rate.
CALM = OptimizerConfig(learning_rate=3e-3, epsilon=1e-2)
STAGES = {
    "sft": ({"epochs": 8.0, "optimizer": CALM}, TRAINING),
    "reward": ({"epochs": 25.0, "batch_size": 8}, TRAINING),
    "ppo_ptx": ({"iterations": ITERATIONS, "batch_size": 16}, (*TRAINING, "rollout")),
    "dpo": ({"epochs": 25.0, "batch_size": 8}, TRAINING),
}
config = dataclasses.replace(
    small_run.config,
    loop=LOOP,
    pretrain=dataclasses.replace(small_run.config.pretrain, batch_size=8),
    **{
        stage: dataclasses.replace(getattr(small_run.config, stage), **changes)
        for stage, (changes, _) in STAGES.items()
    },
)


def tell(pipe: int) -> None:
    """From now on this process writes a moment's name to the pipe when it is there."""
    told = lambda name: os.write(pipe, name.encode() + b"\n")

    def telling(owner, attribute: str, name: str) -> None:
        function = getattr(owner, attribute)

        def before(*arguments, **named):
            told(name)
            return function(*arguments, **named)

        setattr(owner, attribute, before)

    telling(checkpoint.Checkpoints, "save", "save")
    telling(checkpoint.manifest, "write", "sign")
    telling(loop._Compilations, "__enter__", "step")
    compile_programs = ppo.compile_programs

    def programs(*arguments):
        compiled = compile_programs(*arguments)

        def rollout(*inputs):
            told("rollout")
            return compiled.rollout(*inputs)

        return compiled._replace(rollout=rollout)

    ppo.compile_programs = programs


def train(directory: str, stage: str, devices: int, options: tuple[str, ...] = ()) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    cli.command([stage, __file__, "--out", directory, *options])
    sys.stdout.flush()


def kill(directory: str, stage: str, chance: random.Random, devices: int):
    """Trains until a SIGKILL at a random moment: (moment, seconds after it); None: it finished."""
    moment = chance.choice(STAGES[stage][1])
    count, delay = chance.randint(1, 3), chance.choice((0.0, 0.003, 0.02, 0.1)) * chance.random()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        tell(write)
        train(directory, stage, devices)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        for line in pipe:
            count -= line.strip() == moment
            if count == 0:
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
                break
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"ended with {code}")
    return (moment, delay) if code else None


def main(directory, stage, kills, seed, devices="1", last="1", *options) -> None:
    chance = random.Random(int(seed))
    for number in range(int(kills)):
        killed = kill(directory, stage, chance, int(devices))
        print("killed", number, *(killed or ("nothing: it had finished",)), flush=True)
    train(directory, stage, int(last), options)


if __name__ == "__main__":
    main(*sys.argv[1:])
