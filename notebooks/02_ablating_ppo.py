# %% [markdown]
# # Ablating the PPO objective
#
# An objective of `rlhf_jax` is a sum of named, weighted terms: an ablation is one line. This
# notebook writes InstructGPT's PPO-ptx as such a sum, on the generated world, and takes it apart:
# KL coefficient, clip, ptx, advantage whitening, the start of the value function, an entropy bonus.
#
# **Shows:** what each part buys, in gold score, in distance from the SFT model and in what is
# forgotten of the pretraining text; and how large each term's gradient is. **Takes:** a few minutes
# on two CPU cores.

# %%
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from rlhf_jax.data.pipeline import (
    mixed_batches,
    prompt_batches,
    ranking_batches,
    supervised_batches,
    supervised_pass,
    text_batches,
    text_pass,
)
from rlhf_jax.data.tokenizer_training import train_sentencepiece
from rlhf_jax.evaluation.policies import Sampler
from rlhf_jax.evaluation.statistics import bounded_mean
from rlhf_jax.feedback.collect import collect_rankings
from rlhf_jax.feedback.labelers import SimulatedLabeler
from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.ending import Ending, final_scores
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.advantages import kl_shaped_rewards
from rlhf_jax.objectives.estimator import GAE, Episodes
from rlhf_jax.objectives.likelihood import cross_entropy, entropy, token_log_probs
from rlhf_jax.objectives.reductions import masked_mean, whiten
from rlhf_jax.objectives.surrogates import clipped_value_loss, ppo_clip, ppo_diagnostics
from rlhf_jax.objectives.terms import gradients_by_term, term
from rlhf_jax.stages import supervised
from rlhf_jax.stages.experience import response_log_probs, response_states
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import normalise, reward_loss
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import InstructionWorld, WorldConfig

# %% [markdown]
# ## The models to start from
#
# As in notebook 01, on a small scale: an SFT model and a reward model of the generated world.
# Half of the demonstrations are careless, so that PPO has something to repair; half of the SFT
# rows are plain text of that world, so that there is something to forget.

# %%
PROMPT, RESPONSE = 40, 20  # tokens
MODEL = TransformerConfig(vocab_size=512, layers=2, width=64, heads=4, context=64)
world = InstructionWorld(WorldConfig(sft=2000, feedback=600, ppo=2000, documents=1000))
demonstrations, text = world.demonstrations("sft", careless=0.5), world.corpus("train")
seen = [d.prompt + d.response for d in demonstrations] + text
tokenizer = train_sentencepiece(seen, 512, f"{tempfile.mkdtemp()}/world.model")
shape = {"batch_size": 16, "length": 64}


def train_stage(loss, params, batches, steps, rate):
    config = Pretrain(OptimizerConfig(rate, schedule="cosine", warmup_steps=10))
    update, optimizer = supervised.make_update(loss, config, steps)
    state = supervised.initial_state(params, optimizer, jax.random.key(0))
    for _ in range(steps):
        state, metrics = update(state, next(batches))
    return state.params, {name: round(float(value), 3) for name, value in metrics.items()}


batches = mixed_batches(
    supervised_batches(demonstrations, tokenizer, seed=0, packed=True, **shape),
    text_batches(text, tokenizer, seed=1, **shape),
    fraction=0.5, seed=2,
)  # fmt: skip
start = transformer.init(MODEL, jax.random.key(0))
sft, metrics = train_stage(supervised.likelihood_loss(MODEL), start, batches, 600, 4e-3)
print("SFT:", metrics["loss"], "nats a token")

ENDING = Ending(tokenizer.eos_id, tokenizer.pad_id)
sampler = Sampler(
    MODEL, tokenizer, SamplingConfig(1.0), ENDING, prompt_length=PROMPT,
    response_length=RESPONSE, batch_size=200,
)  # fmt: skip
labeler, prompts = SimulatedLabeler(noise=0.2), world.prompts("feedback")
rankings = collect_rankings(
    prompts,
    [4] * len(prompts),
    lambda repeated: sampler.responses(sft, repeated, jax.random.key(1)),
    lambda prompt, four: world.rank(prompt, four, labeler),
)
batches = ranking_batches(rankings, tokenizer, outputs=4, seed=3, **shape)
head = score.with_score_head(jax.tree.map(jnp.copy, sft), jax.random.key(2))
reward, metrics = train_stage(reward_loss(MODEL), head, batches, 76, 5e-4)
demos = supervised_pass(demonstrations[:192], tokenizer, **shape)
reward = normalise(MODEL, reward, demos, "shift")
print("reward model: accuracy", metrics["accuracy"], "on the last batch")

