"""Wrong edits of the code, each with the test that must notice it.

A mutant names a function, a text that stands in it once, and another text in its place. The runner
(`python -m tests.mutants`) applies one at a time to a copy and runs the one test, which must fail
by an assertion. The tables are modules of this package: `MUTANTS` of each, by part of the code.
"""

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    """`scope` is a function, a class, Class.method, or a name that the module assigns; "" in a file
    that is no Python."""

    file: str  # under rlhf_jax/, or under the repository: "experiments/..."
    scope: str
    old: str  # white space is any white space
    new: str
    test: str  # under tests/, as pytest names it
    error: str = "AssertionError"  # by which the test must fail
    detail: str | None = None  # the row of docs/details.md that it takes out

    @property
    def path(self) -> str:
        return self.file if self.file.startswith("experiments/") else f"rlhf_jax/{self.file}"

    @property
    def node(self) -> str:
        return f"tests/{self.test}"

    @property
    def about(self) -> str:
        """All that may be searched for."""
        row = "" if self.detail is None else f"details.md: {self.detail}"
        return f"{self} {self.test} {row}"

    def __str__(self) -> str:
        return f"{self.path}:{self.scope}: {self.old!r} -> {self.new!r}"


def mutants(file: str, tests: str, rows: Iterable[tuple]) -> tuple[Mutant, ...]:
    """Mutants of one file: rows of (scope, old, new, test[, error]), tests of the file `tests`."""

    def full(test: str) -> str:
        return test if "::" in test else f"{tests}::{test}"

    return tuple(Mutant(file, *row[:3], full(row[3]), *row[4:]) for row in rows)


class DoesNotApply(Exception):
    """The text is not in the function, or more than once, or the result is no Python."""


def apply(mutant: Mutant, source: str) -> str:
    """The source with the mutant's change in it; raises DoesNotApply."""
    if not mutant.file.endswith(".py"):
        first, last = _place(mutant, source, (0, 0))
        return source[:first] + mutant.new + source[last:]
    lines = source.splitlines(keepends=True)
    node = _find(_parsed(source), mutant.scope)
    decorators = getattr(node, "decorator_list", [])
    start = min(part.lineno for part in (node, *decorators)) - 1
    before, body, after = lines[:start], lines[start : node.end_lineno], lines[node.end_lineno :]
    told = _docstring(node)
    words = sum(map(len, lines[start : told[0]])), sum(map(len, lines[start : told[1]]))
    text = "".join(body)
    first, last = _place(mutant, text, words)
    changed = text[:first] + mutant.new + text[last:]
    try:
        same = ast.dump(ast.parse(dedent(changed))) == ast.dump(ast.parse(dedent(text)))
    except SyntaxError as error:
        raise DoesNotApply(f"the result is no Python: {error}") from None
    if same:
        raise DoesNotApply("the result is the same program")
    return "".join([*before, changed, *after])


def _place(mutant: Mutant, text: str, words: tuple[int, int]) -> tuple[int, int]:
    """Where the text to change stands, outside of `words`, a docstring."""
    pattern = re.compile(r"\s+".join(map(re.escape, mutant.old.split())))
    places = [m.span() for m in pattern.finditer(text) if not words[0] <= m.start() < words[1]]
    if len(places) != 1:
        raise DoesNotApply(
            f"{mutant.scope or mutant.path} has this text {len(places)} times, not once"
        )
    return places[0]


@functools.lru_cache(8)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _docstring(node: ast.stmt) -> tuple[int, int]:
    """The lines that it spans, which no mutant changes: [start, end), from 0."""
    first = getattr(node, "body", [None])[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first.lineno - 1, first.end_lineno
    return 0, 0


def _find(node: ast.AST, scope: str) -> ast.stmt:
    for name in scope.split("."):
        found = [child for child in ast.walk(node) if child is not node and _named(child, name)]
        if not found:
            raise DoesNotApply(f"there is no {scope}")
        node = found[0]  # the outermost: ast.walk goes by depth
    return node


def _named(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name == name
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    assigns = isinstance(node, ast.Assign | ast.AnnAssign)
    return assigns and any(isinstance(t, ast.Name) and t.id == name for t in targets)
