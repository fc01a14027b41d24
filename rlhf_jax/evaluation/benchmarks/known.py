"""The benchmarks that `rlhf-jax eval` knows by name."""

from rlhf_jax.evaluation.benchmarks.bbq import BBQ
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark
from rlhf_jax.evaluation.benchmarks.crows_pairs import CrowsPairs
from rlhf_jax.evaluation.benchmarks.hhh import HHH
from rlhf_jax.evaluation.benchmarks.truthfulqa import TruthfulQAChoices
from rlhf_jax.evaluation.benchmarks.wikitext import Wikitext
from rlhf_jax.evaluation.benchmarks.winogender import Winogender

KINDS = (
    TruthfulQAChoices,
    HHH,
    BBQ,
    Winogender,
    CrowsPairs,
    Wikitext,
)
BENCHMARKS: dict[str, type[Benchmark]] = {kind.called: kind for kind in KINDS}
