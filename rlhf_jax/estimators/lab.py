"""The lab: measures every estimator, compares with theory, writes table, figure and JSON."""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from rlhf_jax.durable.files import writable_directory, write_atomically
from rlhf_jax.errors import require
from rlhf_jax.estimators import figure
from rlhf_jax.estimators.bench import Bench, draw, estimates, expected_in_theory, make_bench
from rlhf_jax.estimators.drift import Curve, DriftConfig, measure_drift
from rlhf_jax.estimators.measure import Measurement, measure
from rlhf_jax.estimators.rows import Estimator, Rollouts, RowsConfig, all_estimators
from rlhf_jax.estimators.task import TaskConfig, make_task, table_log_probs
from rlhf_jax.jaxprs import count_flops


@dataclasses.dataclass(frozen=True)
class LabConfig:
    """What is measured, with how many responses and which confidence."""

    task: TaskConfig = TaskConfig()
    rows: RowsConfig = RowsConfig()
    drift: DriftConfig = DriftConfig()
    samples: int = 100_000  # responses for each estimator
    pilot: int = 2000  # responses from which the optimal baseline is computed
    critic: int = 64  # responses from which the learned values are computed
    average_decay: float = 0.9  # decay of the moving-average baseline
    level: float = 0.99  # confidence that all rows' intervals hold together
    seed: int = 0  # of all samples

    def __post_init__(self):
        least = 100 * self.rows.group
        require(self.samples >= least, "samples", self.samples, f"at least {least}, 100 estimates")
        require(self.pilot >= 2, "pilot", self.pilot, "at least 2")
        require(self.critic >= 1, "critic", self.critic, "at least 1")
        require(0 <= self.average_decay < 1, "average_decay", self.average_decay, "in [0, 1)")
        require(0 < self.level < 1, "level", self.level, "in (0, 1)")
        require(0 <= self.seed < 2**31, "seed", self.seed, "in [0, 2**31)")


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimator, measured; `theory` is the bias [D] that it should have."""

    estimator: Estimator
    measured: Measurement
    theory: np.ndarray
    samples: int
    flops: int

    @property
    def unbiased(self) -> bool:
        """Whether the exact gradient is inside the confidence region."""
        return self.measured.contains(np.zeros_like(self.theory))

    @property
    def direction(self) -> float | None:
        """Cosine between the measured bias and the bias of theory; None where theory says 0."""
        if self.estimator.bias is None:
            return None
        norms = np.linalg.norm(self.theory) * np.linalg.norm(self.measured.error)
        return float(self.theory @ self.measured.error / norms)

    @property
    def as_theory_says(self) -> bool:
        """Whether the measured bias is what theory says, zero or not."""
        if self.estimator.bias is None:
            return self.unbiased
        return not self.unbiased and self.measured.contains(self.theory) and self.direction > 0.9


def measure_rows(
    config: LabConfig, estimators: dict[str, Estimator] | None = None
) -> dict[str, Row]:
    """Every estimator on the same responses: fresh ones, or stale ones of the old policy.

    estimators: by name; None: all rows of the table. An estimator of your own counts as unbiased in
    theory unless you give it a `bias`.
    """
    pilot_key, *keys = jax.random.split(jax.random.key(config.seed), 3)
    bench = make_bench(make_task(config.task), config.pilot, config.critic, pilot_key)
    if estimators is None:
        estimators = all_estimators(config.rows, config.task.kl_coefficient)
    count = -(-config.samples // config.rows.group)
    draws = jax.jit(
        partial(draw, estimates=count, group=config.rows.group, decay=config.average_decay)
    )
    drawn = {
        stale: draws(bench.task, rollouts, key)
        for stale, rollouts, key in zip(
            (False, True), (bench.fresh, bench.stale), keys, strict=True
        )
    }
    return {
        name: _measure_row(config, bench, estimators[name], gradients, drawn, len(estimators))
        for name, gradients in estimates(bench, estimators, drawn).items()
    }


def _measure_row(
    config: LabConfig,
    bench: Bench,
    estimator: Estimator,
    gradients: np.ndarray,
    drawn: dict[bool, Rollouts],
    rows: int,
) -> Row:
    policy, exact = bench.task.policy, np.asarray(bench.exact, np.float64)
    # All intervals hold together: the probability of an error is divided by the number of rows
    # (Bonferroni).
    level = 1 - (1 - config.level) / rows
    one = jax.tree.map(lambda x: x[0], drawn[estimator.stale])
    forward = count_flops(partial(table_log_probs, bench.task), policy, one.ids)
    pilot = {"none": 0, "baseline": config.pilot, "values": config.critic}[estimator.pilot]
    spent = forward + count_flops(jax.grad(bench.loss(estimator)), policy, one)
    return Row(
        estimator,
        measure(gradients, exact, level, config.seed),
        expected_in_theory(bench, estimator, config.rows.group) - exact,
        samples=len(gradients) * config.rows.group + pilot,
        flops=len(gradients) * spent + pilot * spent // config.rows.group,
    )


def summary(config: LabConfig, rows: dict[str, Row], drift: dict[str, Curve]) -> dict[str, Any]:
    """The content of estimators.json."""
    return {
        "estimators": {
            name: {
                "bias_norm": row.measured.bias_norm,
                "variance": row.measured.variance,
                "cosine": row.measured.cosine,
                "samples": row.samples,
                "flops": row.flops,
                "unbiased_in_theory": row.estimator.bias is None,
            }
            for name, row in rows.items()
        },
        "checks": {
            name: {
                "contains_exact": row.unbiased,
                "contains_theory": row.measured.contains(row.theory),
                "theory_bias_norm": float(np.linalg.norm(row.theory)),
                "direction_cosine": row.direction,
                "cosine_of_one": row.measured.cosine_of_one,
                "as_theory_says": row.as_theory_says,
                "stale": row.estimator.stale,
            }
            for name, row in rows.items()
        },
        "drift": {
            name: {
                "objective": curve.objective.mean(0).tolist(),
                "objective_error": _standard_error(curve.objective).tolist(),
                "kl": curve.kl.mean(0).tolist(),
                "kl_error": _standard_error(curve.kl).tolist(),
            }
            for name, curve in drift.items()
        },
        "config": dataclasses.asdict(config),
    }


def _standard_error(x: np.ndarray) -> np.ndarray:
    return x.std(0, ddof=1) / np.sqrt(len(x))


def table(config: LabConfig, rows: dict[str, Row]) -> Table:
    """One line per estimator; red where the measurement contradicts theory."""
    result = Table(
        title=f"{config.rows.group} responses an estimate, {config.level:.0%} intervals "
        f"for all {len(rows)} rows together",
    )
    for name in ("estimator", "responses of", "theory"):
        result.add_column(name)
    for name in ("bias", "interval", "theory's", "direction", "variance", "cosine",
                 "cosine of one", "samples", "MFLOP"):  # fmt: skip
        result.add_column(name, justify="right")
    result.add_column("as theory says")
    for name, row in rows.items():
        bias, measured = row.measured.bias_norm, row.measured
        result.add_row(
            name,
            "old" if row.estimator.stale else "policy",
            "unbiased" if row.estimator.bias is None else "biased",
            f"{bias['mean']:.4f}",
            f"{bias['low']:.4f} {bias['high']:.4f}",
            f"{np.linalg.norm(row.theory):.4f}",
            "" if row.direction is None else f"{row.direction:.3f}",
            f"{measured.variance:.3f}",
            f"{measured.cosine:.3f}",
            f"{measured.cosine_of_one:.3f}",
            f"{row.samples}",
            f"{row.flops / 1e6:.1f}",
            "yes" if row.as_theory_says else "NO",
            style=None if row.as_theory_says else "red",
        )
    return result


def run(config: LabConfig, out: Path) -> dict[str, Any]:
    """Measures, prints the table, and writes estimators.json and estimators.png into `out`."""
    start, out = time.monotonic(), Path(out)
    writable_directory(out, "out")
    rows = measure_rows(config)
    drift = measure_drift(make_task(config.task), config.drift, config.seed)
    result = summary(config, rows, drift)
    write_atomically(out / "estimators.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomically(out / "estimators.png", figure.draw(result))
    console = Console(width=None if Console().is_terminal else 180)
    console.print(table(config, rows))
    agree = sum(row.as_theory_says for row in rows.values())
    console.print(
        f"{agree} of {len(rows)} as theory says; {time.monotonic() - start:.0f} s; "
        f"{out / 'estimators.json'}, {out / 'estimators.png'}"
    )
    return result
