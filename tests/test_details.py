"""docs/details.md names nothing that does not exist."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "details.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+) \| (\S+\.py):(\w+) \| (\S+\.py)::(\w+) \|$", re.MULTILINE)
ROWS = [match.groups() for match in ROW.finditer(PAGE)]


@functools.cache
def defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_what_a_row_names_exists(row):
    _, file, name, test_file, test = row
    assert name in defined(ROOT / "rlhf_jax" / file)
    assert test in defined(ROOT / "tests" / test_file)


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
    numbers = {int(n) for n in re.findall(r"^\| (\d+) ", section, re.MULTILINE)}
    assert numbers == set(range(1, 22))
