"""rlhf-jax COMMAND EXPERIMENT [--field value ...]"""

import dataclasses
import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlhf_jax.errors import UserError
from rlhf_jax.parallel.host import keep_pages

USAGE = """rlhf-jax COMMAND EXPERIMENT.py [--field value ...]

commands
  run        all stages but dpo, then the report
  pretrain   the base model, from plain text
  sft        supervised fine-tuning on demonstrations
  reward     the reward model, from rankings
  ppo        PPO against the reward model
  ppo_ptx    the same with the pretraining term
  dpo        direct preference optimisation on the reward model's rankings
  generate   read prompts from standard input, one a line; --stage names the model,
             \\n in a line stands for a line break
  doctor RUN a run's directory: what is in it, what is damaged, what a resume would do;
             exit code 1 where something is damaged
  replay BATCH
             one step again, on a batch saved when numbers were not finite
  plan       every program compiled for TPUs that need not be here, --topology v5p:4x4x4:
             memory, FLOPs, what chips send each other; exit code 1 where it does not fit
  estimators every gradient estimator measured against the exact gradient; no experiment file

A command first runs the stages that it builds on, where they are not finished; run again,
it goes on where it was. Any field of the experiment can be given, as in
  rlhf-jax ppo experiments/quickstart.py --ppo.iterations 10 --out runs/short
rlhf-jax COMMAND EXPERIMENT.py --help lists them all."""
STAGES = ("pretrain", "sft", "reward", "ppo", "ppo_ptx", "dpo")
COMMANDS = ("run", *STAGES, "generate", "doctor", "replay", "plan", "estimators")


def main() -> None:
    """Prints a user's mistake as one line and exits with 2."""
    keep_pages()
    try:
        sys.exit(command(sys.argv[1:]))
    except UserError as error:
        print(f"rlhf-jax: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" for {error.filename}" if error.filename else ""
        print(f"rlhf-jax: no space left on the disk{where}; the same command goes on where it was",
              file=sys.stderr)  # fmt: skip
        sys.exit(2)
    except KeyboardInterrupt:  # a second one, or one before a run has begun
        print("rlhf-jax: interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


def command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "estimators":
        return estimators(arguments[1:])
    if arguments[0] in ("doctor", "replay"):
        return inspect(arguments)
    if arguments[0] not in COMMANDS:
        raise UserError(f"no command {arguments[0]!r}: must be one of {', '.join(COMMANDS)}")
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise UserError(f"rlhf-jax {arguments[0]} wants an experiment file, as in "
                        f"rlhf-jax {arguments[0]} experiments/quickstart.py")  # fmt: skip
    if arguments[0] == "plan":
        return plan(arguments[1:])
    # Not before: these start jax.
    from rlhf_jax import judge
    from rlhf_jax.experiment import Experiment, load_experiment
    from rlhf_jax.parallel import processes
    from rlhf_jax.run import Run, Stopped
    from rlhf_jax.training.signals import SIGNALS, Preempted

    @dataclasses.dataclass(frozen=True)
    class Call:
        config: Annotated[Experiment, tyro.conf.arg(name="")]
        stop_after_steps: int | None = None  # ends the stage early, with a checkpoint
        insist: bool = False  # goes on in a directory that another config made
        # generate: the stage whose model speaks
        stage: Literal["pretrain", "sft", "ppo", "ppo_ptx", "dpo"] = "ppo_ptx"

    call = tyro.cli(
        Call,
        prog=f"rlhf-jax {arguments[0]} {arguments[1]}",
        default=Call(load_experiment(arguments[1])),
        args=arguments[2:],
        config=(tyro.conf.AvoidSubcommands,),
    )
    processes.start(call.config.parallel)
    try:
        with processes.ending_together(), SIGNALS.handled():
            run = Run(call.config, call.stop_after_steps, call.insist)
            if arguments[0] == "run":
                judge.judge(run)
            elif arguments[0] == "generate":
                generate(run, call.stage)
            else:
                run.finish(arguments[0])
    except Stopped as stopped:
        print(stopped)
    except Preempted as signal:
        print(f"{signal}: no step was running; the same command goes on where it was")
    return 0


def plan(arguments: list[str]) -> int:
    """Compiles for a topology; runs and allocates nothing."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever accelerator is here stays free
    from rlhf_jax.experiment import Experiment, load_experiment
    from rlhf_jax.plan.command import PlanOptions, plan_command

    @dataclasses.dataclass(frozen=True)
    class Call:
        config: Annotated[Experiment, tyro.conf.arg(name="")]
        options: Annotated[PlanOptions, tyro.conf.arg(name="")]

    call = tyro.cli(
        Call,
        prog=f"rlhf-jax plan {arguments[0]}",
        default=Call(load_experiment(arguments[0]), PlanOptions("v5p:4x4x4")),
        args=arguments[1:],
        config=(tyro.conf.AvoidSubcommands,),
    )
    return plan_command(call.config, call.options)


def inspect(arguments: list[str]) -> int:
    """doctor RUN or replay BATCH."""
    what = {"doctor": "RUN, a run's directory", "replay": "BATCH, a saved batch"}[arguments[0]]
    if len(arguments) != 2 or arguments[1].startswith("-"):
        raise UserError(f"rlhf-jax {arguments[0]} wants {what}")
    if arguments[0] == "doctor":
        from rlhf_jax import doctor

        return doctor.show(Path(arguments[1]))
    from rlhf_jax import replay

    replay.show(Path(arguments[1]))
    return 0


def generate(run, stage: str) -> None:
    """Prints a response to each line of standard input, as one line each."""
    if run.config.parallel.coordinator is not None:
        raise UserError("generate reads standard input: it runs in one process")
    prompts = [line.rstrip("\n").replace("\\n", "\n") for line in sys.stdin]
    if not prompts:
        raise UserError("generate reads prompts from standard input, one a line: there was none")
    params, sampling = run.model(stage), run.config.evaluation.sampling
    responses = run.sample(stage, params, prompts, sampling, "generate/responses")
    for number, response in enumerate(responses, 1):
        if response is None:
            raise UserError(f"line {number}: the prompt leaves no room for a response")
        print(response.text.replace("\n", "\\n"))


def estimators(arguments: list[str]) -> int:
    """The estimator lab: table on the screen, estimators.json and estimators.png in --out."""
    from rlhf_jax.estimators.lab import LabConfig, run

    @dataclasses.dataclass(frozen=True)
    class Call:
        config: Annotated[LabConfig, tyro.conf.arg(name="")] = LabConfig()
        out: Path = Path("runs/estimators")

    call = tyro.cli(Call, prog="rlhf-jax estimators", args=arguments)
    run(call.config, call.out)
    return 0


if __name__ == "__main__":
    main()
