"""--help: every option of every experiment and command has a text of its own, and so has what an
experiment may hold in place of what these hold."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from rlhf_jax.data.collect import DataOptions
from rlhf_jax.estimators.lab import LabConfig
from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.labelling.options import ExportLabelsOptions, LabelOptions, LabelWinsOptions
from rlhf_jax.objectives.estimator import Advantage, Surrogate
from rlhf_jax.plan.command import PlanOptions
from rlhf_jax.rewards.reward import Reward
from rlhf_jax.runs import field_texts, options
from rlhf_jax.runs.benchmarking import EvalOptions
from rlhf_jax.runs.compare import CompareOptions
from rlhf_jax.runs.cross_validation import CrossValidateOptions
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.generate import GenerateOptions
from rlhf_jax.runs.lm_eval import LmEvalOptions
from rlhf_jax.runs.options import ChainOptions, ReadOptions, RunOptions
from rlhf_jax.runs.replay import ReplayOptions
from rlhf_jax.runs.scoring import ScoreOptions
from rlhf_jax.runs.sweep import SweepOptions
from rlhf_jax.sources.source import Source
from rlhf_jax.stages.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for path in sorted((ROOT / "experiments").glob("*.py")) if path.stem != "estimators"]
COMMANDS = (
    RunOptions(), ChainOptions(), ReadOptions(), GenerateOptions(), ScoreOptions(),
    SweepOptions(), CompareOptions(), ReplayOptions(), PlanOptions("v5p:4x4x4"), LabConfig(),
    DataOptions(), LabelOptions(), ExportLabelsOptions(), EvalOptions(), LmEvalOptions(),
    CrossValidateOptions(), LabelWinsOptions(),
)  # fmt: skip
WORD = re.compile(r"[A-Za-z0-9]")
OPEN = re.compile(r"[,(\[]$|\b(?:the|a|an|of|in|to|and|or|that|by|with|for|as)$")


def garbled(text: str) -> str | None:
    """Why a text is no whole sentence or phrase."""
    if not WORD.search(text):
        return "it says nothing"
    if "  " in text or "\n" in text or text != text.strip():
        return "it has white space of the source"
    if text.startswith((",", ";", ":", ")", "#")) or OPEN.search(text):
        return "it is a part of a sentence"
    if re.search(r"(?<![/\w])[a-z_]+\.py\b", text):
        return "it names a file without its folder"
    # [0, 1) is a range: brackets are counted together.
    opened, closed = (sum(map(text.count, signs)) for signs in ("([", ")]"))
    if opened != closed or text.count('"') % 2:
        return "something that it opens stays open"
    return None


def every_text(root) -> list[tuple[str, str]]:
    """(option or group, what --help says of it) of a root."""

    def walk(parts, above):
        for part in options._options(parts):
            below = options._parts(part.value)
            text = part.about or (field_texts.described(type(part.value)) if below else "")
            if not isinstance(part.value, dict | tuple) or below is None:
                yield f"{above}{part.name}", text
            yield from walk(below or (), f"{above}{part.name}.")

    return list(walk(options._parts(root), ""))


# Fields that hold a group, whose class says what it is.
GROUPS = {"optimizer", "policy_optimizer", "kl", "advantage", "surrogate", "objective", "world"}


def complain(texts) -> list[str]:
    return [f"{name}: {why}: {text!r}" for name, text in texts if (why := garbled(text))]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_option_and_group_of_an_experiment_has_its_text(file):
    found = every_text(load_experiment(str(file)))
    assert len(found) > 60
    assert complain(found) == []


@pytest.mark.parametrize("root", COMMANDS, ids=lambda root: type(root).__name__)
def test_every_option_of_a_command_has_its_text(root):
    found = every_text(root)
    assert found and complain(found) == []


def configs() -> list[type]:
    """Every dataclass of the package that an experiment may hold."""
    for path in sorted((ROOT / "rlhf_jax").rglob("*.py")):
        if path.stem not in ("__main__", "worker"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            importlib.import_module(name.removesuffix(".__init__"))
    from rlhf_jax.objectives import kl
    from rlhf_jax.stages import dpo

    found, left = [kl.AdaptiveController, kl.DoublingController, dpo.IPO, dpo.SimPO, dpo.ORPO], [
        Advantage, Surrogate, Stage, Source, Evaluator, Reward
    ]  # fmt: skip
    while left:
        kind = left.pop()
        found.append(kind)
        left += [each for each in kind.__subclasses__() if each.__module__.startswith("rlhf_jax.")]
    return [kind for kind in found if dataclasses.is_dataclass(kind)]


def test_what_an_experiment_may_hold_says_what_its_fields_are():
    kinds = configs()
    assert len(kinds) > 40
    texts = {kind: field_texts.field_texts(kind) for kind in kinds}
    found = [(f"{kind.__name__}.{field.name}", texts[kind].get(field.name, "")) for kind in kinds
             for field in dataclasses.fields(kind) if field.name not in GROUPS]  # fmt: skip
    found += [(kind.__name__, field_texts.described(kind)) for kind in kinds]
    assert complain(found) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "of a, ",
        "tokens of the",
        "tokens (at most",
        'one of "a", "b',
        "a  b",
        ", b",
        "as in kl.py",
    ],
)
def test_a_garbled_text_is_found(text):
    assert garbled(text) and garbled("tokens of a row (at most), in [0, 1)") is None