# %% [markdown]
# ## The objective
#
# One expression. `term` gives a weighted mean its name; the sum keeps the parts apart, so that
# `gradients_by_term` returns the gradient of the whole together with the value and the gradient
# norm of every part. To take a term away, delete it or weigh it by 0; to add one, add it.
#
# Policy and value are two networks in one tree of parameters. The weights `c` are arguments, the
# clip among them, so that all ablations run through one compiled program; an experiment has
# `PPOClip(0.2)` instead, and an ablation there is a line of its dict of stages
# (docs/policy_gradients.md).


# %%
def objective(params, batch, text, c):
    of_batch = batch["tokens"], batch["segments"], RESPONSE
    states = response_states(MODEL, params["policy"], *of_batch)
    logits = transformer.logits(MODEL, params["policy"], states)
    log_probs = token_log_probs(logits, batch["tokens"][:, -RESPONSE:])
    states = response_states(MODEL, params["value"], *of_batch)
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
@jax.jit
def experience(params, prompts, key, c):
    sampled = generate(
        MODEL, params["policy"], prompts["tokens"], prompts["segments"], key,
        sampling=SamplingConfig(1.0), response_length=RESPONSE, ending=ENDING,
    )  # fmt: skip
    mask = sampled.mask
    tokens = jnp.concatenate([prompts["tokens"], sampled.tokens], axis=1)
    segments = jnp.concatenate([prompts["segments"], mask.astype(jnp.int32)], axis=1)
    log_probs = lambda p: response_log_probs(MODEL, p, tokens, segments, RESPONSE, 1.0)
    last = transformer.hidden(MODEL, reward, tokens, segments, last=RESPONSE)
    scores = score.at_last_token(score.scores(reward, last), mask)
    scores = final_scores(scores, ENDING.ended(sampled.tokens, mask), missing=-1.0)
    states = response_states(MODEL, params["value"], tokens, segments, RESPONSE)
    values = score.scores(params["value"], states)
    old, reference = log_probs(params["policy"]), log_probs(sft)
    rewards = kl_shaped_rewards(scores, old, reference, mask, c["kl"])
    advantages, returns = GAE(lam=0.95)(Episodes(mask, rewards, old, old, values))
    advantages = jnp.where(c["whiten"], whiten(advantages, mask), advantages)
    batch = {
        "tokens": tokens, "segments": segments, "mask": mask, "old": old, "values": values,
        "advantages": advantages, "returns": returns,
    }  # fmt: skip
    return batch, {"score": scores.mean(), "kl": ((old - reference) * mask).sum(1).mean()}


# %% [markdown]
# Four steps of Adam on each batch of 48 episodes: enough for the policy to leave the one that
# sampled, which is what the clip is about.

# %%
EPISODES, EPOCHS, ITERATIONS = 48, 4, 20
adam = lambda peak: optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(optax.cosine_decay_schedule(peak, EPOCHS * ITERATIONS, 0.1)),
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
    log_probs = response_log_probs(
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
        world.prompts("ppo"), tokenizer, batch_size=EPISODES, length=PROMPT, seed=0
    )
    texts = text_batches(text, tokenizer, batch_size=EPISODES, length=48, seed=0)
    for i in range(ITERATIONS):
        key = jax.random.fold_in(jax.random.key(0), i)
        batch, seen = experience(params, next(prompts), key, c)
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
prompts, key = world.prompts("test"), jax.random.key(5)
heldout = text_pass(world.corpus("valid"), tokenizer, batch_size=128, length=48)


