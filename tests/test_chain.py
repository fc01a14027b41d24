"""Every hand-over of the chain, by values that are computed again from saved models and data.

What is looked at is one run of tests/small_run.py; PPO's iterations are in test_chain_ppo.py.
"""

import hashlib
import itertools
import math
from collections import Counter
from statistics import NormalDist

import jax
import numpy as np
import pytest

from rlhf_jax.training.loop import shapes_of
from rlhf_jax.training.metrics import SPEED, read_metrics
from tests import oracles
from tests.chain import as_text, assert_drawn_from, same
from tests.observed import host

# What each stage starts from, and what it leaves behind.


def test_sft_starts_from_the_base_model(chain):
    assert same(chain.states("sft")[0].params, chain.model("pretrain"))


def test_the_reward_model_starts_from_sft_under_a_new_head(chain):
    start, sft = chain.states("reward")[0].params, chain.model("sft")
    assert same({name: x for name, x in start.items() if name != "score"}, sft)
    assert start["score"]["bias"] == 0 and np.ptp(start["score"]["weights"]) > 0


def test_dpo_starts_from_sft(chain):
    assert same(chain.states("dpo")[0].params, chain.model("sft"))


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo"])
def test_the_last_parameters_are_saved(chain, stage):
    first, *_, last = chain.states(stage)
    assert same(chain.model(stage), last.params) and not same(first.params, last.params)


def test_only_the_bias_of_the_reward_model_is_moved_after_training(chain):
    last, saved = chain.states("reward")[-1].params, chain.model("reward")
    assert last["score"]["bias"] != saved["score"]["bias"]
    last["score"]["bias"] = saved["score"]["bias"]
    assert same(last, saved)


def test_the_training_demonstrations_score_0_on_average(chain):
    means = {}
    for split in ("train", "valid"):
        ids = [chain.ids(d.prompt, d.response) for d in chain.records("demonstrations", split)]
        ids = [row for row in ids if len(row) <= chain.stages["reward"].length]
        scores = oracles.scores(chain.config.model, chain.model("reward"), ids)
        means[split] = np.mean([row[-1] for row in scores])
    assert abs(means["train"]) < 1e-5 < 1e-3 < abs(means["valid"])


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "ppo_ptx", "dpo"])
def test_steps_compile_after_the_first_only_for_sizes_that_are_new(chain, stage):
    """Rows and responses have many lengths and few sizes; PPO has two programs for each size."""
    batches = [batch.get("prompts", batch) for batch in chain.batches(stage)]
    lengths = {int((np.asarray(batch["segments"]) > 0).sum()) for batch in batches}
    counts = [line["compilations"] for line in read_metrics(chain.directory / stage, SPEED)]
    calls = [call["found"] for call in chain.observed.get(f"{stage} experience", [])]
    sizes, programs = {shapes_of(x) for x in calls or batches}, 2 if calls else 1
    assert len(lengths) > len(sizes) and len(counts) > 2
    assert 0 < counts[0] <= counts[-1] <= counts[0] + programs * (len(sizes) - 1)


# What each stage reads.


def test_pretraining_reads_the_training_text_only(chain):
    texts = {split: [tuple(chain.ids(t.text)) for t in chain.records("text", split)]
             for split in ("train", "valid")}  # fmt: skip
    joined = {split: as_text(itertools.chain(*documents)) for split, documents in texts.items()}
    rows = [as_text(ids) for batch in chain.batches("pretrain") for ids, _ in oracles.pieces(batch)]
    assert all(row in joined["train"] for row in rows)
    assert sum(row in joined["valid"] for row in rows) < len(rows) / 2


def test_sft_learns_the_responses_of_all_training_demonstrations(chain):
    expected = Counter()
    for d in chain.records("demonstrations", "train"):
        prompt = len(chain.ids(d.prompt, end=False))
        ids = chain.ids(d.prompt, d.response)
        if len(ids) <= chain.stages["sft"].length:
            expected[tuple(ids), tuple(t >= prompt for t in range(len(ids)))] += 1
    found = Counter()
    for batch in chain.batches("sft"):
        found.update(
            (tuple(i), tuple(w > 0 for w in weights)) for i, weights in oracles.pieces(batch)
        )
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_rankings_to_learn_from_are_those_of_the_train_split_that_are_not_tied(chain, stage):
    expected = {}
    for ranking in chain.rankings("train"):
        ids = tuple(
            tuple(chain.ids(ranking.prompt, text, end=ended))
            for text, ended in zip(ranking.responses, ranking.ended, strict=True)
        )
        if max(ranking.ranks) > 0:
            expected[ids] = tuple(ranking.ranks)
    found = {}
    for batch in chain.batches(stage):
        for tokens, segments, ranks in zip(
            batch["tokens"], batch["segments"], batch["ranks"], strict=True
        ):
            ids = tuple(tuple(tokens[segments == k].tolist()) for k in range(1, segments.max() + 1))
            found[ids] = tuple(ranks[: len(ids)].tolist())
    assert found == expected
    tied = sum(max(ranking.ranks) == 0 for ranking in chain.rankings("train"))
    counted = chain.corpora.counts["left_out"][stage]["rankings.train"]
    assert tied > 0 and counted == {"feedback": {"tied": tied}}


