"""Experiments, config fields and the README say only what is there."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.errors import UserError
from rlhf_jax.estimators.lab import LabConfig
from rlhf_jax.plan.command import PlanOptions
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.runs.generate import GenerateOptions
from rlhf_jax.runs.options import RunOptions, refuse_unknown
from rlhf_jax.runs.replay import ReplayOptions
from rlhf_jax.runs.scoring import ScoreOptions

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
PACKAGE = sorted((ROOT / "rlhf_jax").rglob("*.py"))
CONFIGURE = ("Config", "Controller", "Options", "Data")
BASES = {"Stage", "Source", "Evaluator"}
COMMAND_OPTIONS = (RunOptions(), GenerateOptions(), ScoreOptions(), PlanOptions("v5e:2x2"),
                   ReplayOptions())  # fmt: skip


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_loads_and_its_docstring_gives_the_command(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    commands = re.findall(r"rlhf-jax (\w+)(?: (experiments/\w+\.py))?", docstring)
    assert commands
    for _, file in commands:
        assert file in ("", f"experiments/{path.name}")
    if path.stem == "estimators":  # no chain of stages
        assert isinstance(runpy.run_path(str(path))["config"], LabConfig)
        assert {command for command, _ in commands} == {"estimators"}
    else:
        config = load_experiment(str(path))
        assert isinstance(config, Experiment) and config.name == path.stem
        assert {command for command, _ in commands} <= {*cli.COMMANDS, *config.stages}


def configs_of(trees) -> dict[str, list[str]]:
    """{class: fields} of the dataclasses that configure something: by their name, or as stages,
    sources and evaluators."""
    classes = {node.name: node for tree in trees for node in ast.walk(tree)
               if isinstance(node, ast.ClassDef)}  # fmt: skip

    def above(name):
        bases = [ast.unparse(base) for base in classes[name].bases] if name in classes else []
        return {name}.union(*map(above, bases))

    return {
        name: [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)
               and "ClassVar" not in ast.unparse(item.annotation)]
        for name, node in classes.items()
        if node.decorator_list and "dataclass" in ast.unparse(node.decorator_list[0])
        and (name == "Experiment" or name.endswith(CONFIGURE) or above(name) & BASES)
    }  # fmt: skip


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
    assert len(names) > 25 and len(names["PolicyGradientConfig"]) > 20
    assert {"Experiment", "SFT", "PolicyGradient", "WorldData", "Stage", "Evaluator", "RunOptions",
            "FixedController"} <= names.keys()  # fmt: skip
    assert unread(sources) == []


def test_a_field_that_only_its_validation_reads_is_found():
    source = """
@dataclass
class SmallConfig:
    used: int
    idle: int
    def __post_init__(self):
        require(self.idle > 0)
@dataclass
class Base(Stage):
    kind: ClassVar = 3
@dataclass
class Mine(Base):
    lazy: int
@dataclass
class Other:
    alone: int
class PlainConfig:
    plain: int
def run(config):
    config.other = config.used
"""
    assert unread([source]) == ["SmallConfig.idle", "Mine.lazy"]


README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8")
         for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *EXPERIMENTS]
         }  # fmt: skip
CODE = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("    ")]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
QUICKSTART = "experiments/quickstart.py"


def commands_in(page: str) -> list[tuple[str, str, list[str]]]:
    """(command, its first argument, options) of each `rlhf-jax ...` of an indented line, of the
    lines that it goes on in, and of text in backticks."""
    joined = re.sub(r"  #.*", "", re.sub(r"\\\n\s*", " ", page))
    found = re.findall(r"^    [^`\n]*?rlhf-jax (.+)$", joined, re.MULTILINE)
    found += re.findall(r"`rlhf-jax ([^`]+)`", joined.replace("\n", " "))
    words = [line.split() for line in found]
    return [(w[0], w[1] if len(w) > 1 else "", [x for x in w if x.startswith("--")])
            for w in words]  # fmt: skip


def test_commands_are_found_with_their_options():
    page = """
    rlhf-jax a x.py --one 1 \\
        --two.three 2   # what --it does
    `rlhf-jax b
    --four`
"""
    assert commands_in(page) == [
        ("a", "x.py", ["--one", "--two.three"]),
        ("b", "--four", ["--four"]),
    ]


def test_the_readme_names_existing_targets_commands_and_files():
    made = [line.split()[1] for line in CODE if line.startswith("make ")]
    assert {"quickstart", "test"} <= set(made) <= set(TARGETS)
    calls = commands_in(README)
    assert {"run", "ppo", "reward", "generate", "plan"} <= {command for command, *_ in calls}
    for command, file, _ in calls:
        if command.startswith("experiments/"):  # lists its stages
            assert (ROOT / command).is_file() and not file
        elif file.startswith("experiments/"):
            known = {*cli.COMMANDS, *load_experiment(str(ROOT / file)).stages}
            assert command in known, (command, file)
        else:
            assert command in cli.COMMANDS and file.startswith(("runs/", "--")), (command, file)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in re.findall(r"\[(\w+)\]'", "\n".join(CODE)):
        assert f'"{extra}": ' in setup


@pytest.mark.parametrize("name", PAGES)
def test_the_options_of_each_command_on_a_page_are_there(name):
    for _, file, options in commands_in(PAGES[name]):
        if file == "FILE.py":  # the reader's own: docs/extending.md, run by tests/test_extending.py
            continue
        config = load_experiment(str(ROOT / (file if file.startswith("exp") else QUICKSTART)))
        refuse_unknown([config, *COMMAND_OPTIONS], options)
    assert name != "README.md" or len(commands_in(README)) > 15


def test_options_and_fields_that_the_readme_mentions_are_there():
    """`--loop.keep`, `--evaluation.sampling.*`, `reward.divide_by`."""
    config = load_experiment(str(ROOT / QUICKSTART))
    groups = {"data", "model", "evaluation", "ending", "loop", "parallel", *config.stages}
    mentioned = re.findall(r"`(--[\w.-]+[\w])", README)
    mentioned += [f"--{path}" for path in re.findall(r"`(\w+(?:\.\w+)+)`", README)
                  if path.split(".")[0] in groups and not path.endswith((".json", ".py"))
                  ]  # fmt: skip
    assert len(mentioned) > 8
    for option in mentioned:
        try:
            refuse_unknown([config, *COMMAND_OPTIONS], [option])
        except UserError as error:  # of `--loop.*`, `loop` is a group
            assert "it names a group of options" in str(error), error


def test_the_page_on_testing_names_existing_tests_and_targets():
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|docs|rlhf_jax)/[\w./]+)`", page)
    assert len(named) > 20 and [path for path in named if not (ROOT / path).exists()] == []
    made = re.findall(r"`make ([\w-]+)`", page)
    assert {"test", "test-mutants"} <= set(made) <= set(TARGETS)


def test_the_readme_s_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
