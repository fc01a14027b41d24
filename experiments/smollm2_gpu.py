"""experiments/smollm2.py for one GPU: longer sequences, larger batches, more steps.

The commands are

    rlhf-jax fetch smollm2
    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/smollm2_gpu.py

On one H200, SFT's 75 steps of 16 x 320 tokens take 3.6 s (106,000 tokens/s) after 107 s of
compiling.
The stages after SFT have not been run to their end on a GPU.
"""

import dataclasses

import smollm2

RANKINGS = {"batch_size": 16, "micro_batches": 4, "length": 320}
LENGTHS = {"prompt_length": 256, "response_length": 64}

config = dataclasses.replace(
    smollm2.config,
    name="smollm2_gpu",
    model=dataclasses.replace(smollm2.config.model, context=512),
    evaluation=dataclasses.replace(smollm2.config.evaluation, batch_size=128, **LENGTHS),
    evaluators=tuple(
        dataclasses.replace(each, length=320) if hasattr(each, "length") else each
        for each in smollm2.config.evaluators
    ),
).with_stages(
    sft=dataclasses.replace(smollm2.config.stages["sft"], epochs=1.0, length=320),
    reward=dataclasses.replace(smollm2.config.stages["reward"], **RANKINGS),
    dpo=dataclasses.replace(smollm2.config.stages["dpo"], **RANKINGS, epochs=1.0),
    ppo=dataclasses.replace(smollm2.config.stages["ppo"], iterations=40, batch_size=128, **LENGTHS),
)
