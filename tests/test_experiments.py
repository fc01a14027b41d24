"""Experiments, config fields and the README say only what is there."""

import ast
import re
import runpy
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.data.collect import DataOptions
from rlhf_jax.errors import UserError
from rlhf_jax.estimators.lab import LabConfig
from rlhf_jax.evaluation.benchmarks.known import BENCHMARKS
from rlhf_jax.labelling.options import ExportLabelsOptions, LabelOptions, LabelWinsOptions
from rlhf_jax.plan.command import PlanOptions
from rlhf_jax.published.fetch import FetchOptions
from rlhf_jax.runs.benchmarking import EvalOptions
from rlhf_jax.runs.compare import CompareOptions
from rlhf_jax.runs.cross_validation import CrossValidateOptions
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.runs.export import ExportOptions
from rlhf_jax.runs.generate import GenerateOptions
from rlhf_jax.runs.lm_eval import LmEvalOptions
from rlhf_jax.runs.options import ChainOptions, refuse_unknown
from rlhf_jax.runs.replay import ReplayOptions
from rlhf_jax.runs.scoring import ScoreOptions
from rlhf_jax.runs.show import ShowOptions
from rlhf_jax.runs.sweep import SweepOptions

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
PACKAGE = sorted((ROOT / "rlhf_jax").rglob("*.py"))
CONFIGURE = ("Config", "Controller", "Options", "Data")
BASES = {"Stage", "Source", "Evaluator"}
COMMAND_OPTIONS = (ChainOptions(), GenerateOptions(), ScoreOptions(), PlanOptions("v5e:2x2"),
                   ReplayOptions(), SweepOptions(), CompareOptions(), DataOptions(),
                   ExportOptions(), FetchOptions(), ShowOptions(), LabelOptions(),
                   ExportLabelsOptions(), EvalOptions(), LmEvalOptions(),
                   CrossValidateOptions(), LabelWinsOptions(),
                   {name: kind() for name, kind in BENCHMARKS.items()})  # fmt: skip


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


PAGES = {path.name: path.read_text(encoding="utf-8")
         for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *EXPERIMENTS]
         }  # fmt: skip
MARKDOWN = [name for name in PAGES if name.endswith(".md")]
# The experiment of these pages is a file of the reader's, whose options are its own.
OURS = [name for name in MARKDOWN if name not in ("extending.md", "policy_gradients.md")]
CODE = [line.split("  #")[0].strip() for name in MARKDOWN for line in PAGES[name].splitlines()
        if line.startswith("    ")]  # fmt: skip
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
QUICKSTART = "experiments/quickstart.py"
OF_PAGE = dict.fromkeys(
    ("data.md", "chat.md"), "experiments/folder.py"
)  # the experiment whose fields a page mentions


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


def test_the_pages_name_existing_targets_extras_and_commands():
    made = [line.split()[1] for line in CODE if line.startswith("make ")]
    assert {"quickstart", "test"} <= set(made) <= set(TARGETS)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    extras = re.findall(r"pip install '[^\['`]*\[(\w+)\]'", "\n".join(PAGES.values()))
    assert {"cuda", "tpu", "wandb", "gcs"} <= set(extras)
    assert [extra for extra in extras if f'"{extra}": ' not in setup] == []
    calls = commands_in(PAGES["README.md"])
    assert len(calls) > 12
    assert {"run", "sft", "generate", "score", "sweep", "compare"} <= {name for name, *_ in calls}


@pytest.mark.parametrize("name", OURS)
def test_each_command_of_a_page_is_there(name):
    for command, file, _ in commands_in(PAGES[name]):
        if command.startswith("experiments/"):  # lists its stages
            assert (ROOT / command).is_file() and not file
        elif file.startswith("experiments/"):
            known = {*cli.COMMANDS, *load_experiment(str(ROOT / file)).stages}
            assert command in known, (command, file)
        elif command not in ("STAGE", "COMMAND") and not command.endswith(".py"):
            assert command in {*cli.COMMANDS, *load_experiment(str(ROOT / QUICKSTART)).stages}


@pytest.mark.parametrize("name", PAGES)
def test_the_options_of_each_command_on_a_page_are_there(name):
    for _, file, options in commands_in(PAGES[name]):
        if file == "FILE.py":  # the reader's own: docs/extending.md, run by tests/test_extending.py
            continue
        config = load_experiment(
            str(ROOT / (file if file.startswith("experiments/") else QUICKSTART))
        )
        options = [option for option in options if option != "--over"]
        refuse_unknown([config, *COMMAND_OPTIONS], options)


# docs/objectives.md has fields of other libraries too.
@pytest.mark.parametrize("name", sorted({*OURS} - {"objectives.md"}))
def test_options_and_fields_that_a_page_mentions_are_there(name):
    """`--loop.keep`, `--evaluation.sampling.*`, `reward.divide_by`."""
    config = load_experiment(str(ROOT / OF_PAGE.get(name, QUICKSTART)))
    groups = {"data", "model", "evaluation", "ending", "loop", "parallel", *config.stages}
    mentioned = re.findall(r"`(--[\w.-]+[\w])", PAGES[name])
    mentioned += [f"--{path}" for path in re.findall(r"`(\w+(?:\.\w+)+)`", PAGES[name])
                  if path.split(".")[0] in groups
                  and not path.endswith((".json", ".py", ".safetensors"))]  # fmt: skip
    assert name != "README.md" or len(mentioned) > 4
    for option in set(mentioned) - {"--over"}:
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


@pytest.mark.parametrize("name", MARKDOWN)
def test_the_links_of_a_page_lead_somewhere(name):
    folder = ROOT if name == "README.md" else ROOT / "docs"
    text = re.sub(r"^```.*?^```$", "", PAGES[name], flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert links or name != "README.md"
    assert [link for link in links if not (folder / link).exists()] == []
