# %% [markdown]
# # Comparing gradient estimators
#
# REINFORCE, RLOO, GRPO, PPO, V-trace: all estimate the gradient of
#
# $$J(\theta) = \mathbb{E}_{y \sim p_\theta}
# \Big[R(y) - \beta\log\frac{p_\theta(y)}{p_{\mathrm{ref}}(y)}\Big].$$
#
# On a task small enough to write down every response, that gradient is a finite sum. So bias is no
# matter of opinion here: it is measured, with an interval, against the exact number.
#
# **Shows:** bias, variance, cosine and cost of 26 estimators; when bias is a good trade; how to
# measure an advantage of your own, and train with it; what PPO's clip buys off policy. **Takes:** a
# minute or two on two CPU cores.

# %%
import dataclasses

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

from rlhf_jax.estimators.drift import DriftConfig, measure_drift
from rlhf_jax.estimators.lab import LabConfig, measure_rows
from rlhf_jax.estimators.measure import large_sample, measure, per_example_gradients
from rlhf_jax.estimators.rows import (
    Estimator,
    Rollouts,
    RowsConfig,
    fresh_estimators,
    of,
    tokens,
)
from rlhf_jax.estimators.task import (
    TaskConfig,
    all_log_probs,
    exact_gradient,
    make_task,
    objective,
)
from rlhf_jax.generation.decode import generate
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.advantages import kl_shaped_rewards, minus_baseline, paid_at_end
from rlhf_jax.objectives.estimator import Advantage, Reinforce
from rlhf_jax.objectives.likelihood import token_log_probs

UNBIASED, BIASED, GREY = "#0072b2", "#d55e00", "#59636e"


def frame(panel, title, across="", up=""):
    panel.set_title(title, loc="left", fontsize=10)
    panel.set(xlabel=across, ylabel=up)
    panel.spines[["top", "right"]].set_visible(False)


# %% [markdown]
# ## The exact gradient
#
# Four tokens, at most three long: 40 responses, a table of 52 logits, a random score for each
# response. `objective` sums over all 40, so `jax.grad` of it is exact.

# %%
task = make_task(TaskConfig())
exact = np.asarray(exact_gradient(task, task.policy)).ravel()
J = float(objective(task, all_log_probs(task, task.policy)))
size = np.linalg.norm(exact)
print(f"{len(task.scores)} responses, {exact.size} logits, J = {J:.3f}, |dJ| = {size:.3f}")

# %% [markdown]
# ## Twenty-six estimators
#
# An estimator is an advantage times a surrogate, the objects that a training run takes.
# `measure_rows` gives each the same 20,000 responses, four an estimate, and takes one gradient an
# estimate by `vmap`. Rows above the line sampled from the policy itself, rows below from an older
# one.

# %%
config = LabConfig(samples=20_000)
rows = measure_rows(config)

figure, panels = plt.subplots(1, 3, figsize=(12, 6.2), sharey=True, layout="constrained")
for at, row in enumerate(rows.values()):
    color = UNBIASED if row.estimator.bias is None else BIASED
    bias = row.measured.bias_norm
    panels[0].plot([bias["low"], bias["high"]], [at, at], color=color, linewidth=3, alpha=0.5)
    panels[0].plot(np.linalg.norm(row.theory), at, "|", color="black", markersize=11)
    panels[1].plot(row.measured.variance, at, "o", color=color)
    panels[2].plot(row.measured.cosine_of_one, at, "o", color=color)
panels[0].set_yticks(range(len(rows)), list(rows))
panels[0].invert_yaxis()
stale = sum(not row.estimator.stale for row in rows.values()) - 0.5
for panel, title in zip(
    panels,
    ["bias: interval, and theory |", "variance of one estimate", "cosine of one estimate"],
    strict=True,
):
    panel.axhline(stale, color=GREY, linestyle="--", linewidth=1)
    frame(panel, title)
plt.show()

