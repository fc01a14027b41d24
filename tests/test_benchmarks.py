"""The benchmarks run and write what they print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.parallel.host import large_pages

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(tmp_path, name, *options) -> tuple[list[dict], subprocess.CompletedProcess]:
    """The results of a benchmark, and its process."""
    out = tmp_path / "bench.json"
    command = [sys.executable, str(BENCHMARKS / name), *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done


@pytest.mark.slow
def test_one_iteration_of_tiny(tmp_path):
    options = ("--sizes", "tiny", "--iterations", "1")
    (result,), done = run(tmp_path, "ppo_iteration.py", *options)
    phases = ("generation", "scoring", "update")
    assert sum(result["shares"].values()) == pytest.approx(1.0)
    total = sum(result["seconds"][phase] for phase in phases)
    assert result["iteration_seconds"] == pytest.approx(total)
    rate = 64 * 48 / result["seconds"]["generation"]
    assert result["generated_tokens_per_second"] == pytest.approx(rate)
    assert 0 < result["peak_memory_gib"] < 24 and result["compile_seconds"] > 0
    assert "tokens/s" in done.stdout


@pytest.mark.slow
def test_one_save_between_steps(tmp_path):
    (result,), done = run(tmp_path, "checkpointing.py", "--sizes", "tiny", "--saves", "1")
    (added,), (step,) = result["checkpoint_seconds_all"], result["step_seconds_all"]
    assert result["share_at_default"] == pytest.approx(added / (100 * step))
    assert 3 * result["parameters"] * 4 > 2**20 * result["checkpoint_mib"] > result["parameters"]
    assert 0 < result["blocking_seconds"] < result["written_seconds"] and step > 0
    assert f"{result['share_at_default']:.2%}" in done.stdout


@pytest.mark.slow
def test_a_step_beside_the_machine_and_a_peer_that_is_not_there(tmp_path):
    peer = tmp_path / "python"  # has no torch, and ends
    peer.write_text("#!/bin/sh\nexit 3\n")
    peer.chmod(0o755)
    (machine, ours), done = measured(tmp_path, "sft", "--peer-python", str(peer))
    assert "no peer of sft tiny" in done.stderr and ours["who"] == "rlhf_jax"
    assert flops_of(ours) == pytest.approx(3 * forward_flops_of_tiny(16, 128, 128), rel=0.01)
    limit = flops_of(ours) / machine["product_flops_per_second"]
    assert ours["limit_seconds"] >= limit * 0.999
    assert ours["share"] == pytest.approx(ours["limit_seconds"] / ours["seconds"])
    assert "sft tiny" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_steps_on_rankings_beside_the_machine(tmp_path):
    """Each of 4 x 8 outputs takes one forward pass of 80 tokens; only DPO has logits, and a
    reference."""
    (_, reward, dpo), done = measured(tmp_path, "reward", "dpo")
    assert flops_of(reward) == pytest.approx(3 * forward_flops_of_tiny(32, 80, 0), rel=0.01)
    assert flops_of(dpo) == pytest.approx(4 * forward_flops_of_tiny(32, 80, 80), rel=0.01)
    assert list(reward["parts"]) == ["update"] and list(dpo["parts"]) == ["reference", "update"]
    tokens = [each["tokens_per_second"] * each["seconds"] for each in (reward, dpo)]
    assert tokens == pytest.approx([4 * 8 * 80] * 2)
    assert "dpo tiny" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_ppo_iteration_beside_the_machine(tmp_path):
    """64 responses of 48 tokens to prompts of 32. Four models read them, two of these have logits,
    at the response; policy and value network train for 4 epochs, a pass costs three forward."""
    peer = tmp_path / "python"
    peer.write_text(PEER.format(python=sys.executable, folder=tmp_path))
    peer.chmod(0o755)
    options = ("generation", "ppo", "--rounds", "2", "--peer-python", str(peer))
    (_, generation, _, ppo, other), done = measured(tmp_path, *options)
    assert "trl by default is left out" in done.stderr  # it ends after its first answer
    assert other["who"] == "peer" and other["seconds"] == 2.0
    tuned, default = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("ppo", "ppo_by_default")
    )
    assert tuned["arguments"] == default["arguments"] == ["tiny", "64", "32", "48", "4", "4"]
    assert tuned["memory"] == {"MALLOC_ARENA_MAX": "1"} | large_pages({}) and not default["memory"]
    rollout = forward_flops_of_tiny(64, 32, 1) + 48 * forward_flops_of_tiny(64, 1, 1)
    assert flops_of(generation) == pytest.approx(rollout, rel=0.01)
    two = forward_flops_of_tiny(64, 80, 0) + forward_flops_of_tiny(64, 80, 48)
    assert flops_of(ppo) == pytest.approx(rollout + (2 + 3 * 4) * two, rel=0.01)
    assert list(ppo["parts"]) == ["generation", "scoring", "update"]


PEER = """#!{python}
import json, os, sys
_, name, *arguments = sys.argv[1:]
memory = {{k: v for k, v in os.environ.items() if k in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX")}}
with open(f"{folder}/{{name}}.json", "w") as file:
    json.dump({{"arguments": arguments, "memory": memory}}, file)
print(json.dumps({{"memory": 0, "compile_seconds": 1.0}}), flush=True)
for line in sys.stdin:
    print(json.dumps({{"seconds": [{{"step": 2.0}}] * int(line)}}), flush=True)
    if name == "ppo_by_default":
        break
"""


def measured(tmp_path, *options) -> tuple[list[dict], subprocess.CompletedProcess]:
    """benchmarks/speed.py of works of `tiny`, each measured once."""
    once = ("--sizes", "tiny", "--rounds", "1", "--times", "1", "--works")
    return run(tmp_path, "speed.py", *once, *options)


def flops_of(result: dict) -> float:
    return result["tflops_per_second"] * result["seconds"] * 1e12


def forward_flops_of_tiny(rows: int, length: int, logits: int) -> int:
    """rows (T (24 layers D^2 + 4 layers D T) + 2 D V logits)."""
    layers, width, vocabulary = 4, 256, 8192
    trunk = length * (24 * layers * width**2 + 4 * layers * width * length)
    return rows * (trunk + 2 * width * vocabulary * logits)


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
