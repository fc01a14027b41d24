"""InstructGPT on human feedback: Anthropic HH, OpenAssistant and PandaLM, two CPU cores.

    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/hh.py       # all stages, then the report
    RLHF_JAX_DATA=FOLDER rlhf-jax reward experiments/hh.py    # as far as the reward model

The files, about 6 MB with offensive text, come from GitHub where FOLDER lacks them:

    python -c "from rlhf_jax.data.download import download_human_data as d; d('FOLDER')"

What is trained on, of seed 0. Older turns are cut, as wholes, from prompts of over 400
characters: 95 % of HH then fits into 256 tokens, 71 % does uncut. A ranking with an output
that is still longer is left out.

                    rankings   K      held out
    HH                 2,307   2           231
    OpenAssistant        211   2..9         21
    PandaLM              999   2, ties     100
    fit for training   2,745 of 3,165 (K = 2..6), for testing 297 of 352
    demonstrations     2,763 of 3,067
    PPO prompts        2,347 of 2,391

Rankings share a batch element of 10 outputs (packed), whole ones only: one to itself would be
padding for the most part, as most have two outputs.

Cost: 12 min on two cores without AMX: pretrain 2:35, sft 0:59, reward 4:43, ppo 0:55, ppo_ptx 1:12,
report 1:35.

Result of the first command, seed 0: held-out pairs that the reward model orders as people did, and
95 % intervals over prompts, beside saying that the longer output is the better one:

                    pairs   reward model        longer is better
    all               296   .541 [.477, .607]   .480 [.406, .549]
    HH                218   .587 [.523, .651]   .388 [.321, .452]
    OpenAssistant      15   .400 [.083, .619]   .933 [.786, 1.00]
    PandaLM            63   .413 [.238, .577]   .690 [.508, .844]

A model this small, from scratch, beats chance on HH alone; what follows says how far PPO went, not
that its responses are better. The reward model prefers PPO's response to SFT's on .626 [.571, .682]
of the prompts at 1.2 nats from SFT, PPO-ptx's on .605 [.546, .663] at 2.2. Pretraining loss in
nats a token: base 5.00, SFT 6.22, PPO 6.29, PPO-ptx 5.58.
"""

from rlhf_jax.experiment import EvaluationConfig, Experiment, HumanData
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.stages.dpo import DPO, DPOConfig
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.stages.reward_model import RewardConfig
from rlhf_jax.stages.supervised import SupervisedConfig
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig


def ppo(**changes) -> PPOConfig:
    return PPOConfig(
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
        **changes,
    )


config = Experiment(
    name="hh",
    data=HumanData(),
    model=TransformerConfig(
        vocab_size=4096, layers=4, width=192, heads=6, context=256, scan_layers=False
    ),
    pretrain=SupervisedConfig(
        OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        epochs=1,
        batch_size=8,
        length=256,
    ),
    sft=SupervisedConfig(
        OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=20),
        epochs=1,
        batch_size=8,
        length=256,
        packed=True,
    ),
    reward=RewardConfig(
        OptimizerConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=10),
        epochs=1,
        batch_size=6,
        outputs=10,
        packed=True,
        length=256,
    ),
    ppo=ppo(),
    ppo_ptx=ppo(ptx_coefficient=1.0),
    dpo=DPOConfig(
        OptimizerConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=5),
        objective=DPO(beta=0.1),
        epochs=1,
        batch_size=6,
        outputs=10,
        packed=True,
        length=256,
        micro_batches=2,
    ),
    evaluation=EvaluationConfig(batch_size=64),
    loop=LoopConfig(checkpoint_every=50, log_every=10),
)
