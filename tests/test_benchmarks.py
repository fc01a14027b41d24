"""The benchmark runs and writes what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "ppo_iteration.py"


@pytest.mark.slow
def test_one_iteration_of_tiny(tmp_path):
    out = tmp_path / "bench.json"
    command = [sys.executable, str(BENCHMARK), "--sizes", "tiny", "--iterations", "1"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(out.read_text())
    phases = ("generation", "scoring", "update")
    assert sum(result["shares"].values()) == pytest.approx(1.0)
    total = sum(result["seconds"][phase] for phase in phases)
    assert result["iteration_seconds"] == pytest.approx(total)
    rate = 64 * 48 / result["seconds"]["generation"]
    assert result["generated_tokens_per_second"] == pytest.approx(rate)
    assert 0 < result["peak_memory_gib"] < 24 and result["compile_seconds"] > 0
    assert "tokens/s" in done.stdout
