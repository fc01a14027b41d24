"""docs/objectives.md lists every public function, and names nothing that does not exist.

The objects of estimator.py have their rows in docs/policy_gradients.md (tests/test_docs.py).
"""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import rlhf_jax.objectives

ROOT = Path(__file__).resolve().parents[2]
ROOM = Path(rlhf_jax.objectives.__file__).parent
PAGE = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+) \| (.+) \| (.+) \| (\w+\.py):(\w+) \| (\S+) \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(PAGE)]


def module_of(file: str):
    return importlib.import_module(f"rlhf_jax.objectives.{file.removesuffix('.py')}")


def public_names():
    for path in sorted(ROOM.glob("[!_]*.py")):
        module = module_of(path.name)
        for name, thing in inspect.getmembers(module):
            defined = getattr(thing, "__module__", None) == module.__name__
            if defined and not name.startswith("_") and callable(thing):
                yield path.name, name


def test_every_public_function_has_one_row_and_every_row_a_function():
    listed = [(file, name) for *_, file, name, _ in ROWS]
    assert sorted(listed) == sorted(n for n in public_names() if n[0] != "estimator.py")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[4])
def test_the_oracle_of_each_row_exists(row):
    *_, oracle = row
    file, test, case = re.fullmatch(r"(\w+)\.py::(\w+)(?:\[(.+)\])?", oracle).groups()
    module = importlib.import_module(f"tests.objectives.{file}")
    assert callable(getattr(module, test))
    if case:
        assert case in {known.name for known in module.CASES}


@pytest.mark.parametrize("file, name", sorted(public_names()), ids=lambda x: x)
def test_every_public_function_has_a_docstring(file, name):
    assert inspect.getdoc(getattr(module_of(file), name))


def test_the_room_knows_no_model_no_file_and_no_device():
    allowed = {"rlhf_jax.errors", "rlhf_jax.objectives", "jax", "chex", "dataclasses", "typing"}
    for path in ROOM.glob("*.py"):
        for line in re.findall(r"^(?:from|import) ([\w.]+)", path.read_text(), re.MULTILINE):
            roots = {line, line.split(".")[0], ".".join(line.split(".")[:2])}
            assert roots & (allowed | {"collections.abc"}), f"{path.name} imports {line}"
