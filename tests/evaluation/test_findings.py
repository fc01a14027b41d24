"""What the findings say of orders, of wins, and of the alignment tax and its repair."""

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.evaluator import Measured
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.statistics import Interval
from rlhf_jax.evaluation.summary import measured
from rlhf_jax.evaluation.win_rate import WinRate

MEANS = {"base": 0.1, "prompted": 0.3, "sft": 0.5, "ppo": 0.7, "ppo_ptx": 0.69}
LOSSES = {"base": 2.0, "prompted": 2.0, "sft": 2.1, "ppo": 2.5, "ppo_ptx": 2.2}
COUNT = 60
TOKENS = np.array([10.0 + i % 7 for i in range(24)])  # of the held-out documents
GOLD = GoldScore(
    above=(("ppo", "sft"), ("ppo_ptx", "sft"), ("sft", "prompted"), ("prompted", "base"))
)
LOSS = PretrainingLoss(length=8, against="sft", tax=("ppo", "ppo_ptx"), told=("ppo_ptx",))


def scores(name: str, mean: float, spread: float = 0.05) -> np.ndarray:
    """Of mean `mean`; names as long share their noise."""
    noise = np.random.default_rng(len(name)).uniform(-spread, spread, COUNT)
    return mean + noise - noise.mean()


def nats(name: str, loss: float) -> np.ndarray:
    """A policy's loss on a document is `loss` a token and what is the document's own; what the
    policy adds to that differs by about 0.01, so that a difference of losses has an error of about
    0.002."""
    place = np.arange(len(TOKENS))
    own = 0.5 * np.sin(place) + 0.01 * np.sin(place * ord(name[-1]))
    return TOKENS * own - TOKENS * (TOKENS @ own) / TOKENS.sum() + TOKENS * loss


def gold(means: dict = MEANS, spread: float = 0.05, count: int = COUNT) -> dict[str, Measured]:
    rows = {
        n: {"id": np.arange(count), "score": scores(n, m, spread)[:count]} for n, m in means.items()
    }
    return {name: measured(GOLD, of, 0) for name, of in rows.items()}


def loss(
    losses: dict = LOSSES, documents: int = len(TOKENS), same: bool = False
) -> dict[str, Measured]:
    columns = {n: nats("sft" if same else n, x)[:documents] for n, x in losses.items()}
    tokens, ids = TOKENS[:documents], np.arange(documents)
    rows = {n: {"id": ids, "nats": x, "tokens": tokens} for n, x in columns.items()}
    for name in rows.keys() - {"sft"} if "sft" in rows else ():
        rows[name]["against"] = rows["sft"]["nats"]
    return {name: measured(LOSS, of, 0) for name, of in rows.items()}


def sentence(found: list[str], words: str) -> str:
    texts = [text for text in found if words in text]
    assert len(texts) == 1, found
    return texts[0]


def test_orders_that_hold():
    found = GOLD.findings(gold(), 0)
    assert len(found) == 4
    for better, worse in (("ppo", "sft"), ("ppo_ptx", "sft"), ("sft", "prompted")):
        text = sentence(found, f"{better} scores above {worse},")
        assert text.startswith("Holds: ") and "do not overlap" in text
        assert f"{MEANS[better]:.3f} [" in text and f"against {MEANS[worse]:.3f} [" in text
    assert sentence(found, "prompted scores above base").startswith("Holds: ")


def test_orders_that_fail():
    found = GOLD.findings(gold({**MEANS, "ppo": 0.35, "base": 0.45}), 0)
    text = sentence(found, "ppo should score above sft")
    assert text.startswith("Does not hold: ") and "but has 0.350 [" in text
    assert "against 0.500 [" in text and "do not overlap" in text and "-0.150 [" in text
    assert not any("ppo scores above" in text for text in found)


def test_orders_tell_overlap_and_doubt():
    close = GOLD.findings(gold(dict.fromkeys(MEANS, 0.5) | {"ppo": 0.6}, spread=0.3), 0)
    text = sentence(close, "ppo scores above sft")
    assert "intervals overlap" in text and "not overlap" not in text
    assert text.startswith("Holds: ")  # ppo and sft have the same noise, so the pairing tells
    for means in ({"prompted": 0.51, "base": 0.5}, {"prompted": 0.5, "base": 0.51}):
        text = sentence(GOLD.findings(gold(means, 0.3), 0), "prompted should score above base")
        assert text.startswith("Not sure: prompted should score above base, and has ")


def test_one_prompt_is_no_verdict_whoever_wins():
    orders = GOLD.findings(gold(count=1), 0)
    assert len(orders) == 4 and all(text.startswith("Not sure: ") for text in orders)


def test_stages_that_were_not_measured_are_named():
    found = GOLD.findings(gold({"sft": 0.5, "ppo": 0.6}), 0)
    assert (
        sentence(found, "Not measured") == "Not measured, so not judged: ppo_ptx, prompted, base."
    )
    assert len(found) == 2 and GoldScore().findings(gold(), 0) == []
    found = LOSS.findings(loss({"base": 2.0, "sft": 2.1}), 0)
    assert found == ["Not measured, so not judged: the alignment tax of ppo on sft."]


