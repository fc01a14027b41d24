"""Runs notebooks and writes them with their outputs: python notebooks/execute.py [NAME.py ...]

The NAME.py are the sources (jupytext's percent format), NAME.ipynb beside them what comes of them.
"""

import os
import sys
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat

HERE = Path(__file__).resolve().parent
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
}


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source, run from top to bottom on one device a process.

    Raises nbclient.exceptions.CellExecutionError where a cell does.
    """
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{source.stem[:2]}-{number}", {}
    client = nbclient.NotebookClient(
        notebook, timeout=600, startup_timeout=300, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )  # fmt: skip
    simulated = "XLA_FLAGS"  # the tests ask for eight devices there
    client.execute(env={name: value for name, value in os.environ.items() if name != simulated})
    return notebook


def main(names: list[str]) -> None:
    sources = [HERE / Path(name).name for name in names] or sorted(HERE.glob("[0-9]*.py"))
    for source in sources:
        started = time.monotonic()
        nbformat.write(execute(source), source.with_suffix(".ipynb"))
        print(f"{source.name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
