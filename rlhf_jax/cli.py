"""rlhf-jax COMMAND EXPERIMENT [--field value ...]"""

import dataclasses
import errno
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.errors import UserError
from rlhf_jax.parallel.host import start_with_large_pages
from rlhf_jax.usage import ABOUT, COMMANDS, STAGE, USAGE, leading_words

# Errors of a path that a user can mend. Any other OSError keeps its traceback.
PATH_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR,
               errno.ENAMETOOLONG)  # fmt: skip
HELP = ("-h", "--help")


def start() -> None:
    """The program rlhf-jax."""
    start_with_large_pages()
    main()


def main() -> None:
    """Prints a user's mistake as one line and exits with 2."""
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


def command(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in HELP:
        print(USAGE)
        return 0
    name, *rest = arguments
    if name == "estimators":
        return estimators(rest)
    if name.endswith(".py"):
        return list_stages(name)
    if rest and rest[0] in HELP:
        print(help_of(name))
        return 0
    others = {"doctor": doctor, "compare": compare, "replay": replay, "label": label}
    if name in others:
        return others[name](rest)
    if name == "data" and not (rest and rest[0].endswith(".py")):
        return data(rest)
    if name in ("export", "fetch"):
        from rlhf_jax.runs import export

        return export.export_command(rest) if name == "export" else export.fetch_command(rest)
    if name == "eval":
        from rlhf_jax.runs.benchmarking import eval_command

        return eval_command(rest)
    if name == "lm-eval":
        from rlhf_jax.runs.lm_eval import lm_eval_command

        return lm_eval_command(rest)
    if name == "cross-validate":
        from rlhf_jax.runs.cross_validation import cross_validate_command

        return cross_validate_command(rest)
    if not rest or rest[0].startswith("-"):
        what = name if name in COMMANDS else f"{name} is no command; a stage"
        run = " or a run's directory" if name in ("report", "generate", "score") else ""
        raise UserError(f"{what} needs an experiment file{run}, as in "
                        f"rlhf-jax {name} experiments/quickstart.py")  # fmt: skip
    if name == "plan":
        return plan(*rest)
    if name == "report":
        return report(*rest)
    if name == "sweep":
        return sweep(*rest)
    if name in ("generate", "score", "data"):
        return read_models(name, *rest)
    return run_stages(name, *rest)


def help_of(command: str) -> str:
    """What a command does, where no experiment is named whose fields could be listed."""
    about = ABOUT.get(command, STAGE)
    about = "\n".join(line.strip() for line in about.splitlines())
    if command in ("doctor", "replay", "score", "compare", "data", "export", "fetch", "label",
                   "eval", "lm-eval", "cross-validate"):  # fmt: skip
        argument, about = about.split(": ", 1)
        return f"rlhf-jax {command} {argument}\n\n{about}{options_of(command)}"
    return (f"rlhf-jax {command} EXPERIMENT.py [--field value ...]\n\n{about}\n\n"
            f"rlhf-jax {command} EXPERIMENT.py --help lists the fields.")  # fmt: skip


def options_of(command: str) -> str:
    """A line for each option of a command that reads no experiment file."""
    from rlhf_jax.data.collect import DataOptions
    from rlhf_jax.labelling.options import LabelOptions
    from rlhf_jax.published.fetch import FetchOptions
    from rlhf_jax.runs.benchmarking import EvalOptions
    from rlhf_jax.runs.compare import CompareOptions
    from rlhf_jax.runs.cross_validation import CrossValidateOptions
    from rlhf_jax.runs.export import ExportOptions
    from rlhf_jax.runs.lm_eval import LmEvalOptions
    from rlhf_jax.runs.options import listed
    from rlhf_jax.runs.replay import ReplayOptions

    roots = {"compare": CompareOptions(), "data": DataOptions(), "replay": ReplayOptions(),
             "export": ExportOptions(), "fetch": FetchOptions(), "label": LabelOptions(),
             "eval": EvalOptions(), "lm-eval": LmEvalOptions(),
             "cross-validate": CrossValidateOptions()}  # fmt: skip
    return f"\n\noptions\n{listed(roots[command])}" if command in roots else ""


def list_stages(experiment: str) -> int:
    """The stages of an experiment, a line each."""
    from rlhf_jax.runs.experiment import load_experiment

    print(f"stages of {experiment}\n{stages_told(load_experiment(experiment))}")
    return 0


def stages_told(config) -> str:
    """A line for each stage: what it does, and how it differs from the first one of its class."""
    from rlhf_jax.runs.field_texts import first_sentence
    from rlhf_jax.runs.options import different

    width, first, lines = max(map(len, config.stages)), {}, []
    for name, stage in config.stages.items():
        other = first.setdefault(type(stage), name)
        fields = ", ".join(different(config.stages[other], stage)[:3])
        about = f" (as {other}, but {fields})" if fields else ""
        lines.append(f"  {name:{width}}  {first_sentence(type(stage))}{about}".rstrip())
    return "\n".join(lines)


def run_stages(command: str, experiment: str, *options: str) -> int:
    """A stage, or `run`: all of them and the report."""
    # Not before: these start jax.
    from rlhf_jax.durable.files import absolute, writable_directory
    from rlhf_jax.durable.signals import SIGNALS, Preempted
    from rlhf_jax.parallel import processes
    from rlhf_jax.runs import chain, report
    from rlhf_jax.runs.experiment import load_experiment
    from rlhf_jax.runs.options import ChainOptions, RunOptions, parse
    from rlhf_jax.runs.origin import Origin
    from rlhf_jax.runs.run import Run, Stopped
    from rlhf_jax.runs.take import take_from

    config = load_experiment(experiment)
    if command != "run" and command not in config.stages:
        raise UserError(f"no command {command!r}: must be one of {', '.join(COMMANDS)}, or a stage "
                        f"of {experiment}: {', '.join(config.stages)}")  # fmt: skip
    config, how = parse(
        [config, ChainOptions() if command == "run" else RunOptions()],
        options,
        f"rlhf-jax {command} {experiment}",
        help_with(command, experiment, config),
        hidden={*config.stages, *(() if command == "run" else ("evaluators",))} - {command},
    )
    processes.start(config.parallel)
    try:
        with processes.ending_together(), SIGNALS.handled():
            out = config.directory
            processes.first_alone(lambda: writable_directory(out, "out"), "out")
            named = how.stages if command == "run" else (command,)
            asked = chain.named(config.stages, named)
            stages = tuple(chain.in_order(config.stages, asked))
            if (other := how.from_) is not None:
                others = [stage for stage in stages if stage not in named]
                processes.first_alone(lambda: take_from(config, other, others), "from")
            origin = Origin(str(absolute(experiment)), options)
            run = Run(config, how.stop_after_steps, how.insist, stages, origin)
            report.report(run, stages) if command == "run" else run.finish(command)
    except Stopped as stopped:
        print(stopped)
    except Preempted as signal:
        print(f"{signal}: no step was running; the same command goes on where it was")
    return 0


def sweep(experiment: str, *options: str) -> int:
    """A grid of runs; 1 where one has failed."""
    from rlhf_jax.durable.files import absolute, writable_directory
    from rlhf_jax.durable.signals import SIGNALS, Preempted
    from rlhf_jax.parallel import processes
    from rlhf_jax.runs import sweep as sweeps
    from rlhf_jax.runs.experiment import load_experiment
    from rlhf_jax.runs.options import parse
    from rlhf_jax.runs.run import Stopped

    config, prog = load_experiment(experiment), f"rlhf-jax sweep {experiment}"
    over, others = sweeps.split_over(options)
    about, hidden = help_with("sweep", experiment, config), {*config.stages, "evaluators"}
    config, how = parse([config, sweeps.SweepOptions()], others, prog, about, hidden)
    config = sweeps.in_folder(config, how, over, others)
    cells = sweeps.grid(config, how, over, others, prog)
    processes.start(config.parallel)
    try:
        with processes.ending_together(), SIGNALS.handled():
            made = sweeps.Sweep(config.directory, cells, how, str(absolute(experiment)))
            made.check()
            processes.first_alone(lambda: writable_directory(config.directory, "out"), "out")
            made.tell()
            made.run()
            processes.first_alone(made.compare, "compare")
    except Stopped as stopped:
        print(stopped)
        return 0
    except Preempted as signal:
        print(f"{signal}: no step was running; the same command goes on where it was")
        return 0
    return 1 if made.failed else 0


def compare(arguments: Sequence[str]) -> int:
    """Runs side by side."""
    from rlhf_jax.runs.compare import CompareOptions, compare
    from rlhf_jax.runs.options import parse

    runs = leading_words(arguments)
    if not runs:
        raise UserError("compare needs RUN..., runs' directories, as in "
                        "rlhf-jax compare runs/one runs/two")  # fmt: skip
    compare(runs, parse([CompareOptions()], arguments[len(runs) :], "rlhf-jax compare RUN...")[0])
    return 0


def help_with(command: str, experiment: str, config) -> str:
    """What --help begins with."""
    from rlhf_jax.runs.field_texts import described

    experiment = experiment if experiment.endswith(".py") else "EXPERIMENT.py"
    others = [name for name in config.stages if name != command]
    about = ABOUT.get(command)
    if about is None:
        about = f"{described(type(config.stages[command]))} Stages that it builds on run first."
    told = [
        " ".join(about.split()),
        f"The fields of other stages and of evaluators are options too. rlhf-jax STAGE "
        f"{experiment} --help lists those of a stage: {', '.join(others)}; rlhf-jax run "
        f"{experiment} --help those of evaluators.",
    ]
    return "\n\n".join(textwrap.fill(text, 78, break_on_hyphens=False) for text in told)


def report(experiment: str, *options: str) -> int:
    """The report of the stages that have finished."""
    from rlhf_jax.parallel import processes
    from rlhf_jax.runs.options import ReadOptions, parse
    from rlhf_jax.runs.origin import experiment_of
    from rlhf_jax.runs.report import report_finished
    from rlhf_jax.runs.run import Run
    from rlhf_jax.sources.corpora import is_made

    config, prog = experiment_of(experiment), f"rlhf-jax report {experiment}"
    about = help_with("report", experiment, config)
    hidden = {*config.stages, "loop"}
    config, how = parse([config, ReadOptions()], options, prog, about, hidden)
    processes.start(config.parallel)
    with processes.ending_together():
        if not is_made(config.directory / "data"):
            raise UserError(f"{config.directory}: holds no run to report on")
        run = Run(config, insist=how.insist)
        run.check((), report=True)
        report_finished(run)
    return 0


def read_models(command: str, experiment: str, *options: str) -> int:
    """`generate`, `score`, or `data` of an experiment."""
    from rlhf_jax.runs.generate import GenerateOptions, generate
    from rlhf_jax.runs.options import parse
    from rlhf_jax.runs.origin import experiment_of
    from rlhf_jax.runs.scoring import ScoreOptions, score
    from rlhf_jax.runs.show import ShowOptions, show

    known = {"generate": (GenerateOptions(), generate), "score": (ScoreOptions(), score),
             "data": (ShowOptions(), show)}  # fmt: skip
    given, function = known[command]
    config, prog = experiment_of(experiment), f"rlhf-jax {command} {experiment}"
    about, hidden = help_with(command, experiment, config), {*config.stages, "evaluators", "loop"}
    function(*parse([config, given], options, prog, about, hidden))
    return 0


def plan(experiment: str, *options: str) -> int:
    """Compiles for a topology; runs and allocates nothing."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # whatever accelerator is here stays free
    from rlhf_jax.plan.command import PlanOptions, plan_command
    from rlhf_jax.runs.experiment import load_experiment
    from rlhf_jax.runs.options import parse

    config, prog = load_experiment(experiment), f"rlhf-jax plan {experiment}"
    roots = [config, PlanOptions("v5p:4x4x4")]
    about, hidden = help_with("plan", experiment, config), {*config.stages, "evaluators", "loop"}
    config, how = parse(roots, options, prog, about, hidden)
    return plan_command(config, how)


def data(arguments: Sequence[str]) -> int:
    """Files of known formats as records."""
    from rlhf_jax.data.collect import DataOptions, collect
    from rlhf_jax.runs.options import parse

    names = leading_words(arguments)
    if not names:
        raise UserError("data needs FILE..., data sets, as in "
                        "rlhf-jax data train.jsonl --to records")  # fmt: skip
    collect(names, parse([DataOptions()], arguments[len(names) :], "rlhf-jax data FILE...")[0])
    return 0


def label(arguments: Sequence[str]) -> int:
    """The labelling page, its export, and the deletion of a labeler's answers."""
    from rlhf_jax.labelling.command import label

    return label(arguments)


def doctor(arguments: Sequence[str]) -> int:
    if len(arguments) not in (1, 2) or any(word.startswith("-") for word in arguments):
        raise UserError("doctor needs RUN, a run's directory, or two: rlhf-jax doctor runs/x")
    from rlhf_jax.runs.doctor import show
    from rlhf_jax.runs.same import show_same

    return show(*arguments) if len(arguments) == 1 else show_same(*arguments)


def replay(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        raise UserError("replay needs BATCH, a saved batch, as in "
                        "rlhf-jax replay runs/quickstart/sft/sick/step_300.npz")  # fmt: skip
    from rlhf_jax.runs.options import parse
    from rlhf_jax.runs.replay import ReplayOptions, show

    batch, *options = arguments
    show(batch, parse([ReplayOptions()], options, f"rlhf-jax replay {batch}")[0])
    return 0


def estimators(arguments: Sequence[str]) -> int:
    """The estimator lab: table on the screen, estimators.json and estimators.png in --out."""
    from rlhf_jax.estimators.lab import LabConfig, run
    from rlhf_jax.runs.options import parse

    @dataclasses.dataclass(frozen=True)
    class Place:
        out: Path = Path("runs/estimators")  # the folder for estimators.json and estimators.png

    about = " ".join(ABOUT["estimators"].split())
    config, place = parse([LabConfig(), Place()], arguments, "rlhf-jax estimators", about)
    run(config, place.out)
    return 0


if __name__ == "__main__":
    start()
