"""rlhf-jax COMMAND EXPERIMENT [--field value ...]"""

import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import tyro
from etils import epath

from rlhf_jax.durable.files import writable_directory
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.parallel.host import keep_pages

STAGES = ("pretrain", "sft", "reward", "ppo", "ppo_ptx", "dpo")
ABOUT = {
    "run": "all stages but dpo, then the report",
    "pretrain": "the base model, from plain text",
    "sft": "supervised fine-tuning on demonstrations",
    "reward": "the reward model, from rankings",
    "ppo": "PPO against the reward model",
    "ppo_ptx": "the same with the pretraining term",
    "dpo": "direct preference optimisation on the reward model's rankings",
    "generate": """read prompts from standard input, one a line, in which \\n is a line break;
             trains nothing: --stage names the stage that answers, else the last finished one does;
             --seed N is another sample of the same model""",
    "doctor": """RUN: what is in that run's directory, what is damaged, what a resume would do;
             exit code 1 where something is damaged""",
    "replay": "BATCH: one step again, on that batch, saved when numbers were not finite",
    "plan": """every program compiled for TPUs that need not be here, --topology v5p:4x4x4:
             memory, FLOPs, what chips send each other; exit code 1 where it does not fit""",
    "estimators": """every gradient estimator measured against the exact gradient; no experiment
             file""",
}
COMMANDS = tuple(ABOUT)
_LINES = "\n".join(f"  {name:10} {about}" for name, about in ABOUT.items())
USAGE = f"""rlhf-jax COMMAND EXPERIMENT.py [--field value ...]

commands
{_LINES}

A command first runs the stages that it builds on, where they are not finished; run again,
it goes on where it was. Any field of the experiment can be given, as in
  rlhf-jax ppo experiments/quickstart.py --ppo.iterations 10 --out runs/short
rlhf-jax COMMAND EXPERIMENT.py --help lists them all."""
# Errors of a path that a user can mend. Any other OSError keeps its traceback.
PATH_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
               errno.ENAMETOOLONG)  # fmt: skip


