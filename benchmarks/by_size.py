"""What the benchmarks share: each size in a process of its own, one table, one JSON file."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rlhf_jax.parallel.host import large_pages


def main(
    script: str,
    title: str,
    measure: Callable[[str, int], dict],
    rows: dict[str, Callable[[dict], str]],
    word: str,
    times: dict[str, int],
) -> None:
    """The command line of a benchmark.

    script: its file. measure: (size, times) -> figures of one size. rows: the table's, and how each
    writes one figure. word: the option that says how often; times: the most of it, by size.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--sizes", nargs="+", choices=tuple(times), default=list(times))
    parser.add_argument(f"--{word}", type=int, default=max(times.values()), dest="times")
    parser.add_argument("--out", type=Path, default=Path(f"runs/bench/{Path(script).stem}.json"))
    parser.add_argument("--here", action="store_true", help="one size, in this process, as JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.sizes[0], options.times)))
        return
    results = []
    for size in options.sizes:
        command = [sys.executable, script, "--here", "--sizes", size]
        command += [f"--{word}", str(min(options.times, times[size]))]
        results.append(ask(command))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_table(title, results, rows)
    print(options.out)


def ask(command: list[str]) -> dict:
    """The last line that a command prints, as JSON. It starts with large pages."""
    environment = os.environ | large_pages(os.environ)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def print_table(title: str, results: list[dict], rows: dict[str, Callable[[dict], str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = Table(title=title)
    columns.add_column("")
    for result in results:
        columns.add_column(result["size"], justify="right")
    for name, cell in rows.items():
        columns.add_row(name, *map(cell, results))
    Console().print(columns)
