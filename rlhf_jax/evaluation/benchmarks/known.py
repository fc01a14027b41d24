"""The benchmarks that `rlhf-jax eval` knows by name."""

from rlhf_jax.evaluation.benchmarks.bbq import BBQ
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark
from rlhf_jax.evaluation.benchmarks.crows_pairs import CrowsPairs
from rlhf_jax.evaluation.benchmarks.gsm8k import GSM8K
from rlhf_jax.evaluation.benchmarks.hallucination import Hallucination
from rlhf_jax.evaluation.benchmarks.hhh import HHH
from rlhf_jax.evaluation.benchmarks.hhh_scores import HHHScores
from rlhf_jax.evaluation.benchmarks.humaneval import HumanEval
from rlhf_jax.evaluation.benchmarks.ifeval import IFEval
from rlhf_jax.evaluation.benchmarks.llmbar import LLMBar
from rlhf_jax.evaluation.benchmarks.mt_bench import MTBench
from rlhf_jax.evaluation.benchmarks.real_toxicity import RealToxicityPrompts
from rlhf_jax.evaluation.benchmarks.reward_bench import RewardBench2
from rlhf_jax.evaluation.benchmarks.truthfulqa import TruthfulQAChoices
from rlhf_jax.evaluation.benchmarks.truthfulqa_generation import TruthfulQA
from rlhf_jax.evaluation.benchmarks.wikitext import Wikitext
from rlhf_jax.evaluation.benchmarks.winogender import Winogender
from rlhf_jax.evaluation.benchmarks.xstest import XSTest

KINDS = (
    TruthfulQAChoices,
    HHH,
    BBQ,
    Winogender,
    CrowsPairs,
    Wikitext,
    TruthfulQA,
    RealToxicityPrompts,
    XSTest,
    IFEval,
    GSM8K,
    HumanEval,
    MTBench,
    Hallucination,
    LLMBar,
    HHHScores,
    RewardBench2,
)
BENCHMARKS: dict[str, type[Benchmark]] = {kind.called: kind for kind in KINDS}
