# %% [markdown]
# # The three stages by hand
#
# InstructGPT is three losses. This notebook writes them down in about 60 lines, with the pure
# functions of `rlhf_jax` and nothing of its training loop, and takes a small language model through
# all three: supervised fine-tuning on demonstrations, a reward model from ranked outputs, PPO
# against that reward model. A grader that none of the three ever sees says whether it helped.
#
# **Shows:** every line between a batch and a gradient. **Takes:** a minute or two on two CPU
# cores, most of it compilation.

# %%
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from rlhf_jax.data.pipeline import (
    prompt_batches,
    ranking_batches,
    ranking_pass,
    supervised_batches,
    supervised_pass,
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
from rlhf_jax.objectives.estimator import GAE, Episodes, PPOClip
from rlhf_jax.objectives.likelihood import token_log_probs
from rlhf_jax.objectives.reductions import WeightedMean, whiten
from rlhf_jax.objectives.reward_models import ranked_accuracy, ranked_loss, shift_to_zero
from rlhf_jax.objectives.surrogates import clipped_value_loss
from rlhf_jax.worlds.instruction import InstructionWorld, WorldConfig

# %% [markdown]
# ## A world that can grade
#
# The generated world makes prompts, demonstrations and a gold grader from a seed. Half of the
# demonstrations are *careless* here: wrong, rude, off the point or rambling. Imitation learns the
# careless half as faithfully as the other; only a comparison can tell them apart.

# %%
world = InstructionWorld(WorldConfig(sft=2000, feedback=500, ppo=1000, documents=1000))
demonstrations = world.demonstrations("sft", careless=0.5)
texts = [d.prompt + d.response for d in demonstrations]
tokenizer = train_sentencepiece(texts, 512, f"{tempfile.mkdtemp()}/world.model")
MODEL = TransformerConfig(
    vocab_size=512, layers=2, width=96, heads=4, context=64, scan_layers=False
)
PROMPT, RESPONSE = 40, 20  # tokens

for d in demonstrations[3:8]:
    print(f"{d.prompt}{d.response}\n   gold score {world.grade(d.prompt, d.response).score:.1f}")

# %% [markdown]
# What the stages share: the states of a causal transformer, and one step of Adam.


# %%
def hidden(params, batch):
    flat = lambda x: x.reshape(-1, x.shape[-1])
    return transformer.hidden(MODEL, params, flat(batch["tokens"]), flat(batch["segments"]))


def make_update(loss, optimizer):
    @jax.jit
    def update(params, state, batch):
        (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, metrics

    return update


def adam(rate, steps):
    schedule = optax.cosine_decay_schedule(rate, steps, alpha=0.1)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.95))


def train(loss, params, batches, steps, rate):
    optimizer = adam(rate, steps)
    update, state, history = make_update(loss, optimizer), optimizer.init(params), []
    for _ in range(steps):
        params, state, metrics = update(params, state, next(batches))
        history.append(metrics)
    return params, np.array(history)


# %% [markdown]
# ## Stage 1: supervised fine-tuning
#
# $$-\frac{1}{N}\sum_{t} \log p(x_t \mid x_{<t})$$
#
# over the $N$ tokens of responses. The batch's weights are 1 there and 0 on the prompts, which are
# read and not imitated. `WeightedMean` keeps numerator and denominator apart until the very end, so
# that the same line is right on eight devices that hold different numbers of tokens.


# %%
def sft_loss(params, batch):
    logits = transformer.logits(MODEL, params, hidden(params, batch)[:, :-1])
    log_probs = token_log_probs(logits, batch["tokens"][:, 1:])
    loss = WeightedMean.of(-log_probs, batch["weights"][:, 1:]).mean
    return loss, loss


batches = supervised_batches(
    demonstrations, tokenizer, batch_size=16, length=64, seed=0, packed=True
)
base = transformer.init(MODEL, jax.random.key(0))
sft, sft_losses = train(sft_loss, base, batches, 6 * batches.steps_per_epoch, rate=3e-3)
print(f"{len(sft_losses)} steps, loss {sft_losses[0]:.2f} -> {sft_losses[-20:].mean():.2f} nats")

