# %% [markdown]
# # Reward models: pairs, rankings or ratings?
#
# The same annotators read the same outputs and rate them from 1 to 7. A reward model can be fitted
# to the ratings themselves (regression), to the order of one pair, or to the order of all. Which
# one should it be when annotators are noisy, and when each has a scale of their own?
#
# **Shows:** held-out accuracy of five losses as noise and miscalibration rise, over 16 simulated
# studies each; what repairs regression; what rankings cannot tell; what label smoothing does to a
# reward model's confidence. **Takes:** a minute or two on two CPU cores.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.reward_models import (
    best_of_k_loss,
    gain_and_bias,
    plackett_luce_loss,
    ranked_accuracy,
    ranked_loss,
    regression_loss,
)

# %% [markdown]
# ## A study
#
# An output is a vector of 12 features; its gold score is a fixed nonlinear function of them. Some
# prompts are harder than others: their outputs share a part of the features, and so are all better
# or all worse. 200 prompts with 4 outputs each, every prompt read by one of 20 annotators, who
#
# - sees the gold score through noise,
# - stretches and shifts it by a gain and a bias of their own (1 and 0 if calibrated),
# - and rounds to seven levels. Equal ratings are ties.

# %%
PROMPTS, K, FEATURES, ANNOTATORS = 200, 4, 12, 20
truth = [jnp.asarray(w, jnp.float32) for w in (
    np.random.default_rng(0).normal(size=(FEATURES, 24)) / np.sqrt(FEATURES),
    np.random.default_rng(1).normal(size=24) / np.sqrt(24),
)]  # fmt: skip
gold_score = lambda x: 2.2 * jnp.tanh(1.5 * x @ truth[0]) @ truth[1]


def outputs(key, prompts):
    """Features [prompts, K, FEATURES]: a part of the prompt, a part of each output."""
    a, b = jax.random.split(key)
    shared = jax.random.normal(a, (prompts, 1, FEATURES))
    own = jax.random.normal(b, (prompts, K, FEATURES))
    return (shared + own) / jnp.sqrt(2)


def study(key, noise, miscalibration):
    """What the annotators of one study leave behind."""
    keys = jax.random.split(key, 5)
    x = outputs(keys[0], PROMPTS)
    gains = jnp.exp(0.5 * miscalibration * jax.random.normal(keys[1], (ANNOTATORS,)))
    biases = miscalibration * jax.random.normal(keys[2], (ANNOTATORS,))
    annotator = jax.random.randint(keys[3], (PROMPTS,), 0, ANNOTATORS)
    seen = gold_score(x) + noise * jax.random.normal(keys[4], (PROMPTS, K))
    ratings = gains[annotator][:, None] * seen + biases[annotator][:, None]
    ratings = jnp.clip(jnp.round(4 + 1.5 * ratings), 1, 7)
    ranks = jnp.sum(ratings[:, None, :] > ratings[:, :, None], axis=2)  # 0: none is better
    return {"x": x, "ratings": ratings, "ranks": ranks, "annotator": annotator}


example = study(jax.random.key(0), 0.5, 0.0)
print("gold   ", np.round(gold_score(example["x"])[:3], 1).tolist())
print("ratings", example["ratings"][:3].astype(int).tolist())
print("ranks  ", example["ranks"][:3].tolist(), "- 0 is best, equal numbers tie")

# %% [markdown]
# ## Five losses, one model
#
# Each loss sees exactly what its name says. "one pair" is what a labeler gives who compares two
# outputs instead of ranking four: a sixth of the pairs.


# %%
def pair(scores, s):
    one_pair = jnp.where(jnp.arange(K) < 2, s["ranks"], -1)
    return ranked_loss(scores, one_pair)


def ratings(scores, s):
    return jnp.mean(regression_loss(scores, (s["ratings"] - 4) / 1.5), axis=1), jnp.ones(PROMPTS)


LOSSES = {
    "one pair": pair,
    "all pairs": lambda scores, s: ranked_loss(scores, s["ranks"]),
    "Plackett-Luce": lambda scores, s: plackett_luce_loss(scores, s["ranks"]),
    "best of 4": lambda scores, s: best_of_k_loss(scores, s["ranks"]),
    "ratings": ratings,
}


def model(params, x):
    return (jnp.tanh(x @ params["in"] + params["bias"]) @ params["out"]) + params["shift"]


