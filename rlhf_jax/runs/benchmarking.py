"""`rlhf-jax eval`: finished models of a run, or published ones, on public benchmarks. It trains
nothing and does not change the run's stages."""

import dataclasses
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from rich.console import Console
from rich.text import Text

from rlhf_jax.durable.files import writable_directory, write_atomically
from rlhf_jax.durable.lock import lock
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.benchmark_page import page
from rlhf_jax.evaluation.benchmark_results import OfModel, as_content, of_benchmark
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark, Beside, Item, read_items
from rlhf_jax.evaluation.benchmarks.judges import judge_of
from rlhf_jax.evaluation.benchmarks.known import BENCHMARKS
from rlhf_jax.evaluation.benchmarks.model import Judge, TooLongError
from rlhf_jax.evaluation.benchmarks.overlap import Overlap
from rlhf_jax.evaluation.judging.endpoint import CHARACTERS_A_TOKEN
from rlhf_jax.evaluation.summary import duration
from rlhf_jax.evaluation.table import HEADS, tables
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.fitting_benchmarks import (
    check_names,
    for_models,
    tell_against,
    with_files,
    within_context,
)
from rlhf_jax.runs.kept_rows import KeptRows, measured_as, tell_unread
from rlhf_jax.runs.measured import Named, judging, of_folder, of_run
from rlhf_jax.runs.options import HELP, ReadOptions, parse
from rlhf_jax.runs.origin import experiment_of, is_experiment
from rlhf_jax.runs.reading import reading_run
from rlhf_jax.sources.corpora import is_made
from rlhf_jax.usage import ABOUT, leading_words

ALL = "all"


@dataclasses.dataclass(frozen=True)
class EvalOptions(ReadOptions):
    """Options of the eval command, besides the fields of its benchmarks and of the experiment.

    on          names of benchmarks; all: those that need no judge and run no code
    stages      the stages whose models are measured; none named: all that have finished
    beside      published models to measure too: folders, .gguf files or names on the hub
    against     the model with which the others are compared; None: the first one
    files       the folder with the benchmarks' files, or hub:OWNER/NAME; None: the folder that
                RLHF_JAX_DATA names
    most_items  the maximum number of items of each benchmark; None: all
    context     the maximum number of tokens of a prompt and an answer; more than in training only
                with rotary positions; None: as in training
    judge       the model that judges answers, for benchmarks that can use one: URL#MODEL of an
                endpoint in OpenAI's form, or a folder with a model; None: none
    to          the folder for the results; None: eval in the run's directory, or for published
                models runs/eval
    """

    on: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    against: str | None = None
    files: str | None = None
    most_items: int | None = None
    context: int | None = None
    judge: str | None = None
    to: Path | None = None


def eval_command(arguments: Sequence[str]) -> int:
    sources = leading_words(arguments)
    files = [word for word in sources if is_experiment(word)]
    if not sources or len(files) > 1:
        raise UserError("eval needs EXPERIMENT.py or RUN, or FOLDER... of published models, as in "
                        "rlhf-jax eval experiments/quickstart.py --on winogender")  # fmt: skip
    config = experiment_of(files[0]) if files else None
    benchmarks, options = asked_benchmarks(_on(arguments)), EvalOptions()
    stages = () if config is None else tuple(config.stages)
    roots = [*([] if config is None else [config]), options, benchmarks]
    about, hidden = " ".join(ABOUT["eval"].split()), {*stages, "evaluators", "loop"}
    prog = f"rlhf-jax eval {' '.join(sources)}"
    *first, options, benchmarks = parse(roots, arguments[len(sources) :], prog, about, hidden)
    folders = [word for word in sources if word not in files]
    evaluate(first[0] if first else None, [*folders, *options.beside], options, benchmarks)
    return 0


def _on(arguments: Sequence[str]) -> list[str]:
    """The values of --on, which say what other options there are; with --help: all."""
    if any(word in HELP for word in arguments):
        return [ALL]
    words = " ".join(arguments).replace("--on=", "--on ").split()
    if "--on" not in words:
        return []
    rest = words[words.index("--on") + 1 :]
    return leading_words(rest)


def asked_benchmarks(names: Sequence[str]) -> dict[str, Benchmark]:
    """The benchmarks of the option `on`, with their defaults. Raises ConfigError for an unknown
    name."""
    known = ", ".join(BENCHMARKS)
    require(bool(names), "on", names, f"one or more of {known}, or all")
    found: dict[str, Benchmark] = {}
    for name in names:
        require(name == ALL or name in BENCHMARKS, "on", name, f"all, or of {known}")
        kinds = BENCHMARKS.values() if name == ALL else [BENCHMARKS[name]]
        found |= {kind.called: kind() for kind in kinds
                  if name != ALL or (kind.by_default and not kind.needs_judge)}  # fmt: skip
    return found