# %% [markdown]
# ## Stage 2: a reward model from rankings
#
# The SFT model answers each prompt four times. A simulated labeler, who sees the gold score through
# noise and rates it on seven levels, ranks the four. All pairs of a prompt are one example (Ouyang
# et al. 2022, equation 1); ties say nothing, and a prompt with many weighs less:
#
# $$-\frac{1}{\binom{4}{2}}\sum_{i \succ j}\log\sigma(s_i - s_j)$$
#
# The model is the SFT model under a scalar head, read at the last token. Rankings leave its zero
# free, so afterwards its bias is moved until demonstrations score 0 on average.

# %%
ENDING = Ending(tokenizer.eos_id, tokenizer.pad_id)
sampler = Sampler(
    MODEL, tokenizer, SamplingConfig(temperature=1.0), ENDING,
    prompt_length=PROMPT, response_length=RESPONSE, batch_size=200,
)  # fmt: skip
labeler, prompts = SimulatedLabeler(noise=0.2), world.prompts("feedback")
rankings = collect_rankings(
    prompts,
    [4] * len(prompts),
    lambda repeated: sampler.responses(sft, repeated, jax.random.key(1)),
    lambda prompt, four: world.rank(prompt, four, labeler),
)


def scores_of(params, batch):
    scores = score.scores(params, hidden(params, batch)).reshape(batch["tokens"].shape)
    return score.at_last_token(scores, batch["segments"])


def reward_loss(params, batch):
    scores = scores_of(params, batch)
    correct, pairs = jax.tree.map(jnp.sum, ranked_accuracy(scores, batch["ranks"]))
    loss = WeightedMean.of(*ranked_loss(scores, batch["ranks"])).mean
    return loss, jnp.stack([loss, correct, pairs])


shape = {"batch_size": 16, "length": PROMPT + RESPONSE + 2, "outputs": 4}
batches = ranking_batches(rankings[50:], tokenizer, seed=1, **shape)
reward = score.with_score_head(sft, jax.random.key(2))
reward, reward_history = train(reward_loss, reward, batches, 2 * batches.steps_per_epoch, 5e-4)

heldout = ranking_pass(rankings[:50], tokenizer, **shape)
_, correct, pairs = sum(reward_loss(reward, batch)[1] for batch in heldout)
shown = supervised_pass(demonstrations[:200], tokenizer, batch_size=200, length=64)[0]
reward = score.rescale(reward, 1.0, shift_to_zero(scores_of(reward, shown), np.ones(200)))
print(f"{len(reward_history)} steps; orders {correct / pairs:.0%} of {pairs:.0f} held-out pairs "
      "as the labeler did")  # fmt: skip

# %% [markdown]
# ## Stage 3: PPO against the reward model
#
# One iteration samples responses, scores them, and shapes the reward of each token by the
# divergence from the SFT model (Ouyang et al. 2022, equation 2):
#
# $$r_t = -\beta\,(\log p_t - \log p^{\mathrm{SFT}}_t) + [t\ \mathrm{is\ last}]\; s$$
#
# Advantages come from a value function that starts as the reward model (GAE), and the policy moves
# by the clipped surrogate. A response that was cut off before its end token scores -1.


# %%
def response_states(params, batch):
    """States from which each response token is predicted."""
    return hidden(params, batch)[:, -RESPONSE - 1 : -1]


def response_log_probs(params, batch):
    logits = transformer.logits(MODEL, params, response_states(params, batch))
    return token_log_probs(logits, batch["tokens"][:, -RESPONSE:])


@jax.jit
def experience(params, prompts, key, beta=0.1):
    sampled = generate(
        MODEL, params["policy"], prompts["tokens"], prompts["segments"], key,
        sampling=SamplingConfig(1.0), response_length=RESPONSE, ending=ENDING,
    )  # fmt: skip
    mask = sampled.mask
    batch = {
        "tokens": jnp.concatenate([prompts["tokens"], sampled.tokens], axis=1),
        "segments": jnp.concatenate([prompts["segments"], mask.astype(jnp.int32)], axis=1),
        "mask": mask,
    }
    ended = ENDING.ended(sampled.tokens, mask)
    scores = final_scores(scores_of(reward, batch), ended, missing=-1.0)
    old, reference = (response_log_probs(p, batch) for p in (params["policy"], sft))
    values = score.scores(params["value"], response_states(params["value"], batch))
    rewards = kl_shaped_rewards(scores, old, reference, mask, beta)
    advantages, returns = GAE(lam=0.95)(Episodes(mask, rewards, old, old, values))
    advantages = whiten(advantages, mask)
    kl = jnp.sum((old - reference) * mask, axis=1).mean()
    held = {"old": old, "values": values, "advantages": advantages, "returns": returns}
    return batch | held, jnp.stack([scores.mean(), kl])