def main() -> None:
    """Prints a user's mistake as one line and exits with 2."""
    keep_pages()
    try:
        code = command(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # `| head` has read enough; what is still buffered goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        print(f"rlhf-jax: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno in PATH_ERRORS and error.filename:
            print(f"rlhf-jax: {error.filename}: {error.strerror}", file=sys.stderr)
            sys.exit(2)
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
    if arguments[0] in COMMANDS and arguments[1:2] in (["-h"], ["--help"]):
        print(help_of(arguments[0]))
        return 0
    if arguments[0] in ("doctor", "replay"):
        return inspect(arguments)
    if arguments[0] not in COMMANDS:
        raise UserError(f"no command {arguments[0]!r}: must be one of {', '.join(COMMANDS)}")
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise UserError(f"rlhf-jax {arguments[0]} needs an experiment file, as in "
                        f"rlhf-jax {arguments[0]} experiments/quickstart.py")  # fmt: skip
    if arguments[0] == "plan":
        return plan(arguments[1:])
    return run_command(*arguments)


def help_of(command: str) -> str:
    """What a command does, where no experiment is named whose fields could be listed."""
    about = "\n".join(line.strip() for line in ABOUT[command].splitlines())
    if command in ("doctor", "replay"):
        argument, about = about.split(": ", 1)
        return f"rlhf-jax {command} {argument}\n\n{about}"
    return (f"rlhf-jax {command} EXPERIMENT.py [--field value ...]\n\n{about}\n\n"
            f"rlhf-jax {command} EXPERIMENT.py --help lists the fields.")  # fmt: skip


def run_command(command: str, experiment: str, *options: str) -> int:
    """A stage, all of them, or `generate`."""
    # Not before: these start jax.
    from rlhf_jax import generate, judge
    from rlhf_jax.durable.signals import SIGNALS, Preempted
    from rlhf_jax.experiment import Experiment, load_experiment
    from rlhf_jax.parallel import processes
    from rlhf_jax.run import BUILDS_ON, PIPELINE, Run, Stopped

    @dataclasses.dataclass(frozen=True)
    class Call:
        config: Annotated[Experiment, tyro.conf.arg(name="")]
        stop_after_steps: int | None = None  # ends the stage early, with a checkpoint
        insist: bool = False  # goes on in a directory that another config made
        # generate: the stage whose model answers; None: the last finished one, but never dpo
        stage: Literal["pretrain", "sft", "ppo", "ppo_ptx", "dpo"] | None = None

    default = Call(load_experiment(experiment))
    with naming_options(default.config, options):
        call = tyro.cli(
            Call,
            prog=f"rlhf-jax {command} {experiment}",
            default=default,
            args=options,
            config=(tyro.conf.AvoidSubcommands,),
        )
    if command == "generate":
        generate.generate(call.config, call.stage, call.insist)
        return 0
    processes.start(call.config.parallel)
    try:
        with processes.ending_together(), SIGNALS.handled():
            out = call.config.directory
            processes.first_alone(lambda: writable_directory(out, "out"), "out")
            stages = PIPELINE if command == "run" else (*BUILDS_ON[command], command)
            run = Run(call.config, call.stop_after_steps, call.insist, stages)
            if command == "run":
                judge.judge(run)
            else:
                run.finish(command)
    except Stopped as stopped:
        print(stopped)
    except Preempted as signal:
        print(f"{signal}: no step was running; the same command goes on where it was")
    return 0


@contextlib.contextmanager
def naming_options(config: Any, options: Sequence[str]) -> Iterator[None]:
    """A ConfigError of this block names its field as the option that it is, as in
    "sft.optimizer.learning_rate": the part of the config that an option changed, and that has
    such a field."""
    try:
        yield
    except ConfigError as error:
        given = [o.split("=")[0][2:].replace("-", "_") for o in options if o.startswith("--")]
        exact = {o.removesuffix(f".{error.field}") for o in given if o.endswith(f".{error.field}")}
        above = {str(parent) for o in given for parent in PurePath(o.replace(".", "/")).parents}
        above = {parent.replace("/", ".") for parent in above - {"."}}
        field = error.field.split(".")[0]
        found = [path for path in exact or above if _has(config, f"{path}.{field}")]
        raise error.inside(found[0]) if len(found) == 1 else error from None


def _has(config: Any, path: str) -> bool:
    *above, last = path.split(".")
    for field in above:
        config = getattr(config, field, None)
    return hasattr(config, last)


def plan(arguments: list[str]) -> int:
    """Compiles for a topology; runs and allocates nothing."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever accelerator is here stays free
    from rlhf_jax.experiment import Experiment, load_experiment
    from rlhf_jax.plan.command import PlanOptions, plan_command

    @dataclasses.dataclass(frozen=True)
    class Call:
        config: Annotated[Experiment, tyro.conf.arg(name="")]
        options: Annotated[PlanOptions, tyro.conf.arg(name="")]

    default = Call(load_experiment(arguments[0]), PlanOptions("v5p:4x4x4"))
    with naming_options(default.config, arguments[1:]):
        call = tyro.cli(
            Call,
            prog=f"rlhf-jax plan {arguments[0]}",
            default=default,
            args=arguments[1:],
            config=(tyro.conf.AvoidSubcommands,),
        )
    return plan_command(call.config, call.options)


def inspect(arguments: list[str]) -> int:
    """doctor RUN or replay BATCH."""
    what = {"doctor": "RUN, a run's directory", "replay": "BATCH, a saved batch"}[arguments[0]]
    if len(arguments) != 2 or arguments[1].startswith("-"):
        raise UserError(f"rlhf-jax {arguments[0]} needs {what}")
    if arguments[0] == "doctor":
        from rlhf_jax import doctor

        return doctor.show(epath.Path(arguments[1]))
    from rlhf_jax import replay

    replay.show(epath.Path(arguments[1]))
    return 0


def estimators(arguments: list[str]) -> int:
    """The estimator lab: table on the screen, estimators.json and estimators.png in --out."""
    from rlhf_jax.estimators.lab import LabConfig, run

    @dataclasses.dataclass(frozen=True)
    class Call:
        config: Annotated[LabConfig, tyro.conf.arg(name="")] = LabConfig()
        out: Path = Path("runs/estimators")

    with naming_options(LabConfig(), arguments):
        call = tyro.cli(Call, prog="rlhf-jax estimators", args=arguments)
    run(call.config, call.out)
    return 0


if __name__ == "__main__":
    main()