def judged(policy):
    losses, tokens = supervised.document_losses(MODEL, policy, heldout)
    answers = sampler.responses(policy, prompts, key)
    grades = [world.grade(p, a.text).score for p, a in zip(prompts, answers, strict=True)]
    return {
        "gold score": bounded_mean(grades),
        "KL to SFT": sampler.kl(policy, sft, prompts, key).mean(),
        "text": losses.sum() / tokens.sum(),
    }


results = {"SFT": judged(sft)} | {name: judged(policy) for name, (policy, _) in trained.items()}
print(f"{'':26}gold score             KL, nats a response   text loss, nats a token")
for name, r in results.items():
    gold = r["gold score"]
    print(f"{name:26}{gold.mean:.3f} [{gold.low:.3f}, {gold.high:.3f}]   {r['KL to SFT']:8.1f}"
          f"{r['text']:22.2f}")  # fmt: skip

# %%
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#59636e"
figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
names = list(results)
for at, r in enumerate(results.values()):
    color = {"SFT": GREY, "PPO-ptx": BLUE}.get(names[at], ORANGE)
    gold = r["gold score"]
    panels[0].plot([gold.low, gold.high], [at, at], color=color, linewidth=3, alpha=0.5)
    for panel, x in zip(panels, (gold.mean, r["KL to SFT"], r["text"]), strict=True):
        panel.plot(x, at, "o", color=color)
panels[0].set_yticks(range(len(names)), names)
panels[0].invert_yaxis()
titles = ("gold score", "KL to SFT (nats a response)", "loss on text (nats a token)")
for panel, title in zip(panels, titles, strict=True):
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#e5e8eb")
plt.show()

# %% [markdown]
# ## What happens inside
#
# The score of the reward model, which every variant climbs, against the KL it pays; how far one
# batch moves the policy that sampled it; and the gradient norms of the terms, which
# `gradients_by_term` keeps apart.

# %%
figure, panels = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
colors = plt.get_cmap("tab10").colors
for (name, (_, history)), color in zip(trained.items(), colors, strict=False):
    panels[0].plot(history["kl"], history["score"], "-", color=color, label=name, linewidth=1.2)
for name, color in (("PPO-ptx", BLUE), ("no clip", ORANGE), ("advantages not whitened", GREY)):
    panels[1].plot(trained[name][1]["moved"], color=color, label=name)
base = trained["PPO-ptx"][1]
for name, color in (("policy", BLUE), ("value", ORANGE), ("ptx", "#009e73")):
    panels[2].plot(base[f"{name}/gradient_norm"], color=color, label=name)
titles = ("Reward model's score against KL", "KL that one batch moves, nats a token",
          "PPO-ptx: gradient norm by term")  # fmt: skip
for panel, title in zip(panels, titles, strict=True):
    panel.set_title(title, loc="left", fontsize=10)
    panel.legend(frameon=False, fontsize=7)
    panel.spines[["top", "right"]].set_visible(False)
panels[0].set(xlabel="KL to SFT, nats a response", ylabel="score")
for panel in panels[1:]:
    panel.set(xlabel="iteration", yscale="log")
plt.show()

# %% [markdown]
# ## Reading it
#
# - **KL.** Without the penalty the policy goes several times as far from SFT. It still gains here:
#   20 iterations are too few to over-optimise this reward model. Five times the penalty holds the
#   policy close, and its score with it.
# - **ptx.** Without it the loss on text rises more than under any other change: the alignment tax
#   (Ouyang et al. 2022). With it the text is kept. What it costs in gold score is smaller than the
#   interval here, although its gradient is half as large as the policy's (last picture).
# - **Clip.** Without it the first batches move the policy several times as far. What that does to
#   the gold score is smaller than its interval: one run does not tell.
# - **Whitening.** The gradient scales with the advantages. Left as they are, they are small here,
#   and one batch moves the policy less (second picture).
# - **Value function.** InstructGPT starts it as the reward model. From a head of zeros it did no
#   worse here. A reward model is trained at the last token, and its score of half a response is no
#   value of it: the value term's gradient is the largest of all at first.
#
# One seed, 20 iterations, a model of a tenth of a million parameters: what carries over is the way
# to ask, not the numbers. To ask something else, add a line to `ABLATIONS`, or a term to the sum.
