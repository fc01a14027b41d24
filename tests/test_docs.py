"""The code of docs/extending.md: its blocks are an experiment that runs as it stands."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_blocks_are_an_experiment_that_runs(tmp_path):
    (tmp_path / "sums.py").write_text("\n\n".join(blocks("python")))
    environment = os.environ | {
        "XLA_FLAGS": "",  # one device
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "rlhf_jax.cli", "run", "sums.py"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "runs" / "sums" / "report.json").read_text())["policies"]
    assert found.keys() == {"base", "focal"}
    for columns in found.values():
        assert columns.keys() == {"gold_score", "digits"}
    assert found["focal"]["digits"]["mean"] > found["base"]["digits"]["mean"]


def test_an_excerpt_is_what_stands_in_its_file():
    (excerpt,) = blocks("python excerpt of tests/outside.py")
    lines = (ROOT / "tests" / "outside.py").read_text(encoding="utf-8")
    assert textwrap.indent(excerpt, " " * 8) in lines


def test_no_block_is_left_out():
    assert PAGE.count("```") == 2 * (len(blocks("python")) + len(blocks(r"python excerpt .*?")))
