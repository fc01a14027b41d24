# %% [markdown]
# # Ablating the PPO objective
#
# An objective of `rlhf_jax` is a sum of named, weighted terms: an ablation is one line. This
# notebook writes InstructGPT's PPO-ptx as such a sum, on the instruction world, and takes it apart:
# KL coefficient, clip, ptx, advantage whitening, the start of the value function, an entropy bonus.
#
# **Shows:** what each part buys, in gold score, in distance from the SFT model and in what is
# forgotten of the pretraining text; and how large each term's gradient is. **Takes:** about two
# and a half minutes on two CPU cores.

# %%
import contextlib
import io
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.data.pipeline import prompt_batches, text_batches, text_pass
from rlhf_jax.evaluation.statistics import bootstrap_mean
from rlhf_jax.experiment import EvaluationConfig, Experiment, WorldData
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.advantages import gae, kl_shaped_rewards
from rlhf_jax.objectives.likelihood import cross_entropy, entropy, token_log_probs
from rlhf_jax.objectives.reductions import masked_mean, whiten
from rlhf_jax.objectives.surrogates import clipped_value_loss, ppo_clip, ppo_diagnostics
from rlhf_jax.objectives.terms import gradients_by_term, term
from rlhf_jax.run import Run
from rlhf_jax.stages import ppo
from rlhf_jax.stages.reward_model import RewardConfig
from rlhf_jax.stages.supervised import SupervisedConfig, mean_loss
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import InstructionWorld, WorldConfig

# %% [markdown]
# ## The models to start from
#
# Pretraining, SFT and the reward model come from the stages, on a small scale (notebook 01 has
# them by hand). Half of the demonstrations are careless, so that PPO has something to repair.

# %%
PROMPT, RESPONSE = 40, 20  # tokens
MODEL = TransformerConfig(
    vocab_size=512, layers=2, width=96, heads=4, context=100, scan_layers=False
)


def rate(learning_rate):
    return OptimizerConfig(learning_rate, schedule="cosine", warmup_steps=10)


PPO = ppo.PPOConfig(
    rate(5e-4), rate(1e-3), iterations=25, batch_size=64, prompt_length=PROMPT,
    response_length=RESPONSE, ptx_ratio=1, ptx_length=48, ptx_coefficient=1.0,
)  # fmt: skip
experiment = Experiment(
    name="ablation",
    data=WorldData(
        WorldConfig(sft=2000, feedback=600, ppo=2000, documents=1000), outputs=(4, 4), careless=0.5
    ),
    model=MODEL,
    pretrain=SupervisedConfig(rate(3e-3), epochs=3, batch_size=16, length=64),
    sft=SupervisedConfig(rate(3e-3), epochs=4, batch_size=16, length=64, packed=True),
    reward=RewardConfig(rate(5e-4), epochs=2, batch_size=16, outputs=4, length=64),
    ppo=PPO,
    ppo_ptx=PPO,
    evaluation=EvaluationConfig(batch_size=200),
    out=tempfile.mkdtemp(),
)
with contextlib.redirect_stdout(io.StringIO()):
    run = Run(experiment)
    sft, reward = run.model("sft"), run.model("reward")
world, tokenizer = InstructionWorld(experiment.data.world), run.tokenizer

# %% [markdown]
# ## The objective
#
# One expression. `term` gives a weighted mean its name; the sum keeps the parts apart, so that
# `gradients_by_term` returns the gradient of the whole together with the value and the gradient
# norm of every part. To take a term away, delete it or weigh it by 0; to add one, add it.
#
# Policy and value are two networks in one tree of parameters. The weights `c` are arguments, so
# that all ablations run through one compiled program.


# %%
def objective(params, batch, text, c):
    states = ppo.response_states(
        MODEL, params["policy"], batch["tokens"], batch["segments"], RESPONSE
    )
    logits = transformer.logits(MODEL, params["policy"], states)
    log_probs = token_log_probs(logits, batch["tokens"][:, -RESPONSE:])
    states = ppo.response_states(
        MODEL, params["value"], batch["tokens"], batch["segments"], RESPONSE
    )
    values = score.scores(params["value"], states)
    states = transformer.hidden(MODEL, params["policy"], text["tokens"], text["segments"])
    text_logits = transformer.logits(MODEL, params["policy"], states[:, :-1])

    old, advantages, mask = batch["old"], batch["advantages"], batch["mask"]
    clipped = clipped_value_loss(values, batch["values"], batch["returns"], c["clip"])
    return (
        term("policy", ppo_clip(log_probs, old, advantages, c["clip"]), mask)
        + c["value"] * term("value", clipped, mask)
        + c["ptx"]
        * term("ptx", cross_entropy(text_logits, text["tokens"][:, 1:]), text["weights"][:, 1:])
        - c["entropy"] * term("entropy", entropy(logits), mask)
    )


# %% [markdown]
# ## The ablations
#
# Each is one line: what it changes of the first.

# %%
BASE = {
    "kl": 0.1,
    "clip": 0.2,
    "value": 1.0,
    "ptx": 1.0,
    "entropy": 0.0,
    "whiten": 1.0,
    "reward value": 1.0,
}
ABLATIONS = {
    "PPO-ptx": {},
    "no KL penalty": {"kl": 0.0},
    "KL penalty x 5": {"kl": 0.5},
    "no clip": {"clip": 1e6},
    "no ptx": {"ptx": 0.0},
    "advantages not whitened": {"whiten": 0.0},
    "value function from zero": {"reward value": 0.0},
    "entropy bonus": {"entropy": 0.02},
}  # fmt: skip

