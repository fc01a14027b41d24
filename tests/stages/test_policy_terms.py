"""Every surrogate, aggregation, KL and entropy bonus of the policy's loss, by loops in float64 over
logits: values, gradients and metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives import estimator
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import policy_update
from rlhf_jax.stages.experience import Experience
from rlhf_jax.stages.policy_gradient_config import PolicyGradientConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.objectives.harness import central_differences
from tests.stages import tiny

WORDS, LENGTH, TEMPERATURE = 6, 5, 0.7
LENGTHS = (5, 1, 3, 0)  # tokens of each response; one has none
MODEL = TransformerConfig(
    vocab_size=WORDS, layers=1, width=WORDS, heads=1, context=8, compute_dtype="float32"
)
KL, CARRIED = 0.3, 1.7  # coefficients of the state, other than any config's
PLAIN = PolicyGradientConfig(
    OptimizerConfig(), None, iterations=1, rewards=(LearnedReward("reward"),), batch_size=4,
    advantage=estimator.WholeReturn(), surrogate=estimator.Reinforce(), minibatches=1,
    response_length=LENGTH, temperature=TEMPERATURE, kl=FixedController(0.02),
)  # fmt: skip
SURROGATES = {
    "reinforce": estimator.Reinforce(),
    "importance_weighted": estimator.ImportanceWeighted(),
    "truncated_importance": estimator.TruncatedImportance(0.9),
    "ppo_clip": estimator.PPOClip(0.2, 0.4, dual_clip=1.5),
    "cispo": estimator.CISPO(0.15, 0.3),
    "gspo": estimator.GSPO(0.03, 0.01),
    "ppo_penalty": estimator.PPOPenalty(FixedController(0.5)),
}
IN_LOSS = {"kl_in": "loss", "kl": FixedController(0.02)}
CASES = {
    **{name: {"surrogate": surrogate} for name, surrogate in SURROGATES.items()},
    "gspo by sequence": {"surrogate": SURROGATES["gspo"], "aggregation": "sequence"},
    "sequence": {"aggregation": "sequence"},
    "length": {"aggregation": "length"},
    "entropy": {"entropy_coefficient": 0.8, "aggregation": "sequence"},
    **{f"right {k}": IN_LOSS | {"kl_estimator": k} for k in ("k1", "k2", "k3")},
    **{f"own {k}": IN_LOSS | {"kl_estimator": k, "kl_gradient": "own", "aggregation": "length"}
       for k in ("k2", "k3")},
    "all": IN_LOSS | {"kl_estimator": "k3", "entropy_coefficient": 0.8,
                      "surrogate": SURROGATES["ppo_clip"]},
}  # fmt: skip


def drawn():
    """Logits, and experience: log-ratios of about +-0.5, advantages of both signs, of one sign in a
    row, and numbers outside the responses that nothing may read."""
    rng = np.random.default_rng(1)
    shape = (len(LENGTHS), LENGTH)
    logits = rng.normal(size=(*shape, WORDS))
    tokens = rng.integers(0, WORDS, shape)
    mask = np.arange(LENGTH) < np.array(LENGTHS)[:, None]
    new = np.array([[log_prob(row, token) for row, token in zip(*rows, strict=True)]
                    for rows in zip(logits, tokens, strict=True)])  # fmt: skip
    old, reference = (new + 0.5 * rng.normal(size=shape) for _ in range(2))
    advantages = np.array([1.3, -0.8, -1.1, 0.4])[:, None] * np.ones(shape)
    float32 = lambda x: np.where(mask, x, 9.0).astype(np.float32)
    batch = Experience(
        tokens.astype(np.int32), np.ones(shape, np.int32), mask.astype(np.float32), float32(old),
        float32(reference), None, float32(advantages), None,
    )  # fmt: skip
    return logits.astype(np.float32), batch


def log_probs(row):
    scaled = row / TEMPERATURE
    return scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())


def log_prob(row, token):
    return log_probs(row)[token]


def clamp(x, low, high):
    return min(max(x, low), high)


ESTIMATORS = {
    "k1": lambda d: d,
    "k2": lambda d: d**2 / 2,
    "k3": lambda d: np.exp(-d) - 1 + d,
}


def surrogate_loss(s, new, here, old, advantage, sequence):
    """Of one token, and whether it is clipped. here: log p where the loss is taken, a constant;
    sequence: the mean of log p - log old over the response."""
    ratio, now = np.exp(new - old), np.exp(here - old)
    match s:
        case estimator.Reinforce():
            return -advantage * new, 0
        case estimator.ImportanceWeighted():
            return -advantage * ratio, 0
        case estimator.TruncatedImportance():
            return -advantage * min(s.ratio_ceiling, now) * new, now > s.ratio_ceiling
        case estimator.CISPO():
            low, high = 1 - s.clip, 1 + s.clip_high
            return -advantage * clamp(now, low, high) * new, not low <= now <= high
        case estimator.PPOPenalty():
            return -advantage * ratio + CARRIED * (ratio - 1 - (new - old)), 0
    if isinstance(s, estimator.GSPO):
        ratio = now = np.exp(sequence)
    low, high = 1 - s.clip, 1 + s.clip_high
    loss = max(-advantage * ratio, -advantage * clamp(ratio, low, high))
    if isinstance(s, estimator.PPOClip) and s.dual_clip and advantage < 0:
        loss = min(loss, -s.dual_clip * advantage)
    return loss, now > high if advantage > 0 else now < low


def kl_of_token(config, new, here, old, reference):
    of = ESTIMATORS[config.kl_estimator]
    if config.kl_gradient == "own":
        return of(new - reference)
    right = (new - reference) ** 2 / 2 - (here - reference) ** 2 / 2
    return np.exp(here - old) * (of(here - reference) + right)


def oracle(config, logits, at, batch):
    """The loss of the logits, what is constant taken of `at`; and the metrics."""
    rows, told = (
        [],
        {"approximate_kl": [], "clip_fraction": [], "token_entropy": [], "token_kl": []},
    )
    for b, count in enumerate(LENGTHS):
        tokens = batch.tokens[b, :count]
        new = [log_prob(logits[b, t], tokens[t]) for t in range(count)]
        here = [log_prob(at[b, t], tokens[t]) for t in range(count)]
        old, reference = (np.float64(x[b]) for x in (batch.log_probs, batch.ref_log_probs))
        sequence = np.mean(new - old[:count]) if count else 0.0
        row = []
        for t in range(count):
            loss, clipped = surrogate_loss(
                config.surrogate, new[t], here[t], old[t], float(batch.advantages[b, t]), sequence
            )
            told["approximate_kl"].append((new[t] - old[t]) ** 2 / 2)
            told["clip_fraction"].append(float(clipped))
            every = log_probs(logits[b, t])
            told["token_entropy"].append(-(np.exp(every) * every).sum())
            loss -= config.entropy_coefficient * told["token_entropy"][-1]
            if config.kl_in == "loss":
                told["token_kl"].append(kl_of_token(config, new[t], here[t], old[t], reference[t]))
                loss += KL * told["token_kl"][-1]
            row.append(loss)
        rows.append(row)
    spoken = [row for row in rows if row]
    match config.aggregation:
        case "token":
            loss = np.mean(np.concatenate(spoken))
        case "sequence":
            loss = np.mean([np.mean(row) for row in spoken])
        case "length":
            loss = np.mean([np.sum(row) / LENGTH for row in spoken])
    told = {name: np.mean(values) for name, values in told.items() if values}
    if config.entropy_coefficient == 0:
        del told["token_entropy"]
    return loss, told


@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_metrics_equal_loops(monkeypatch, name):
    """The hidden states are the logits, under a head that is the identity."""
    config, (logits, batch) = dataclasses.replace(PLAIN, **CASES[name]), drawn()
    monkeypatch.setattr(
        policy_update, "response_states", lambda model, params, *_: params["states"]
    )
    carried = config.surrogate.init()
    state = tiny.state_of(
        config, kl_coefficient=jnp.float32(KL),
        surrogate=None if carried is None else jnp.float32(CARRIED),
    )  # fmt: skip
    loss = policy_update.policy_loss(config, MODEL)

    def of_logits(logits):
        mean, told = loss({"states": logits, "tokens": jnp.eye(WORDS)}, batch, state)
        return mean.mean, told

    (value, told), gradient = jax.jit(jax.value_and_grad(of_logits, has_aux=True))(logits)
    exact = logits.astype(np.float64)
    expected, metrics = oracle(config, exact, exact, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert told.keys() == metrics.keys()
    for metric, mean in metrics.items():
        np.testing.assert_allclose(told[metric].mean, mean, rtol=1e-5, err_msg=metric)
    numeric = central_differences(lambda x: oracle(config, x, exact, batch)[0], exact)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6)
    assert np.abs(numeric).max() > 0.01
    may_clip = {"truncated_importance", "ppo_clip", "cispo", "gspo", "gspo by sequence", "all"}
    assert (0 < metrics["clip_fraction"] < 1) == (name in may_clip)