def test_the_share_of_careless_demonstrations_is_the_config_s_and_none_is_held_out(chain):
    data = chain.config.data
    right = {d.prompt: d.response for d in chain.world.demonstrations("sft")}
    train = chain.records("demonstrations", "train")
    assert [d.prompt for d in train] == chain.world.prompts("sft")
    differ = [d.response != right[d.prompt] for d in train]
    careless = sum(differ)
    spread = math.sqrt(len(train) * data.careless * (1 - data.careless))
    assert abs(careless - len(train) * data.careless) < 3 * spread
    assert train == chain.world.demonstrations("sft", data.careless)
    # The answer to another question may happen to be right.
    hurried = chain.world.hurried("sft", data.careless)
    assert all(h or not d for h, d in zip(hurried, differ, strict=True))
    assert chain.corpora.counts["careless"] == {"demonstrations": sum(hurried), "of": len(train)}
    assert chain.records("demonstrations", "valid") == chain.world.demonstrations("valid")


# Losses, from the parameters before each step and the batch.


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_the_loss_of_a_step_is_that_of_its_targets(chain, stage):
    steps = list(zip(chain.states(stage), chain.batches(stage), chain.metrics(stage), strict=False))
    for state, batch, metrics in steps[::6]:
        expected = oracles.mean_loss(chain.config.model, state.params, oracles.pieces(batch))
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def outputs_of(batch):
    """(ids of each output, prompt's length, rank of each output) of each ranking of a batch."""
    for tokens, segments, weights, ranks in zip(
        *(batch[name] for name in ("tokens", "segments", "weights", "ranks")), strict=True
    ):
        present = [k for k, rank in enumerate(ranks) if rank >= 0]
        own = [segments == k + 1 for k in present]  # of one or several rows
        ids = [tokens[here].tolist() for here in own]
        yield ids, [int(weights[here].argmax()) for here in own], [int(ranks[k]) for k in present]


def mean_over_prompts(rankings, pair_loss, divide_by="untied_pairs") -> float:
    """The mean, over prompts with an untied pair, of the sum over such pairs divided by the number
    of them or by that of all pairs (Ouyang et al. 2022, eq. 1)."""
    values = []
    for outputs, ranks in rankings:
        margins = [outputs[i] - outputs[j] for i, a in enumerate(ranks)
                   for j, b in enumerate(ranks) if a < b]  # fmt: skip
        pairs = {"untied_pairs": len(margins), "all_pairs": math.comb(len(ranks), 2)}
        if margins:
            values.append(sum(map(pair_loss, margins)) / pairs[divide_by])
    return float(np.mean(values))


def share_of_pairs(rankings) -> float:
    """Of all untied pairs together: how many have the better output ahead."""
    right = [outputs[i] > outputs[j] for outputs, ranks in rankings
             for i, a in enumerate(ranks) for j, b in enumerate(ranks) if a < b]  # fmt: skip
    return float(np.mean(right))


def test_the_reward_model_s_loss_of_each_step_is_that_of_its_pairs(chain):
    for state, batch, metrics in zip(
        chain.states("reward"), chain.batches("reward"), chain.metrics("reward"), strict=False
    ):
        rankings = []
        for ids, _, ranks in outputs_of(batch):
            rows = oracles.scores(chain.config.model, state.params, ids)
            rankings.append(([row[-1] for row in rows], ranks))
        log_loss = lambda margin: math.log1p(math.exp(-margin))
        loss = mean_over_prompts(rankings, log_loss, "all_pairs")
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["accuracy"], share_of_pairs(rankings), rtol=1e-6)


def test_dpo_s_reference_is_the_sft_model_at_every_step(chain):
    model, beta = chain.config.model, chain.stages["dpo"].objective.beta
    for step, (state, batch, metrics) in enumerate(
        zip(chain.states("dpo"), chain.batches("dpo"), chain.metrics("dpo"), strict=False)
    ):
        rankings = []
        for ids, starts, ranks in outputs_of(batch):
            policy, sft = (oracles.log_probs(model, params, ids)
                           for params in (state.params, chain.model("sft")))  # fmt: skip
            ratios = [p[start - 1 :].sum() - q[start - 1 :].sum()
                      for p, q, start in zip(policy, sft, starts, strict=True)]  # fmt: skip
            rankings.append((ratios, ranks))
        loss = mean_over_prompts(rankings, lambda m: math.log1p(math.exp(-beta * m)))
        margin = mean_over_prompts(rankings, lambda m: m)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["margin"], margin, rtol=1e-3, atol=2e-5)
        assert (abs(margin) > 1e-3) == (step > 0)


