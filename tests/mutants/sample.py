"""A fixed sample of the edits that cosmic-ray makes in objectives/ and stages/.

    python -m tests.mutants.sample [--size N] [--seed S] [--jobs N]

Each is applied to a copy and judged by the tests of its module. What survives is printed with its
diff: a test is missing, or the edit changes nothing that anybody could notice. The results stand
in build/sample-*.sqlite, by the digest of what is edited: a run that was stopped goes on.
"""

import argparse
import ast
import difflib
import hashlib
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import (
    MutationSpec,
    TestOutcome,
    WorkerOutcome,
    WorkItem,
    WorkResult,
)

from tests.mutants import ROOT
from tests.mutants.__main__ import environment, make_copy, run_tests
from tests.mutants.forked import preload

TIMEOUT = 400  # seconds; one that takes longer counts as killed
# Of each module the tests that are about it, those first that notice most.
TESTS = {
    "objectives/advantages.py": ("objectives/test_advantages.py", "objectives/test_rlax.py"),
    "objectives/estimator.py": ("objectives/test_estimator.py",),
    "objectives/kl.py": ("objectives/test_kl.py",),
    "objectives/likelihood.py": ("objectives/test_likelihood.py",),
    "objectives/preferences.py": ("objectives/test_preferences.py",),
    "objectives/reductions.py": ("objectives/test_reductions.py",),
    "objectives/reward_models.py": ("objectives/test_reward_models.py",),
    "objectives/surrogates.py": ("objectives/test_surrogates.py",),
    "objectives/terms.py": ("objectives/test_terms.py",),
    "stages/adapters.py": ("stages/test_adapters.py",),
    "stages/dpo.py": (
        "stages/test_dpo.py", "stages/test_packed_rankings.py", "stages/test_stages.py",
    ),
    "stages/elsewhere.py": ("runs/test_stages_fit.py", "runs/test_elsewhere.py"),
    "stages/fitting.py": ("stages/test_fitting.py", "stages/test_experience.py"),
    "stages/outputs.py": ("stages/test_packed_rankings.py",),
    "stages/facts.py": ("stages/test_facts.py",),
    "stages/feeds.py": ("test_feeds.py", "test_randomness.py"),
    "stages/one_model.py": ("stages/test_stages.py", "stages/test_trained_parts.py"),
    "stages/experience.py": (
        "stages/test_experience.py", "stages/test_policy_terms.py", "stages/test_iteration.py",
        "stages/test_wires.py",
    ),
    "stages/iteration.py": (
        "stages/test_iteration.py", "stages/test_experience.py", "stages/test_policy_update.py",
        "stages/test_wires.py",
    ),
    "stages/policy_gradient_config.py": ("stages/test_policy_gradient_config.py",),
    "stages/policy_update.py": (
        "stages/test_policy_losses.py", "stages/test_policy_terms.py",
        "stages/test_policy_update.py", "stages/test_sick.py", "stages/test_trained_parts.py",
        "stages/test_critics.py",
    ),
    "stages/presets.py": ("stages/test_presets.py",),
    "stages/policy_gradient.py": (
        "stages/test_stages.py", "runs/test_stages_fit.py", "stages/test_policy_gradient.py",
        "stages/test_trained_parts.py", "stages/test_critics.py", "test_feeds.py",
    ),
    "stages/pretrain.py": ("stages/test_stages.py", "runs/test_stages_fit.py"),
    "stages/rankings.py": (
        "stages/test_stages.py", "runs/test_stages_fit.py", "stages/test_facts.py",
    ),
    "stages/reward_model.py": (
        "stages/test_reward_model.py", "stages/test_packed_rankings.py", "stages/test_stages.py",
    ),
    "stages/reward_regression.py": ("stages/test_reward_regression.py",),
    "stages/sft.py": (
        "stages/test_stages.py", "runs/test_stages_fit.py", "stages/test_facts.py", "test_feeds.py",
    ),
    "stages/simulated_feedback.py": (
        "stages/test_simulated_feedback.py", "stages/test_stages.py", "runs/test_stages_fit.py",
        "stages/test_facts.py",
    ),
    "stages/stage.py": ("stages/test_stages.py", "plan/test_same_programs.py"),
    "stages/supervised.py": (
        "stages/test_supervised.py", "stages/test_policy_losses.py", "stages/test_sick.py",
    ),
}  # fmt: skip


def untold() -> list[str]:
    """Modules of the folders that TESTS lacks."""
    folders = {Path(name).parent for name in TESTS}
    there = {p.relative_to(ROOT / "rlhf_jax") for r in folders
             for p in (ROOT / "rlhf_jax" / r).glob("*.py") if p.name != "__init__.py"}  # fmt: skip
    return sorted(str(path) for path in there - set(map(Path, TESTS)))