# %% [markdown]
# What an iteration holds constant: responses, log-probabilities, shaped rewards, advantages.

# %%
rollout = ppo.make_rollout(PPO, MODEL, ppo.TokenIds(tokenizer.eos_id, tokenizer.pad_id))


@jax.jit
def experience(params, prompts, key, c):
    sampled = rollout(params["policy"], key, prompts)
    mask = sampled.mask
    tokens = jnp.concatenate([prompts["tokens"], sampled.tokens], axis=1)
    segments = jnp.concatenate([prompts["segments"], mask.astype(jnp.int32)], axis=1)
    log_probs = lambda p: ppo.response_log_probs(MODEL, p, tokens, segments, RESPONSE, 1.0)
    last = transformer.hidden(MODEL, reward, tokens, segments, last=RESPONSE)
    scores = score.at_last_token(score.scores(reward, last), mask)
    ended = score.at_last_token(sampled.tokens, mask) == tokenizer.eos_id
    scores = jnp.where(ended, scores, -1.0)
    states = ppo.response_states(MODEL, params["value"], tokens, segments, RESPONSE)
    values = score.scores(params["value"], states)
    old, reference = log_probs(params["policy"]), log_probs(sft)
    rewards = kl_shaped_rewards(scores, old, reference, mask, c["kl"])
    advantages, returns = gae(rewards, values, mask, discount=1.0, lam=0.95)
    advantages = jnp.where(c["whiten"], whiten(advantages, mask), advantages)
    batch = {
        "tokens": tokens, "segments": segments, "mask": mask, "old": old, "values": values,
        "advantages": advantages, "returns": returns,
    }  # fmt: skip
    return batch, {"score": scores.mean(), "kl": ((old - reference) * mask).sum(1).mean()}


# %% [markdown]
# Four steps of Adam on each batch of 64 episodes: enough for the policy to leave the one that
# sampled, which is what the clip is about.

# %%
EPOCHS, STEPS = 4, 4 * PPO.iterations
adam = lambda peak: optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(peak, STEPS, 0.1))
)
optimizer = optax.multi_transform(
    {"policy": adam(5e-4), "value": adam(1e-3)}, {"policy": "policy", "value": "value"}
)


@jax.jit
def update(params, state, batch, text, c):
    def step(carry, _):
        params, state = carry
        gradient, metrics = gradients_by_term(lambda p: objective(p, batch, text, c), params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), metrics

    carry, metrics = jax.lax.scan(step, (params, state), None, length=EPOCHS)
    log_probs = ppo.response_log_probs(
        MODEL, carry[0]["policy"], batch["tokens"], batch["segments"], RESPONSE, 1.0
    )
    after = ppo_diagnostics(log_probs, batch["old"], batch["advantages"], 0.2)
    moved = masked_mean(after["approximate_kl"], batch["mask"])
    return *carry, jax.tree.map(jnp.mean, metrics) | {"moved": moved}


def train(**changes):
    c = BASE | changes
    head = reward if c["reward value"] else score.zero_score_head(reward)
    params, history = {"policy": sft, "value": head}, []
    state = optimizer.init(params)
    prompts = prompt_batches(
        run.corpora.read("prompts", "ppo"), tokenizer, batch_size=64, length=PROMPT, seed=0
    )
    texts = text_batches(
        run.corpora.read("text", "train"), tokenizer, batch_size=64, length=48, seed=0
    )
    for i in range(PPO.iterations):
        prompt = {k: v for k, v in next(prompts).items() if k != "index"}
        batch, seen = experience(params, prompt, jax.random.fold_in(jax.random.key(0), i), c)
        params, state, metrics = update(params, state, batch, next(texts), c)
        history.append(seen | metrics)
    return params["policy"], {name: np.array([h[name] for h in history]) for name in history[0]}


trained = {name: train(**changes) for name, changes in ABLATIONS.items()}

# %% [markdown]
# ## What each part buys
#
# Gold score on 400 prompts that no stage has seen, with the 95 % interval over prompts; the KL to
# the SFT model; and the loss on held-out pretraining text. The interval does not hold the chance of
# another seed: read differences of a few hundredths as nothing.

# %%
sampler = run.sampler(world.prompts("test"), SamplingConfig(1.0))
prompts, key = world.prompts("test"), jax.random.key(5)
heldout = text_pass(run.corpora.read("text", "valid"), tokenizer, batch_size=64, length=64)
heldout = list(heldout)


def judged(policy):
    answers = sampler.responses(policy, prompts, key)
    grades = [world.grade(p, a).score for p, a in zip(prompts, answers, strict=True)]
    return {
        "gold score": bootstrap_mean(grades),
        "KL to SFT": sampler.kl(policy, sft, prompts, key),
        "text": mean_loss(MODEL, policy, heldout),
    }


results = {"SFT": judged(sft)} | {name: judged(policy) for name, (policy, _) in trained.items()}
print(f"{'':26}gold score             KL, nats a response   text loss, nats a token")
for name, r in results.items():
    gold = r["gold score"]
    print(f"{name:26}{gold.mean:.3f} [{gold.low:.3f}, {gold.high:.3f}]   {r['KL to SFT']:8.1f}"
          f"{r['text']:22.2f}")  # fmt: skip