def evaluate(
    config: Experiment | None,
    folders: Sequence[str],
    options: EvalOptions,
    benchmarks: Mapping[str, Benchmark],
) -> dict[str, Any]:
    """Measures what is left, writes eval.json and eval.html, prints the tables; returns the content
    of eval.json.

    config: of the run, or None. folders: published models. Rows are kept as they come: a stopped
    command goes on where it was.
    Raises UserError, before anything is measured, where a file or a model is missing.
    """
    benchmarks = {name: _with_options(each, options) for name, each in benchmarks.items()}
    benchmarks = with_files(benchmarks, options.on)
    for name, benchmark in benchmarks.items():
        benchmark.measured()  # reads and checks all files
        if benchmark.needs_judge and options.judge is None:
            raise UserError(f"{name} needs a judge: give --judge URL#MODEL or --judge FOLDER")
    uses = any(benchmark.takes_judge for benchmark in benchmarks.values())
    require(uses or options.judge is None, "judge", options.judge, "left out: no benchmark uses it")
    run = None
    if config is not None:
        if not is_made(config.directory / "data"):
            raise UserError(f"{config.directory}: holds no run to measure")
        run = reading_run(config, "eval", options.insist)
    else:
        require(not options.stages, "stages", options.stages, "left out without an experiment")
    models = [*(of_run(run, options.stages, options.context) if run else ()),
              *(of_folder(folder, options.context) for folder in folders)]  # fmt: skip
    check_names(models, options.against)
    benchmarks = for_models(benchmarks, models, options.on)
    tell_against(benchmarks, models, options.against)
    benchmarks = within_context(benchmarks, models, options.on)
    to = options.to or Path("runs/eval" if config is None else config.directory / "eval")
    writable_directory(to, "to")
    judge = None
    if options.judge is not None:
        judge = judge_of(options.judge, judging, Path(to) / "judge")
    with lock(epath.Path(to)):
        measuring = Measuring(Path(to), models, benchmarks, judge)
        found = measuring.run()
        seed = 0 if config is None else config.seed
        content = _content(found, models, benchmarks, options.against, seed)
        _write(Path(to), content)
    _print(content, benchmarks)
    print(Path(to) / "eval.html")
    for name, why in measuring.too_long.items():
        if name in options.on or not content["benchmarks"]:
            raise UserError(f"{why} (with rotary positions, --context reads more)")
    return content


def _with_options(benchmark: Benchmark, options: EvalOptions) -> Benchmark:
    """The benchmark with the options that hold for all, where it has none of its own."""
    data = benchmark.data or options.files
    most = benchmark.most_items or options.most_items
    return dataclasses.replace(benchmark, data=data, most_items=most)


class Part(NamedTuple):
    """A benchmark of a model: its items, the rows that are kept, and the items without one."""

    model: Named
    name: str
    benchmark: Benchmark
    kept: KeptRows
    items: Sequence[Item]
    left: Sequence[Item]


