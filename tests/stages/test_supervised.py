"""Maximum likelihood: a loop over targets, packing, padding, micro-batches, dropout."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlhf_jax.data.arrays import demonstration_rows
from rlhf_jax.data.pipeline import text_pass
from rlhf_jax.data.records import Demonstration
from rlhf_jax.errors import ConfigError
from rlhf_jax.models import transformer
from rlhf_jax.stages import supervised
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.gradients import accumulate_gradients
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.data.conftest import Letters
from tests.objectives.harness import assert_close
from tests.stages import tiny

RATE = OptimizerConfig(learning_rate=1e-2, epsilon=0.1)
PAIRS = [("abc", "de"), ("f", "ghijk"), ("lm", "n"), ("opq", "rstuvw"), ("x", "y"), ("z", "abca"),
         ("bb", "a"), ("cd", "efg")]  # fmt: skip
DEMONSTRATIONS = [Demonstration(prompt, response) for prompt, response in PAIRS]


def batch_of(length=12, packed=False):
    rows = demonstration_rows(DEMONSTRATIONS, Letters(), length, packed)
    return rows.to_batch(list(rows.rows))


@functools.cache
def loss_and_gradient():
    loss = supervised.likelihood_loss(tiny.MODEL)
    return jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch)[0].mean))


def evaluate(batch):
    return loss_and_gradient()(tiny.policy_params(1), batch)


def loop_over_targets(params) -> float:
    """Mean of -log p over the responses' tokens and eos, one sequence after the other."""
    letters, losses = Letters(), []
    for prompt, response in PAIRS:
        start = [letters.bos_id, *letters.encode(prompt)]
        ids = [*start, *letters.encode(response), letters.eos_id]
        losses += list(-tiny.sequence_log_probs(params, [ids])[0][len(start) - 1 :])
    assert len(losses) == sum(len(response) + 1 for _, response in PAIRS)
    return float(np.mean(losses))


def test_the_loss_equals_a_loop_over_response_tokens():
    np.testing.assert_allclose(
        evaluate(batch_of())[0], loop_over_targets(tiny.policy_params(1)), rtol=1e-5
    )


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_logits_in_chunks_give_the_same_loss_and_gradient(chunk):
    chunked = dataclasses.replace(tiny.MODEL, logit_chunk=chunk)
    loss = supervised.likelihood_loss(chunked)
    both = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch)[0].mean))
    found = both(tiny.policy_params(1), batch_of())
    assert_close(found, evaluate(batch_of()), rtol=1e-5, atol=1e-6)


def test_logits_in_chunks_are_never_held_whole():
    """By the temporaries of the gradient that the compiler counts, beside those of all logits."""
    model = dataclasses.replace(tiny.MODEL, vocab_size=16000, context=128, layers=1)
    batch = tiny.text_batch(2, 128)

    def temporaries(**changes):
        loss = supervised.likelihood_loss(dataclasses.replace(model, **changes))
        shapes = jax.eval_shape(lambda key: transformer.init(model, key), jax.random.key(0))
        gradient = jax.jit(jax.grad(lambda params, batch: loss(params, batch)[0].mean))
        return gradient.lower(shapes, batch).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 2 * 127 * 16000
    assert temporaries() > logits > 1.5 * temporaries(logit_chunk=16)


def test_the_gradient_by_way_of_the_logits_is_p_minus_one_hot_at_the_targets():
    params, batch = tiny.policy_params(1), batch_of()

    def logits_of(params):
        states = transformer.hidden(tiny.MODEL, params, batch["tokens"], batch["segments"])
        return transformer.logits(tiny.MODEL, params, states)

    logits, pullback = jax.vjp(jax.jit(logits_of), params)
    cotangent, total = np.zeros(logits.shape), batch["weights"].sum()
    for b, t in np.argwhere(batch["weights"]):
        row = np.asarray(logits[b, t - 1], np.float64)
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        p[batch["tokens"][b, t]] -= 1
        cotangent[b, t - 1] = p / total
    expected = pullback(cotangent.astype(np.float32))[0]
    assert_close(evaluate(batch)[1], expected, rtol=1e-3, atol=1e-5)


