"""InstructGPT on human feedback (Anthropic HH, OpenAssistant and PandaLM); runs on two CPU cores.

    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/hh.py       # all stages, then the report
    RLHF_JAX_DATA=FOLDER rlhf-jax reward experiments/hh.py    # up to the reward model

This downloads the files (about 6 MB, with offensive text) from GitHub into FOLDER:

    python -c "from rlhf_jax.data.download import download_human_data as d; d('FOLDER')"

The files of HH and PandaLM are public test sets. Therefore the config sets `allow_test=True`, and
the report says that these models must not be evaluated on these test sets.

The table shows the number of rankings, with those that are held out, and the other training
records, for seed 0. If a prompt has more than 400 characters, its oldest turns are removed. 95 %
of the HH rankings then fit into 256 tokens (71 % without this). A ranking with an output that is
still too long is left out.

                    rankings   K      held out
    HH                 2,307   2           231
    OpenAssistant        211   2..9         22
    PandaLM              999   2, ties     101
    used for training  2,638 of 3,159, for testing 310 of 354; the others are too long or all tied
    demonstrations     2,752 of 3,062
    PPO prompts        2,341 of 2,390

Several rankings share a batch element of 10 outputs (`packed`). Most rankings have only two
outputs; with one ranking per element, most of the batch would be padding. Of the 3,517 rankings,
354 are held out, and 4 more are not used because their prompts are held out. The other 3,159 are
for training.

Cost: 15 min on two cores without AMX that were also doing other work: pretrain 4:26, sft 1:28,
reward 3:34, ppo 1:01, ppo_ptx 1:19, report 1:35.

Result of the first command, seed 0: accuracy on held-out pairs (share ordered as people did) of the
reward model and of the rule "the longer output is better", with 95 % intervals over prompts:

                    pairs   reward model        longer is better
    all               324   .528 [.474, .582]   .528 [.455, .600]
    HH                220   .568 [.499, .635]   .473 [.404, .541]
    OpenAssistant      23   .391 [.184, .629]   .652 [.350, .869]
    PandaLM            81   .457 [.332, .613]   .642 [.394, .822]

This reward model is small and trained from scratch; it is not clearly better than chance. So the
next numbers show how much PPO increased the reward-model score. They do not show that its responses
are better. The reward model prefers PPO's response to SFT's on .767 [.712, .815] of the prompts (KL
to SFT 1.3 nats), and PPO-ptx's response to SFT's on .676 [.618, .730] (KL 2.5 nats). A response
that does not end within 48 tokens scores -1: 66 % of SFT's responses end, 98 % of PPO's, 95 % of
PPO-ptx's. Pretraining loss in nats per token: base 4.96, SFT 6.00, PPO 6.07, PPO-ptx 5.41.
"""

from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.sft_loss import SFTLoss
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.human import HumanData
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DPO, DirectPreference
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig


def cosine(learning_rate: float, warmup_steps: int) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="cosine", warmup_steps=warmup_steps)


def ppo(**changes) -> PolicyGradient:
    return presets.ppo(
        policy_optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10),
        value_optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
        iterations=20,
        batch_size=32,
        minibatches=4,
        prompt_length=128,
        response_length=48,
        ema_decay=0.9,
        kl=FixedController(0.05),
        ptx_ratio=1,
        ptx_length=128,
        start="sft",
        rewards=(LearnedReward("reward"),),
        **changes,
    )


config = Experiment(
    name="hh",
    data=HumanData(allow_test=True),
    model=TransformerConfig(
        vocab_size=4096, layers=4, width=192, heads=6, context=256, scan_layers=False
    ),
    stages={
        "pretrain": Pretrain(cosine(2e-3, 50), batch_size=8, length=256),
        "sft": SFT(cosine(1e-3, 20), batch_size=8, length=256, packed=True, start="pretrain"),
        "reward": RewardModel(
            cosine(2e-4, 10), batch_size=6, outputs=10, packed=5, length=256, start="sft"
        ),
        "dpo": DirectPreference(
            cosine(2e-4, 5),
            objective=DPO(beta=0.1),
            batch_size=6,
            outputs=10,
            packed=5,
            length=256,
            micro_batches=2,
            start="sft",
        ),
        "ppo": ppo(),
        "ppo_ptx": ppo(ptx_coefficient=1.0),
    },
    evaluation=EvaluationConfig(prompt_length=128, response_length=48, batch_size=64),
    evaluators=(
        RewardAccuracy(length=256, outputs=10, batch_size=6, every=100),
        PreferenceAccuracy(
            length=256, outputs=10, batch_size=6, reference="sft", only=("dpo",), every=100
        ),
        SFTLoss(length=256, every=100, within=("sft",)),
        RewardScore("reward"),
        WinRate("sft", of="reward_score", told=("ppo", "ppo_ptx")),
        KL("sft"),
        PretrainingLoss(
            length=256,
            against="sft",
            told=("ppo", "ppo_ptx"),
            over="reward_score",
            every=200,
            within=("pretrain",),
        ),
        Samples(),
    ),
    loop=LoopConfig(checkpoint_every=50, log_every=10),
)