assert all(row.unbiased for row in rows.values() if row.estimator.bias is None)

# %% [markdown]
# Blue rows are unbiased in theory, and every one of their intervals reaches 0. Orange ones are
# not, and sit where their theory puts the black mark. Some readings:
#
# - **A baseline is worth more than anything else.** Plain REINFORCE and REINFORCE with the optimal
#   constant have the same bias, none, and differ by a factor of two and a half in variance.
# - **Dr. GRPO is RLOO, shortened**: a response is part of its own baseline, which scales the
#   gradient by $(K-1)/K$. Its direction is right, and Adam does not see a scale. GRPO's division by
#   the standard deviation and by the length bend the direction as well.
# - **k1 in the loss is no KL penalty at all**: its sample mean has gradient
#   $\mathbb{E}_p[\nabla\log p] = 0$. k3 in the loss has the gradient of the *other* divergence.
#   `kl_loss` and KL in the reward are right.

# %%
fresh = {name: row for name, row in rows.items() if not row.estimator.stale}
print(f"{'':28}variance   cosine of the mean")
for name in (
    "reinforce", "reinforce_optimal_baseline", "rloo", "dr_grpo", "grpo", "a2c_exact_value",
    "k1_in_loss", "k3_in_loss",
):  # fmt: skip
    measured = rows[name].measured
    print(f"{name:28}{measured.variance:8.3f}{measured.cosine:15.3f}")

assert (
    rows["reinforce"].measured.variance > 2 * rows["reinforce_optimal_baseline"].measured.variance
)
assert rows["dr_grpo"].measured.cosine > rows["grpo_per_sequence"].measured.cosine

# %% [markdown]
# ## When is bias a good trade?
#
# Average $n$ estimates, and the error is $\sqrt{\mathrm{bias}^2 + \mathrm{variance}/n}$: variance
# can be bought down, bias cannot. Each curve below flattens at its own bias.

# %%
n = np.logspace(0, 5, 60)
figure, panel = plt.subplots(figsize=(7, 3.6), layout="constrained")
shown = {
    "reinforce": ("black", "-"), "rloo": (UNBIASED, "-"), "gae_exact_value": ("#009e73", "-"),
    "gae_learned_value": ("#e69f00", "--"), "dr_grpo": (BIASED, "--"),
    "grpo_per_sequence": ("#cc79a7", "--"),
}  # fmt: skip
for name, (color, dashes) in shown.items():
    row = rows[name]
    error = np.sqrt(np.sum(row.theory**2) + row.measured.variance / n)
    panel.loglog(n, error, dashes, color=color, label=name)
panel.axhline(size, color=GREY, linewidth=1, linestyle=":")
panel.annotate("size of the gradient itself", (n[0], size * 1.06), color=GREY)
frame(panel, "Root mean squared error of a batch", "estimates averaged (4 responses each)", "error")
panel.legend(frameon=False, ncols=2)
plt.show()

# %% [markdown]
# GAE with a critic learned from 64 responses has a small bias and little variance: a bargain, until
# the batch is so large that RLOO, which knows nothing of values, passes it. Below the dotted line
# the error is smaller than the gradient.

# %%
crossing = {
    name: (rows[name].measured.variance - rows["gae_learned_value"].measured.variance)
    / np.sum(rows["gae_learned_value"].theory ** 2)
    for name in ("rloo", "a2c_learned_value")
}
for name, count in crossing.items():
    print(f"{name} has the smaller error from {count:.0f} estimates on")

# %% [markdown]
# ## One of your own
#
# An idea: take as baseline the *best* of the other responses, so that only a new best is pushed
# up. Is it biased? The baseline never looks at the response that it judges, so theory says no; the
# variance is another matter. An advantage is a small class, and the lab answers. The same object
# trains: `presets.rloo(advantage=BeatTheBest(), ...)`.


