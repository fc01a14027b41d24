import numpy as np
import pytest

from rlhf_jax.evaluation.human_report import findings, pair_accuracy, print_human_report

PROMPTS = 200


def part(right: float, longer: float, over_long: int = 0, prompts: int = PROMPTS) -> dict:
    """Prompts of one pair each, of which a share is right, the first ones."""
    ones = lambda share: (np.arange(prompts) < round(share * prompts)).astype(float)
    accuracy = pair_accuracy(ones(right), ones(longer), np.ones(prompts), seed=0)
    return accuracy | {"over_long": over_long}


def policies(wins: float = 0.6) -> dict:
    interval = lambda mean: {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
    losses = {"base": 4.0, "sft": 4.2, "ppo": 4.5, "ppo_ptx": 4.1}
    differences = {"base": -0.2, "ppo": 0.3, "ppo_ptx": -0.01}
    added = {name: interval(difference) for name, difference in differences.items()}
    return {
        name: {
            "reward_score": interval(1.0),
            "reward_wins_vs_sft": interval(wins),
            "kl": 2.0,
            "training_kl": 3.25 if name.startswith("ppo") else None,
            "pretraining_loss": loss,
            "pretraining_loss_vs_sft": added.get(name),
        }
        for name, loss in losses.items()
    }


def sentence(words: str, whole: dict, wins: float = 0.6) -> str:
    (only,) = [text for text in findings({"all": whole}, policies(wins)) if words in text]
    return only


def test_accuracy_and_its_difference_are_of_pairs_and_over_prompts():
    correct, longer, pairs = np.array([[3.0, 1, 0], [1, 0.5, 0], [3, 1, 0]])
    found = pair_accuracy(correct, longer, pairs, seed=0)
    assert found["accuracy"]["mean"] == 1
    assert found["longer_is_better"]["mean"] == pytest.approx(1.5 / 4)
    assert found["difference"]["mean"] == pytest.approx(2.5 / 4)
    assert (found["pairs"], found["prompts"]) == (4, 2)  # the third prompt has ties only
    # Of two prompts with 2 more of 3 and .5 more of 1 right; the third, not seen, has two pairs
    # that may both be of either sign. By simulation.
    g = np.random.default_rng(1).exponential(size=(3, 400_000))
    for side, end, quantile in ((-1, "low", 0.025), (1, "high", 0.975)):
        drawn = (2 * g[0] + 0.5 * g[1] + side * 2 * g[2]) / (3 * g[0] + g[1] + 2 * g[2])
        assert found["difference"][end] == pytest.approx(np.quantile(drawn, quantile), abs=0.02)


def test_the_difference_is_paired():
    right = (np.arange(PROMPTS) % 2).astype(float)
    same = pair_accuracy(right, right, np.ones(PROMPTS), seed=0)["difference"]
    # Only the prompt that was not seen may differ; its weight is Beta(1, 200).
    edge = 1 - 0.025 ** (1 / PROMPTS)
    assert same["mean"] == 0
    assert [same["low"], same["high"]] == pytest.approx([-edge, edge], abs=2e-3)


@pytest.mark.parametrize(("prompts", "low"), [(1, 0.025), (2, 0.025**0.5), (3, 0.025 ** (1 / 3))])
def test_a_few_pairs_ranked_right_are_not_surely_better_than_chance(prompts, low):
    whole = part(1, 1, prompts=prompts)
    assert whole["accuracy"] == {"mean": 1, "low": pytest.approx(low, abs=0.01), "high": 1}
    assert "not surely better or worse than chance" in sentence("Reward model, all", whole)
    assert sentence("no sign of", whole)


def test_a_source_without_a_pair_says_so():
    none = pair_accuracy(np.zeros(2), np.zeros(2), np.zeros(2), seed=0) | {"over_long": 0}
    assert (none["accuracy"], none["pairs"], none["prompts"]) == (None, 0, 0)
    assert "no held-out pair" in sentence("Reward model, all", none)
    assert sentence("no sign of", none)


@pytest.mark.parametrize(
    ("right", "verdict"),
    [(0.7, "better than chance"), (0.3, "worse than chance"), (0.52, "interval holds 0.5")],
)
def test_chance(right, verdict):
    text = sentence("Reward model, all", part(right, 0.5))
    assert verdict in text
    assert f"{right:.3f} [" in text and "200 held-out pairs of 200 prompts" in text
    unsure = [t for t in findings({"all": part(right, 0.5)}, policies()) if "no sign of" in t]
    assert len(unsure) == (right < 0.6)


@pytest.mark.parametrize(
    ("right", "longer", "verdict"),
    [
        (0.8, 0.6, "the reward model is better than it"),
        (0.6, 0.8, "it is better than the reward model"),
        (0.6, 0.6, "not surely better or worse"),
    ],
)
def test_longer_is_better(right, longer, verdict):
    text = sentence("longer output", part(right, longer))
    assert verdict in text
    assert f"{longer:.3f} [" in text


@pytest.mark.parametrize(
    ("wins", "verb"), [(0.6, "raised"), (0.4, "lowered"), (0.52, "did not surely move")]
)
def test_what_ppo_did_to_the_score(wins, verb):
    assert f"ppo {verb} the reward model's score" in sentence(
        f"ppo {verb} the", part(0.7, 0.5), wins
    )


def test_every_source_has_its_sentence_and_what_is_left_out_its_number():
    sources = {"all": part(0.7, 0.5, 9), "hh": part(0.4, 0.5, 4), "pandalm": part(0.7, 0.5, 5)}
    found = findings(sources, policies())
    assert [text.split(":")[0] for text in found[:3]] == [f"Reward model, {s}" for s in sources]
    assert any(text.startswith("9 held-out rankings are longer") for text in found)
    assert not any("are longer than" in t for t in findings({"all": part(0.7, 0.5)}, policies()))
    told = "Loss on held-out text, nats per token: sft 4.200, "
    assert f"{told}ppo 4.500; ppo raised it (+0.300 [+0.250, +0.350])." in found
    moved = "ppo_ptx did not surely move it (-0.010 [-0.060, +0.040])."
    assert f"{told}ppo_ptx 4.100; {moved}" in found
    assert any("reward model's own" in text for text in found)


def test_the_tables_fit_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sources = {"all": part(0.7, 0.5), "openassistant": part(0.6, 0.5)}
    report = {
        "reward_model": sources,
        "policies": policies(),
        "findings": findings(sources, policies()),
        "seconds": {"sft": 12.0},
        "seed": 4,
    }
    print_human_report(report)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("openassistant")]
    assert row.split() == ["openassistant", "200", "0.600", "0.500", "0.100"]
    (row,) = [line for line in lines if line.startswith("sft ") and "4.2" in line]
    assert row.split() == ["sft", "1.000", "-", "2.00", "4.200"]
    (row,) = [i for i, line in enumerate(lines) if line.startswith("ppo_ptx ")]
    assert lines[row].split()[3] == "2.00" and lines[row + 1].split()[-1] == "3.25"
    assert "seed 4; sft 12 s" in lines
