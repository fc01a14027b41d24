"""InstructGPT on human feedback: Anthropic HH, OpenAssistant and PandaLM, two CPU cores."""

from rlhf_jax.experiment import EvaluationConfig, Experiment, HumanData
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.stages.ppo import PPOConfig
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
    evaluation=EvaluationConfig(batch_size=64),
    loop=LoopConfig(checkpoint_every=50, log_every=10),
)
