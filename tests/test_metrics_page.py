"""docs/metrics.md has a row for each name that a run writes, and no other row; what pages and
messages say of docs/troubleshooting.md is there."""

import dataclasses
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import pytest

from rlhf_jax import evaluation
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark
from rlhf_jax.evaluation.best_of_n_policy import BestOfN
from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.evaluation.held_out_rankings import HeldOutRankings
from rlhf_jax.evaluation.held_out_records import HeldOutRecords
from rlhf_jax.evaluation.judged_win_rate import JudgedWinRate, LengthControlledWinRate
from rlhf_jax.evaluation.reward_calibration import RewardCalibration
from rlhf_jax.evaluation.score_error import ScoreError
from rlhf_jax.evaluation.token_losses import TokenLosses
from rlhf_jax.rewards.graded import GradedReward
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.stages.reward_regression import RewardRegression
from rlhf_jax.stages.stage import Build
from rlhf_jax.training.metrics import METRICS, SPEED, read_metrics
from rlhf_jax.training.optimizer import OptimizerConfig
from tests import small_run
from tests.stages import tiny
from tests.stages.test_iteration import GROUPED, told_of

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
SECTIONS = {title: body for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE,
                                                      re.MULTILINE | re.DOTALL)}  # fmt: skip
HEADS = {"metric", "column"}
ALWAYS = "Every stage that trains"
ONE = (ALWAYS, "Stages that train one model")
OF_STAGE = {
    "pretrain": ONE,
    "sft": ONE,
    "reward": (*ONE, "Reward model"),
    "dpo": (*ONE, "DPO"),
    "feedback": ("Simulated feedback",),
    "ppo": (ALWAYS, "Policy gradient"),
    "ppo_ptx": (ALWAYS, "Policy gradient"),
}
STEP = "step"  # the page says above its tables what it is


def rows(section: str) -> list[list[str]]:
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0].strip() not in HEADS]


def names(section: str) -> list[str]:
    return [name for first, *_ in rows(section) for name in re.findall(r"`(\w+)`", first)]


def pattern(name: str) -> re.Pattern:
    """STAGE and COLUMN stand for a name, N for a number."""
    return re.compile(
        re.sub("STAGE|COLUMN", r"[a-z0-9_]+", re.sub(r"(?<=_)N(?=_|$)", r"\\d+", name))
    )


def best(name: str, known: list[str]) -> str | None:
    """The row of a name: the one that spells most of it out."""
    found = [row for row in known if pattern(row).fullmatch(name)]
    return max(found, key=lambda row: len(re.sub("STAGE|COLUMN|_N(?=_|$)", "", row)), default=None)


def assert_told(found: set[str], known: list[str]) -> set[str]:
    """Every name has a row; returns the rows that have a name."""
    missing = sorted(name for name in found if best(name, known) is None)
    assert not missing, f"without a row in docs/metrics.md: {missing}"
    return {best(name, known) for name in found}


def written(directory: Path, file: str) -> set[str]:
    lines = read_metrics(directory, file)
    return {n for line in lines for n in line if not n.startswith("evaluation/")} - {STEP}


def of_programs(**changes) -> set[str]:
    """The metrics of a policy-gradient stage's programs, by tracing them."""
    config = tiny.ppo_config(**changes)
    build = Build("ppo", tiny.MODEL, dict.fromkeys(config.needs(), tiny.MODEL), tiny.ENDING)
    found: set[str] = set()
    for name, program in config.programs(build, config.iterations).items():
        if name in ("experience", "update"):
            *_, metrics = jax.eval_shape(program.function, *program.arguments)
            found |= metrics.keys()
    return found


def test_each_metric_of_a_finished_run_has_a_row_and_each_row_a_metric(small_run):
    seen: set[tuple[str, str]] = set()
    told = {stage: written(small_run.directory / stage, METRICS) for stage in OF_STAGE}
    rewards = (LearnedReward("reward"), GradedReward())
    told["ppo"] |= of_programs(stale=1, kl_in="loss", entropy_coefficient=0.1, rewards=rewards)
    regression = RewardRegression(OptimizerConfig(), batch_size=4, length=8, start="sft")
    build = Build("reward", tiny.MODEL, {"start": tiny.MODEL}, tiny.ENDING)
    update = regression.programs(build, 4)["update"]
    told["reward"] |= jax.eval_shape(update.function, *update.arguments)[1].keys()
    *_, drawn = told_of(GROUPED, [[0, 1] * 4], step=0)
    told["ppo"] |= drawn.keys()
    for stage, found in told.items():
        known = [name for section in OF_STAGE[stage] for name in names(section)]
        used = assert_told(found, known)
        seen |= {(section, n) for section in OF_STAGE[stage] for n in names(section) if n in used}
    sections = {section for of in OF_STAGE.values() for section in of}
    rowed = {(section, name) for section in sections for name in names(section)}
    assert rowed - seen == set(), "rows of docs/metrics.md without a metric"


