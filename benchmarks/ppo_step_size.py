"""How much of the package a PPO step takes: the files and lines of every function that one
iteration runs, from sampling to the averages.

    python -m benchmarks.ppo_step_size

Counted are the lines of these functions from `def` to their end, docstrings included; of a function
inside another, those of the outer one. The programs are traced on shapes and not compiled; it is
PPO-ptx, which runs all that PPO runs.

Result: 1,767 lines in 30 files.
"""

import ast
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np

import rlhf_jax
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import feeds, presets
from rlhf_jax.stages.iteration import Host, Iteration
from rlhf_jax.stages.policy_update import frozen_of, initial_state
from rlhf_jax.stages.stage import Build
from rlhf_jax.training.optimizer import OptimizerConfig

PACKAGE = Path(rlhf_jax.__file__).parent
RATE = OptimizerConfig(learning_rate=1e-3)
MODEL = TransformerConfig(vocab_size=32, layers=1, width=16, heads=2, context=16)
CONFIG = presets.ppo(
    policy_optimizer=RATE, value_optimizer=RATE, iterations=2, batch_size=4, minibatches=2,
    prompt_length=4, response_length=4, ptx_coefficient=1.0, ptx_ratio=1, ptx_length=8,
    start="policy", rewards=(LearnedReward("reward"),),
)  # fmt: skip


def traced(function: Callable) -> Callable:
    """The function on shapes: zeros in place of what it computes."""

    def zeros(shape):
        is_key = jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key)
        return jax.random.key(0) if is_key else np.zeros(shape.shape, shape.dtype)

    return lambda *arguments: jax.tree.map(zeros, jax.eval_shape(function, *arguments))


def prepared() -> Callable[[], None]:
    """One call of PPO's step, its programs traced in place of run."""
    key = jax.random.key(0)
    policy = traced(functools.partial(transformer.init, MODEL))(key)
    reward = traced(score.with_score_head)(policy, key)
    build = Build("ppo", MODEL, dict.fromkeys(CONFIG.needs(), MODEL), Ending(2, 0))
    made = CONFIG.programs(build, CONFIG.iterations)
    programs = {name: traced(program.function) for name, program in made.items()}
    frozen = frozen_of(CONFIG, policy, policy, {"reward": reward}, reward)
    here = SimpleNamespace(rows=lambda batch, count: batch)
    batches = feeds.Prompted(here, {}, {"prompts": 4, "text": 4})
    host = Host(lambda *_: {}, fetch=None, place=None)
    step = Iteration(CONFIG, programs, frozen, batches, host, MODEL.compute_dtype)
    state = initial_state(CONFIG, policy, reward, key)
    prompts = {name: np.ones((4, 4), np.int32) for name in ("tokens", "segments")}
    prompts["index"] = np.arange(4)
    text = {name: np.ones((4, 8), np.int32) for name in ("tokens", "segments")}
    batch = {"prompts": prompts, "text": text | {"weights": np.ones((4, 8), np.float32)}}
    return lambda: step(state, batch)


def run_lines(function: Callable[[], None]) -> dict[str, set[int]]:
    """The lines of the package that a call runs, by file."""
    found: dict[str, set[int]] = {}
    inside = f"{PACKAGE}{os.sep}"

    def of_frame(frame, event, argument):
        if event == "line":
            found.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return of_frame

    def trace(frame, event, argument):
        return of_frame if frame.f_code.co_filename.startswith(inside) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return found


def function_lines(path: Path, lines: set[int]) -> int:
    """How many lines the outermost functions of a file have in which any of the lines stand."""
    whole = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and lines & set(
            range(node.body[0].lineno, node.end_lineno + 1)
        ):
            whole |= set(range(node.lineno, node.end_lineno + 1))
    return len(whole)


def counted() -> dict[str, int]:
    """{file: lines} of a step, the largest first."""
    step = prepared()
    jax.clear_caches()  # what was traced before would not run again
    found = {
        str(Path(name).relative_to(PACKAGE)): function_lines(Path(name), lines)
        for name, lines in run_lines(step).items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main() -> None:
    sizes = counted()
    for name, lines in sizes.items():
        print(f"{lines:5,}  {name}")
    print(f"{sum(sizes.values()):5,}  lines in {len(sizes)} files")


if __name__ == "__main__":
    main()
