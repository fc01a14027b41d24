"""Two rounds of feedback collection, reward-model training and PPO, as in the InstructGPT paper:
"more comparison data is collected on the current best policy, which is used to train a new RM and
then a new policy" (Ouyang et al. 2022, section 3.1).

    rlhf-jax run experiments/rounds.py [--seed N]

In the second round the first round's policy answers the same prompts. A new reward model starts
from SFT and is trained on the new rankings only. The second PPO starts from the first round's
policy; its reference is still SFT. `longer` is the control. It trains the first round's policy for
the same number of additional iterations, with the first round's reward model.

Cost: 9 min (seed 2) on two cores without AMX that were also doing other work.

Result: gold score (0 to 1) on 800 held-out prompts, mean and 95 % interval, by --seed; matrix
products in float32:

       base               SFT                PPO                second PPO         longer
    0  .345 [.335, .355]  .536 [.516, .556]  .596 [.577, .616]  .589 [.570, .609]  .599 [.580, .619]
    1  .336 [.326, .345]  .548 [.527, .569]  .593 [.574, .612]  .589 [.569, .608]  .601 [.582, .620]
    2  .343 [.333, .352]  .553 [.533, .574]  .604 [.583, .624]  .610 [.589, .630]  .606 [.585, .627]

The first round raises the score; the second has no clear effect. Paired differences, by seed:

    second PPO - PPO     -.007 [-.023, +.008]  -.004 [-.019, +.011]  +.006 [-.009, +.021]
    second PPO - longer  -.010 [-.026, +.006]  -.012 [-.026, +.001]  +.003 [-.013, +.019]

Accuracy of the reward models on held-out pairs of outputs that the first round's policy wrote
(share ordered as the labelers did), by seed:

    first                .521 [.472, .571]     .551 [.505, .597]     .560 [.512, .607]
    second               .572 [.519, .622]     .573 [.525, .621]     .582 [.532, .627]
"""

from rlhf_jax.evaluation.behaviour import Behaviour
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.world import WorldData
from rlhf_jax.stages import presets
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import WorldConfig


def cosine(learning_rate: float, warmup_steps: int) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="cosine", warmup_steps=warmup_steps)


def feedback(policy: str) -> SimulatedFeedback:
    return SimulatedFeedback(prompt_length=32, response_length=24, batch_size=200, policy=policy)


def reward(rankings: str) -> RewardModel:
    return RewardModel(
        cosine(5e-4, 5),
        batch_size=8,
        outputs=18,
        packed=4,
        length=48,
        start="sft",
        rankings=rankings,
    )


def ppo(start: str, reward: str) -> PolicyGradient:
    return presets.ppo(
        policy_optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
        value_optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10),
        iterations=24,
        batch_size=128,
        minibatches=4,
        prompt_length=32,
        response_length=24,
        ema_decay=0.85,
        kl=FixedController(0.4),
        start=start,
        reference="sft",
        rewards=(LearnedReward(reward),),
    )


config = Experiment(
    name="rounds",
    data=WorldData(WorldConfig(sft=5000, feedback=1500, test=800)),
    model=TransformerConfig(
        vocab_size=1024, layers=4, width=128, heads=4, context=160, scan_layers=False
    ),
    stages={
        "pretrain": Pretrain(cosine(3e-3, 50), epochs=2.5, batch_size=8, length=128),
        "sft": SFT(
            cosine(1.5e-3, 10), epochs=3, batch_size=8, length=96, packed=True, start="pretrain"
        ),
        "feedback": feedback("sft"),
        "reward": reward("feedback"),
        "ppo": ppo("sft", "reward"),
        "feedback_2": feedback("ppo"),
        "reward_2": reward("feedback_2"),
        "ppo_2": ppo("ppo", "reward_2"),
        "longer": ppo("ppo", "reward"),
    },
    evaluation=EvaluationConfig(prompt_length=32, response_length=24, batch_size=200),
    evaluators=(
        GoldScore(above=(("ppo_2", "longer"), ("ppo_2", "ppo"), ("ppo", "sft"))),
        WinRate("sft"),
        Behaviour(),
        KL("sft"),
        RewardScore("reward"),
        RewardScore("reward_2"),
        RewardAccuracy(length=48, batch_size=16, rankings="feedback"),
        RewardAccuracy(length=48, batch_size=16, rankings="feedback_2"),
    ),
    loop=LoopConfig(checkpoint_every=200, log_every=1),
)