def test_each_figure_of_speed_has_a_row_and_each_row_a_figure(small_run):
    found = set().union(*(written(small_run.directory / stage, SPEED) for stage in OF_STAGE))
    assert assert_told(found, names("Speed")) == set(names("Speed"))


def evaluators() -> list[Evaluator]:
    files = ("quickstart", "hh")
    experiments = [load_experiment(str(ROOT / "experiments" / f"{name}.py")) for name in files]
    found = [e for config in (*experiments, small_run.config) for e in config.evaluators]
    others = [
        ScoreError(length=8),
        JudgedWinRate("sft", judge="http://127.0.0.1#judge"),
        LengthControlledWinRate("sft"),
        BestOfN("reward", only=("sft",)),
        RewardCalibration(length=8),
        RewardCalibration(length=8, rankings="feedback"),
    ]
    return [*found, *others]


def test_each_column_has_a_row_and_each_row_a_column():
    there = evaluators()
    for module in pkgutil.iter_modules(evaluation.__path__):
        for kind in vars(importlib.import_module(f"rlhf_jax.evaluation.{module.name}")).values():
            if isinstance(kind, type) and issubclass(kind, Evaluator):
                bases = Evaluator, HeldOutRecords, HeldOutRankings, TokenLosses, Benchmark
                assert kind in (*bases, *map(type, there)), kind
    found = {column for evaluator in there for column in evaluator.columns()}
    assert assert_told(found, names("Evaluators")) == set(names("Evaluators"))


def test_each_title_of_a_column_stands_beside_its_name():
    told = {}
    for first, *_ in rows("Evaluators"):
        title = re.search(r"\((.+)\)$", first)[1]
        told |= dict.fromkeys(re.findall(r"`(\w+)`", first), title)
    for name, column in ((n, c) for e in evaluators() for n, c in e.columns().items()):
        title = told[best(name, list(told))]
        meant = re.sub(r"\bN\b", r"\\d+", re.sub("STAGE|COLUMN", r"[\\w ]+", title))
        assert re.fullmatch(meant, column.plain), (name, title)


def test_the_check_sees_a_name_without_a_row_and_the_row_that_is_meant():
    known = ["kl_to_STAGE", "kl_to_STAGE_in_training", "reward_N", "STAGE_score"]
    assert best("kl_to_sft_in_training", known) == "kl_to_STAGE_in_training"
    assert best("kl_to_sft", known) == "kl_to_STAGE" and best("reward_0", known) == "reward_N"
    assert best("reward_score", known) == "STAGE_score" and best("reward_x", known) is None
    with pytest.raises(AssertionError, match="without a row"):
        assert_told({"entropy"}, known)


def test_each_row_says_what_it_is_its_unit_what_is_healthy_and_what_else_to_do():
    for section in {"Speed", "Evaluators", *(s for of in OF_STAGE.values() for s in of)}:
        for row in rows(section):
            assert len(row) == 5 and all(row), row
        assert len(names(section)) == len(set(names(section)))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", ["metrics.md", "troubleshooting.md"])
def test_links_lead_to_what_is_there(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", text)
    assert len(links) > 5
    for path, anchor in links:
        target = (DOCS / path) if path else DOCS / name
        assert target.is_file(), path
        assert not anchor or anchor in anchors(target), anchor


def test_the_sections_that_messages_name_are_there():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "rlhf_jax").rglob("*.py")]
    found = [n for text in texts for n in re.findall(r"docs/troubleshooting.md: ([\w ]+)", text)]
    heads = re.findall(r"^### (.+)$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(found) >= 2 and set(found) <= set(heads)


def test_the_fields_that_the_pages_name_are_fields():
    """As `stage.optimizer.warmup_steps`, by the last part of the name."""
    config = load_experiment(str(ROOT / "experiments" / "quickstart.py"))
    known: set[str] = set()

    def gather(thing):
        for field in dataclasses.fields(thing):
            known.add(field.name)
            value = vars(thing)[field.name]
            for part in value.values() if isinstance(value, dict) else (value,):
                if dataclasses.is_dataclass(part):
                    gather(part)

    gather(config)
    text = PAGE + (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    dotted = re.findall(r"`(?:\w+\.)*(?:optimizer|loop|ending|model|parallel|kl)\.(\w+)", text)
    assert len(dotted) > 20 and set(dotted) <= known
