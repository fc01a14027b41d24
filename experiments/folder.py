"""Train SFT, a reward model, PPO and DPO on your own records. The model starts from random weights.

    rlhf-jax run experiments/folder.py --data.path FOLDER
    rlhf-jax sft experiments/folder.py --data.path FOLDER      # demonstrations alone are enough

FOLDER holds JSONL files, a record a line. Two are needed:

    demonstrations.train.jsonl    {"prompt": "...", "response": "..."}
    rankings.train.jsonl          {"prompt": "...", "chosen": "...", "rejected": "..."}
                               or {"prompt": "...", "responses": ["...", ...], "ranks": [0, 1, ...]}

docs/data.md lists the optional files (held-out records, prompts, text, tokenizer) and says what is
used if they are missing. Sizes are options, for example:

    --model.layers 8 --model.width 512 --model.heads 8 --model.vocab-size 8000 --model.context 1024
    --sft.length 1024 --reward.length 1024 --dpo.length 1024 --evaluators.accuracy.length 1024
    --ppo.prompt-length 768 --ppo.response-length 256
    --evaluation.prompt-length 768 --evaluation.response-length 256
    --sft.epochs 3 --sft.batch-size 32 --ppo.iterations 100

A record that is longer than its stage's length is left out and counted.

The report needs no grader. It shows how often the reward model orders held-out pairs as people did;
the mean reward-model score of each policy on held-out prompts; how often a policy's response scores
higher than SFT's; the KL to SFT; and samples of all policies side by side.
"""

from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.sft_loss import SFTLoss
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.models.config import TransformerConfig
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


def cosine(learning_rate: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="cosine")


# Up to five comparisons share the ten outputs of a batch element.
RANKINGS = {"batch_size": 8, "outputs": 10, "packed": 5, "length": 128, "start": "sft"}

config = Experiment(
    name="folder",
    data=FolderData(),
    model=TransformerConfig(
        vocab_size=1024, layers=4, width=128, heads=4, context=256, scan_layers=False
    ),
    stages={
        "sft": SFT(cosine(2e-3), epochs=10, batch_size=8, length=128, packed=True, start=None),
        "reward": RewardModel(cosine(5e-4), epochs=2, **RANKINGS),
        "dpo": DirectPreference(cosine(5e-4), objective=DPO(beta=0.1), **RANKINGS),
        "ppo": presets.ppo(
            policy_optimizer=OptimizerConfig(learning_rate=3e-4),
            value_optimizer=OptimizerConfig(learning_rate=1e-3),
            iterations=20,
            batch_size=64,
            minibatches=4,
            prompt_length=64,
            response_length=32,
            kl=FixedController(0.2),
            ema_decay=None,
            start="sft",
            rewards=(LearnedReward("reward"),),
        ),
    },
    evaluation=EvaluationConfig(prompt_length=64, response_length=32),
    evaluators=(
        SFTLoss(length=128, every=50, within=("sft",)),
        RewardAccuracy(length=128, outputs=10, batch_size=8, every=50),
        PreferenceAccuracy(
            length=128, outputs=10, batch_size=8, reference="sft", only=("dpo",), every=50
        ),
        RewardScore("reward"),
        WinRate("sft", of="reward_score", told=("dpo", "ppo")),
        KL("sft"),
        Samples(),
    ),
    loop=LoopConfig(checkpoint_every=100, log_every=5),
)
