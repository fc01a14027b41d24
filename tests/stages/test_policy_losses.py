"""Policy and value loss: values, and gradients by way of the logits, against NumPy loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import score, transformer
from rlhf_jax.stages.experience import Experience
from rlhf_jax.stages.policy_update import policy_loss, value_loss
from rlhf_jax.training.gradients import accumulate_gradients
from tests.objectives.harness import assert_close, central_differences
from tests.stages import tiny

LENGTH = tiny.RESPONSE
TOKENS = sum(map(len, tiny.RESPONSES))
CLIP = 0.2


@functools.cache
def experience(prompt_length=6) -> Experience:
    """Hand-made: ratios well inside and outside the clip, advantages of both signs."""
    rng = np.random.default_rng(3)
    prompts = tiny.prompt_batch(prompt_length)
    responses, mask = tiny.right_padded(tiny.RESPONSES, LENGTH)
    join = lambda a, b: np.concatenate([a, b], axis=1)
    draw = lambda scale: (scale * rng.normal(size=mask.shape)).astype(np.float32)
    sequences = [p + r for p, r in zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)]
    new = tiny.sequence_log_probs(tiny.policy_params(1), sequences, 0.7)
    values = tiny.sequence_scores(tiny.score_params(2), sequences)
    log_probs, old_values = draw(0.3), draw(0.3)
    for b, (prompt, response) in enumerate(zip(tiny.PROMPTS, tiny.RESPONSES, strict=True)):
        log_probs[b, : len(response)] += new[b][len(prompt) - 1 :]
        old_values[b, : len(response)] += values[b][len(prompt) - 1 : -1]
    return Experience(
        tokens=join(prompts["tokens"], responses),
        segments=join(prompts["segments"], mask),
        mask=mask.astype(np.float32),
        log_probs=log_probs,
        ref_log_probs=None,
        values=old_values,
        advantages=draw(1.0),
        returns=old_values + draw(1.0),
    )


def log_softmax_at(row, target, temperature):
    scaled = row / temperature
    return scaled[target] - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())


def policy_oracle(config, logits):
    """-mean over response tokens of min(rho A, clip(rho) A)."""
    e, total = experience(), 0.0
    for b, response in enumerate(tiny.RESPONSES):
        for t, token in enumerate(response):
            new = log_softmax_at(logits[b, t], token, config.temperature)
            ratio = np.exp(new - float(e.log_probs[b, t]))
            clipped = min(max(ratio, 1 - CLIP), 1 + CLIP)
            advantage = float(e.advantages[b, t])
            total -= min(ratio * advantage, clipped * advantage)
    return total / TOKENS


def value_oracle(config, values):
    """mean over response tokens of max of the two squared errors, halved."""
    e, total = experience(), 0.0
    for b, response in enumerate(tiny.RESPONSES):
        for t in range(len(response)):
            old, goal = float(e.values[b, t]), float(e.returns[b, t])
            error = (values[b, t] - goal) ** 2
            if config.value_clip is not None:
                low, high = old - config.value_clip, old + config.value_clip
                error = max(error, (min(max(values[b, t], low), high) - goal) ** 2)
            total += 0.5 * error
    return total / TOKENS


def gradient_through(oracle, outputs_of, params):
    """The oracle's value and d oracle / d params: central differences, then the model's own
    pullback."""
    outputs, pullback = jax.vjp(jax.jit(outputs_of), params)
    exact = np.asarray(outputs, np.float64)
    cotangent = central_differences(oracle, exact).astype(np.float32)
    return oracle(exact), pullback(jnp.array(cotangent))[0]


def loss_of(make, config):
    """loss(params, batch)."""
    if make is value_loss:
        return value_loss(config, tiny.MODEL)
    loss, state = policy_loss(config, tiny.MODEL), tiny.state_of(config)
    return lambda params, batch: loss(params, batch, state)


@functools.cache
def mean_and_gradient(make, config, prompt_length=6):
    loss = loss_of(make, config)
    params = tiny.policy_params(1) if make is policy_loss else tiny.score_params(2)

    run = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch)[0].mean))
    return run(params, experience(prompt_length))


def assert_same_gradient(ours, expected):
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    assert scale > 1e-3
    assert_close(ours, expected, rtol=1e-3, atol=1e-4 * scale)


def test_policy_loss_and_its_gradient_equal_loops_over_logits():
    config = tiny.ppo_config()
    e = experience()

    def logits_of(params):
        states = transformer.hidden(tiny.MODEL, params, e.tokens, e.segments)
        return transformer.logits(tiny.MODEL, params, states[:, -LENGTH - 1 : -1])

    params = tiny.policy_params(1)
    value, gradient = gradient_through(functools.partial(policy_oracle, config), logits_of, params)
    ours, our_gradient = mean_and_gradient(policy_loss, config)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    assert_same_gradient(our_gradient, gradient)


@pytest.mark.parametrize("clip", [0.2, None])
def test_value_loss_and_its_gradient_equal_loops_over_values(clip):
    config = tiny.ppo_config(value_clip=clip)
    e = experience()

    def values_of(params):
        states = transformer.hidden(tiny.MODEL, params, e.tokens, e.segments)
        return score.scores(params, states)[:, -LENGTH - 1 : -1]

    params = tiny.score_params(2)
    value, gradient = gradient_through(functools.partial(value_oracle, config), values_of, params)
    ours, our_gradient = mean_and_gradient(value_loss, config)
    np.testing.assert_allclose(ours, value, rtol=1e-5)
    assert_same_gradient(our_gradient, gradient)


@pytest.mark.parametrize("make", [policy_loss, value_loss])
def test_more_left_padding_changes_neither_loss_nor_gradient(make):
    near = mean_and_gradient(make, tiny.ppo_config())
    far = mean_and_gradient(make, tiny.ppo_config(), prompt_length=9)
    assert_close(near, far, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [policy_loss, value_loss])
def test_what_lies_outside_the_responses_is_not_read(make):
    """Other numbers after EOS, even NaN, change nothing."""
    config, e = tiny.ppo_config(), experience()
    outside = e.mask == 0
    spoilt = {
        name: np.where(outside, np.nan, getattr(e, name)).astype(np.float32)
        for name in ("log_probs", "values", "advantages", "returns")
    }
    params = tiny.policy_params(1) if make is policy_loss else tiny.score_params(2)
    loss = jax.jit(lambda batch: loss_of(make, config)(params, batch)[0].mean)
    np.testing.assert_array_equal(loss(e), loss(e._replace(**spoilt)))


@pytest.mark.parametrize("make", [policy_loss, value_loss])
def test_micro_batches_of_uneven_token_counts_give_the_whole_batch_s_gradient(make):
    loss, e = loss_of(make, tiny.ppo_config()), experience()
    params = tiny.policy_params(1) if make is policy_loss else tiny.score_params(2)
    counts = e.mask.sum(1)
    assert counts[::2].sum() != counts[1::2].sum()
    run = jax.jit(lambda params, e: accumulate_gradients(loss, params, e, 4)[0])
    assert_same_gradient(run(params, e), mean_and_gradient(make, tiny.ppo_config())[1])
