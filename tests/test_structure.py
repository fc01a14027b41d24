"""How the package is built: subpackages that import downwards only, no circle, and nothing that
chooses by a made-up name, or by the kind of a stage, a source or an evaluator."""

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.sources.source import Source
from rlhf_jax.stages.stage import Stage

ROOT = Path(__file__).resolve().parents[1]
# From the lowest up. A module imports from its own subpackage and from those of earlier lines;
# subpackages of one line do not import each other.
LAYERS = (
    ("errors",),
    ("strict_json", "randomness", "fields", "usage"),
    ("objectives",),
    ("models",),
    ("parallel",),
    ("durable",),
    ("data",),
    ("generation", "published", "worlds"),
    ("feedback",),
    ("sources",),
    ("training",),
    ("jaxprs",),
    ("rewards",),
    ("stages",),
    ("estimators", "evaluation"),
    ("runs",),
    ("labelling", "plan", "api"),
    ("cli",),
)
# getattr and the like, other than with a literal name or of an object's own fields: why it may be.
BY_NAME = {
    "data/records.py:to_json": "the fields of a record, listed in FIELDS",
    "durable/fingerprint.py:fingerprint_of": "every field of a dataclass",
    "estimators/bench.py:facts_of": "arrays of a rollout, listed beside it",
    "evaluation/graders/confined.py:run": "the program that is judged",
    "models/config.py:different_fields": "every field of a shape",
    "plan/suggest.py:options": "every field of a stage, to say which differ",
    "rewards/worker.py:load": "the function that a reward names",
    "runs/experiment.py:load_experiment": "`config` of an experiment file",
    "runs/field_texts.py:_docstring": "the docstring of a class, and not that of a class above it",
    "runs/memory.py:remedies": "the fields that a stage names in memory_fields, for a message",
    "runs/options.py:_changed": "every field of a config, as options",
    "runs/options.py:_fields": "every field of a config, as options",
    "runs/options.py:parse": "every field of a config, as options",
    "runs/run.py:_check_model": "the field of a shape that differs, for a message",
    "training/optimizer.py:__post_init__": "the default of a field that a method does not read",
    "worlds/grading.py:score": "flags of a grade, listed in WEIGHTS",
    "worlds/instruction.py:__post_init__": "every field of a size",
}
KINDS = (Stage, Source, Evaluator)
# Subpackages that go over stages and know no name.
NAMELESS = ("runs", "plan", "evaluation", "cli")
NAMES = {"pretrain", "prompted", "sft", "ppo", "ppo_ptx", "dpo"}


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by name, parsed."""
    found = {}
    for path in sorted((ROOT / "rlhf_jax").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


def subpackage(module: str) -> str:
    return module.split(".")[1]


def imports(module: str, for_types: bool) -> Iterator[str]:
    """The modules of the package that a module imports; for_types: those too that it reads only to
    check types."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            only_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if for_types or not only_types:
                yield child
                yield from walk(child)

    for node in walk(modules()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


def inner_modules() -> list[str]:
    return [name for name in modules() if name != "rlhf_jax"]


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every node of a module with the name of the function that it stands in."""

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef) else name
            yield inner, child
            yield from walk(child, inner)

    return walk(tree, "")


def test_every_subpackage_has_its_layer():
    declared = [name for line in LAYERS for name in line]
    assert len(declared) == len(set(declared))
    assert {subpackage(name) for name in inner_modules()} == set(declared)


def test_imports_go_downwards():
    level = {name: height for height, line in enumerate(LAYERS) for name in line}
    wrong = [
        f"{module} imports {other}"
        for module in inner_modules()
        for other in imports(module, for_types=True)
        if subpackage(module) != subpackage(other)
        and level[subpackage(other)] >= level[subpackage(module)]
    ]
    assert not wrong


def test_readme_lists_every_subpackage_from_the_lowest_up():
    table = (ROOT / "README.md").read_text().partition("| package | content |")[2]
    rows = re.findall(r"^\| (`.+?) \|", table.partition("\n\n")[0], re.M)
    lines = [re.findall(r"`(\w+)/`", row) for row in rows]
    height = {name: at for at, names in enumerate(lines) for name in names}
    folders = {path.parent.name for path in (ROOT / "rlhf_jax").glob("*/__init__.py")}
    assert height.keys() == folders
    wrong = [
        f"{module} imports {other}"
        for module in inner_modules()
        for other in imports(module, for_types=True)
        if {subpackage(module), subpackage(other)} <= folders
        and height[subpackage(other)] > height[subpackage(module)]
    ]
    assert not wrong


def test_no_circle():
    """Of what runs: a type may be named by a module that the other imports."""
    found, done = [], set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        if module in above:
            found.append(" -> ".join((*above[above.index(module) :], module)))
        elif module not in done:
            for other in imports(module, for_types=False):
                visit(other, (*above, module))
            done.add(module)

    for module in inner_modules():
        visit(module, ())
    assert not found


def by_name(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """What reaches an attribute by a name that is no literal, with its function; but a check of an
    object's own fields, one after the other, may."""
    for function, node in functions(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("__dict__", "__getattribute__"):
            yield function, node
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id in ("vars", "globals", "locals", "eval", "exec"):
            yield function, node
        if node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
            owner, name = node.args[:2]
            own = function == "__post_init__" and ast.unparse(owner) == "self"
            if not isinstance(name, ast.Constant) and not (own and isinstance(name, ast.Name)):
                yield function, node


def test_attributes_are_reached_by_made_up_names_nowhere():
    found = {}
    for module in inner_modules():
        for function, node in by_name(modules()[module]):
            place = "/".join(module.split(".")[1:])
            found[f"{place}.py:{function}"] = ast.unparse(node)
    assert found.keys() - BY_NAME.keys() == set(), found
    assert BY_NAME.keys() - found.keys() == set()


@pytest.mark.parametrize(
    "line",
    [
        'getattr(self, f"_{stage}")()',
        "getattr(self, stage)()",
        "vars(self)[stage]()",
        "self.__dict__[stage]()",
        'globals()["run_" + stage]()',
    ],
)
def test_the_ways_to_make_up_a_name_are_known(line):
    run = ast.parse(f"class Run:\n    def finish(self, stage):\n        {line}")
    assert [function for function, _ in by_name(run)] == ["finish"]
    known = "getattr(jax, 'jit'), self.stages[stage].task(inputs)"
    assert not list(by_name(ast.parse(known)))


def kinds() -> set[str]:
    """The names of all stages, sources and evaluators of the package, the protocols included."""
    for module in inner_modules():
        if subpackage(module) in ("stages", "sources", "evaluation"):
            importlib.import_module(module)
    found, left = set(), list(KINDS)
    while left:
        kind = left.pop()
        found.add(kind.__name__)
        left += kind.__subclasses__()
    return found


def asks_for_a_kind(node: ast.AST, names: set[str]) -> bool:
    """isinstance(x, Kind), issubclass(x, Kind), type(x) is Kind, match x: case Kind(), and
    {Kind: ...}[type(x)]."""
    named = lambda tree: any(
        (isinstance(n, ast.Name) and n.id in names)
        or (isinstance(n, ast.Attribute) and n.attr in names)
        for n in ast.walk(tree)
    )
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("isinstance", "issubclass") and named(node.args[1])
    if isinstance(node, ast.Compare):
        return any(named(side) for side in (node.left, *node.comparators))
    if isinstance(node, ast.MatchClass):
        return named(node.cls)
    return isinstance(node, ast.Dict) and any(named(key) for key in node.keys if key)


def test_nothing_asks_which_kind_of_stage_source_or_evaluator_it_has():
    names = kinds()
    some = {"Stage", "PolicyGradient", "SimulatedFeedback", "Source", "WorldData", "Evaluator"}
    assert some <= names
    wrong = [
        f"{module}:{node.lineno}: {ast.unparse(node)[:80]}"
        for module in inner_modules()
        for node in ast.walk(modules()[module])
        if asks_for_a_kind(node, names)
    ]
    assert not wrong


def test_what_goes_over_stages_names_none():
    wrong = [
        f"{module}:{node.lineno}: {node.value!r}"
        for module in inner_modules()
        if subpackage(module) in NAMELESS
        for node in ast.walk(modules()[module])
        if isinstance(node, ast.Constant) and node.value in NAMES
    ]
    assert not wrong


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(stage, PPO)",
        "issubclass(type(stage), (SFT, ppo_stage.PPO))",
        "type(stage) is SFT",
        "match stage:\n    case PPO(): pass",
        "{PPO: 1}[type(stage)]",
    ],
)
def test_the_ways_to_ask_for_a_kind_are_known(line):
    assert any(asks_for_a_kind(node, {"PPO", "SFT"}) for node in ast.walk(ast.parse(line)))
    assert not any(asks_for_a_kind(node, {"DPO"}) for node in ast.walk(ast.parse(line)))
