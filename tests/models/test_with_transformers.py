"""Random models of every family: logits and gradients of transformers' class, in float32."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import families, transformer
from tests.models import published

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("transformers") is None
        or importlib.util.find_spec("torch") is None,
        reason="transformers and torch are not installed: pip install transformers torch",
    ),
]
LENGTHS = (5, 13)  # of two documents; longer than every window


@pytest.fixture(params=published.CONFIGS, scope="module")
def pair(request):
    """(our shape, our parameters, transformers' model) with the same numbers."""
    import torch
    import transformers

    fields = published.CONFIGS[request.param]
    family = families.of(fields["model_type"])
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**fields), attn_implementation="eager"
    ).eval()
    assert type(theirs).__name__ == family.architecture
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(torch.randn_like(weight) * (0.3 if weight.ndim == 1 else 0.1))
    config = family.from_config(fields)
    named = dict(theirs.named_parameters())
    arrays = {name: named[there(theirs, name)].detach().numpy() for name in names(config)}
    return config, published.filled(config, family.tensors(config), arrays), theirs


def names(config):
    return [tensor.name for tensor in families.of_config(config).tensors(config)]


def there(model, name):
    """In memory some classes call their head otherwise than in the file."""
    known = dict(model.named_parameters())
    return name if name in known else name.replace("embed_out", "lm_head")


def documents():
    rng = np.random.default_rng(0)
    return [rng.integers(3, published.VOCABULARY, n).astype(np.int32) for n in LENGTHS]


def ours(config, params, tokens, segments):
    tokens, segments = jnp.array(tokens), jnp.array(segments)
    run = lambda p: transformer.logits(config, p, transformer.hidden(config, p, tokens, segments))
    return np.asarray(jax.jit(run)(params))


def theirs(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens[None], dtype=torch.long)).logits[0].numpy()


def test_logits_of_a_row_of_left_padding_and_of_packed_documents(pair):
    config, params, model = pair
    short, long = documents()
    exact = [theirs(model, tokens) for tokens in (short, long)]
    width = sum(LENGTHS)
    rows = np.zeros((3, width), np.int32)
    segments = np.zeros((3, width), np.int32)
    for row, tokens in enumerate((short, long)):  # padding on the left
        rows[row, -len(tokens) :], segments[row, -len(tokens) :] = tokens, 1
    rows[2] = np.concatenate([short, long])
    segments[2] = np.repeat([1, 2], LENGTHS)
    found = ours(config, params, rows, segments)
    apart = [found[0, -LENGTHS[0] :], found[1, -LENGTHS[1] :]]
    packed = np.split(found[2], LENGTHS[:1])
    for mine in (apart, packed):
        for one, other in zip(mine, exact, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)
    assert np.abs(exact[1]).max() > 0.5


def test_gradients_of_every_tensor(pair):
    import torch

    config, params, model = pair
    tokens = documents()[1]
    weights = np.random.default_rng(1).normal(size=(len(tokens), config.vocab_size))
    model.zero_grad()
    logits = model(torch.tensor(tokens[None], dtype=torch.long)).logits[0]
    (logits * torch.tensor(weights, dtype=torch.float32)).sum().backward()
    ones = jnp.ones((1, len(tokens)), jnp.int32)

    def loss(p):
        states = transformer.hidden(config, p, jnp.array(tokens[None]), ones)
        return jnp.sum(transformer.logits(config, p, states)[0] * weights)

    found = jax.jit(jax.grad(loss))(params)
    known = dict(model.named_parameters())
    for tensor in families.of_config(config).tensors(config):
        exact = known[there(model, tensor.name)].grad.numpy()
        mine = tensor.theirs(np.asarray(published.part(found, tensor)))
        np.testing.assert_allclose(mine, exact, atol=1e-3 * np.abs(exact).max(), rtol=0)


def test_transformers_reads_the_config_that_is_written(pair):
    import transformers

    config, _, model = pair
    family = families.of_config(config)
    again = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**family.to_config(config)), attn_implementation="eager"
    ).eval()
    again.load_state_dict(model.state_dict())
    tokens = documents()[1]
    np.testing.assert_array_equal(theirs(again, tokens), theirs(model, tokens))
    shape = {tensor.name: tensor.shape for tensor in family.tensors(config)}
    known = {name: tuple(x.shape) for name, x in again.named_parameters()}
    assert {there(again, name): size for name, size in shape.items()} == known