def in_annotation(source: str, place: tuple[int, int]) -> bool:
    """Whether (line, column) stands in a type annotation: no edit there changes a number."""
    for node in ast.walk(ast.parse(source)):
        for field in ("annotation", "returns"):
            part = getattr(node, field, None)
            if part is None:
                continue
            start, end = (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
            if start <= place < end:
                return True
    return False


def is_another_program(mutation: MutationSpec, source: str) -> bool:
    """cosmic-ray takes the bare * of a signature for a product, and makes no Python of it."""
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    changed = mutate_code(source, operator, mutation.occurrence)
    try:
        return changed is not None and ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def choose(size: int, seed: int) -> list[WorkItem]:
    """The sample, of all edits of all modules alike."""
    paths = [Path("rlhf_jax", name) for name in TESTS]
    with tempfile.TemporaryDirectory() as folder, use_db(Path(folder, "all.sqlite")) as db:
        init(paths, db, {})
        items = list(db.work_items)
    key = lambda item: (str(item.mutations[0].module_path), item.mutations[0].operator_name,
                        item.mutations[0].occurrence)  # fmt: skip
    items.sort(key=key)
    random.Random(seed).shuffle(items)
    sources = {path: path.read_text(encoding="utf-8") for path in paths}
    chosen: list[WorkItem] = []
    for item in items:
        mutation = item.mutations[0]
        source = sources[mutation.module_path]
        if len(chosen) < size and not in_annotation(source, mutation.start_pos):
            chosen += [item] if is_another_program(mutation, source) else []
    return chosen


def tests_of(module: Path) -> list[str]:
    return [f"tests/{name}" for name in TESTS[str(module.relative_to("rlhf_jax"))]]


def run_one(item: WorkItem, copy: Path) -> WorkResult:
    """Edits the copy, runs the tests of the module, and takes the edit back."""
    (mutation,) = item.mutations
    path = copy / mutation.module_path
    source = path.read_text(encoding="utf-8")
    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    changed = mutate_code(source, operator, mutation.occurrence)
    lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="")
    try:
        path.write_text(changed, encoding="utf-8")
        code, _, printed = run_tests(copy, tests_of(mutation.module_path), TIMEOUT)
    finally:
        path.write_text(source, encoding="utf-8")
    outcome = TestOutcome.SURVIVED if code == 0 else TestOutcome.KILLED
    return WorkResult(WorkerOutcome.NORMAL, printed, outcome, "\n".join(lines))


def run(db: WorkDB, jobs: int) -> None:
    """Judges what is left, `jobs` at a time."""
    waiting, start = list(db.pending_work_items), time.monotonic()
    if not waiting:
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for i in range(jobs):
            copies.put(make_copy(Path(folder, str(i))))
        nodes = sorted(
            {test for item in waiting for test in tests_of(item.mutations[0].module_path)}
        )
        print(f"{len(nodes)} files of tests on the unchanged code", flush=True)
        code, _, printed = run_tests(Path(folder, "0"), nodes, timeout=None, jobs=jobs)
        if code != 0:
            sys.exit(f"{printed}\nthe unchanged code does not pass")

        def one(item: WorkItem) -> WorkResult:
            copy = copies.get()
            try:
                return run_one(item, copy)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            futures = {pool.submit(one, item): item for item in waiting}
            for done, future in enumerate(as_completed(futures), 1):
                item, result = futures[future], future.result()
                db.set_result(item.job_id, result)
                minutes = (time.monotonic() - start) / 60
                left = minutes / done * (len(waiting) - done)
                told = f"{done} of {len(waiting)}: {result.test_outcome.value}"
                print(f"{told}, about {left:.0f} minutes left", flush=True)


def report(db: WorkDB) -> None:
    """Every survivor's diff, and the counts by module."""
    killed, all_ = Counter(), Counter()
    for item, result in sorted(db.completed_work_items, key=lambda pair: str(pair[0].mutations)):
        (mutation,) = item.mutations
        module = str(mutation.module_path)
        all_[module] += 1
        killed[module] += result.test_outcome != TestOutcome.SURVIVED
        if result.test_outcome == TestOutcome.SURVIVED:
            lines = [x for x in result.diff.splitlines() if re.match(r"[-+](?![-+])", x)]
            place = f"{module}:{mutation.start_pos[0]} {mutation.definition_name}"
            print(f"SURVIVED {place} ({mutation.operator_name})", *lines, sep="\n  ")
    for module, count in sorted(all_.items()):
        print(f"{killed[module]:4} of {count:4} killed  {module}")
    for folder in ("objectives", "stages"):
        mine = [m for m in all_ if f"/{folder}/" in m]
        dead, count = sum(killed[m] for m in mine), sum(all_[m] for m in mine)
        if count:
            alive = 100 * (1 - dead / count)
            print(f"{dead} of {count} killed in {folder}/, {alive:.1f} % survived")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    if missing := untold():
        sys.exit(f"TESTS names no tests of {', '.join(missing)}")
    os.chdir(ROOT)
    preload(environment(ROOT))
    stamp = hashlib.sha256(f"{options.size}/{options.seed}".encode())
    for name in TESTS:
        stamp.update((ROOT / "rlhf_jax" / name).read_bytes())
    session = ROOT / "build" / f"sample-{stamp.hexdigest()[:12]}.sqlite"
    session.parent.mkdir(exist_ok=True)
    with use_db(session) as db:
        if not db.num_work_items:
            db.add_work_items(choose(options.size, options.seed))
        print(f"{session.relative_to(ROOT)}: {db.num_results} of {db.num_work_items} are done")
        run(db, options.jobs)
        report(db)
    return 0


if __name__ == "__main__":
    sys.exit(main())
