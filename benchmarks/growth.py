"""How cost grows, beside the law that it should follow: python benchmarks/growth.py

batch     an SFT step, by rows: proportional to the rows
response  generation, by tokens of a response: the FLOPs of the prompt and of each step, whose
          attention reads the whole cache
outputs   a reward model's step, by the K outputs of a prompt: proportional to K, as each output is
          computed once, not each pair
size      an SFT step, by the width of the model: its FLOPs
devices   an SFT step of one batch, by simulated devices of one CPU: constant, because the devices
          share the cores; what it takes more is what cutting costs

The values of a sweep take turns in one process, --rounds times; the fastest round counts. On a CPU
the seconds are those that all cores worked for this process, so that other work on them counts
little. The law is scaled to the measurements (mean of the logarithms). Programs that are compiled
after the first round are counted: there should be none. Writes --out as JSON, and a figure beside
it.
"""

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

VALUES = {
    "batch": (4, 8, 16, 32),
    "response": (16, 32, 64, 128),
    "outputs": (2, 4, 8),
    "size": (64, 128, 256, 512),
    "devices": (1, 2, 4),
}
DEVICES = max(VALUES["devices"])
AXES = {"batch": "rows", "response": "tokens of a response", "outputs": "outputs K of a prompt",
        "size": "width of the model", "devices": "simulated devices"}  # fmt: skip
COMPILED = "/jax/core/compile/backend_compile_duration"
LENGTH, PROMPT, ROWS, PROMPTS = 64, 32, 16, 4
Run = Callable[[], object]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How cost grows")
    parser.add_argument("--sweeps", nargs="+", choices=tuple(VALUES), default=list(VALUES))
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each value")
    parser.add_argument("--most", type=int, default=None, help="values of a sweep, from the first")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/growth.json"))
    return parser.parse_args()


def main() -> None:
    options = read_options()
    flag = f"--xla_force_host_platform_device_count={DEVICES}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    results = {}
    for sweep in options.sweeps:
        results[sweep] = measured(sweep, VALUES[sweep][: options.most], options.rounds)
        for point in results[sweep]:
            print(f"{sweep:9} {point['value']:4}  {point['seconds']:.4f} s  law "
                  f"{point['law_seconds']:.4f} s  x {point['ratio']:.2f}; compiled "
                  f"{point['late_compilations']} later", flush=True)  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    draw(results, options.out.with_suffix(".png"))


def measured(sweep: str, values: tuple[int, ...], rounds: int) -> list[dict]:
    """For each value its seconds, those of the scaled law, and how many times longer it took."""
    import jax

    works = {value: WORKS[sweep](value) for value in values}
    for run, _ in works.values():
        jax.block_until_ready(run())
    spent, late, told = {value: [] for value in values}, dict.fromkeys(values, 0), []
    listen = lambda event, seconds, **labels: told.append(event)
    jax.monitoring.register_event_duration_secs_listener(listen)
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    for _ in range(rounds):
        for value, (run, _) in works.items():
            told.clear()
            started = clock()
            jax.block_until_ready(run())
            spent[value].append(clock() - started)
            late[value] += told.count(COMPILED)
    jax.monitoring.unregister_event_duration_listener(listen)
    fastest, law = {v: min(spent[v]) for v in values}, {v: works[v][1] for v in values}
    scale = math.exp(statistics.mean(math.log(fastest[v] / law[v]) for v in values))
    return [
        {
            "value": v,
            "seconds": fastest[v],
            "all_seconds": spent[v],
            "law_seconds": scale * law[v],
            "ratio": fastest[v] / (scale * law[v]),
            "late_compilations": late[v],
        }
        for v in values
    ]


