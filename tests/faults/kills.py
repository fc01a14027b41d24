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
from rlhf_jax.durable import checkpoint
from rlhf_jax.models.lora import LoRA
from rlhf_jax.rewards.checked import CheckedReward
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.stages import presets
from rlhf_jax.training import loop
from rlhf_jax.training.optimizer import OptimizerConfig
from tests import small_run

LOOP = loop.LoopConfig(checkpoint_every=2, log_every=1, keep=2)
ITERATIONS = int(os.environ.get("RLHF_JAX_ITERATIONS", 60))
# A stage: the changes that give it some 60 steps, and the moments at which it is killed: before a
# step, a save, a checkpoint's signature, a program, before what the host found is written down.
TRAINING = ("step", "save", "sign")
# At which rounding does not grow, as it does at the small run's own rate.
CALM = OptimizerConfig(learning_rate=3e-3, epsilon=1e-2)
STAGES = {
    "sft": ({"epochs": 8.0, "optimizer": CALM}, TRAINING),
    "feedback": ({"batch_size": 1}, (*TRAINING, "sample", "host")),
    "reward": ({"epochs": 25.0, "batch_size": 8}, TRAINING),
    "ppo_ptx": ({"iterations": ITERATIONS, "batch_size": 16}, (*TRAINING, "rollout")),
    "dpo": ({"epochs": 25.0, "batch_size": 8}, TRAINING),
    # Adapters on SFT's model and on the reward model.
    "ppo_lora": ({"iterations": ITERATIONS, "batch_size": 16}, (*TRAINING, "rollout")),
}
# Without a critic, from stale responses in groups; what they score is drawn by chance.
CHANCE = presets.grpo(
    policy_optimizer=small_run.POLICY_RATE,
    iterations=ITERATIONS,
    batch_size=16,
    group=4,
    minibatches=2,
    prompt_length=56,
    response_length=8,
    stale=2,
    start="sft",
    rewards=(CheckedReward("tests.faults.chance:score", workers=1),),
)
GIVEN = small_run.config.stages | {"ppo_lora": small_run.ppo(lora=LoRA(4, 8.0))}
MOMENTS = {name: moments for name, (_, moments) in STAGES.items()}
MOMENTS["chance"] = (*TRAINING, "rollout", "push", "experience", "host")
CHANGES = {"pretrain": {"batch_size": 8}} | {name: changes for name, (changes, _) in STAGES.items()}
config = dataclasses.replace(
    small_run.config,
    loop=LOOP,
    stages=GIVEN
    | {stage: dataclasses.replace(GIVEN[stage], **changes) for stage, changes in CHANGES.items()}
    | {"chance": CHANCE},
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
    compiled = StageInputs.compile

    def compile(inputs, programs):
        def call(name, program):
            def telling_first(*arguments):
                told(name)
                return program(*arguments)

            return telling_first

        return {name: call(name, made) for name, made in compiled(inputs, programs).items()}

    def asking(method):
        def asked(inputs, name, step, function, *given):
            def answer(*arguments):
                found = function(*arguments)
                told("host")
                return found

            return method(inputs, name, step, answer, *given)

        return asked

    StageInputs.compile, StageInputs.on_host = compile, asking(StageInputs.on_host)
    StageInputs.rows_on_host = asking(StageInputs.rows_on_host)


def train(directory: str, stage: str, devices: int, options: tuple[str, ...] = ()) -> None:
    jax.config.update("jax_num_cpu_devices", devices)
    cli.command([stage, __file__, "--out", directory, *options])
    sys.stdout.flush()


def kill(directory: str, stage: str, chance: random.Random, devices: int):
    """Trains until a SIGKILL at a random moment: (moment, seconds after it); None: it finished."""
    moment = chance.choice(MOMENTS[stage])
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
