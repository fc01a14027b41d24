"""The benchmarks that `rlhf-jax eval` knows by name."""

from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark
from rlhf_jax.evaluation.benchmarks.hhh import HHH

BENCHMARKS: dict[str, type[Benchmark]] = {kind.called: kind for kind in (HHH,)}
