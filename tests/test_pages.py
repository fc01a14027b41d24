"""Every command and Python block of README.md and docs/ is run by a test, most of them here."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.rewards.penalties import OverLong
from rlhf_jax.stages import presets
from tests import small_run
from tests.compiling import xla_flags
from tests.pages import Part, parts

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): parts(path.read_text(encoding="utf-8"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
MAKE = "tests/test_experiments.py::test_the_pages_name_existing_targets_extras_and_commands"
# Pages whose parts one test of their own runs.
OWN = {
    "docs/chat.md": "tests/test_chat_run.py::test_the_page_runs",
    "docs/data.md": "tests/test_data_page.py::test_the_example_runs_to_a_report_without_a_grader",
    "docs/extending.md": "tests/test_docs.py::test_the_blocks_are_experiments_that_run",
    "docs/finetune.md": "tests/test_finetune.py::test_all_of_the_page_runs",
    "docs/objectives.md": "tests/test_docs.py::"
    "test_the_example_of_objectives_runs_and_has_the_loss_of_a_loop",
    "docs/policy_gradients.md": "tests/test_docs.py::test_the_blocks_are_experiments_that_run",
    "docs/weights.md": "tests/test_pretrained.py::test_import_export_import_is_bit_for_bit",
    "docs/resume.md": "tests/test_never_lose.py::test_they_do_what_is_said",
}
# Commands that need minutes, another machine or a further process, by how they begin.
ELSEWHERE = {
    "make ": MAKE,
    "pip install ": MAKE,
    "launch/": "tests/parallel/test_launch.py::",
    "sbatch ": "tests/parallel/test_launch.py::",
    "python benchmarks/speed.py ": "tests/test_benchmarks.py::",
    "python -m tests.golden.record": "tests/golden/test_golden.py::",
    "rlhf-jax replay ": "tests/test_replay.py::",
    "python -m tests.mutants": "tests/test_mutants.py::",
    "rlhf-jax plan ": "tests/plan/test_topology.py::",
    "rlhf-jax sft experiments/quickstart.py --parallel.coordinator": "tests/parallel/"
    "test_processes.py::",
    "rlhf-jax ppo_ptx experiments/quickstart.py --parallel.": "tests/parallel/test_runners.py::",
    "rlhf-jax eval ": "tests/test_eval.py::test_the_command_measures_a_run",
    "rlhf-jax cross-validate ": "tests/runs/test_cross_validation.py::",
    "rlhf-jax lm-eval ": "tests/runs/test_lm_eval.py::",
    "rlhf-jax estimators": "tests/estimators/test_lab.py::",
    "rlhf-jax label ": "tests/labelling/test_command.py::",
    "rlhf-jax data ": OWN["docs/data.md"],
    "rlhf-jax fetch ": "tests/published/test_gguf_file.py::test_fetch_writes_a_folder_from_a_wheel",
    "rlhf-jax run experiments/folder.py": OWN["docs/data.md"],
    "rlhf-jax run experiments/finetune.py": OWN["docs/finetune.md"],
}
TEXT = ("", "bibtex", "json")  # blocks that nothing runs


def here(page: str) -> list[Part]:
    found = [] if page in OWN else PAGES[page]
    return [part for part in found if part.kind not in TEXT and "..." not in part.text
            and not part.text.startswith(tuple(ELSEWHERE))]  # fmt: skip


def test_what_runs_elsewhere_names_its_test():
    for place in {*OWN.values(), *ELSEWHERE.values()}:
        file, _, name = place.partition("::")
        functions = [node.name for node in ast.walk(ast.parse((ROOT / file).read_text()))
                     if isinstance(node, ast.FunctionDef)]  # fmt: skip
        assert name in functions or (not name and functions), place
    commands = [part.text for found in PAGES.values() for part in found if part.kind == "sh"]
    for start in ELSEWHERE:
        assert any(command.startswith(start) for command in commands), start


def test_parts_are_found_in_order():
    page = """
    rlhf-jax a x.py --one 1 \\
        --two 2   # what it does
    {"prompt": "..."}
```python
x = 1
```
    echo 'a # b' | rlhf-jax c
"""
    assert parts(page) == [
        ("sh", "rlhf-jax a x.py --one 1 --two 2"),
        ("python", "x = 1\n"),
        ("sh", "echo 'a # b' | rlhf-jax c"),
    ]


def test_all_of_them_run(small_run, tmp_path):
    asked = list(dict.fromkeys(part for page in PAGES for part in here(page)))
    assert sum(part.kind == "sh" for part in asked) >= 10
    environment = os.environ | {"XLA_FLAGS": xla_flags(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.pages", str(small_run.directory)],
        cwd=tmp_path, env=environment, input=json.dumps(asked), text=True, capture_output=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("====")]
    runs = tmp_path / "runs"
    assert (runs / "quickstart" / "report.html").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_a_block_with_dots_is_an_excerpt_of_an_experiment(page):
    """`...` stands for the fields of the small run's stage of that name."""
    stages, made = small_run.config.stages, {}
    changed = lambda name: lambda *_, **fields: dataclasses.replace(stages[name], **fields)
    known = {"Pretrain": "pretrain", "SFT": "sft", "SimulatedFeedback": "feedback",
             "RewardModel": "reward"}  # fmt: skip
    names = {kind: changed(name) for kind, name in known.items()} | {
        "presets": type("presets", (), {
            "ppo": changed("ppo"),
            "rloo": lambda *_, **fields: presets.rloo(
                policy_optimizer=small_run.RATE, iterations=3, prompt_length=56,
                response_length=8, batch_size=8, **fields)}),
        "LearnedReward": LearnedReward, "OverLong": OverLong, "GoldScore": GoldScore,
        "WinRate": WinRate,
    }  # fmt: skip
    for kind, text in [] if page in OWN else PAGES[page]:
        if kind == "python" and "..." in text:
            exec(text, names, made)
            evaluators = {"evaluators": made["evaluators"]}
            whole = dataclasses.replace(small_run.config, stages=made["stages"], **evaluators)
            assert whole.stages.keys() == made["stages"].keys()
    assert page != "README.md" or {"rloo", "ppo"} <= made["stages"].keys()
