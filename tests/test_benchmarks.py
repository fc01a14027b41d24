"""The benchmarks run and write what they print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(tmp_path, name, *options) -> tuple[dict, str]:
    """The one result of a benchmark, and its table."""
    out = tmp_path / "bench.json"
    command = [sys.executable, str(BENCHMARKS / name), *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(out.read_text())
    return result, done.stdout


@pytest.mark.slow
def test_one_iteration_of_tiny(tmp_path):
    options = ("--sizes", "tiny", "--iterations", "1")
    result, table = run(tmp_path, "ppo_iteration.py", *options)
    phases = ("generation", "scoring", "update")
    assert sum(result["shares"].values()) == pytest.approx(1.0)
    total = sum(result["seconds"][phase] for phase in phases)
    assert result["iteration_seconds"] == pytest.approx(total)
    rate = 64 * 48 / result["seconds"]["generation"]
    assert result["generated_tokens_per_second"] == pytest.approx(rate)
    assert 0 < result["peak_memory_gib"] < 24 and result["compile_seconds"] > 0
    assert "tokens/s" in table


@pytest.mark.slow
def test_one_save_between_steps(tmp_path):
    result, table = run(tmp_path, "checkpointing.py", "--sizes", "tiny", "--saves", "1")
    (added,), (step,) = result["checkpoint_seconds_all"], result["step_seconds_all"]
    assert result["share_at_default"] == pytest.approx(added / (100 * step))
    assert 3 * result["parameters"] * 4 > 2**20 * result["checkpoint_mib"] > result["parameters"]
    assert 0 < result["blocking_seconds"] < result["written_seconds"] and step > 0
    assert f"{result['share_at_default']:.2%}" in table


@pytest.mark.slow
def test_a_step_beside_the_machine_and_a_peer_that_is_not_there(tmp_path):
    out = tmp_path / "bench.json"
    options = ("--works", "sft", "--sizes", "tiny", "--rounds", "1", "--times", "1")
    peer = tmp_path / "python"  # has no torch, and ends
    peer.write_text("#!/bin/sh\nexit 3\n")
    peer.chmod(0o755)
    command = [sys.executable, str(BENCHMARKS / "speed.py"), *options, "--out", str(out)]
    command += ["--peer-python", str(peer)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    machine, ours = json.loads(out.read_text())
    assert "no peer of sft tiny" in done.stderr and ours["who"] == "rlhf_jax"
    # 3 x tokens x (24 layers D^2 + 4 layers D T + 2 D V)
    tokens, layers, width, length, vocabulary = 16 * 128, 4, 256, 128, 8192
    each = 24 * layers * width**2 + 4 * layers * width * length + 2 * width * vocabulary
    flops = ours["tflops_per_second"] * ours["seconds"] * 1e12
    assert flops == pytest.approx(3 * tokens * each, rel=0.01)
    assert ours["limit_seconds"] >= flops / machine["product_flops_per_second"] * 0.999
    assert ours["share"] == pytest.approx(ours["limit_seconds"] / ours["seconds"])
    assert "sft tiny" in done.stdout.splitlines()[-1]


def test_a_ppo_step_is_read_in_few_files_and_lines():
    command = [sys.executable, "-m", "benchmarks.ppo_step_size"]
    done = subprocess.run(
        command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=True
    )
    size = re.compile(r"([\d,]+) +lines in (\d+) files")
    lines, files = (int(n.replace(",", "")) for n in size.search(done.stdout).groups())
    assert files <= 30 and lines < 1800
    named = [line.split() for line in done.stdout.splitlines()[:-1]]
    assert sum(int(count) for count, _ in named) == lines and len(named) == files
    assert {"stages/policy_update.py", "generation/decode.py", "models/transformer.py"} < {
        name for _, name in named
    }
    about = (BENCHMARKS / "ppo_step_size.py").read_text(encoding="utf-8")
    told = [int(n.replace(",", "")) for n in size.search(about).groups()]
    assert told == pytest.approx([lines, files], rel=0.05)  # else write it anew


@pytest.mark.slow
def test_slots_beside_all_rows(tmp_path):
    """In float32 at most one row parts; responses are shorter than the longest allowed."""
    out = tmp_path / "slots.json"
    options = ("--rows", "8", "--response", "24", "--mean", "4", "--slots", "2", "--pieces", "2")
    options += ("--rounds", "1", "--compute-dtype", "float32", "--out", str(out))
    command = [sys.executable, str(BENCHMARKS / "slots.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert list(result["settings"]) == ["all rows", "2 slots", "2 pieces"]
    for row in result["settings"].values():
        assert row["rows_that_part"] <= 1 / 8 and row["seconds"] > 0
    assert 1 < result["mean_length"] < 24 and f"{result['mean_length']:.1f}" in done.stdout


@pytest.mark.slow
def test_cost_grows_beside_its_law(tmp_path):
    out = tmp_path / "growth.json"
    options = ("--sweeps", "batch", "devices", "--most", "2", "--rounds", "1", "--out", str(out))
    command = [sys.executable, str(BENCHMARKS / "growth.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [p["value"] for p in result["batch"]] == [4, 8] and out.with_suffix(".png").exists()
    first, second = result["batch"]
    assert second["law_seconds"] == pytest.approx(2 * first["law_seconds"])
    assert first["ratio"] * second["ratio"] == pytest.approx(1)
    assert [p["law_seconds"] for p in result["devices"]] == pytest.approx(
        [result["devices"][0]["law_seconds"]] * 2
    )
    assert all(p["late_compilations"] == 0 for ps in result.values() for p in ps)
