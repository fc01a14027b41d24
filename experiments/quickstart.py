"""InstructGPT in miniature, in the generated world: no download, two CPU cores.

    make quickstart          or          rlhf-jax run experiments/quickstart.py [--seed N]

Cost: 8 min 29 s on two cores without AMX that were also used by other programs; 11 min 18 s of CPU
time (`time rlhf-jax run experiments/quickstart.py`). This command runs the three seeds below:
`rlhf-jax sweep experiments/quickstart.py --seeds 0 1 2`.

Result: gold score (the gold grader's score, 0 to 1) on 800 held-out prompts, by seed. Each 95 %
interval extends at most .023 to each side. `prompted` is the base model with three worked examples
before each prompt. Each seed generates different data. Matrix products in float32:

       base   prompted   SFT    DPO    PPO    PPO-ptx
    0  .337   .383       .604   .601   .675   .654
    1  .356   .397       .613   .631   .691   .665
    2  .352   .376       .619   .635   .697   .675

PPO > SFT > base for each seed, and these intervals do not overlap. No training split contains a
held-out request, not even a paraphrase of it. So the model can know the answer to a factual
question only from the pretraining text. A quarter of the demonstrations are careless
(`data.careless`). SFT imitates them; the labelers rank careless answers lower.

Loss on held-out text in nats per token, and KL to SFT in nats per response. SFT raises the loss
strongly, DPO and PPO further (the alignment tax); PPO-ptx brings it back almost to the base loss:

       base loss   SFT loss   DPO loss, KL   PPO loss, KL   PPO-ptx loss, KL
    0  1.19        2.98       3.90  19.13    3.19   .56     1.35   1.03
    1  1.14        2.95       3.61   7.33    3.11   .58     1.30   1.05
    2  1.17        2.91       3.73  11.90    3.08   .62     1.31   1.17
"""

from rlhf_jax.evaluation.behaviour import Behaviour
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.sft_loss import SFTLoss
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.world import WorldData
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DPO, DirectPreference
from rlhf_jax.stages.elsewhere import FewShot
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import WorldConfig

VOCABULARY = 1024
AGREEMENT = 0.726  # share of pairs on which two labelers agree (Ouyang et al. 2022, section 3.4)


def cosine(learning_rate: float, warmup_steps: int) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="cosine", warmup_steps=warmup_steps)


def ppo(**changes) -> PolicyGradient:
    return presets.ppo(
        policy_optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
        value_optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10),
        iterations=40,
        batch_size=128,
        minibatches=4,
        prompt_length=32,
        response_length=24,
        ema_decay=0.9,
        kl=FixedController(0.4),
        ptx_ratio=1,
        ptx_length=48,
        start="sft",
        rewards=(LearnedReward("reward"),),
        **changes,
    )


config = Experiment(
    name="quickstart",
    data=WorldData(WorldConfig(sft=6000, feedback=3000, test=800)),
    model=TransformerConfig(
        vocab_size=VOCABULARY, layers=4, width=128, heads=4, context=160, scan_layers=False
    ),
    stages={
        "pretrain": Pretrain(cosine(3e-3, 50), epochs=5, batch_size=8, length=128),
        "prompted": FewShot(examples=3, prompt_length=128, start="pretrain"),
        "sft": SFT(
            cosine(1.5e-3, 10), epochs=3, batch_size=8, length=96, packed=True, start="pretrain"
        ),
        "feedback": SimulatedFeedback(
            agreement=AGREEMENT,
            prompt_length=32,
            response_length=24,
            batch_size=200,
            policy="sft",
        ),
        "reward": RewardModel(
            cosine(5e-4, 5),
            batch_size=8,
            outputs=18,
            packed=4,
            length=48,
            start="sft",
            rankings="feedback",
        ),
        "dpo": DirectPreference(
            cosine(5e-4, 5),
            objective=DPO(beta=0.1),
            batch_size=8,
            outputs=18,
            packed=4,
            length=48,
            start="sft",
            rankings="feedback",
        ),
        "ppo": ppo(),
        "ppo_ptx": ppo(ptx_coefficient=1.0),
    },
    evaluation=EvaluationConfig(prompt_length=32, response_length=24, batch_size=200),
    evaluators=(
        GoldScore(
            above=(
                ("ppo", "sft"),
                ("ppo_ptx", "sft"),
                ("sft", "prompted"),
                ("prompted", "pretrain"),
            )
        ),
        WinRate("sft"),
        Behaviour(),
        KL("sft"),
        PretrainingLoss(
            length=128, against="sft", tax=("ppo", "ppo_ptx"), every=200, within=("pretrain",)
        ),
        SFTLoss(length=96, batch_size=20, every=100, within=("sft",)),
        RewardAccuracy(
            length=48, batch_size=16, rankings="feedback", agreement=AGREEMENT, every=50
        ),
        PreferenceAccuracy(
            length=48, batch_size=16, rankings="feedback", reference="sft", only=("dpo",), every=50
        ),
        Samples(),
    ),
    loop=LoopConfig(checkpoint_every=200, log_every=1),
)
