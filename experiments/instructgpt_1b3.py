"""InstructGPT with 1.3 billion parameters: the settings that differ from 6 billion parameters.

    rlhf-jax plan experiments/instructgpt_1b3.py --topology v5p:2x2x4
    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/instructgpt_1b3.py

The plan for this slice of 16 chips: at most 53.8 of 95.7 GiB per chip (in pretraining's update;
28.4 in PPO-ptx's). Utilisation of the peak: 30 % in pretraining's update, 29 % in SFT's, 53 % in
scoring, 33 % in PPO-ptx's update, 2 % in rollouts, which read their cache for every token.
SFT takes 0.006 petaflop/s-days, PPO-ptx 0.97 (the paper prints 4.9 and 60 for 175 billion).

Everything else is as in instructgpt_6b.py; read its docstring too. Reward model and value function
have 6 billion parameters and come from the run of that file, which must be finished. The paper's
SFT baseline:

    rlhf-jax sft experiments/instructgpt_1b3.py --out runs/instructgpt_1b3_baseline \
      --sft.epochs 16 --sft.optimizer.learning-rate 9.65e-6 --sft.pretraining-fraction 0
"""

from dataclasses import replace
from pathlib import Path

from rlhf_jax.models.config import SIZES
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.stages.elsewhere import FromRun

six = load_experiment(str(Path(__file__).with_name("instructgpt_6b.py")))
shape = SIZES["gpt3-1.3b"]  # 16 heads of 128: the paper prints 24, which d_model = 2048 contradicts

config = replace(
    six,
    name="instructgpt_1b3",
    model=replace(six.model, layers=shape.layers, width=shape.width, heads=shape.heads),
    stages=six.stages
    | {
        "reward": FromRun("runs/instructgpt_6b", "reward", model=six.model),
        "pretrain": replace(
            six.stages["pretrain"],
            optimizer=replace(
                six.stages["pretrain"].optimizer,
                learning_rate=2e-4,
                warmup_steps=358,  # 375 million tokens
            ),
            batch_size=512,
            micro_batches=1,  # changes memory only
        ),
        "sft": replace(
            six.stages["sft"], optimizer=replace(six.stages["sft"].optimizer, learning_rate=5e-6)
        ),
    },
    parallel=ParallelConfig(fsdp=16),
)
