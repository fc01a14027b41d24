"""GRPO and PPO with a reward computed by a function instead of a reward model, in the generated
world: no rankings are needed.

    rlhf-jax run experiments/checkable.py [--seed N]

The reward is the score of the gold grader. The grader also checks whether the response follows the
instruction exactly. PPO's value network starts from the SFT model, with a new scalar head in place
of the output layer.

Cost: 34 min (seed 1) on two cores without AMX that were also doing much other work.

Result, for two --seed values: means and 95 % intervals on 800 held-out prompts. "followed" is the
share of instruction prompts whose response does everything that is asked. "KL" is the KL to SFT in
nats per response.

            gold score         followed           KL
    0 SFT   .604 [.582, .625]  .149 [.121, .181]
      GRPO  .710 [.690, .730]  .240 [.205, .277]  1.94
      PPO   .751 [.731, .771]  .323 [.284, .363]  1.77
    1 SFT   .613 [.592, .634]  .146 [.118, .177]
      GRPO  .747 [.727, .765]  .288 [.251, .327]  1.94
      PPO   .743 [.722, .762]  .292 [.255, .330]  1.95
"""

from typing import Any

from rlhf_jax.evaluation.behaviour import Behaviour
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.graded import GradedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.world import WorldData
from rlhf_jax.stages import presets
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import WorldConfig


def cosine(learning_rate: float, warmup_steps: int) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="cosine", warmup_steps=warmup_steps)


ALIKE: dict[str, Any] = {
    "policy_optimizer": OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
    "iterations": 120,
    "batch_size": 128,
    "minibatches": 4,
    "prompt_length": 32,
    "response_length": 24,
    "kl": FixedController(0.02),
    "kl_in": "reward",
    "kl_estimator": "k1",
    "kl_gradient": "right",
    "ema_decay": None,
    "start": "sft",
    "rewards": (GradedReward(),),
}

config = Experiment(
    name="checkable",
    data=WorldData(WorldConfig(sft=6000, test=800)),
    model=TransformerConfig(
        vocab_size=1024, layers=4, width=128, heads=4, context=160, scan_layers=False
    ),
    stages={
        "pretrain": Pretrain(cosine(3e-3, 50), epochs=5, batch_size=8, length=128),
        "sft": SFT(
            cosine(1.5e-3, 10), epochs=3, batch_size=8, length=96, packed=True, start="pretrain"
        ),
        "grpo": presets.grpo(**ALIKE, group=8),
        "ppo": presets.ppo(
            **ALIKE, value_optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10)
        ),
    },
    evaluation=EvaluationConfig(prompt_length=32, response_length=24, batch_size=200),
    evaluators=(
        GoldScore(above=(("grpo", "sft"), ("ppo", "sft")), over="kl_to_sft"),
        Behaviour(),
        KL("sft"),
        Samples(),
    ),
    loop=LoopConfig(checkpoint_every=200, log_every=1),
)
