"""InstructGPT with 175 billion parameters: the settings that differ from 6 billion parameters.

    rlhf-jax plan experiments/instructgpt_175b.py --topology v5p:8x8x8
    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/instructgpt_175b.py

The plan for this slice of 512 chips: at most 29.8 of 95.7 GiB per chip (in PPO-ptx's update; 27.9
in its rollout). Utilisation of the peak: 52 % in pretraining's update, 53 % in PPO-ptx's, 63 % in
scoring, 22 % in SFT's (its batch has only 8 rows), 8 % in rollouts. PPO-ptx takes 66
petaflop/s-days, at best 0.63 days. The paper prints 60; its texts may be shorter than 2,048 tokens.
The paper's 4.9 petaflop/s-days for SFT are 16 epochs; the two epochs of `sft` take a seventh of
that. Compiling takes 5 minutes on two cores (`--stages pretrain sft ppo_ptx`). With
--model.attention fused it needs at most 30.2 GiB, and utilisation is 56 % in pretraining's update,
57 % in PPO-ptx's and 69 % in scoring.

Everything else is as in instructgpt_6b.py; read its docstring too. Reward model and value function
have 6 billion parameters and come from the run of that file, which must be finished. The paper's
SFT baseline:

    rlhf-jax sft experiments/instructgpt_175b.py --out runs/instructgpt_175b_baseline \
      --sft.epochs 16 --sft.optimizer.learning-rate 5.03e-6 --sft.pretraining-fraction 0
"""

from dataclasses import replace
from pathlib import Path

from rlhf_jax.models.config import SIZES
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.stages.elsewhere import FromRun

six = load_experiment(str(Path(__file__).with_name("instructgpt_6b.py")))
shape = SIZES["gpt3-175b"]
value = replace(six.stages["ppo"].value_optimizer, learning_rate=5e-6)

config = replace(
    six,
    name="instructgpt_175b",
    model=replace(six.model, layers=shape.layers, width=shape.width, heads=shape.heads),
    stages=six.stages
    | {
        "reward": FromRun("runs/instructgpt_6b", "reward", model=six.model),
        "pretrain": replace(
            six.stages["pretrain"],
            optimizer=replace(
                six.stages["pretrain"].optimizer,
                learning_rate=6e-5,
                warmup_steps=119,  # 375 million tokens
            ),
            batch_size=1536,
            micro_batches=24,  # changes memory only
        ),
        "sft": replace(
            six.stages["sft"],
            optimizer=replace(six.stages["sft"].optimizer, learning_rate=2.45e-6),
            batch_size=8,
        ),
        "ppo": replace(six.stages["ppo"], value_optimizer=value),
        "ppo_ptx": replace(six.stages["ppo_ptx"], value_optimizer=value),
    },
    parallel=ParallelConfig(fsdp=32, tensor=8),
)