def fit(loss, s, key, steps=200):
    a, b = jax.random.split(key)
    params = {
        "in": jax.random.normal(a, (FEATURES, 32)) / jnp.sqrt(FEATURES), "bias": jnp.zeros(32),
        "out": jax.random.normal(b, (32,)) / jnp.sqrt(32), "shift": jnp.zeros(()),
    }  # fmt: skip
    optimizer = optax.adamw(3e-3, weight_decay=0.1)
    of = lambda params: WeightedMean.of(*loss(model(params, s["x"]), s)).mean

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(of)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]


HELDOUT = outputs(jax.random.key(99), 500)
GOLD = gold_score(HELDOUT)
GOLD_RANKS = jnp.sum(GOLD[:, None, :] > GOLD[:, :, None], axis=2)


def within(params):
    """Share of pairs of one prompt that the model orders as the gold score does."""
    correct, pairs = ranked_accuracy(model(params, HELDOUT), GOLD_RANKS)
    return correct.sum() / pairs.sum()


def across(params):
    """The same of pairs of different prompts."""
    scores, gold = model(params, HELDOUT)[:, 0], GOLD[:, 0]
    order = lambda v: jnp.sign(v[:, None] - v[None, :])
    return jnp.sum(order(scores) * order(gold) > 0) / (len(gold) * (len(gold) - 1))


@functools.partial(jax.jit, static_argnums=0)
def studies(loss, noise, miscalibration):
    """Held-out accuracies of 16 studies, each with its own outputs, annotators and model."""

    def one(key):
        a, b = jax.random.split(key)
        params = fit(LOSSES[loss], study(a, noise, miscalibration), b)
        return within(params), across(params)

    return jax.vmap(one)(jax.random.split(jax.random.key(3), 16))


def sweep(noises, miscalibrations, losses=LOSSES):
    """{loss: accuracies [setting, within or across, study]}."""
    settings = list(zip(noises, miscalibrations, strict=True))
    return {loss: np.array([studies(loss, *s) for s in settings]) for loss in losses}


