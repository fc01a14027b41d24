"""The report of a run on human feedback: what its figures mean, and its tables."""

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_jax.evaluation.report_page import duration, number, stacked_kl
from rlhf_jax.evaluation.statistics import Interval, ratio_interval


def pair_accuracy(correct: np.ndarray, longer: np.ndarray, pairs: np.ndarray, seed: int) -> dict:
    """Share of the pairs that the reward model orders as people do, and longer-is-better's.

    Args:
      correct, longer, pairs: [N], a prompt each: pairs that the reward model has right, that
        "the longer output is better" has right, and all.

    Returns: {"accuracy", "longer_is_better", "difference": {"mean", "low", "high"}, "pairs",
      "prompts"}; the difference is paired, its interval is over prompts as all are. All three are
      None where there is no pair.
    """
    counts = {"pairs": int(pairs.sum()), "prompts": int((pairs > 0).sum())}
    if not counts["pairs"]:
        return dict.fromkeys(("accuracy", "longer_is_better", "difference")) | counts
    halved = ratio_interval((correct - longer + pairs) / 2, pairs, seed)  # within 0..pairs
    difference = Interval(*(2 * bound - 1 for bound in halved))
    return {
        "accuracy": ratio_interval(correct, pairs, seed).as_json(),
        "longer_is_better": ratio_interval(longer, pairs, seed).as_json(),
        "difference": difference.as_json(),
        **counts,
    }


def findings(reward_model: dict, policies: dict) -> list[str]:
    """What the figures of report.json say, a sentence each, and what they do not say.

    Args:
      reward_model: {"all" or a source: `pair_accuracy` and "over_long", rankings left out}.
      policies: {name: {"reward_score", "reward_wins_vs_sft", "kl", "training_kl",
        "pretraining_loss", "pretraining_loss_vs_sft"}}.
    """
    whole = reward_model["all"]
    sentences = [_against_chance(source, part) for source, part in reward_model.items()]
    if whole["pairs"]:
        sentences.append(_against_length(whole))
    if whole["over_long"]:
        sentences.append(
            f"{whole['over_long']} held-out rankings are longer than the model's rows and are "
            "not among these figures."
        )
    sentences.append(
        "The policies' scores are the reward model's own, which PPO was trained to raise: they "
        "say how far PPO went, not whether people would prefer its responses."
    )
    if not whole["pairs"] or whole["accuracy"]["low"] <= 0.5:
        sentences.append(
            "As this reward model is not surely better than chance, a higher score is no sign of "
            "a better response."
        )
    for name in ("ppo", "ppo_ptx"):
        wins = policies[name]["reward_wins_vs_sft"]
        verdict = _verdict(wins, 0.5, "raised", "lowered", "did not surely move")
        sentences.append(
            f"{name} {verdict} the reward model's score: its responses beat sft's on "
            f"{_bounds(wins)} of the prompts."
        )
    sentences += [_against_sft(name, policies) for name in ("ppo", "ppo_ptx")]
    return sentences


def print_human_report(report: dict) -> None:
    """Prints both tables, the findings and the time that each stage took."""
    console = Console(highlight=False)
    table = _table("held-out pairs", "pairs", "reward\nmodel", "longer is\nbetter", "difference")
    for source, part in report["reward_model"].items():
        bounds = (_stacked(part[name]) for name in ("accuracy", "longer_is_better", "difference"))
        table.add_row(source, str(part["pairs"]), *bounds)
    console.print(table)
    table = _table(
        "policy", "score by the\nreward model", "wins\nvs sft", "KL, in\ntraining", "loss"
    )
    for name, policy in report["policies"].items():
        table.add_row(
            name,
            _stacked(policy["reward_score"]),
            "-" if name == "sft" else _stacked(policy["reward_wins_vs_sft"]),
            stacked_kl(policy),
            number(policy["pretraining_loss"], 3),
        )
    console.print(table)
    for sentence in report["findings"]:
        console.print(Text(f"- {sentence}"))
    spent = (f"{stage} {duration(seconds)}" for stage, seconds in report["seconds"].items())
    console.print(Text(f"seed {report['seed']}; " + ", ".join(spent)))


def _against_chance(source: str, part: dict) -> str:
    if not part["pairs"]:
        return f"Reward model, {source}: not known, no held-out pair was left."
    verdict = _verdict(
        part["accuracy"],
        0.5,
        "better than chance",
        "worse than chance",
        "not surely better or worse than chance, as the interval holds 0.5",
    )
    return (
        f"Reward model, {source}: {_bounds(part['accuracy'])} of {part['pairs']} held-out pairs of "
        f"{part['prompts']} prompts ordered as people did, {verdict}."
    )


def _against_length(part: dict) -> str:
    verdict = _verdict(
        part["difference"],
        0,
        "the reward model is better than it",
        "it is better than the reward model",
        "the reward model is not surely better or worse",
    )
    return (
        f"Holding the longer output for the better is right on {_bounds(part['longer_is_better'])}"
        f": {verdict} (difference {_bounds(part['difference'])})."
    )


def _against_sft(name: str, policies: dict) -> str:
    """What a policy's loss on held-out text is beside sft's, over the same documents."""
    difference = policies[name]["pretraining_loss_vs_sft"]
    losses = ", ".join(
        f"{each} {number(policies[each]['pretraining_loss'], 3)}" for each in ("sft", name)
    )
    if difference is None:
        return f"Loss on held-out text, nats per token: {losses}: not known, one is not finite."
    verdict = _verdict(difference, 0, "raised it", "lowered it", "did not surely move it")
    bounds = Interval.of_json(difference).text("+")
    return f"Loss on held-out text, nats per token: {losses}; {name} {verdict} ({bounds})."


def _verdict(interval: dict, middle: float, above: str, below: str, unsure: str) -> str:
    return (unsure, above, below)[Interval.of_json(interval).side(middle)]


def _table(first: str, *titles: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _bounds(interval: dict) -> str:
    return Interval.of_json(interval).text()


def _stacked(interval: dict | None) -> str:
    if interval is None:
        return "-"
    mean, (low, high) = interval["mean"], (number(interval[end], 2) for end in ("low", "high"))
    return f"{mean:.3f}\n{low}..{high}"