class Measuring:
    """Measures models on benchmarks, one model at a time in memory."""

    def __init__(
        self,
        to: Path,
        models: Sequence[Named],
        benchmarks: Mapping[str, Benchmark],
        judge: Judge | None = None,
    ):
        self._to, self._models, self._benchmarks = to, models, benchmarks
        self._beside = Beside(judge)
        self._known: Mapping[str, set[str]] | None = None
        self.too_long: dict[str, str] = {}  # by benchmark, why a model does not have it

    def run(self) -> dict[str, dict[str, OfModel]]:
        """{benchmark: {model: rows in the order of the items}}, without a benchmark of a model that
        has a text longer than the model's context."""
        parts = [self._part(model, name, benchmark) for model in self._models
                 for name, benchmark in self._benchmarks.items()
                 if benchmark.judges == model.ends]  # fmt: skip
        self._tell_cost(parts)
        found: dict[str, dict[str, OfModel]] = {name: {} for name in self._benchmarks}
        for model in self._models:
            known, opened = self._in_training(model), None
            for part in [part for part in parts if part.model is model]:
                cut = None
                if part.left:
                    opened = opened or model.open()
                    asked = opened(part.benchmark.batch_size)
                    before, whole = asked.cut, len(part.left) == len(part.items)
                    try:
                        self._measure(part, asked)
                    except TooLongError as error:
                        self.too_long[part.name] = f"{part.name} of {model.name}: {error}"
                        print(f"eval: left out: {self.too_long[part.name]}")
                        continue
                    cut = asked.cut - before if whole else None
                rows = [part.kept.rows[item.id] for item in part.items]
                tell_unread(part.benchmark, model.name, rows)
                own = None if known is None else known[part.name]
                found[part.name][model.name] = OfModel(rows, cut, own)
        return found

    def _part(self, model: Named, name: str, benchmark: Benchmark) -> Part:
        judge = self._beside.judge if benchmark.takes_judge else None
        about = measured_as(benchmark, model.digest, judge and judge.identity)
        kept = KeptRows(self._to / name, model.name, about)
        items = benchmark.measured()
        left = [item for item in items if item.id not in kept.rows]
        if there := len(items) - len(left):
            print(f"eval: {name} of {model.name}: {there:,} of {len(items):,} items kept from an "
                  "earlier command", flush=True)  # fmt: skip
        return Part(model, name, benchmark, kept, items, left)

    def _tell_cost(self, parts: Sequence[Part]) -> None:
        """What all questions to the judge cost at most, if each answer is as long as can be."""
        if self._beside.judge is None:
            return
        longest = lambda benchmark: "x" * (CHARACTERS_A_TOKEN * benchmark.longest_answer)
        self._beside.judge.expect([
            question for part in parts
            for question in part.benchmark.judge_questions(part.left, longest(part.benchmark))
        ])  # fmt: skip

    def _measure(self, part: Part, model: Any) -> None:
        """Measures what is left, some items at a time, and says how far it is."""
        started, benchmark, size = time.monotonic(), part.benchmark, part.benchmark.at_once
        for start in range(0, len(part.left), size):
            some = part.left[start : start + size]
            rows = benchmark.answered(some, model, self._beside)
            part.kept.add(checked_rows(benchmark, some, rows))
            spent = duration(time.monotonic() - started)
            done = len(part.items) - len(part.left) + start + len(some)
            print(f"eval: {part.name} of {part.model.name}: {done:,} of {len(part.items):,} "
                  f"items, {spent}", flush=True)  # fmt: skip

    def _in_training(self, model: Named) -> Mapping[str, set[str]] | None:
        """By benchmark, the ids of the items that stand in the model's training records."""
        if model.trained is None:
            return None
        if self._known is None:  # the models with training records are of one run
            texts = {(name, item.id): item.text for name, benchmark in self._benchmarks.items()
                     for item in benchmark.measured()}  # fmt: skip
            overlap = Overlap(texts)
            there = overlap.found(model.trained())
            self._known = {name: {id for of, id in there if of == name}
                              for name in self._benchmarks}  # fmt: skip
            _tell_overlap(self._benchmarks, self._known, overlap.short)
        return self._known


def _tell_overlap(
    benchmarks: Mapping[str, Benchmark],
    known: Mapping[str, set[str]],
    short: Collection[tuple[str, str]],
) -> None:
    for name, benchmark in benchmarks.items():
        of, ids = len(benchmark.measured()), sorted(known[name])
        if ids:
            told = ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
            print(f"eval: {name}: {len(ids)} of {of} items stand in the run's training records: "
                  f"{told}")  # fmt: skip
        if few := sum(name == each for each, _ in short):
            print(f"eval: {name}: {few} of {of} items are too short to be looked for in the "
                  "training records")  # fmt: skip


def checked_rows(benchmark: Benchmark, items: Sequence[Item], rows: Sequence) -> list:
    """The rows. Raises UserError unless there is one for each item, in order."""
    ids = [row.get("id") for row in rows]
    if ids != [item.id for item in items]:
        raise UserError(f"{benchmark.called}: expected a row for each of {len(items)} items, in "
                        f"order, got {len(ids)} rows")  # fmt: skip
    return list(rows)


def _content(
    found: Mapping[str, Mapping[str, OfModel]],
    models: Sequence[Named],
    benchmarks: Mapping[str, Benchmark],
    against: str | None,
    seed: int,
) -> dict[str, Any]:
    results = {
        name: of_benchmark(benchmark, len(read_items(benchmark)), found[name], against, seed)
        for name, benchmark in benchmarks.items()
        if found[name]
    }
    named = {model.name: {"kind": model.ends, "place": model.place, "digest": model.digest}
             for model in models}  # fmt: skip
    return as_content(results, named, seed)


def _write(to: Path, content: Mapping[str, Any]) -> None:
    write_atomically(to / "eval.html", page(content).encode("utf-8"))
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(to / "eval.json", text.encode("utf-8"))


def _print(content: Mapping[str, Any], benchmarks: Mapping[str, Benchmark]) -> None:
    console = Console(highlight=False)
    for name, of in content["benchmarks"].items():
        rows = {model: each["values"] for model, each in of["models"].items()}
        rows |= {"chance": of["chance"]} if of["chance"] else {}
        console.print(Text(f"{of['title']}, {of['items']} of {of['of']} items"))
        head = HEADS[benchmarks[name].judges]
        for table in tables(head, benchmarks[name].columns(), rows, console.width):
            console.print(table)
