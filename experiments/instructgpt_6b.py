"""InstructGPT with 6 billion parameters (6.7): all stages with the settings of arXiv 2203.02155.

    rlhf-jax plan experiments/instructgpt_6b.py --topology v5p:4x4x4
    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/instructgpt_6b.py

The first command needs no TPU: it compiles every program for this slice and says what each chip
would hold and do, and whether it fits. On these 64 chips it needs at most 33.8 of 95.7 GiB per chip
(in the reward model's update; 22.4 in PPO-ptx, in its rollout). Utilisation of the peak: 42 % in
pretraining's update, 42 % in the reward model's, 34 % in SFT's (its batch has only 32 rows), 54 %
in scoring, 46 % in PPO-ptx's update, 3 % in rollouts, which read their cache for every token. SFT
takes 0.029 petaflop/s-days, PPO-ptx 3.0 (the paper prints 4.9 and 60 for 175 billion). With
--model.attention fused it needs at most 24.9 GiB, and utilisation is 49 % in pretraining's update,
50 % in the reward model's, 71 % in scoring, 54 % in PPO-ptx's update: time inside attention's
kernels counts as at 40 % of the peak. With --model.remat dots too, pretraining reaches 51 %, the
reward model 51 % and PPO-ptx 56 %, and it needs at most 60.9 GiB.
FOLDER holds your own records (`FolderData`), because the paper's were never released.

A field marked "not printed" is our choice; the paper does not give it. The paper's models are
pretrained on 300 billion tokens (Brown et al. 2020; `pretrain` has that batch and learning rate).
A stage starts from any finished model in the run's directory. Attention is dense in every layer;
GPT-3 alternates dense and locally banded sparse attention. Products take bfloat16, the paper's
float16; parameters are float32 in both. The reward model starts from this run's SFT model.

`sft` is the model from which PPO starts, and its reference: 2 epochs with 10 % of pretraining rows.
The paper's SFT baseline is another model, chosen by reward-model score among 16 epochs:

    rlhf-jax sft experiments/instructgpt_6b.py --out runs/instructgpt_6b_baseline \
      --sft.epochs 16 --sft.optimizer.learning-rate 9.65e-6 --sft.pretraining-fraction 0

instructgpt_1b3.py and instructgpt_175b.py say what they change in this experiment.
"""

import dataclasses

from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.models.config import SIZES
from rlhf_jax.objectives.estimator import GAE, PPOClip
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.folder import FolderData
from rlhf_jax.stages import presets
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig

ADAM = OptimizerConfig(
    b1=0.9,
    b2=0.95,
    epsilon=1e-8,  # not printed
    weight_decay=0.0,  # not printed
    max_grad_norm=1.0,  # not printed
)
COSINE = dataclasses.replace(ADAM, schedule="cosine", final_fraction=0.1, warmup_steps=0)
CONSTANT = dataclasses.replace(  # warm-up: 10 iterations of 8 minibatches
    ADAM, schedule="constant", warmup_steps=80, warmup_from=0.1
)

ppo = presets.ppo(
    # Not printed: the sweep went from 2.55e-6 to 2.55e-5, above 8.05e-6 it diverged without ptx.
    policy_optimizer=dataclasses.replace(CONSTANT, learning_rate=5e-6),
    value_optimizer=dataclasses.replace(CONSTANT, learning_rate=9e-6),
    iterations=500,  # 256,000 episodes
    batch_size=512,
    minibatches=8,
    epochs=1,
    micro_batches=1,  # changes memory only
    ptx_micro_batches=8,  # changes memory only
    prompt_length=1024,
    response_length=1024,
    temperature=1.0,
    kl=FixedController(0.02),
    advantage=GAE(discount=1.0, lam=0.95),  # lam is not printed
    surrogate=PPOClip(0.2),
    value_clip=0.2,  # not printed
    whiten_rewards=False,  # not printed
    whiten_advantages=True,  # not printed
    zero_value_head=False,
    ema_decay=0.992,
    ptx_ratio=8,
    ptx_length=2048,  # not printed
    start="sft",
    reference="sft",
    rewards=(LearnedReward("reward"),),
)

config = Experiment(
    name="instructgpt_6b",
    data=FolderData(demonstrations=12_725, rankings=33_207),  # table 6
    model=dataclasses.replace(
        SIZES["gpt3-6.7b"],
        dropout=0.2,  # of the SFT baseline; not printed for pretraining and PPO's start
        compute_dtype="bfloat16",
        scan_layers=True,
        remat="full",
    ),
    stages={
        "pretrain": Pretrain(  # Brown et al. 2020, table 2.1 and appendix B
            dataclasses.replace(
                COSINE,
                learning_rate=1.2e-4,
                warmup_steps=179,  # 375 million tokens
                warmup_from=0.0,
                weight_decay=0.1,
            ),
            epochs=1,
            batch_size=1024,
            length=2048,
            micro_batches=4,  # changes memory only
        ),
        "sft": SFT(
            dataclasses.replace(COSINE, learning_rate=1.04e-5),
            epochs=2,
            batch_size=32,
            length=2048,
            packed=False,  # not printed
            pretraining_fraction=0.1,
            start="pretrain",
        ),
        "reward": RewardModel(
            dataclasses.replace(COSINE, learning_rate=9e-6),
            epochs=1,
            batch_size=64,
            outputs=9,
            packed=1,  # not printed
            length=2048,
            micro_batches=1,  # changes memory only
            normalise="shift",
            start="sft",
        ),
        "ppo": ppo,
        "ppo_ptx": dataclasses.replace(ppo, ptx_coefficient=27.8),
    },
    ending=EndingConfig(missing_eos_score=None),  # not printed
    evaluation=EvaluationConfig(  # not printed
        prompt_length=1024, response_length=1024, batch_size=512
    ),
    loop=LoopConfig(checkpoint_every=50, log_every=1),
    parallel=ParallelConfig(fsdp=32),
)