def test_the_share_of_padding_is_told():
    batch = {"segments": np.array([[1, 1, 2, 0], [3, 0, 0, 0]])}
    loss = supervised.with_padding(lambda params, batch, key: (params, {"loss": key}))
    mean, told = loss("mean", batch, "key")
    padding = told.pop("padding")
    assert (mean, told, float(padding.mean), padding.weight) == ("mean", {"loss": "key"}, 0.5, 8)


def test_prompt_tokens_carry_no_loss():
    batch = batch_of()
    for row, (prompt, response) in zip(batch["weights"], PAIRS, strict=True):
        start = 1 + len(prompt)
        np.testing.assert_array_equal(np.flatnonzero(row), range(start, start + len(response) + 1))
    # The loss is linear in each token's weight: a prompt token's counts as soon as it has one.
    weights = batch["weights"].copy()
    weights[0, 2] = 1.0
    assert abs(evaluate(batch)[0] - evaluate(batch | {"weights": weights})[0]) > 1e-3


def test_more_right_padding_and_packing_change_neither_loss_nor_gradient():
    near, far, packed = evaluate(batch_of(12)), evaluate(batch_of(16)), evaluate(batch_of(16, True))
    assert batch_of(16, True)["tokens"].shape[0] < 8
    assert_close(far, near, rtol=1e-5, atol=1e-5)
    assert_close(packed, near, rtol=1e-5, atol=1e-5)


def test_micro_batches_of_uneven_token_counts_give_the_whole_batch_s_gradient():
    loss, batch = supervised.likelihood_loss(tiny.MODEL), batch_of()
    counts = batch["weights"].sum(1)
    assert counts[::2].sum() != counts[1::2].sum()
    run = jax.jit(lambda params: [accumulate_gradients(loss, params, batch, n)[0] for n in (2, 4)])
    whole = evaluate(batch)[1]
    for micro in run(tiny.policy_params(1)):
        assert_close(micro, whole, rtol=1e-4, atol=1e-6)


def test_losses_of_documents_equal_a_loop_also_where_a_row_cuts_one():
    bos, eos, code = Letters.bos_id, Letters.eos_id, Letters().encode
    pieces = [  # rows of 6; a piece begins with the last token of the one before
        [[bos, *code("abc"), eos]],
        [[bos, *code("defgh")], [*code("hij"), eos]],
        [[bos, *code("k")], [*code("k"), eos]],
        [[bos, eos]],
    ]
    params, texts = tiny.policy_params(1), ["abc", "defghij", "k", ""]
    rows = text_pass(texts, Letters(), batch_size=3, length=6)
    losses, tokens = supervised.document_losses(tiny.MODEL, params, rows)
    expected = [-sum(x.sum() for x in tiny.sequence_log_probs(params, ids)) for ids in pieces]
    np.testing.assert_array_equal(tokens, [4, 8, 2, 1])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    dropping = dataclasses.replace(tiny.MODEL, dropout=0.5)  # is off where nothing is learnt
    again, _ = supervised.document_losses(dropping, params, rows)
    np.testing.assert_allclose(again, losses, rtol=1e-6)


def config(**changes):
    return SFT(RATE, **({"batch_size": 8, "length": 12, "start": "base"} | changes))


def test_dropout_is_on_in_supervised_training_with_new_noise_each_step():
    dropping = dataclasses.replace(tiny.MODEL, dropout=0.5)
    still = dataclasses.replace(config(), optimizer=OptimizerConfig(learning_rate=1e-30))
    update, optimizer = supervised.make_update(supervised.likelihood_loss(dropping), still, 10)
    state = supervised.initial_state(tiny.policy_params(1), optimizer, jax.random.key(0))
    losses = []
    for _ in range(2):  # the parameters stay as they are
        state, metrics = update(state, batch_of())
        losses.append(float(metrics["loss"]))
    plain = float(evaluate(batch_of())[0])
    assert abs(losses[0] - losses[1]) > 1e-3 and abs(losses[0] - plain) > 1e-3


@pytest.mark.parametrize(
    "field, value",
    [("epochs", 0), ("batch_size", 0), ("length", 0), ("micro_batches", 3),
     ("pretraining_fraction", 1.0), ("pretraining_fraction", -0.1),
     ("pretraining_fraction_of", "tokens")],
)  # fmt: skip
def test_an_impossible_value_is_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        config(**{field: value})
    assert str(caught.value).startswith(f"{field} = ")
