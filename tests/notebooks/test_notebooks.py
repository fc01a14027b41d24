"""The notebooks: source and outputs agree, and (slow) every cell runs."""

import importlib.util
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
parametrise = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def test_all_four_are_there():
    assert [path.stem[:2] for path in SOURCES] == ["01", "02", "03", "04"]


@parametrise
def test_the_notebook_is_its_source_with_outputs(source):
    """`make notebooks` writes the one from the other."""
    ours, theirs = jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(theirs)
    cells = lambda notebook: [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert cells(ours) == cells(theirs), "run make notebooks"
    code = [cell for cell in theirs.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert source.with_suffix(".ipynb").stat().st_size < 300_000


@parametrise
def test_the_top_says_what_it_shows_and_how_long_it_takes(source):
    top = jupytext.read(source).cells[0].source
    assert top.startswith("# ")
    assert re.search(r"\*\*Shows:\*\*.+\*\*Takes:\*\* .*(minute|second)", top, re.DOTALL)


@pytest.mark.slow
@parametrise
def test_every_cell_runs(source):
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.execute(source)