def test_policies_of_different_prompts_are_not_compared():
    found = gold()
    found["ppo"].rows["id"] = found["ppo"].rows["id"][::-1]
    with pytest.raises(UserError, match="measured on different items"):
        GOLD.findings(found, 0)


def test_a_tax_and_its_repair():
    found = LOSS.findings(loss(), 0)
    words = "2.5000 nats per token for ppo, 2.1000 for sft, a difference of +0.400 ["
    assert sentence(found, words).startswith("Holds: there is an alignment tax")
    text = sentence(found, "ppo_ptx repairs")
    assert text.startswith("Holds in part: ppo_ptx repairs 75 % of the tax; ppo_ptx has 2.2000")
    assert "against ppo -0.300 [" in text and "against sft +0.100 [" in text


def test_no_tax():
    found = LOSS.findings(loss({**LOSSES, "ppo": 2.0}), 0)
    text = sentence(found, "no alignment tax")
    assert text.startswith("Does not hold: ") and "-0.100 [-0.1" in text
    assert sentence(found, "whether ppo_ptx repairs").startswith("Not known: ")


@pytest.mark.parametrize("paid", [2.1 + 1e-9, 2.1 - 1e-9, 2.1, 2.101, 2.099])
def test_a_loss_that_moved_by_less_than_its_error_is_no_verdict(paid):
    found = LOSS.findings(loss({**LOSSES, "ppo": paid}), 0)
    text = sentence(found, "whether there is an alignment tax")
    start = "Not sure: whether there is an alignment tax, the pretraining loss is"
    assert text.startswith(f"{start} {paid:.4f} nats per token for ppo")
    assert sentence(found, "whether ppo_ptx repairs").startswith("Not known: ")


def test_policies_that_never_moved_are_no_verdict():
    found = LOSS.findings(loss(dict.fromkeys(LOSSES, 2.1)), 0)
    assert sentence(found, "whether there is an alignment tax").startswith("Not sure: ")
    assert sentence(found, "whether ppo_ptx repairs").startswith("Not known: ")
    found = LOSS.findings(loss(dict.fromkeys(LOSSES, 2.1), same=True), 0)
    text = sentence(found, "whether there is an alignment tax")
    assert text.startswith("Not sure: ") and text.endswith("a difference of +0.000 (no interval).")
    assert sentence(found, "whether ppo_ptx repairs").startswith("Not known: ")


def test_one_document_is_no_verdict():
    found = loss(documents=1)
    difference = found["ppo"].summary["pretraining_loss_vs_sft"]
    assert difference.as_json()["low"] is difference.as_json()["high"] is None
    text = sentence(LOSS.findings(found, 0), "whether there is an alignment tax")
    assert text.startswith("Not sure: ") and "(no interval)" in text


@pytest.mark.parametrize(
    ("repaired", "start"),
    [
        (2.05, "Holds: ppo_ptx repairs all"),
        (2.1, "Holds: ppo_ptx repairs the alignment tax, what is left of it is not clear"),
        (2.3, "Holds in part: ppo_ptx repairs 50 %"),
        (2.5, "Not sure: whether ppo_ptx repairs"),
        (2.6, "Does not hold: ppo_ptx does not repair"),
    ],
)
def test_how_far_ptx_repairs_the_tax(repaired, start):
    found = LOSS.findings(loss({**LOSSES, "ppo_ptx": repaired}), 0)
    assert sentence(found, f"ppo_ptx has {repaired:.4f} nats").startswith(start)


def test_a_diverged_policy_is_told():
    found = LOSS.findings(loss({**LOSSES, "ppo": float("inf"), "ppo_ptx": float("inf")}), 0)
    assert "loss of ppo, ppo_ptx is not finite" in sentence(found, "alignment tax")
    text = sentence(found, "Loss on held-out text")
    assert text.endswith("sft 2.100, ppo_ptx -: not known, one is not finite.")


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(2.2, "raised it"), (2.0, "lowered it"), (2.1, "did not clearly change it")],
)
def test_how_a_named_stage_moved_the_loss(value, verdict):
    found = loss({**LOSSES, "ppo_ptx": value})
    text = sentence(LOSS.findings(found, 0), "Loss on held-out text")
    figures = found["ppo_ptx"].summary["pretraining_loss_vs_sft"].text("+")
    told = f"Loss on held-out text, nats per token: sft 2.100, ppo_ptx {value:.3f}; ppo_ptx"
    assert text == f"{told} {verdict} ({figures})."
    assert [t for t in PretrainingLoss(length=8).findings(found, 0) if t] == []


@pytest.mark.parametrize(
    ("wins", "verb"), [(0.6, "raised"), (0.4, "lowered"), (0.52, "did not clearly change")]
)
def test_what_a_named_stage_did_to_the_score(wins, verb):
    evaluator = WinRate("sft", of="reward_score", told=("ppo", "absent"))
    summary = {evaluator.name: Interval(wins, wins - 0.05, wins + 0.05)}
    found = {name: Measured({}, summary, {}) for name in ("sft", "ppo", "dpo")}
    (text,) = evaluator.findings(found, 0)
    assert text.startswith(
        f"ppo {verb} the reward score: its responses beat those of sft on {wins}"
    )


def test_the_scores_by_a_scorer_are_said_to_be_its_own():
    (text,) = RewardScore("judge").findings({}, 0)
    assert "raises the scores by judge" in text and "not whether people would" in text
