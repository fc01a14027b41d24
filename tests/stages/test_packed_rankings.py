"""Rankings that share a batch element, and outputs that share a row, are worth what they are worth
alone."""

import jax
import numpy as np
import pytest

from rlhf_jax.data.arrays import ranking_batch
from rlhf_jax.stages import dpo, reward_model
from tests.stages.tiny import MODEL, PAD, policy_params, score_params

OUTPUT = slice(2, None)  # the targets: the response and its end token
RANKINGS = [  # prompts of one token behind bos
    ([([1, 5, 9, 2], OUTPUT), ([1, 5, 8, 7, 2], OUTPUT)], (0, 1)),
    ([([1, 6, 11, 2], OUTPUT), ([1, 6, 12, 2], OUTPUT), ([1, 6, 2], OUTPUT)], (2, 0, 2)),
    ([([1, 9, 30, 2], OUTPUT), ([1, 9, 31, 31, 2], OUTPUT)], (0, 0)),  # a tie says nothing
    ([([1, 7, k, 2], OUTPUT) for k in range(20, 24)], (3, 1, 0, 2)),
]


def batches():
    """The same rankings one an element; in two elements; and there with few outputs a row."""
    alone = ranking_batch([[each] for each in RANKINGS], 6, 4, 1, PAD)
    alone["ranks"] = alone["ranks"][:, 0]
    two = [RANKINGS[:3], RANKINGS[3:]]
    shared = ranking_batch(two, 6, 7, 3, PAD, row_length=11)
    assert (shared["segments"][:, :3] > 0).any(-1).sum(1).tolist() == [3, 2]
    few = {name: shared[name][:, :3] for name in ("tokens", "segments", "weights")}
    return alone, ranking_batch(two, 6, 7, 3, PAD), shared | few


def preference_loss(params, batch):
    sequences = {name: batch[name] for name in ("tokens", "segments", "weights")}
    refer = dpo.reference_log_probs(MODEL, 1, batch["ranks"].shape[-1], True)
    reference = refer(policy_params(4), sequences)
    return dpo.preference_loss(dpo.DPO(), MODEL, share_rows=True)(
        params, batch | {"ref_log_probs": reference}
    )


@pytest.mark.parametrize(
    "loss, params",
    [
        (reward_model.reward_loss(MODEL, share_rows=True), score_params),
        (preference_loss, policy_params),
    ],
    ids=["reward", "dpo"],
)
def test_loss_and_gradient(loss, params):
    def mean(params, batch):
        mean, metrics = loss(params, batch)
        accuracy = metrics["accuracy"]
        return mean.mean, (mean.weight, accuracy.weight, accuracy.total)

    params = params()
    (alone, gradient), *others = (
        jax.jit(jax.value_and_grad(mean, has_aux=True))(params, batch) for batch in batches()
    )
    assert alone[1][:2] == (3, 1 + 2 + 6)
    for packed, packed_gradient in others:
        np.testing.assert_allclose(alone[0], packed[0], rtol=1e-5)
        assert alone[1] == packed[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
                     gradient, packed_gradient)  # fmt: skip


def test_the_longer_output_of_each_ranking():
    for packed in batches()[1:]:
        longer, pairs = reward_model.length_pair_counts([packed])
        np.testing.assert_array_equal(pairs, [1, 2, 0, 6, 0, 0])
        np.testing.assert_array_equal(longer, [0, 1.5, 0, 3, 0, 0])
