"""The scalar head."""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig

MODEL = TransformerConfig(vocab_size=9, layers=1, width=64, heads=2, context=8)


def test_head_starts_at_the_published_scale():
    trunk = transformer.init(MODEL, jax.random.key(0))
    key = jax.random.key(1)
    head = score.with_score_head(trunk, key)["score"]
    normal = jax.random.normal(key, (64,))
    np.testing.assert_allclose(head["weights"], normal / np.sqrt(64 + 1), rtol=1e-6)
    assert head["bias"] == 0
    zero = score.zero_score_head({**trunk, "score": head})["score"]
    assert not np.any(zero["weights"])


def test_rescale_is_an_affine_map_of_the_score():
    params = score.with_score_head(transformer.init(MODEL, jax.random.key(0)), jax.random.key(1))
    params["score"]["bias"] = jnp.float32(0.7)
    states = jax.random.normal(jax.random.key(2), (3, 64))
    before = score.scores(params, states)
    after = score.scores(score.rescale(params, jnp.float32(2.0), jnp.float32(-0.5)), states)
    np.testing.assert_allclose(after, 2 * before - 0.5, rtol=1e-5)


def test_read_at_the_last_real_token():
    values = jnp.arange(24.0).reshape(4, 6)
    segments = jnp.array([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0] * 6])
    np.testing.assert_array_equal(score.at_last_token(values, segments), [2, 11, 14, 0])