COLORS = dict(zip(LOSSES, ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00"), strict=True))


def show(panel, xs, found, which, title, across_label):
    for name, values in found.items():
        y = values[:, which].mean(-1)
        error = 2 * values[:, which].std(-1) / np.sqrt(values.shape[-1])
        panel.errorbar(xs, y, error, label=name, color=COLORS.get(name, "black"), capsize=2)
    panel.set_title(title, loc="left", fontsize=10)
    panel.set_xlabel(across_label)
    panel.spines[["top", "right"]].set_visible(False)


# %% [markdown]
# ## Noise, then miscalibration
#
# Bars are two standard errors over the studies.

# %%
noises, scales = [0.0, 0.5, 1.0, 2.0], [0.0, 0.5, 1.0, 2.0]
noisy = sweep(noises, [0.0] * 4)
miscalibrated = sweep([0.5] * 4, scales)

figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
show(panels[0], noises, noisy, 0, "Noisy annotators", "noise (gold scores have std about 1)")
show(panels[1], scales, miscalibrated, 0, "Miscalibrated annotators (noise 0.5)", "miscalibration")
panels[0].set_ylabel("held-out pairs ordered right")
panels[1].legend(frameon=False)
plt.show()

for title, found in (("noise 2", noisy), ("miscalibration 2", miscalibrated)):
    print(title, {name: round(float(v[-1, 0].mean()), 3) for name, v in found.items()})

# %% [markdown]
# Two lessons, and they point in opposite directions.
#
# **With calibrated annotators, ratings win, and the more noise the clearer.** Nothing is lost by
# comparing only within a prompt as long as labels are clean; but a rating also says how a prompt's
# outputs stand against those of all other prompts, and under noise every bit counts. Rankings come
# next. One pair of four outputs, or only the best, throws labels away, and pays.
#
# **With annotators who each have their own scale, rankings do not notice.** An order is the same
# after any gain and bias. Regression has to explain a strict annotator's threes as bad outputs.

# %%
gap = {name: found[-1, 0].mean() for name, found in noisy.items()}
assert gap["ratings"] > gap["all pairs"] > gap["one pair"]
crooked = {name: found[-1, 0].mean() for name, found in miscalibrated.items()}
assert crooked["all pairs"] > crooked["ratings"] + 0.05
assert np.ptp(miscalibrated["all pairs"][:, 0].mean(-1)) < 0.03

# %% [markdown]
# ## Repairing regression
#
# If it is known who rated what, each annotator's ratings can be brought to mean 0 and deviation 1:
# `gain_and_bias`, once per annotator. Here an annotator read about ten prompts, forty outputs.


# %%
def standardised(scores, s):
    def of(annotator):
        theirs = jnp.broadcast_to((s["annotator"] == annotator)[:, None], s["ratings"].shape)
        gain, bias = gain_and_bias(s["ratings"], theirs)
        return jnp.where(theirs, gain * s["ratings"] + bias, 0)

    targets = jnp.sum(jax.vmap(of)(jnp.arange(ANNOTATORS)), axis=0)
    return jnp.mean(regression_loss(scores, targets), axis=1), jnp.ones(PROMPTS)


LOSSES["ratings, standardised"] = standardised
repaired = sweep([0.5] * 4, scales, ["ratings, standardised"])
shown = {name: miscalibrated[name] for name in ("all pairs", "ratings")} | repaired

figure, panels = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
show(panels[0], scales, shown, 0, "Pairs within a prompt", "miscalibration")
show(panels[1], scales, shown, 1, "Pairs of different prompts", "miscalibration")
panels[0].set_ylabel("held-out pairs ordered right")
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# Standardising brings most of it back. The right picture surprises: a ranking never says which of
# two *prompts* has the better outputs, and the ranked model orders those best too. Here the
# features that make one output better than its neighbour also make a prompt's outputs better
# than another's. Where prompts differ in ways that their outputs do not, only ratings could tell.

# %%
last = {name: found[-1].mean(-1) for name, found in shown.items()}
for name, (inside, outside) in last.items():
    print(f"{name:22} within {inside:.3f}   across {outside:.3f}")
assert last["ratings, standardised"][0] > last["ratings"][0] + 0.03

# %% [markdown]
# ## How sure is the reward model?
#
# Noisy labels and a flexible model make margins grow: the fit is sure of pairs that a second
# annotator would order the other way. Label smoothing, as in cDPO, assumes that a share of the
# labels is wrong, and puts a finite optimum on every margin.


# %%
@functools.partial(jax.jit, static_argnums=0)
def confidence(smoothing):
    """(sigmoid of the margin, does a fresh annotator agree?) of held-out pairs, 16 studies."""

    def one(key):
        a, b, c = jax.random.split(key, 3)
        loss = lambda scores, s: ranked_loss(scores, s["ranks"], label_smoothing=smoothing)
        params = fit(loss, study(a, 1.0, 0.0), b, steps=400)
        margin = model(params, HELDOUT)[:, 0] - model(params, HELDOUT)[:, 1]
        seen = GOLD[:, :2] + jax.random.normal(c, (len(GOLD), 2))
        return jax.nn.sigmoid(jnp.abs(margin)), (seen[:, 0] - seen[:, 1]) * margin > 0

    return jax.vmap(one)(jax.random.split(jax.random.key(4), 16))


figure, panel = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
panel.plot([0.5, 1], [0.5, 1], color="#59636e", linewidth=1, linestyle=":")
edges, overconfidence = np.linspace(0.5, 1, 8), {}
for smoothing, color in ((0.0, "#0072b2"), (0.1, "#009e73"), (0.2, "#e69f00")):
    sure, agrees = (np.asarray(x).ravel() for x in confidence(smoothing))
    bins = np.digitize(sure, edges[1:-1])
    kept = [b for b in range(7) if np.sum(bins == b) > 200]
    points = [(sure[bins == b].mean(), agrees[bins == b].mean()) for b in kept]
    panel.plot(*np.transpose(points), "o-", color=color, label=f"label smoothing {smoothing}")
    overconfidence[smoothing] = sure.mean() - agrees.mean()
    loss = np.mean(-np.log(np.where(agrees, sure, 1 - sure)))
    print(f"label smoothing {smoothing}: says {sure.mean():.3f}, is right {agrees.mean():.3f}, "
          f"log loss {loss:.3f}")  # fmt: skip
panel.set(
    xlabel="what the model says: sigmoid(margin)", ylabel="how often a fresh annotator agrees"
)
panel.legend(frameon=False, fontsize=8)
panel.spines[["top", "right"]].set_visible(False)
plt.show()

assert overconfidence[0.0] > overconfidence[0.1] > overconfidence[0.2]

# %% [markdown]
# Points below the dotted line are overconfidence. Smoothing takes much of it away, and with it the
# scale of the scores, which is what PPO weighs against its KL penalty. It is not free: a finite
# target for every pair is one that a flexible model can reach pair by pair, noise included, and
# some accuracy goes.
#
# What this world leaves out: annotators who disagree about what is good, outputs chosen by the
# policy rather than at random, and text. `experiments/hh.py` has the last.
