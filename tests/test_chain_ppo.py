"""PPO's iterations and the report, by values computed again from saved models and sampled tokens.

What is looked at is one run of tests/small_run.py, as in test_chain.py.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import transformer
from tests import oracles
from tests.chain import as_text, assert_drawn_from, same
from tests.objectives.harness import assert_close

STAGES = ("ppo", "ppo_ptx")
POLICIES = ("pretrain", "sft", "ppo", "ppo_ptx", "dpo")
TEMPERATURE = 0.8  # of the report's KL


# What an iteration starts from and reads.


@pytest.mark.parametrize("stage", STAGES)
def test_policy_and_average_start_from_sft(chain, stage):
    start = chain.states(stage)[0]
    assert same(start.policy, chain.model("sft")) and same(start.ema, chain.model("sft"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_value_function_starts_as_the_reward_model(chain, stage):
    assert same(chain.states(stage)[0].value, chain.model("reward"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_prompts_are_of_the_ppo_split(chain, stage):
    known = {tuple(chain.ids(prompt, end=False)) for prompt in chain.world.prompts("ppo")}
    seen = [tuple(tokens[segments > 0].tolist()) for batch in chain.batches(stage)
            for tokens, segments in zip(batch["prompts"]["tokens"], batch["prompts"]["segments"],
                                        strict=True)]  # fmt: skip
    config = chain.stages[stage]
    assert len(seen) == config.iterations * config.batch_size
    assert set(seen) == known  # more than one epoch of them


def test_an_iteration_of_ptx_reads_ptx_ratio_rows_of_training_text_an_episode(chain):
    assert all("text" not in batch for batch in chain.batches("ppo"))
    documents = [chain.ids(text.text) for text in chain.records("text", "train")]
    training = as_text(itertools.chain(*documents))
    for batch in chain.batches("ppo_ptx"):
        assert batch["text"]["tokens"].shape == (3 * 8, 16)
        assert (batch["text"]["segments"] > 0).all()  # of pretraining rows none is padding
        assert all(as_text(ids) in training for ids, _ in oracles.pieces(batch["text"]))


# An iteration: sampled tokens, scores, shaped rewards, advantages, metrics.


def rows_of(found):
    """(ids of the prompt, ids of the response) of every episode."""
    width = found["mask"].shape[1]
    for tokens, segments, mask in zip(
        found["tokens"], found["segments"], found["mask"], strict=True
    ):
        prompt, response = tokens[:-width], tokens[-width:]
        yield prompt[segments[:-width] > 0].tolist(), response[mask > 0].tolist()


@functools.cache
def iteration(chain, stage, number):
    """Float64, from saved models and the state before: rows of each episode, and means."""
    config, model = chain.stages[stage], chain.config.model
    reference, reward = config.reference or config.start, config.rewards[0].stage
    discount, lam = config.advantage.discount, config.advantage.lam
    state, found = chain.states(stage)[number], chain.experiences(stage)[number]
    episodes = list(rows_of(found))
    sequences = [prompt + response for prompt, response in episodes]
    cut = lambda rows: [row[len(p) - 1 :] for row, (p, _) in zip(rows, episodes, strict=True)]
    log_probs, ref_log_probs = (
        cut(oracles.log_probs(model, params, sequences, config.temperature))
        for params in (state.policy, chain.model(reference))
    )
    values = [row[:-1] for row in cut(oracles.scores(model, state.value, sequences))]
    scores = [row[-1] for row in oracles.scores(model, chain.model(reward), sequences)]
    ended = [response[-1] == chain.tokenizer.eos_id for _, response in episodes]
    scores = np.where(ended, scores, chain.config.ending.missing_eos_score)
    advantages, returns = [], []
    for b in range(len(episodes)):
        rewards = -float(state.kl_coefficient) * (log_probs[b] - ref_log_probs[b])
        rewards[-1] += scores[b]
        row, after, advantage = np.zeros(len(rewards)), 0.0, 0.0
        for t in reversed(range(len(rewards))):
            delta = rewards[t] + discount * after - values[b][t]
            advantage = delta + discount * lam * advantage
            row[t], after = advantage, values[b][t]
        advantages.append(row)
        returns.append(row + values[b])
    flat = np.concatenate(advantages)
    rows = {
        "log_probs": log_probs,
        "values": values,
        "advantages": [(row - flat.mean()) / np.sqrt(flat.var() + 1e-8) for row in advantages],
        "returns": returns,
    }
    means = {
        "score": scores.mean(),
        "kl": np.mean([(p - r).sum() for p, r in zip(log_probs, ref_log_probs, strict=True)]),
        "entropy": -np.concatenate(log_probs).mean(),
        "ended": np.mean(ended),
        "response_tokens": np.mean([len(response) for _, response in episodes]),
    }
    return rows, means


EVERY = [(stage, number) for stage in STAGES for number in range(3)]


@pytest.mark.parametrize("name", ["log_probs", "values", "advantages", "returns"])
@pytest.mark.parametrize("stage, number", EVERY)
def test_experience_is_that_of_the_saved_sft_and_reward_models(chain, stage, number, name):
    """So temperature, KL coefficient, missing end, discount and lambda are the config's."""
    rows, _ = iteration(chain, stage, number)
    found = chain.experiences(stage)[number]
    for ours, mask, expected in zip(found[name], found["mask"], rows[name], strict=True):
        np.testing.assert_allclose(ours[mask > 0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["score", "kl", "entropy", "ended", "response_tokens"])
@pytest.mark.parametrize("stage", STAGES)
def test_metrics_of_an_iteration_are_those_of_its_episodes(chain, stage, name):
    for number, metrics in enumerate(chain.metrics(stage)):
        expected = iteration(chain, stage, number)[1][name]
        np.testing.assert_allclose(metrics[name], expected, rtol=1e-4, atol=1e-4)
    assert 0 < np.mean([metrics["ended"] for metrics in chain.metrics(stage)]) < 1


@pytest.mark.parametrize("stage", STAGES)
def test_the_kl_penalty_is_measured_from_sft(chain, stage):
    """Nothing at the first iteration, where the policy is the SFT model; something after it."""
    first, *later = (metrics["kl"] for metrics in chain.metrics(stage))
    assert abs(first) < 1e-4 and all(abs(kl) > 1e-3 for kl in later)
    assert not same(chain.model("sft"), chain.model("pretrain"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_kl_coefficient_is_the_config_s_and_moves_by_ziegler_s_formula(chain, stage):
    coefficient = 0.1
    for number, metrics in enumerate(chain.metrics(stage)):
        np.testing.assert_allclose(metrics["kl_coefficient"], coefficient, rtol=1e-5)
        error = np.clip(metrics["kl"] / 0.1 - 1, -0.2, 0.2)
        coefficient *= 1 + error * 8 / 40
        np.testing.assert_allclose(chain.states(stage)[number + 1].kl_coefficient, coefficient,
                                   rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_rollouts_are_drawn_at_the_temperature_without_top_k(chain, stage):
    temperature = chain.stages[stage].temperature
    for state, found in zip(chain.states(stage), chain.experiences(stage), strict=False):
        starts, responses = zip(*rows_of(found), strict=True)
        drawn = [row[: len(ids)] for row, ids in
                 zip(found["rollout"]["log_probs"], responses, strict=True)]  # fmt: skip
        rows = list(zip(responses, drawn, strict=True))
        assert_drawn_from(chain, state.policy, starts, rows, temperature)


# The update: minibatches = 1, so that the order of the rows says nothing.


def policy_loss(config, model, params, e):
    columns = e["mask"].shape[1]
    states = transformer.hidden(model, params, e["tokens"], e["segments"])[:, -columns - 1 : -1]
    table = jax.nn.log_softmax(states @ params["tokens"].T / config.temperature)
    log_probs = jnp.take_along_axis(table, e["tokens"][:, -columns:, None], axis=2)[..., 0]
    ratio = jnp.exp((log_probs - e["log_probs"]) * e["mask"])
    clip = config.surrogate.clip
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    surrogate = jnp.minimum(ratio * e["advantages"], clipped * e["advantages"])
    return -(surrogate * e["mask"]).sum() / e["mask"].sum()


def value_loss(config, model, params, e):
    columns = e["mask"].shape[1]
    states = transformer.hidden(model, params, e["tokens"], e["segments"])[:, -columns - 1 : -1]
    values = states @ params["score"]["weights"] + params["score"]["bias"]
    near = jnp.clip(values, e["values"] - config.value_clip, e["values"] + config.value_clip)
    errors = jnp.maximum((values - e["returns"]) ** 2, (near - e["returns"]) ** 2) / 2
    return (errors * e["mask"]).sum() / e["mask"].sum()


def ptx_loss(model, params, text):
    states = transformer.hidden(model, params, text["tokens"], text["segments"])[:, :-1]
    table = jax.nn.log_softmax(states @ params["tokens"].T)
    log_probs = jnp.take_along_axis(table, text["tokens"][:, 1:, None], axis=2)[..., 0]
    weights = text["weights"][:, 1:]
    return -(log_probs * weights).sum() / weights.sum()


class Adam:
    """Kingma & Ba 2015 behind a clip of the whole gradient to norm 1; float64."""

    def __init__(self, config, params):
        self.config, self.count = config, 0
        self.m = self.v = jax.tree.map(lambda x: np.zeros(x.shape), params)

    def step(self, params, gradient):
        c, leaves = self.config, jax.tree.leaves(gradient)
        norm = np.sqrt(sum((np.float64(g) ** 2).sum() for g in leaves))
        gradient = jax.tree.map(lambda g: np.float64(g) / max(1.0, norm), gradient)
        self.count += 1
        self.m = jax.tree.map(lambda m, g: c.b1 * m + (1 - c.b1) * g, self.m, gradient)
        self.v = jax.tree.map(lambda v, g: c.b2 * v + (1 - c.b2) * g * g, self.v, gradient)
        first, second = 1 - c.b1**self.count, 1 - c.b2**self.count
        move = lambda p, m, v: np.float32(
            p - c.learning_rate * (m / first) / (np.sqrt(v / second) + c.epsilon)
        )
        return jax.tree.map(move, params, self.m, self.v)


@pytest.fixture(scope="module")
def updates(chain):
    """Of each iteration of PPO-ptx, two epochs: policy, value function and mean losses."""
    config, model = chain.stages["ppo_ptx"], chain.config.model
    start, found = chain.states("ppo_ptx")[0], []
    policy, value = start.policy, start.value
    adams = Adam(config.policy_optimizer, policy), Adam(config.value_optimizer, value)
    of_policy, of_value, of_text = (
        jax.jit(jax.value_and_grad(loss))
        for loss in (functools.partial(policy_loss, config, model),
                     functools.partial(value_loss, config, model),
                     functools.partial(ptx_loss, model))
    )  # fmt: skip
    for experience, batch in zip(
        chain.experiences("ppo_ptx"), chain.batches("ppo_ptx"), strict=True
    ):
        e = {name: x for name, x in experience.items() if name != "rollout"}
        losses = []
        for _ in range(config.epochs):
            (a, grads), (b, value_grads) = of_policy(policy, e), of_value(value, e)
            c, text_grads = of_text(policy, batch["text"])
            grads = jax.tree.map(lambda g, t: g + config.ptx_coefficient * t, grads, text_grads)
            policy, value = adams[0].step(policy, grads), adams[1].step(value, value_grads)
            losses.append((a, b, c))
        found.append((policy, value, np.mean(losses, axis=0)))
    return found


@pytest.mark.parametrize("number", range(3))
def test_the_policy_takes_both_epochs_gradients_ptx_times_its_coefficient(chain, updates, number):
    """So clip, epochs, coefficient, rows of text, rate and clipping norm are the config's."""
    ours = chain.states("ppo_ptx")[number + 1].policy
    assert_close(ours, updates[number][0], rtol=0, atol=1e-5)
    assert not same(ours, chain.states("ppo_ptx")[number].policy)


@pytest.mark.parametrize("number", range(3))
def test_the_value_function_takes_both_epochs_clipped_errors(chain, updates, number):
    assert_close(chain.states("ppo_ptx")[number + 1].value, updates[number][1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_the_losses_of_an_iteration_are_means_of_its_epochs(chain, updates, number):
    metrics = chain.metrics("ppo_ptx")[number]
    ours = [metrics[name] for name in ("policy_loss", "value_loss", "ptx_loss")]
    np.testing.assert_allclose(ours, updates[number][2], rtol=1e-3, atol=1e-5)
    assert metrics["clip_fraction"] > 0.05


@pytest.mark.parametrize("stage", STAGES)
def test_the_saved_policy_is_the_average_of_the_weights_of_all_iterations(chain, stage):
    first, *later = chain.states(stage)
    average = first.policy
    for state in later:
        average = jax.tree.map(lambda a, p: 0.7 * a + 0.3 * p, average, state.policy)
    assert_close(chain.model(stage), average, rtol=0, atol=1e-6)
    moved = np.abs(chain.model(stage)["tokens"] - later[-1].policy["tokens"]).max()
    assert moved > 1e-4


# The report.


@pytest.mark.parametrize("policy", POLICIES)
def test_the_pretraining_loss_of_the_report_is_on_held_out_text(chain, policy):
    length, documents = chain.stages["pretrain"].length, []
    ids = [chain.ids(text.text) for text in chain.records("text", "valid")]
    room = length  # a document goes on in the next row from its last token here, no target there
    for document in ids:
        start = 0
        while start < len(document) and (start == 0 or start < len(document) - 1):
            piece = document[start : start + room]
            documents.append((piece, [0.0] + [1.0] * (len(piece) - 1)))
            room -= len(piece)
            ended = start + len(piece) == len(document)
            start = len(document) if ended else start + len(piece) - 1
            room = room or length
    assert sum(sum(weights) for _, weights in documents) == sum(len(d) - 1 for d in ids)
    expected = oracles.mean_loss(chain.config.model, chain.model(policy), documents)
    found = chain.report["policies"][policy]["pretraining_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def kl_of(chain, stage, rows, prompts):
    """sum over tokens of sum_v p log(p / q), of each response: from the two saved models."""
    starts = [chain.ids(prompt, end=False) for prompt in prompts]
    sequences = [start + ids for start, (ids, _) in zip(starts, rows, strict=True)]
    tables = [oracles.distributions(chain.config.model, chain.model(name), sequences, TEMPERATURE)
              for name in (stage, "sft")]  # fmt: skip
    found = []
    for start, p, q in zip(starts, *tables, strict=True):
        p, q = p[len(start) - 1 : -1], q[len(start) - 1 : -1]
        found.append((np.exp(p) * (p - q)).sum())
    return np.mean(found)


@pytest.mark.parametrize("policy", ["pretrain", "ppo", "ppo_ptx", "dpo"])
def test_the_kl_of_the_report_is_of_the_policy_to_sft_on_its_own_samples(chain, policy):
    prompts = chain.world.prompts("test")
    calls = chain.sampled(policy, prompts)
    found = chain.report["policies"][policy]["kl_to_sft"]["mean"]
    expected = [kl_of(chain, policy, rows, prompts) for rows in calls]
    assert len(calls) == 2 and min(abs(found / kl - 1) for kl in expected) < 1e-4
    drawn = min(zip(expected, calls, strict=True), key=lambda pair: abs(found / pair[0] - 1))[1]
    assert_drawn_from(chain, chain.model(policy), prompts, drawn, TEMPERATURE)
    assert chain.report["policies"]["sft"]["kl_to_sft"]["mean"] == 0


@pytest.mark.parametrize("policy", [*POLICIES, "prompted"])
def test_the_scores_of_the_report_are_of_each_policy_s_responses_to_test_prompts(chain, policy):
    prompts = chain.world.prompts("test")
    before = chain.config.data.worked_examples(1, 1) if policy == "prompted" else ""
    asked = [before + prompt for prompt in prompts]
    rows = chain.sampled(policy, asked)[0]
    temperature = chain.config.evaluation.sampling.temperature
    assert_drawn_from(chain, chain.model(policy), asked, rows, temperature)
    texts = [chain.tokenizer.decode(ids) for ids, _ in rows]
    texts = [text.split("\n")[0] if policy == "prompted" else text for text in texts]
    grades = [chain.world.grade(p, text) for p, text in zip(prompts, texts, strict=True)]
    ours = chain.report["policies"][policy]
    np.testing.assert_allclose(ours["gold_score"]["mean"], np.mean([g.score for g in grades]))
    for flag in ("followed", "hallucinated", "harmful"):
        known = [x for x in (getattr(g, flag) for g in grades) if x is not None]
        found = None if ours[flag] is None else ours[flag]["mean"]
        assert found == (pytest.approx(np.mean(known)) if known else None)
