"""Log-probabilities, cross-entropy and entropy against loops; chunked forms in value and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.objectives.likelihood import (
    at_temperature,
    chunked_over_time,
    chunked_token_log_probs,
    cross_entropy,
    entropy,
    sequence_log_prob,
    token_log_probs,
    top_logit,
)
from tests.objectives.harness import (
    Case,
    assert_close,
    check_transformations,
    check_values_and_gradients,
    parametrise,
    to_jax,
)

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(0, 2, size=(2, 5, 7))
TARGETS = RNG.integers(0, 7, size=(2, 5))
HIDDEN = RNG.normal(size=(2, 5, 3))
EMBEDDING = RNG.normal(size=(7, 3))
LOG_PROBS = -np.abs(RNG.normal(size=(3, 4)))
MASK = np.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


def probabilities(logits, temperature=1.0):
    exponentials = [np.exp(x / temperature) for x in logits]
    return [x / sum(exponentials) for x in exponentials]


def log_probs_oracle(logits, targets, temperature=1.0):
    out = np.zeros(targets.shape)
    for i in np.ndindex(*targets.shape):
        out[i] = np.log(probabilities(logits[i], temperature)[targets[i]])
    return out


def cross_entropy_oracle(logits, targets, smoothing, z_loss):
    out = np.zeros(targets.shape)
    for i in np.ndindex(*targets.shape):
        p = probabilities(logits[i])
        for v in range(len(p)):
            label = (1 - smoothing) * (v == targets[i]) + smoothing / len(p)
            out[i] -= label * np.log(p[v])
        out[i] += z_loss * np.log(sum(np.exp(logits[i]))) ** 2
    return out


def entropy_oracle(logits, temperature=1.0):
    out = np.zeros(logits.shape[:-1])
    for i in np.ndindex(*out.shape):
        out[i] = -sum(p * np.log(p) for p in probabilities(logits[i], temperature))
    return out


def sequence_oracle(log_probs, mask, per_token):
    out = np.zeros(len(mask))
    for b in range(len(mask)):
        kept = [x for x, keep in zip(log_probs[b], mask[b], strict=True) if keep]
        out[b] = sum(kept) / (max(len(kept), 1) if per_token else 1)
    return out


def hidden_oracle(hidden, embedding, targets, temperature=0.7):
    return log_probs_oracle(hidden @ embedding.T, targets, temperature)


def by_vocabulary(hidden, embedding, targets, chunk=3):
    return chunked_token_log_probs(hidden, embedding, targets, chunk, temperature=0.7)


def by_time(hidden, embedding, targets, chunk=2):
    def log_probs(hidden, targets):
        logits = jnp.einsum("btd,vd->btv", hidden, embedding)
        return token_log_probs(logits, targets, temperature=0.7)

    return chunked_over_time(log_probs, chunk)(hidden, targets)


def with_options(name, function, oracle, arguments, **options):
    return Case(
        "-".join([name, *(f"{k}={v}" for k, v in options.items())]),
        functools.partial(function, **options),
        functools.partial(oracle, **options),
        arguments,
        wrt=(0,),
    )


HEAD = (HIDDEN, EMBEDDING, TARGETS)
CASES = [
    with_options("at_temperature", at_temperature, lambda x, temperature: x / temperature,
                 (LOG_PROBS,), temperature=0.7),
    with_options("token_log_probs", token_log_probs, log_probs_oracle, (LOGITS, TARGETS)),
    with_options("token_log_probs", token_log_probs, log_probs_oracle, (LOGITS, TARGETS),
                 temperature=0.7),
    with_options("entropy", entropy, entropy_oracle, (LOGITS,), temperature=1.3),
    *(
        Case(
            f"cross_entropy-{e}-{z}",
            lambda x, t, e=e, z=z: cross_entropy(x, t, e, z),
            lambda x, t, e=e, z=z: cross_entropy_oracle(x, t, e, z),
            (LOGITS, TARGETS),
            wrt=(0,),
        )
        for e, z in [(0.0, 0.0), (0.1, 0.0), (0.1, 1e-2)]
    ),
    with_options("sequence_log_prob", sequence_log_prob, sequence_oracle, (LOG_PROBS, MASK),
                 per_token=False),
    with_options("sequence_log_prob", sequence_log_prob, sequence_oracle, (LOG_PROBS, MASK),
                 per_token=True),
    Case("top_logit", top_logit, lambda x: x.max(-1), (LOGITS,), constant=(0,)),
    Case("chunked_token_log_probs", by_vocabulary, hidden_oracle, HEAD, wrt=(0, 1)),
    Case("chunked_over_time", by_time, hidden_oracle, HEAD, wrt=(0, 1)),
]  # fmt: skip


@parametrise(CASES)
def test_oracle(case):
    check_values_and_gradients(case)


@parametrise(CASES)
def test_vmap_and_pmap(case):
    check_transformations(case)


@pytest.mark.parametrize("chunk", [1, 5, 7, 100])
@pytest.mark.parametrize("chunked", [by_vocabulary, by_time], ids=["vocabulary", "time"])
def test_any_chunk_gives_the_same(chunked, chunk):
    function = jax.jit(functools.partial(chunked, chunk=chunk))
    assert_close(function(*to_jax(HEAD)), hidden_oracle(*HEAD))


def test_chunks_carry_any_tree_of_outputs():
    def both(logits, targets):
        return {"log_prob": token_log_probs(logits, targets), "entropy": entropy(logits)}

    outputs = jax.jit(chunked_over_time(both, 2))(*to_jax((LOGITS, TARGETS)))
    assert_close(outputs["log_prob"], log_probs_oracle(LOGITS, TARGETS))
    assert_close(outputs["entropy"], entropy_oracle(LOGITS))


@pytest.mark.parametrize("chunked", ["no", "vocabulary", "time"])
def test_chunked_forms_never_hold_the_logits(chunked):
    """Temporaries of value and gradient, as the compiler counts them, stay below one [B, T, V]."""
    batch, time, width, vocabulary = 4, 64, 8, 4096
    shapes = [(batch, time, width), (vocabulary, width)]
    hidden, embedding = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    targets = jax.ShapeDtypeStruct((batch, time), jnp.int32)

    def loss(hidden, embedding, targets):
        if chunked == "no":
            log_probs = token_log_probs(jnp.einsum("btd,vd->btv", hidden, embedding), targets)
        elif chunked == "time":
            log_probs = by_time(hidden, embedding, targets, chunk=8)
        else:
            log_probs = by_vocabulary(hidden, embedding, targets, chunk=512)
        return jnp.sum(log_probs)

    held = 4 * batch * time * vocabulary
    for function in (loss, jax.grad(loss, (0, 1))):
        compiled = jax.jit(function).lower(hidden, embedding, targets).compile()
        temporaries = compiled.memory_analysis().temp_size_in_bytes
        assert (temporaries < 0.6 * held) == (chunked != "no")


def test_gather_form_equals_log_softmax_in_bfloat16_too():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    table = jax.nn.log_softmax(logits.astype(jnp.float32))
    expected = jnp.take_along_axis(table, TARGETS[..., None], axis=-1)[..., 0]
    actual = token_log_probs(logits, jnp.asarray(TARGETS))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def chunked_by_vocabulary(logits, targets, temperature=1.0):
    """The logits are what hidden states of an identity embedding give."""
    finite = jnp.maximum(logits, -1e9)  # 0 x -inf would be no number
    return chunked_token_log_probs(finite, jnp.eye(logits.shape[-1]), targets, 3, temperature)


def chunked_by_time(logits, targets, temperature=1.0):
    log_probs = functools.partial(token_log_probs, temperature=temperature)
    return chunked_over_time(log_probs, 2)(logits[None], targets[None])[0]


def softmax64(logits, temperature=1.0):
    """Probabilities, their logarithms and log Z - max, in float64, of rows of any size."""
    below = np.asarray(logits, np.float64)
    below = (below - below.max(-1, keepdims=True)) / temperature
    log_sum = np.log(np.exp(below).sum(-1, keepdims=True))
    return np.exp(below - log_sum), below - log_sum, log_sum[..., 0]


def log_probs64(logits, targets, temperature=1.0):
    """log p[target], and its gradient (1[target] - p) / temperature."""
    p, log_p, _ = softmax64(logits, temperature)
    chosen = np.eye(p.shape[-1])[targets]
    value = np.where(chosen == 1, log_p, 0).sum(-1)
    return value, (chosen - p) / temperature


def cross_entropy64(logits, targets, smoothing=0.0, z_loss=0.0):
    p, log_p, log_sum = softmax64(logits)
    labels = (1 - smoothing) * np.eye(p.shape[-1])[targets] + smoothing / p.shape[-1]
    log_z = log_sum + np.asarray(logits, np.float64).max(-1)
    value = -(labels * np.where(labels > 0, log_p, 0)).sum(-1) + z_loss * log_z**2
    return value, p - labels + 2 * z_loss * log_z[..., None] * p


def entropy64(logits, _, temperature=1.0):
    p, log_p, _ = softmax64(logits, temperature)
    log_p = np.where(p > 0, log_p, 0)
    value = -(p * log_p).sum(-1)
    return value, -p * (log_p + value[..., None]) / temperature


PAIRS = {  # each with what it must give in float64: values, and the gradient of their sum
    "token_log_probs": (token_log_probs, log_probs64),
    "token_log_probs-0.7": (functools.partial(token_log_probs, temperature=0.7),
                            functools.partial(log_probs64, temperature=0.7)),
    "chunked_token_log_probs": (chunked_by_vocabulary, log_probs64),
    "chunked_token_log_probs-0.7": (functools.partial(chunked_by_vocabulary, temperature=0.7),
                                    functools.partial(log_probs64, temperature=0.7)),
    "chunked_over_time": (chunked_by_time, log_probs64),
    "entropy": (lambda x, _: entropy(x), entropy64),
    "entropy-0.7": (lambda x, _: entropy(x, 0.7), functools.partial(entropy64, temperature=0.7)),
}  # fmt: skip
CROSS = {
    f"cross_entropy-{e}-{z}": (functools.partial(cross_entropy, label_smoothing=e, z_loss=z),
                               functools.partial(cross_entropy64, smoothing=e, z_loss=z))
    for e, z in [(0.0, 1e-4), (0.1, 0.0)]
}  # fmt: skip


def value_and_gradient(function, logits, targets):
    def total(x):
        values = function(x, targets)
        return jnp.sum(values), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(logits)
    return values, gradient


@pytest.mark.parametrize("name", [*PAIRS, "cross_entropy-0.0-0.0001"])
def test_extreme_logits_have_the_values_and_gradients_of_float64(name):
    function, exact = (PAIRS | CROSS)[name]
    logits = jnp.array(
        [[1e4, -1e4, 0.0, 1e4], [0.0, 1.0, -jnp.inf, -jnp.inf], [-1e4, -1e4, -1e4, -1e4]]
    )
    targets = np.array([0, 1, 0])
    found = value_and_gradient(function, logits, targets)
    assert_close(found, exact(logits, targets), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*PAIRS, "cross_entropy-0.1-0.0"])
def test_an_offset_of_all_logits_costs_no_digits(name):
    """Against float64 of the same float32 logits, at offsets 0, 100 and 10,000."""
    function, exact = (PAIRS | CROSS)[name]
    offsets = np.array([0, 0, 100, 100, 1e4, 1e4, -100, -1e4, 1e4, 1e4])[:, None]
    logits = (LOGITS.reshape(10, 7) + offsets).astype(np.float32)
    targets = TARGETS.reshape(10)
    found = value_and_gradient(function, logits, targets)
    assert_close(found, exact(logits, targets), rtol=1e-6, atol=6e-7)


def test_entropy_at_the_limits():
    logits = jnp.array([[1e4, 1e4, 1e4, 1e4], [0.0, -jnp.inf, -jnp.inf, -jnp.inf]])
    np.testing.assert_allclose(jax.jit(entropy)(logits), [np.log(4), 0], atol=1e-6)


def test_a_target_of_probability_zero_has_log_probability_minus_infinity():
    logits = jnp.array([[0.0, -jnp.inf]])
    assert jax.jit(token_log_probs)(logits, jnp.array([1]))[0] == -jnp.inf


@given(st.floats(-50, 50), st.floats(0.1, 5))
@settings(max_examples=20, deadline=None)
def test_shifting_the_logits_changes_nothing(shift, temperature):
    logits, targets = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(TARGETS)
    assert_close(
        token_log_probs(logits + shift, targets, temperature),
        token_log_probs(logits, targets, temperature),
        rtol=1e-3,
        atol=1e-3,
    )


def test_padding_adds_nothing_to_a_sequence():
    """Padding adds nothing to its log-probability, whatever stands there."""
    padded = np.pad(LOG_PROBS, ((0, 0), (2, 3)), constant_values=np.nan)
    mask = np.pad(MASK, ((0, 0), (2, 3)))
    for per_token in (False, True):
        assert_close(
            sequence_log_prob(jnp.asarray(padded, jnp.float32), mask, per_token),
            sequence_oracle(LOG_PROBS, MASK, per_token),
        )


def test_malformed_input_is_refused():
    logits = jnp.zeros((2, 3, 4))
    with pytest.raises(AssertionError):
        token_log_probs(logits, jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(AssertionError):
        token_log_probs(logits, jnp.zeros((2, 3)))
    with pytest.raises(AssertionError):
        token_log_probs(logits, jnp.zeros((2, 3), jnp.int32), temperature=0.0)


def test_second_derivatives_of_log_probs_are_those_of_log_softmax():
    """Forward over reverse: d2 log p[target] / dx2 = -(diag(p) - p p')."""
    x = LOGITS[0, 0]
    hessian = jax.hessian(lambda x: token_log_probs(x[None], jnp.array([2]))[0])(jnp.asarray(x))
    p = np.array(probabilities(x))
    assert_close(hessian, np.outer(p, p) - np.diag(p))