# %%
@dataclasses.dataclass(frozen=True)
class Beat(Advantage):
    grouped = True

    def baseline(self, returns):  # [groups, K]
        raise NotImplementedError

    def __call__(self, episodes, carried=None):
        rewards = paid_at_end(episodes.rewards, episodes.mask)
        returns = rewards.sum(axis=1).reshape(-1, episodes.group)
        baseline = self.baseline(returns).reshape(-1, 1)
        return minus_baseline(rewards, episodes.mask, baseline), None


class BeatTheBest(Beat):
    def baseline(self, returns):
        own = jnp.eye(returns.shape[1], dtype=bool)
        return jnp.max(jnp.where(own[None], -jnp.inf, returns[:, None]), axis=2)


class BeatTheMeanOfAll(Beat):
    def baseline(self, returns):
        return jnp.broadcast_to(returns.mean(axis=1, keepdims=True), returns.shape)


mine = measure_rows(
    config,
    {
        "beat_the_best": Estimator(of(BeatTheBest()), tokens(Reinforce())),
        "beat_the_mean_of_all": Estimator(of(BeatTheMeanOfAll()), tokens(Reinforce())),
    },
)
for name, row in mine.items():
    bias = row.measured.bias_norm
    print(f"{name:22}bias in [{bias['low']:.4f}, {bias['high']:.4f}]"
          f"  variance {row.measured.variance:.3f}  unbiased: {row.unbiased}")  # fmt: skip

assert mine["beat_the_best"].unbiased and not mine["beat_the_mean_of_all"].unbiased

# %% [markdown]
# Unbiased as theory has it, and noisier than `rloo`. The second line is the trap: a mean that
# includes the response itself. It looks harmless, and is Dr. GRPO's factor.

# %% [markdown]
# ## Off policy: what the clip buys
#
# Now 40 gradient steps on *one* batch of 32 responses. All surrogates start at the policy that
# sampled, and their first step is the same. The true objective, which no surrogate sees, tells when
# the batch has been trusted too far.

# %%
drift = measure_drift(task, DriftConfig(batches=100), seed=0)
narrow, wide = (
    measure_drift(task, DriftConfig(batches=100, clip=clip), seed=0)["PPO clip"]
    for clip in (0.05, 0.8)
)
figure, panels = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
colors = (BIASED, "#e69f00", "#cc79a7", "#56b4e9", UNBIASED, GREY)
for (name, curve), color in zip(drift.items(), colors, strict=True):
    panels[0].plot(curve.objective.mean(0), color=color, label=name)
for curve, label, color in (
    (narrow, "clip 0.05", "#56b4e9"),
    (drift["PPO clip"], "clip 0.2", UNBIASED),
    (wide, "clip 0.8", "#cc79a7"),
    (drift["ratio of tokens"], "no clip", "#e69f00"),
):
    panels[1].plot(curve.objective.mean(0), color=color, label=label)
frame(panels[0], "True objective, mean of 100 batches", "gradient steps on one batch", "J")
frame(panels[1], "The width of the clip", "gradient steps on one batch")
for panel in panels:
    panel.legend(frameon=False, fontsize=8)
plt.show()

free, clipped = drift["ratio of tokens"].objective.mean(0), drift["PPO clip"].objective.mean(0)
print(f"no clip: rises to {free.max():.2f}, ends at {free[-1]:.2f}; "
      f"clip 0.2: ends at {clipped[-1]:.2f}")  # fmt: skip
assert free[-1] < free.max() - 0.1 and clipped[-1] > clipped.max() - 0.02

# %% [markdown]
# Without a clip the objective rises fast, and falls again: the ratio lets a few lucky responses of
# one batch take over. The clip stops each token after a fixed relative change. It costs speed and
# buys the right to reuse a batch without watching. Fresh batches beat both, at 40 times the
# sampling.

# %% [markdown]
# ## Larger models: the reference is a very large sample
#
# A transformer with 18 tokens and responses of up to 8 has some $10^{10}$ of them; nothing can be
# enumerated. The rows of the table read only a `Rollouts`, so they work on any policy, and the
# exact gradient gives way to the mean of an unbiased estimator over a very large sample.
# `measure` widens its intervals by what the reference itself is uncertain about.