# Feedback.


def test_feedback_s_outputs_are_sampled_from_sft_at_its_temperature(chain):
    stage, rankings = chain.stages["feedback"], chain.rankings("valid") + chain.rankings("train")
    assert [r.prompt for r in rankings] == chain.world.prompts("feedback")
    fewest, most = stage.outputs
    assert {len(r.responses) for r in rankings} == set(range(fewest, most + 1))
    repeated = [r.prompt for r in rankings for _ in r.responses]
    assert [len(batch["rows"]) for batch in chain.outputs("feedback")[:-1]] == [10] * (
        (len(repeated) - 1) // 10
    )
    assert all(same(batch["params"], chain.model("sft")) for batch in chain.outputs("feedback"))
    rows = [row for batch in chain.outputs("feedback") for row in batch["rows"]]
    assert [ids for ids, *_ in rows] == [chain.ids(prompt, end=False) for prompt in repeated]
    responses = [ids for _, ids, _ in rows]
    texts = [text for r in rankings for text in r.responses]
    assert [chain.tokenizer.decode(ids) for ids in responses] == texts
    ended = [ids[-1] == chain.tokenizer.eos_id for ids in responses]
    assert ended == [end for r in rankings for end in r.ended] and 0 < sum(ended) < len(ended)
    drawn = [(ids, log_probs) for _, ids, log_probs in rows]
    assert_drawn_from(chain, chain.model("sft"), repeated, drawn, stage.temperature)


def test_each_batch_of_outputs_has_noise_of_its_own(chain):
    first, *_ = chain.states("feedback")
    key = jax.random.wrap_key_data(first.key)
    expected = [
        host(jax.random.fold_in(key, step)) for step in range(len(chain.batches("feedback")))
    ]
    found = [batch["key"] for batch in chain.outputs("feedback")]
    np.testing.assert_array_equal(found, expected)


def test_the_metrics_of_feedback_are_those_of_its_outputs(chain):
    for batch, metrics in zip(chain.outputs("feedback"), chain.metrics("feedback"), strict=True):
        responses = [ids for _, ids, _ in batch["rows"]]
        assert metrics["outputs"] == len(responses)
        np.testing.assert_allclose(metrics["response_tokens"], np.mean([len(r) for r in responses]))
        ended = np.mean([ids[-1] == chain.tokenizer.eos_id for ids in responses])
        np.testing.assert_allclose(metrics["ended"], ended)


def likert(chain, noise, prompt, text):
    """What the labeler of the run's seed sees in a text, on seven levels."""
    seed = int.from_bytes(hashlib.sha256(b"1/feedback/labelers").digest()[:4], "big")
    digest = hashlib.sha256(repr((seed, prompt, text)).encode()).digest()
    uniform = ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2**52
    seen = chain.world.grade(prompt, text).score + noise * NormalDist().inv_cdf(uniform)
    return min(max(math.floor(6 * seen + 0.5), 0), 6)


def noise_of(chain) -> float:
    return chain.about("feedback")["noise"]


def test_ranks_are_those_of_the_gold_scores_under_the_noise_that_was_written(chain):
    noise = noise_of(chain)
    for ranking in chain.rankings("train") + chain.rankings("valid"):
        levels = [likert(chain, noise, ranking.prompt, text) for text in ranking.responses]
        order = sorted(set(levels), reverse=True)
        assert list(ranking.ranks) == [order.index(level) for level in levels]


def test_two_labelers_of_that_noise_agree_as_often_as_asked(chain):
    rng, noise = np.random.default_rng(0), noise_of(chain)
    agreed = []
    for ranking in chain.rankings("train") + chain.rankings("valid"):
        texts = dict.fromkeys(ranking.responses)
        gold = np.array([chain.world.grade(ranking.prompt, text).score for text in texts])
        i, j = np.triu_indices(len(gold), 1)
        seen = gold + noise * rng.normal(size=(20000, 2, len(gold)))
        levels = np.clip(np.floor(6 * seen + 0.5), 0, 6)
        one, other = np.moveaxis(np.sign(levels[..., i] - levels[..., j]), 1, 0)
        agreed += list((one == other).mean(axis=0))
    assert abs(np.mean(agreed) - chain.stages["feedback"].agreement) < 0.003


def test_the_first_tenth_of_the_feedback_prompts_is_held_out(chain):
    prompts = chain.world.prompts("feedback")
    wholly_tied = [max(r.ranks) == 0 for r in chain.rankings("valid") + chain.rankings("train")]
    assert chain.about("feedback")["tied"] == sum(wholly_tied)
    held, rest = ([r.prompt for r in chain.rankings(split)] for split in ("valid", "train"))
    assert held == prompts[: len(prompts) // 10] and rest == prompts[len(prompts) // 10 :]
