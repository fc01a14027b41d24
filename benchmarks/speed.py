"""Speed beside the machine's limits, and beside PyTorch: python benchmarks/speed.py

    python benchmarks/speed.py --works sft reward dpo generation ppo --sizes tiny small
    python benchmarks/speed.py --works sft --sizes small --peer-python /venv/bin/python

First it measures the machine: the rate of a large bfloat16 product, and the bandwidth of a copy.
Then each work at each size in a process of its own; with --peer, the same work by PyTorch
(benchmarks/peer.py) in turn with ours, in rounds, so that both see the same machine. Each line is
JSON; the last lines are a table. A peer that does not answer in --peer-seconds is left out. PPO's
peer needs trl 1.12.0, the last release that has PPO. On a CPU it is measured by its own defaults
too.

limit   the FLOPs that the work needs over the product's rate, or the bytes over the bandwidth:
        whichever is longer. share: the limit over the measured time
memory  of the largest program, by the compiler
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import venv
from pathlib import Path

from by_size import ask

from rlhf_jax.parallel.host import large_pages

HERE = Path(__file__).resolve().parent
PEER_NEEDS = ("torch", "transformers", "accelerate", "datasets", "trl==1.12.0")
# sft: rows, tokens. reward, dpo: prompts, outputs, tokens. generation: rows, prompt, response; ppo:
# also minibatches, epochs.
SHAPES = {
    "cpu": {
        "tiny": {
            "sft": (16, 128),
            "reward": (4, 8, 80),
            "dpo": (4, 8, 80),
            "generation": (64, 32, 48),
            "ppo": (64, 32, 48, 4, 4),
        },
        "small": {
            "sft": (16, 128),
            "reward": (1, 8, 80),
            "dpo": (1, 8, 80),
            "generation": (64, 32, 48),
            "ppo": (64, 32, 48, 4, 1),
        },
    },
    "gpu": {
        "tiny": {
            "sft": (32, 128),
            "reward": (4, 8, 80),
            "dpo": (4, 8, 80),
            "generation": (64, 32, 48),
            "ppo": (64, 32, 48, 4, 4),
        },
        "small": {
            "sft": (32, 1024),
            "reward": (8, 8, 512),
            "dpo": (8, 8, 512),
            "generation": (64, 256, 256),
            "ppo": (64, 256, 256, 4, 1),
        },
        "1b3": {
            "sft": (8, 2048),
            "reward": (2, 8, 512),
            "dpo": (2, 8, 512),
            "generation": (64, 256, 256),
        },
    },
}
WORKS = tuple(SHAPES["cpu"]["tiny"])
MODELS = {"tiny": "tiny", "small": "gpt2", "1b3": "gpt3-1.3b"}
# How the model computes, where the defaults are not the fastest.
UNROLLED = {"scan_layers": False}
CHANGES = {("gpu", "small", work): UNROLLED for work in ("sft", "reward", "dpo")} | {
    ("cpu", size, work): UNROLLED for size, works in SHAPES["cpu"].items() for work in works
}


def main() -> None:
    options = read_options()
    if options.here:
        serve(*options.here, json.loads(options.changes))
        return
    peer = options.peer_python or (peer_environment() if options.peer else None)
    machine = ask([sys.executable, __file__, "--here", "machine", "tiny"])
    print(json.dumps(machine), flush=True)
    results = []
    for size in options.sizes:
        for work in options.works:
            if work in SHAPES[machine["platform"]][size]:
                found = compared(options, work, size, machine, peer)
                results += found
                for line in found:
                    print(json.dumps(line), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([machine, *results], indent=2) + "\n", encoding="utf-8")
    print_table(machine, results)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed beside the machine's limits")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--sizes", nargs="+", choices=tuple(MODELS), default=["tiny"])
    parser.add_argument("--rounds", type=int, default=2, help="turns of ours and the peer")
    parser.add_argument("--times", type=int, default=5, help="measurements a round")
    parser.add_argument("--changes", default="{}", help="fields of the model, as JSON")
    parser.add_argument("--peer", action="store_true", help="PyTorch, in a new .peer environment")
    parser.add_argument("--peer-python", help="a Python that has PEER_NEEDS")
    parser.add_argument("--peer-seconds", type=float, default=600, help="for one of its answers")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/speed.json"))
    parser.add_argument("--here", nargs=2, metavar=("WORK", "SIZE"), help="in this process")
    return parser.parse_args()


def peer_environment() -> str:
    folder = Path(".peer")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *PEER_NEEDS]
        subprocess.run(command, check=True)
    return str(python)


class NoAnswer(Exception):
    """A process ended, or was ended, before it answered."""


class Process:
    """A work that waits, compiled, in a process of its own. Its lines are JSON. It is ended where
    it does not answer in `limit` seconds."""

    def __init__(self, command: list[str], limit: float | None = None, **variables: str):
        # Arrays are allocated as they are needed, because two processes share a GPU.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | variables
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.limit = limit
        self.about = self.read()

    def read(self) -> dict:
        ending = None
        if self.limit is not None:
            ending = threading.Timer(self.limit, self.process.kill)
            ending.start()
        try:
            for line in self.process.stdout:
                if line.startswith("{"):
                    return json.loads(line)
        finally:
            if ending is not None:
                ending.cancel()
        raise NoAnswer(f"{' '.join(self.process.args)} ended with {self.process.wait()}")

    def measure(self, times: int) -> list[dict]:
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compared(options, work: str, size: str, machine: dict, peer: str | None) -> list[dict]:
    """One line of ours, and one of each peer."""
    shape = SHAPES[machine["platform"]][size][work]
    changes = CHANGES.get((machine["platform"], size, work), {}) | json.loads(options.changes)
    ours = [sys.executable, __file__, "--here", work, size, "--changes", json.dumps(changes)]
    memory = large_pages(os.environ)  # as `rlhf-jax` sets it
    running = {"rlhf_jax": Process(ours, **memory)}
    # PPO's peer trains in a thread, which keeps its pages only in the first arena.
    peers = {"peer": (work, memory | {"MALLOC_ARENA_MAX": "1"})}
    if work == "ppo" and machine["platform"] == "cpu":
        peers["trl by default"] = ("ppo_by_default", {})
    for who, (name, variables) in peers.items() if peer else ():
        command = [peer, str(HERE / "peer.py"), name, size, *map(str, shape)]
        try:
            running[who] = Process(command, options.peer_seconds, **variables)
        except NoAnswer as error:
            print(f"no {who} of {work} {size}: {error}", file=sys.stderr)
    seconds = measured(running, options.rounds, options.times)
    abouts = {who: process.about for who, process in running.items()}
    for process in running.values():
        process.close()
    needs = {name: abouts["rlhf_jax"][name] for name in ("flops", "bytes", "tokens")}
    return [
        line_of(who, work, size, shape, machine, seconds[who], abouts[who] | needs)
        for who in running
    ]


def measured(running: dict[str, Process], rounds: int, times: int) -> dict[str, list[dict]]:
    """The seconds of all in turns. A peer that does not answer is taken out of `running`."""
    seconds = {who: [] for who in running}
    for _ in range(rounds):
        for who, process in list(running.items()):
            try:
                seconds[who] += process.measure(times)
            except (NoAnswer, OSError) as error:
                if who == "rlhf_jax":
                    raise
                print(f"{who} is left out: {error}", file=sys.stderr)
                del running[who]
    return seconds


def line_of(who, work, size, shape, machine, seconds: list[dict], about: dict) -> dict:
    parts = {name: statistics.median(each[name] for each in seconds) for name in seconds[0]}
    total = statistics.median(sum(each.values()) for each in seconds)
    limits = {
        "FLOPs": about["flops"] / machine["product_flops_per_second"],
        "bytes": about["bytes"] / machine["copy_bytes_per_second"],
    }
    by = max(limits, key=limits.get)
    return {
        "who": who,
        "work": work,
        "size": size,
        "shape": shape,
        "seconds": total,
        "fastest": min(sum(each.values()) for each in seconds),
        "slowest": max(sum(each.values()) for each in seconds),
        "parts": parts,
        "tokens_per_second": about["tokens"] / total,
        "tflops_per_second": about["flops"] / total / 1e12,
        "gbytes_per_second": about["bytes"] / total / 1e9,
        "limit_seconds": limits[by],
        "limited_by": by,
        "share": limits[by] / total,
        "memory_gib": about["memory"] / 2**30,
        "compile_seconds": about["compile_seconds"],
    }


def serve(work: str, size: str, changes: dict) -> None:
    """Prepares a work, prints what it is, and measures it as often as each line of input says."""
    import dataclasses

    sys.path.insert(0, str(HERE))
    if work == "machine":
        from limits import machine

        print(json.dumps(machine()))
        return
    import jax
    import works

    from rlhf_jax.models.config import SIZES

    model = dataclasses.replace(SIZES[MODELS[size]], **changes)
    platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
    made = works.WORKS[work](model, *SHAPES[platform][size][work])
    about = {name: value for name, value in vars(made).items() if name != "once"}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": [made.once() for _ in range(int(line))]}), flush=True)


def print_table(machine: dict, results: list[dict]) -> None:
    rate, copy = machine["product_flops_per_second"], machine["copy_bytes_per_second"]
    print(f"{machine['device']}: {rate / 1e12:.2f} TFLOP/s, {copy / 1e9:.0f} GB/s")
    head = ("work", "who", "ms", "tokens/s", "TFLOP/s", "share", "of", "GiB", "compile s", "ratio")
    print(("{:>14} " * len(head)).format(*head))
    ours = {(r["work"], r["size"]): r["seconds"] for r in results if r["who"] == "rlhf_jax"}
    for r in results:
        ratio = r["seconds"] / ours[r["work"], r["size"]]
        cells = (f"{r['work']} {r['size']}", r["who"], f"{1e3 * r['seconds']:.1f}",
                 f"{r['tokens_per_second']:,.0f}", f"{r['tflops_per_second']:.2f}",
                 f"{r['share']:.0%}", r["limited_by"], f"{r['memory_gib']:.1f}",
                 f"{r['compile_seconds']:.0f}", f"{ratio:.2f}")  # fmt: skip
        print(("{:>14} " * len(cells)).format(*cells))


if __name__ == "__main__":
    main()
