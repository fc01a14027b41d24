"""The report of a run: every finished model measured by the experiment's evaluators, written as
report.json, report.png and report.html, and printed; items.json is what `compare` reads beside."""

import json
import time
from collections.abc import Sequence

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.evaluation.figure import Curves, draw
from rlhf_jax.evaluation.page import page
from rlhf_jax.evaluation.summary import Results, measured, summarise
from rlhf_jax.evaluation.table import print_report
from rlhf_jax.parallel import processes
from rlhf_jax.runs import chain
from rlhf_jax.runs.items import ITEMS, items_of
from rlhf_jax.runs.run import Run
from rlhf_jax.training.metrics import METRICS, SPEED, read_metrics
from rlhf_jax.training.progress import counted


def report(run: Run, stages: Sequence[str] = ()) -> dict:
    """Runs what is left of the stages, each after what it builds on; then writes and prints the
    report of all that have finished. stages: those to run; none: all."""
    stages = chain.in_order(run.config.stages, chain.named(run.config.stages, stages))
    run.check(stages, report=True)
    for stage in stages:
        run.finish(stage)
    return report_finished(run)


def report_finished(run: Run) -> dict:
    """The report of the stages that have finished; runs none."""
    started, config = time.monotonic(), run.config
    stages = [stage for stage in config.stages if run.finished(stage)]
    results = measure(run, stages)
    asked = any(evaluator.asks for evaluator, found in results if found)
    prompts = run.evaluation.test_prompts if asked else None
    found = {
        **summarise(results, config.seed, stages),
        "saved": saved(run, stages),
        "prompts": prompts and {"all": prompts.all, "asked": len(prompts.ids)},
        "records": run.corpora.counts,
        "seconds": {**seconds(run, stages), "report": round(time.monotonic() - started, 1)},
        "seed": config.seed,
    }
    if processes.is_first():
        image = draw(found, results, curves(run, stages), list(config.stages))
        files = {
            "report.png": image,
            "report.html": page(found, results, image).encode(),
            ITEMS: json.dumps(items_of(run, results, stages), allow_nan=False).encode(),
            "report.json": (json.dumps(found, indent=2, allow_nan=False) + "\n").encode(),
        }
        for name, content in files.items():
            write_atomically(run.directory / name, content)
    print_report(found, results)
    print(f"{run.directory / 'report.html'}")
    return found


def measure(run: Run, stages: Sequence[str]) -> Results:
    """What each evaluator found of the models of the stages."""
    evaluation, seed = run.evaluation, run.config.seed
    results = [(evaluator, {}) for evaluator in run.config.evaluators]
    there = [
        (evaluator, found)
        for evaluator, found in results
        if chain.stages_of(evaluation.evaluators, evaluator) <= set(stages)
    ]
    work = {stage: [each for each in there if stage in evaluation.stages(each[0])]
            for stage in stages}  # fmt: skip
    with counted("report", sum(map(len, work.values()))) as begin:
        for stage, asked in work.items():
            for evaluator, found in asked:
                begin(f"{evaluator.name} of {stage}")
                rows = evaluation.finished(stage).rows(evaluator.name)
                found[stage] = measured(evaluator, rows, seed)
            evaluation.release(stage)
    return results


def saved(run: Run, stages: Sequence[str]) -> dict[str, str]:
    """What the model of a stage is, of those that say so (`Stage.saved`)."""
    told = {stage: run.config.stages[stage].saved() for stage in stages}
    return {stage: text for stage, text in told.items() if text is not None}


def seconds(run: Run, stages: Sequence[str]) -> dict[str, float]:
    """What each stage of this run took, over all calls that led to its end."""
    own = [stage for stage in stages if run.trains(stage)]
    files = {stage: run.stage_directory(stage) / SPEED for stage in own}
    return {
        stage: round(read_metrics(file.parent, SPEED)[-1]["seconds"], 1)
        for stage, file in files.items()
        if file.is_file()
    }


def curves(run: Run, stages: Sequence[str]) -> Curves:
    """The rows of metrics of each stage that has a metric of config.evaluation.curves."""
    own = [stage for stage in stages if run.trains(stage)]
    files = {stage: run.stage_directory(stage) / METRICS for stage in own}
    rows = {stage: read_metrics(file.parent) for stage, file in files.items() if file.is_file()}
    return {
        metric: {stage: of for stage, of in rows.items() if any(metric in row for row in of)}
        for metric in run.config.evaluation.curves
    }
