"""Compares policy-gradient estimators and DPO that start from one SFT model and use one reward
model, in the generated world: gold score and KL.

    rlhf-jax run experiments/ablations.py [--seed N]

Every policy-gradient algorithm maximises the same objective: the reward model's score minus 0.4 x
KL to SFT in nats. The following settings are the same for all, and replace those of the presets:
KL, 3,840 responses, 120 optimizer steps of 32 responses, and groups of 4 if the algorithm has
groups. So the algorithms differ in advantage, surrogate and aggregation, and in steps per batch:
one for REINFORCE and RLOO, four for the others. GSPO's clip range is wider than the published
range, which is meant for responses of thousands of tokens.

Cost: 19 min (seed 1), report included, on two cores without AMX that were also doing other work.

Result. For each --seed: gold score (the gold grader's score, 0 to 1) on 800 held-out prompts with
95 % interval, then KL to SFT in nats per response. Last column: mean gold score over the three
seeds. Pretraining is shorter, and demonstrations are fewer, than in quickstart.py.

               0                       1                       2
    SFT        .536 [.516, .556]       .548 [.527, .569]       .553 [.533, .574]       .546
    PPO        .591 [.571, .610]  .80  .583 [.563, .602]  .70  .603 [.583, .624]  .72  .592
    REINFORCE  .591 [.572, .610] 1.00  .576 [.557, .596]  .95  .591 [.571, .611] 1.06  .586
    RLOO       .599 [.579, .618]  .89  .591 [.571, .611]  .84  .594 [.574, .614]  .78  .595
    GRPO       .576 [.556, .595]  .79  .589 [.570, .609]  .91  .593 [.572, .614]  .85  .586
    Dr. GRPO   .599 [.579, .619]  .81  .593 [.573, .613]  .89  .592 [.572, .613]  .92  .595
    GSPO       .592 [.573, .611]  .82  .587 [.567, .607]  .70  .595 [.575, .615]  .84  .591
    CISPO      .577 [.557, .596] 1.16  .580 [.561, .599] 1.03  .589 [.569, .610]  .91  .582
    DPO        .584 [.565, .602] 3.13  .545 [.526, .564] 3.49  .557 [.541, .573] 7.43  .562

Every policy gradient scores above SFT on every seed, with paired intervals above 0. No ranking of
the algorithms is the same on all three seeds. DPO has a larger KL to SFT and a smaller gain. The
first panel of runs/ablations/report.png shows gold score against KL.
"""

from typing import Any

from rlhf_jax.evaluation.behaviour import Behaviour
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.estimator import GSPO
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.world import WorldData
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DPO, DirectPreference
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import WorldConfig


def cosine(learning_rate: float, warmup_steps: int) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="cosine", warmup_steps=warmup_steps)


PREFERENCES: dict[str, Any] = {
    "batch_size": 8, "outputs": 18, "packed": 4, "length": 48, "start": "sft",
    "rankings": "feedback",
}  # fmt: skip
ALIKE: dict[str, Any] = {
    "policy_optimizer": OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
    "prompt_length": 32,
    "response_length": 24,
    "kl": FixedController(0.4),
    "kl_in": "reward",
    "kl_estimator": "k1",
    "kl_gradient": "right",
    "ema_decay": None,
    "start": "sft",
    "rewards": (LearnedReward("reward"),),
}
BATCHES = ALIKE | {"iterations": 30, "batch_size": 128, "minibatches": 4}
STEPS = ALIKE | {"iterations": 120, "batch_size": 32, "minibatches": 1}
GROUPS = BATCHES | {"group": 4}
POLICIES = {
    "ppo": presets.ppo(
        **BATCHES, value_optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10)
    ),
    "reinforce": presets.reinforce(**STEPS),
    "rloo": presets.rloo(**STEPS, group=4),
    "grpo": presets.grpo(**GROUPS),
    "dr_grpo": presets.dr_grpo(**GROUPS),
    "gspo": presets.gspo(**GROUPS, surrogate=GSPO(0.05, 0.05)),
    "cispo": presets.cispo(**GROUPS),
    "dpo": DirectPreference(cosine(5e-4, 5), objective=DPO(beta=0.1), **PREFERENCES),
}

config = Experiment(
    name="ablations",
    data=WorldData(WorldConfig(sft=5000, feedback=1500, test=800)),
    model=TransformerConfig(
        vocab_size=1024, layers=4, width=128, heads=4, context=160, scan_layers=False
    ),
    stages={
        "pretrain": Pretrain(cosine(3e-3, 50), epochs=2.5, batch_size=8, length=128),
        "sft": SFT(
            cosine(1.5e-3, 10), epochs=3, batch_size=8, length=96, packed=True, start="pretrain"
        ),
        "feedback": SimulatedFeedback(
            prompt_length=32, response_length=24, batch_size=200, policy="sft"
        ),
        "reward": RewardModel(cosine(5e-4, 5), **PREFERENCES),
        **POLICIES,
    },
    evaluation=EvaluationConfig(prompt_length=32, response_length=24, batch_size=200),
    evaluators=(
        GoldScore(above=tuple((name, "sft") for name in POLICIES), over="kl_to_sft"),
        KL("sft"),
        RewardScore("reward"),
        RewardAccuracy(length=48, batch_size=16, rankings="feedback"),
        Behaviour(),
    ),
    loop=LoopConfig(checkpoint_every=200, log_every=1),
)
