"""Experiments, config fields and the README say only what is there."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.estimators.lab import LabConfig
from rlhf_jax.experiment import Experiment, load_experiment
from rlhf_jax.plan.command import PlanOptions

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
PACKAGE = sorted((ROOT / "rlhf_jax").rglob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_loads_and_its_docstring_gives_the_command(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    commands = re.findall(r"rlhf-jax (\w+)(?: (experiments/\w+\.py))?", docstring)
    assert commands
    for command, file in commands:
        assert command in cli.COMMANDS and file in ("", f"experiments/{path.name}")
    if path.stem == "estimators":  # no chain of stages
        assert isinstance(runpy.run_path(str(path))["config"], LabConfig)
    else:
        config = load_experiment(str(path))
        assert isinstance(config, Experiment) and config.name == path.stem


def configs_of(trees) -> dict[str, list[str]]:
    """{class: fields} of the frozen dataclasses that configure something."""
    found = {}
    for tree in trees:
        for node in ast.walk(tree):
            names = ("Experiment", "WorldData", "HumanData", "SimulatedLabeler")
            if isinstance(node, ast.ClassDef) and (
                node.name.endswith(("Config", "Controller")) or node.name in names
            ):
                found[node.name] = [
                    item.target.id for item in node.body if isinstance(item, ast.AnnAssign)
                ]
    return found


def attributes_read(trees) -> set[str]:
    """Names read as `something.name` anywhere but in a __post_init__; getattr does not count."""
    found = set()

    def visit(node):
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            found.add(node.attr)
        for child in ast.iter_child_nodes(node):
            visit(child)

    for tree in trees:
        visit(tree)
    return found


def unread(sources) -> list[str]:
    trees = [ast.parse(source) for source in sources]
    read = attributes_read(trees)
    configs = configs_of(trees)
    return [f"{name}.{f}" for name, fields in configs.items() for f in fields if f not in read]


def test_every_field_of_every_config_is_read_outside_its_validation():
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE]
    names = configs_of(map(ast.parse, sources))
    assert len(names) > 12 and "PPOConfig" in names and len(names["PPOConfig"]) > 20
    # What names a stage is read by that name: getattr(config, stage).
    assert [name for name in unread(sources) if name != "Experiment.ppo_ptx"] == []


def test_a_field_that_only_its_validation_reads_is_found():
    source = """
class SmallConfig:
    used: int
    idle: int
    def __post_init__(self):
        require(self.idle > 0)
def run(config):
    config.other = config.used
"""
    assert unread([source]) == ["SmallConfig.idle"]


README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("    ")]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_readme_names_existing_targets_commands_and_files():
    made = [line.split()[1] for line in CODE if line.startswith("make ")]
    assert {"quickstart", "test"} <= set(made) <= set(TARGETS)
    calls = [re.search(r"rlhf-jax (\w+) (\S+)", line) for line in CODE if "rlhf-jax " in line]
    assert calls
    for command, file in (call.groups() for call in calls if call):
        there = file.startswith(("runs/", "--out")) or (ROOT / file).is_file()
        assert command in cli.COMMANDS and there, (command, file)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in re.findall(r"\[(\w+)\]'", "\n".join(CODE)):
        assert f'"{extra}": ' in setup


def test_the_readme_s_options_are_fields():
    config = load_experiment(str(ROOT / "experiments" / "quickstart.py"))
    options = [o for line in CODE if "rlhf-jax " in line for o in re.findall(r"--([\w.-]+)", line)]
    assert options
    for option in options:
        value = config
        for part in option.replace("-", "_").split("."):
            if part not in ("stage", "stop_after_steps", "insist", *vars(PlanOptions("v5e:2x2"))):
                value = getattr(value, part)


def test_the_page_on_testing_names_existing_tests_and_targets():
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|docs|rlhf_jax)/[\w./]+)`", page)
    assert len(named) > 20 and [path for path in named if not (ROOT / path).exists()] == []
    made = re.findall(r"`make ([\w-]+)`", page)
    assert {"test", "test-mutants"} <= set(made) <= set(TARGETS)


def test_the_readme_s_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
