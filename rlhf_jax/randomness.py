"""All randomness of a run: sha256 gives one number for each (seed of the run, purpose).

A purpose is "STREAM/USE". No two uses share random numbers, and adding, renaming or removing one
use changes no other. A stage's stream is its name, unless `Stage.stream` names another. These are
the purposes, with the stage names of the experiments here:

purpose                      what it draws
data/heldout                 which prompts, and documents, are held out
data/tokenizer               which lines the tokenizer is trained on
pretrain/initialise          the first weights
pretrain/text                order of the text
sft/demonstrations           order of the demonstrations
sft/text                     order of the text that is mixed in
sft/mix                      which rows of a batch are text
feedback/counts              how many outputs each prompt gets
feedback/outputs             the outputs that labelers rank
feedback/labelers            the labelers' noise
reward/head                  the first weights of the score head
reward/rankings              order of the rankings; for DPO: dpo/rankings
ppo/prompts, ppo/text        order of prompts and text; for PPO-ptx: ppo_ptx/prompts, ppo_ptx/text
STREAM/training              what a stage draws in its steps: dropout; in PPO and PPO-ptx also
                             responses and the order of the minibatches
report/responses             the report's responses: every policy samples with the same random
                             numbers, so that differences between policies are less noisy
report/kl                    the responses on which KL is measured, same numbers for each policy
generate/responses           the responses of `rlhf-jax generate` and rlhf_jax.api.sample; their own
                             seed is appended
"""

import hashlib

import jax
import numpy as np


def random_key(seed: int, purpose: str) -> jax.Array:
    """The JAX key of a purpose: 64 bits of sha256("seed/purpose")."""
    high, low = _words(seed, purpose)
    return jax.random.fold_in(jax.random.key(high), low)


def shuffle_seed(seed: int, purpose: str) -> int:
    """The seed in [0, 2^32) of a purpose, for NumPy and for simulated labelers."""
    return int(_words(seed, purpose)[0])


def _words(seed: int, purpose: str) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.frombuffer(digest[:8], ">u4").astype(np.uint32)