def model_of(width: int = 128):
    from rlhf_jax.models.config import TransformerConfig

    return TransformerConfig(
        vocab_size=2048, layers=4, width=width, heads=max(1, width // 64), context=256,
        scan_layers=False,
    )  # fmt: skip


def update_of(stage, model, devices: int = 1) -> Run:
    """A function that does one step of a stage, on made-up rows, with parameters cut over
    `devices`."""
    import jax
    import jax.numpy as jnp

    from rlhf_jax.generation.ending import Ending
    from rlhf_jax.parallel.layout import MeshShape, layout_of
    from rlhf_jax.parallel.runner import JitRunner
    from rlhf_jax.stages.stage import Build

    build = Build("stage", model, {"start": model}, Ending(model.vocab_size, 0))
    program = stage.programs(build, 1000)["update"]
    runner = JitRunner(layout_of(jax.devices()[:devices], MeshShape(1, devices, 1)))

    def filled(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        whole = jnp.issubdtype(x.dtype, jnp.integer)
        return jnp.ones(x.shape, x.dtype) if whole else jnp.full(x.shape, 0.01, x.dtype)

    state, *others = jax.tree.map(filled, program.arguments)
    kept = [runner.state(state)]
    others = [jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), other, laid)
              for other, laid in zip(others, program.placed(runner)[1:], strict=True)]  # fmt: skip
    update = program.compile(runner)

    def run():
        kept[0], metrics = update(kept[0], *others)
        return metrics

    return run


def sft(rows: int, model, devices: int = 1) -> Run:
    from rlhf_jax.stages.sft import SFT
    from rlhf_jax.training.optimizer import OptimizerConfig

    stage = SFT(OptimizerConfig(1e-6), batch_size=rows, length=LENGTH, start="start")
    return update_of(stage, model, devices)


def by_outputs(outputs: int) -> tuple[Run, float]:
    from rlhf_jax.stages.reward_model import RewardModel
    from rlhf_jax.training.optimizer import OptimizerConfig

    stage = RewardModel(
        OptimizerConfig(1e-6), batch_size=PROMPTS, outputs=outputs, length=LENGTH, start="start",
        rankings="rankings",
    )  # fmt: skip
    return update_of(stage, model_of()), outputs


def by_response(tokens: int) -> tuple[Run, float]:
    import works

    model = model_of()
    step = works.forward_flops(model, ROWS, 1, 1)
    cache = 4 * ROWS * model.layers * model.width * (PROMPT + tokens)
    law = works.forward_flops(model, ROWS, PROMPT, 1) + (tokens - 1) * (step + cache)
    return works.generation(model, ROWS, PROMPT, tokens).once, law


def by_width(width: int) -> tuple[Run, float]:
    from rlhf_jax.plan.flops import forward_flops

    model = model_of(width)
    return sft(ROWS, model), forward_flops(model, ROWS, LENGTH, LENGTH)


WORKS: dict[str, Callable[[int], tuple[Run, float]]] = {
    "batch": lambda rows: (sft(rows, model_of()), rows),
    "response": by_response,
    "outputs": by_outputs,
    "size": by_width,
    "devices": lambda devices: (sft(ROWS, model_of(), devices), 1),
}


def draw(results: dict[str, list[dict]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(results), figsize=(3 * len(results), 3), squeeze=False, constrained_layout=True
    )
    for axis, (sweep, points) in zip(axes[0], results.items(), strict=True):
        values = [point["value"] for point in points]
        axis.plot(values, [p["law_seconds"] for p in points], color="0.6", label="law")
        axis.plot(values, [p["seconds"] for p in points], "o", color="C0", label="measured")
        axis.set(xscale="log", yscale="log", xlabel=AXES[sweep], xticks=values)
        axis.set_xticklabels(values)
        axis.minorticks_off()
        axis.set_ylim(*_around(points))
    axes[0][0].set_ylabel("seconds")
    axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    print(path)


def _around(points: list[dict]) -> tuple[float, float]:
    """Limits of the seconds, a decade or more apart, so that a small scatter looks small."""
    seconds = [p[name] for p in points for name in ("seconds", "law_seconds")]
    middle, half = math.sqrt(min(seconds) * max(seconds)), max(seconds) / min(seconds)
    half = max(math.sqrt(10), math.sqrt(half) * 1.2)
    return middle / half, middle * half


if __name__ == "__main__":
    main()
