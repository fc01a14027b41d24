"""Every row of docs/details.md names what exists, and a mutant that its test must kill."""

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.mutants.details import MUTANTS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "details.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+) \| (\S+\.py):(\w+) \| (\S+\.py)::(\w+) \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(PAGE)]


@functools.cache
def defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    assigned = [target for node in tree.body if isinstance(node, ast.Assign)
                for target in node.targets if isinstance(target, ast.Name)]  # fmt: skip
    return {node.name for node in tree.body if isinstance(node, kinds)} | {x.id for x in assigned}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_what_a_row_names_exists(row):
    _, file, name, test_file, test = row
    assert name in defined(ROOT / "rlhf_jax" / file)
    assert test in defined(ROOT / "tests" / test_file)


def test_every_row_has_a_mutant_of_its_function_and_its_test():
    rows = {detail: (file, name, f"{where}::{test}") for detail, file, name, where, test in ROWS}
    found = {
        mutant.detail: (mutant.file, mutant.scope.split(".")[0], mutant.test.split("[")[0])
        for mutant in MUTANTS
    }
    assert len(rows) == len(ROWS)  # no two rows of one text
    assert found.keys() == rows.keys()
    assert {detail: row for detail, row in rows.items() if found[detail] != row} == {}
    same = {(mutant.detail, *found[mutant.detail]) for mutant in MUTANTS}
    assert same == {
        (m.detail, m.file, m.scope.split(".")[0], m.test.split("[")[0]) for m in MUTANTS
    }


def test_every_line_of_a_table_is_a_row_a_reason_or_a_heading():
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    headings = sum(line.startswith(("| detail |", "| fault |")) for line in lines)
    rules = sum(set(line) <= set("|-") for line in lines)
    reasons = sum(len(line.split(" | ")) == 2 for line in lines) - sum(
        line == "| detail | why |" for line in lines
    )
    assert headings == rules and len(ROWS) > 60 and reasons > 15
    assert len(lines) == len(ROWS) + reasons + headings + rules


def test_all_21_details_of_huang_are_there():
    section = PAGE.split("## The N implementation details")[1].split("\n## ")[0]
    numbers = {int(n) for n in re.findall(r"^\| (\d+)\. ", section, re.MULTILINE)}
    assert numbers == set(range(1, 22))