# %%
NETWORK = TransformerConfig(
    vocab_size=18, layers=1, width=16, heads=2, context=12, scan_layers=False,
    compute_dtype="float32",
)  # fmt: skip
EOS, BOS, LENGTH, GROUP, BETA = 0, 17, 8, 4, 0.1
reference = jax.tree.map(lambda x: 4 * x, transformer.init(NETWORK, jax.random.key(0)))
policy = jax.tree.map(
    lambda x, y: x + 0.5 * y, reference, transformer.init(NETWORK, jax.random.key(1))
)


def log_probs(params, tokens):
    begun = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    states = transformer.hidden(NETWORK, params, begun, jnp.ones_like(begun))
    return token_log_probs(transformer.logits(NETWORK, params, states), tokens)


def sampled_groups(key, count):
    """`count` groups of 4 responses: tokens, and what estimators read of them."""
    start = jnp.full((count * GROUP, 1), BOS)
    sampled = generate(
        NETWORK, policy, start, jnp.ones_like(start), key, sampling=SamplingConfig(1.0),
        response_length=LENGTH, ending=Ending(EOS, EOS),
    )  # fmt: skip
    mask = sampled.mask
    rising = jnp.diff(sampled.tokens, axis=1) > 0
    scores = jnp.sum(rising * mask[:, 1:], axis=1)  # the reward: steps upward
    p, ref = (jnp.where(mask > 0, log_probs(x, sampled.tokens), 0) for x in (policy, reference))
    zero, each = jnp.zeros_like(mask), jnp.zeros(len(mask))
    rollouts = Rollouts(
        jnp.arange(len(mask)), mask, scores, kl_shaped_rewards(scores, p, ref, mask, BETA),
        p, p, ref, exact_values=zero, learned_values=zero, baseline=each, average=each,
    )  # fmt: skip
    grouped = lambda x: x.reshape(count, GROUP, *x.shape[1:])
    return jax.tree.map(grouped, (sampled.tokens, rollouts))


table = fresh_estimators(RowsConfig(group=GROUP), BETA)


def loss_of(name):
    def loss(params, group):
        tokens, rollouts = group
        p = jnp.where(rollouts.mask > 0, log_probs(params, tokens), 0)
        return table[name].loss(p, rollouts)

    return loss


@jax.jit
def mean_gradient(key):
    groups = sampled_groups(key, 500)
    mean_loss = lambda params: jnp.mean(jax.vmap(loss_of("rloo"), (None, 0))(params, groups))
    return -ravel_pytree(jax.grad(mean_loss)(policy))[0]


batches = large_sample(mean_gradient, jax.random.split(jax.random.key(2), 150))
print(f"{ravel_pytree(policy)[0].size} parameters; reference: {150 * 500 * GROUP} responses")
few = jax.jit(sampled_groups, static_argnums=1)(jax.random.key(3), 2000)
for name in ("reinforce", "rloo", "dr_grpo", "k1_in_loss"):
    estimates = -np.asarray(per_example_gradients(loss_of(name), policy, few, 500))
    found = measure(estimates, batches.mean(0), 0.99, reference_batches=batches)
    inside = found.contains(np.zeros(estimates.shape[1]))
    print(f"{name:12}bias in [{found.bias_norm['low']:.3f}, {found.bias_norm['high']:.3f}]"
          f"  variance {found.variance:7.2f}  unbiased: {inside}")  # fmt: skip
    assert inside == (name in ("reinforce", "rloo"))

# %% [markdown]
# The same verdicts, with nothing enumerated. For an estimator of your own on a model of your own,
# that is all there is to write: sample, fill a `Rollouts`, call `measure`.
#
# `rlhf-jax estimators --out DIR` runs the enumerated lab at 100,000 responses and checks every row
# against its theory.
