"""What the smallest run tells of held-out records, in training and at the end: computed again from
its saved models, its states and its data."""

import math

import numpy as np
import pytest

from tests import oracles
from tests.test_chain import mean_over_prompts, share_of_pairs


def demonstrations(chain) -> list:
    """(ids, weights) of each held-out one: the response and its end are targets."""
    found = []
    for record in chain.records("demonstrations", "valid"):
        ids, prompt = chain.ids(record.prompt, record.response), len(chain.ids(record.prompt)) - 1
        found.append((ids, [0.0] * prompt + [1.0] * (len(ids) - prompt)))
    return found


def measured(chain, stage, name) -> dict:
    """Step -> what an evaluator found in the training of a stage."""
    lines = chain.metrics(stage)
    return {line["step"]: line[f"evaluation/{name}"] for line in lines
            if f"evaluation/{name}" in line}  # fmt: skip


def test_the_sft_loss_is_of_held_out_demonstrations(chain):
    loss = lambda params: oracles.mean_loss(chain.config.model, params, demonstrations(chain))
    for policy in ("pretrain", "sft", "ppo"):
        found = chain.report["policies"][policy]["sft_loss"]["mean"]
        np.testing.assert_allclose(found, loss(chain.model(policy)), rtol=1e-5)
    assert chain.report["policies"]["prompted"]["sft_loss"] is None
    found = measured(chain, "sft", "sft_loss")
    assert list(found) == [8, 16, 24, 32]
    np.testing.assert_allclose(found[8], loss(chain.states("sft")[8].params), rtol=1e-5)


def test_pretraining_is_measured_before_what_it_is_compared_with(chain):
    """Against SFT, which it comes before."""
    assert list(measured(chain, "pretrain", "pretraining_loss")) == [6, 12, 18]
    assert not measured(chain, "pretrain", "pretraining_loss_vs_sft")
    assert not measured(chain, "sft", "pretraining_loss")


def held_out(chain) -> list:
    """(ids of each output, tokens before its response, ranks) of each held-out ranking."""
    found = []
    for ranking in chain.rankings("valid"):
        ids = [chain.ids(ranking.prompt, text, end=ended)
               for text, ended in zip(ranking.responses, ranking.ended, strict=True)]  # fmt: skip
        found.append((ids, len(chain.ids(ranking.prompt)) - 1, ranking.ranks))
    return found


log_loss = lambda margin: math.log1p(math.exp(-margin))


def test_the_reward_model_s_loss_and_accuracy_are_of_held_out_pairs(chain):
    def of(params):
        score = lambda ids: [row[-1] for row in oracles.scores(chain.config.model, params, ids)]
        ranked = [(score(ids), ranks) for ids, _, ranks in held_out(chain)]
        return mean_over_prompts(ranked, log_loss, "all_pairs"), share_of_pairs(ranked)

    report = chain.report["scorers"]["reward"]
    found = [report[f"{name}_on_feedback"]["mean"] for name in ("loss", "accuracy")]
    np.testing.assert_allclose(found, of(chain.model("reward")), rtol=1e-4)
    found = [measured(chain, "reward", f"{name}_on_feedback") for name in ("loss", "accuracy")]
    assert [list(steps) for steps in found] == [[2], [2]]
    expected = of(chain.states("reward")[2].params)
    np.testing.assert_allclose([steps[2] for steps in found], expected, rtol=1e-4)


@pytest.mark.parametrize("policy", ["sft", "dpo", "in training"])
def test_preferences_are_log_ratios_to_sft_on_held_out_pairs(chain, policy):
    in_training = policy == "in training"
    params = chain.states("dpo")[2].params if in_training else chain.model(policy)
    model, beta, ranked = chain.config.model, chain.stages["dpo"].objective.beta, []
    for ids, start, ranks in held_out(chain):
        both = (oracles.log_probs(model, of, ids) for of in (params, chain.model("sft")))
        ratios = [p[start - 1 :].sum() - q[start - 1 :].sum() for p, q in zip(*both, strict=True)]
        ranked.append((ratios, ranks))
    expected = {
        "loss": mean_over_prompts(ranked, lambda margin: log_loss(beta * margin)),
        "margin": mean_over_prompts(ranked, lambda margin: margin),
    }
    if policy != "sft":  # all its ratios are 0
        expected["accuracy"] = share_of_pairs(ranked)
    name = "preference_{}_on_feedback".format
    for part, value in expected.items():
        found = (
            measured(chain, "dpo", name(part))[2]
            if in_training
            else chain.report["policies"][policy][name(part)]["mean"]
        )
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=2e-5, err_msg=part)
