"""Every mutant still applies to the code and names a test that exists; the runner's verdicts."""

import ast
import functools
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import ROOT, DoesNotApply, Mutant, apply
from tests.mutants.__main__ import try_one
from tests.mutants.table import TABLE

SOURCE = '''
LIMIT = 3

class Mean:
    decay: float = 0.9

    def of(self, x):
        return x + 1


def of(x):
    """x + 1."""
    return x \\
        + 1
'''
TEST = """
import pytest

from rlhf_jax.f import LIMIT, of

def test_value():
    assert of(1) == 2

def test_nothing():
    of(1)

def test_skipped():
    if of(1) != 2:
        pytest.skip()

def test_error():
    if of(1) != 2:
        raise ValueError(f"of(1) = {of(1)}")
"""


@functools.cache
def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@functools.cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse(text_of(path))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_mutant_applies():
    wrong = []
    for mutant in TABLE:
        try:
            apply(mutant, text_of(mutant.path))
        except (DoesNotApply, FileNotFoundError) as error:
            wrong.append(f"{mutant}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_test_of_the_table_exists():
    nodes = {mutant.node.split("[")[0] for mutant in TABLE}
    there = lambda file, name: (ROOT / file).is_file() and name in functions_of(file)
    assert [node for node in sorted(nodes) if not there(*node.split("::"))] == []


def test_the_sample_has_tests_of_every_module_of_its_rooms():
    """Read as text: tests/mutants/sample.py imports what is not there for most tests."""
    tree = ast.parse(text_of("tests/mutants/sample.py"))
    (value,) = (
        x.value for x in tree.body if isinstance(x, ast.Assign) and x.targets[0].id == "TESTS"
    )
    tests = ast.literal_eval(value)
    packages = {name.split("/")[0] for name in tests}
    files = (
        path for package in packages for path in (ROOT / "rlhf_jax" / package).glob("[!_]*.py")
    )
    assert tests.keys() == {f"{path.parent.name}/{path.name}" for path in files}
    assert [t for of in tests.values() for t in of if not (ROOT / "tests" / t).is_file()] == []


def test_no_mutant_is_there_twice():
    counts = Counter((mutant.detail, str(mutant), mutant.test) for mutant in TABLE)
    assert [what for what, count in counts.items() if count > 1] == []


@pytest.mark.parametrize(
    "scope, old, why",
    [
        ("of", "y + 1", "0 times"),
        ("Mean", "x", "2 times"),
        ("off", "x + 1", "there is no off"),
        ("Mean.off", "x + 1", "there is no Mean.off"),
    ],
)
def test_a_text_that_is_not_there_once_is_refused(scope, old, why):
    with pytest.raises(DoesNotApply, match=why):
        apply(Mutant("f.py", scope, old, "0", "test"), SOURCE)


@pytest.mark.parametrize("new, why", [("x +", "no Python"), ("(x + 1)", "same program")])
def test_a_change_must_make_another_program(new, why):
    with pytest.raises(DoesNotApply, match=why):
        apply(Mutant("f.py", "Mean.of", "x + 1", new, "test"), SOURCE)


def test_only_what_the_scope_names_is_changed():
    changed = apply(Mutant("f.py", "Mean.of", "x + 1", "x + 2", "test"), SOURCE)
    assert changed == SOURCE.replace("        return x + 1", "        return x + 2")
    changed = apply(Mutant("f.py", "of", "x", "y", "test"), SOURCE.replace("of(x)", "of(y)"))
    assert '"""x + 1."""' in changed and "return y" in changed  # a docstring is no code
    assert "LIMIT = 4" in apply(Mutant("f.py", "LIMIT", "3", "4", "test"), SOURCE)
    assert "decay: float = 0.8" in apply(Mutant("f.py", "Mean.decay", "0.9", "0.8", "t"), SOURCE)


def test_a_file_that_is_no_python_is_changed_by_its_text():
    script = "const one = 1; // one\nconst two = 2;\n"
    changed = apply(Mutant("f.js", "", "two = 2", "two = 3", "test"), script)
    assert changed == script.replace("two = 2", "two = 3")
    with pytest.raises(DoesNotApply, match="2 times"):
        apply(Mutant("f.js", "", "one", "two", "test"), script)


@pytest.mark.parametrize(
    "new, test, expected",
    [
        ("return x", "test_value", "killed"),
        ("return x", "test_nothing", "survived"),
        ("return x", "test_skipped", "skipped"),
        ("return x", "test_error", "another error than AssertionError: ValueError: of(1) = 1"),
        ("return y", "test_value", "another error than AssertionError: NameError"),
        ("return x", "test_absent", "pytest ended with exit code 4"),
    ],
)
def test_a_mutant_is_killed_by_an_assertion_only(tmp_path: Path, new, test, expected):
    for name, text in (("rlhf_jax/f.py", SOURCE), ("tests/test_f.py", TEST)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    mutant = Mutant("f.py", "of", "return x \\ + 1", new, f"test_f.py::{test}")
    assert try_one(mutant, tmp_path)[0].startswith(expected)
    assert (tmp_path / "rlhf_jax/f.py").read_text(encoding="utf-8") == SOURCE


def test_a_file_that_cannot_be_imported_kills_nothing(tmp_path: Path):
    for name, text in (("rlhf_jax/f.py", SOURCE), ("tests/test_f.py", TEST)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    mutant = Mutant("f.py", "LIMIT", "3", "absent", "test_f.py::test_value")
    assert try_one(mutant, tmp_path)[0] == "pytest ended with exit code 4"