def ppo_loss(params, batch):
    log_probs = response_log_probs(params["policy"], batch)
    values = score.scores(params["value"], response_states(params["value"], batch))
    policy = PPOClip(0.2)(log_probs, batch["old"], batch["advantages"], batch["mask"])
    value = clipped_value_loss(values, batch["values"], batch["returns"], clip=0.2)
    return WeightedMean.of(policy + value, batch["mask"]).mean, ()


ITERATIONS, EPISODES, MINIBATCHES = 40, 128, 4
batches = prompt_batches(
    world.prompts("ppo"), tokenizer, batch_size=EPISODES, length=PROMPT, seed=2
)
steps = ITERATIONS * MINIBATCHES
optimizer = optax.multi_transform(
    {"policy": adam(5e-4, steps), "value": adam(1e-3, steps)},
    {"policy": "policy", "value": "value"},
)
params = {"policy": sft, "value": reward}
update, state, ppo_history = make_update(ppo_loss, optimizer), optimizer.init(params), []
for iteration in range(ITERATIONS):
    key = jax.random.fold_in(jax.random.key(3), iteration)
    batch, metrics = experience(params, next(batches), key)
    for rows in np.arange(EPISODES).reshape(MINIBATCHES, -1):
        params, state, _ = update(params, state, jax.tree.map(lambda x, r=rows: x[r], batch))
    ppo_history.append(metrics)
policy = params["policy"]

# %% [markdown]
# ## Did it help?
#
# The gold grader judges the answers to prompts that no stage has seen. Neither the reward model
# nor PPO ever had its scores.

# %%
test_prompts = world.prompts("test")


def gold(params, seed=4):
    sampled = sampler.responses(params, test_prompts, jax.random.key(seed))
    answers = [response.text for response in sampled]
    pairs = zip(test_prompts, answers, strict=True)
    return answers, np.array([world.grade(prompt, answer).score for prompt, answer in pairs])


answers, scores = {}, {}
for name, model in {"SFT": sft, "PPO": policy}.items():
    answers[name], scores[name] = gold(model)
    mean, low, high = bounded_mean(scores[name])
    print(f"{name}: gold score {mean:.3f}, 95 % interval [{low:.3f}, {high:.3f}]")

figure, panels = plt.subplots(1, 4, figsize=(13, 2.8), layout="constrained")
rewards, kls = np.array(ppo_history).T
for panel, (title, y) in zip(
    panels,
    {
        "SFT: loss (nats a token)": sft_losses,
        "Reward model: accuracy on pairs": np.convolve(reward_history[:, 1], np.ones(8), "valid")
        / np.convolve(reward_history[:, 2], np.ones(8), "valid"),
        "PPO: score of the reward model": rewards,
        "PPO: KL to SFT (nats a response)": kls,
    }.items(),
    strict=True,
):
    panel.plot(y, color="#0072b2")
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel("iteration" if "PPO" in title else "step")
plt.show()

assert bounded_mean(scores["PPO"]).low > bounded_mean(scores["SFT"]).high

# %% [markdown]
# The intervals lie apart. Where the gain comes from can be read: the same prompts, before and
# after.

# %%
gain = scores["PPO"] - scores["SFT"]
for i in (
    np.argsort(-gain, kind="stable")[:3].tolist() + np.argsort(gain, kind="stable")[:2].tolist()
):
    print(test_prompts[i])
    for name in ("SFT", "PPO"):
        print(f"   {name} {scores[name][i]:.1f} {answers[name][i]}")

# %% [markdown]
# ## Where to go from here
#
# - `rlhf_jax/stages/experience.py` and `policy_update.py` are this notebook grown up:
#   micro-batches, ptx, adaptive KL, averages of weights, checks that sampler and learner agree.
# - Replace `PPOClip(0.2)` by `CISPO(1.0, 0.28)`, or `GAE` by `RewardToGo()`: every advantage goes
#   with every surrogate, here and in an experiment (docs/policy_gradients.md).
# - Notebook 02 takes the PPO objective apart, term by term.
