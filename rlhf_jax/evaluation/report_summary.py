"""What was measured of each policy, and what it says about InstructGPT's claims."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.statistics import (
    Interval,
    bounded_difference,
    bounded_mean,
    mean_interval,
    win_rate,
)

POLICIES = ("base", "prompted", "sft", "ppo", "ppo_ptx")
ORDERS = (("ppo", "sft"), ("ppo_ptx", "sft"), ("sft", "prompted"), ("prompted", "base"))
FLAGS = ("followed", "hallucinated", "harmful")
HALF = Interval(0.5, 0.5, 0.5)  # of sft against itself, by definition

Flags = tuple[bool | None, ...]


@dataclass(frozen=True)
class PolicyResult:
    """One policy's responses to the test prompts, as graded.

    Raises UserError where a field does not have one value per prompt, a score is not in [0, 1], or
    losses and tokens are of different documents.
    """

    name: str  # one of POLICIES, or any other
    prompts: tuple[str, ...]
    responses: tuple[str, ...]  # one per prompt
    scores: tuple[float, ...]  # gold score of each response, in [0, 1]
    followed: Flags  # None where the prompt does not ask for it, as in the next two
    hallucinated: Flags
    harmful: Flags
    kl: float | None  # from SFT, in nats per response; None where meaningless
    text_losses: tuple[float, ...]  # of each held-out document: nats, the sum over its tokens
    text_tokens: tuple[float, ...]  # how many they are
    # Of a policy that PPO trained: the KL of its last iteration. `kl` is that of the saved model,
    # an average of weights that may have stayed nearer.
    training_kl: float | None = None

    def __post_init__(self):
        if not self.prompts:
            raise UserError(f"policy {self.name!r}: no prompts")
        for field in ("responses", "scores", *FLAGS):
            count = len(getattr(self, field))
            if count != len(self.prompts):
                raise UserError(
                    f"policy {self.name!r}: {field} has {count} values "
                    f"for {len(self.prompts)} prompts"
                )
        if not all(0 <= score <= 1 for score in self.scores):
            raise UserError(f"policy {self.name!r}: scores must be in [0, 1]")
        losses, tokens = len(self.text_losses), len(self.text_tokens)
        if losses != tokens or not losses:
            raise UserError(
                f"policy {self.name!r}: text_losses has {losses} documents, text_tokens {tokens}: "
                "must be as many, and not none"
            )

    @property
    def pretraining_loss(self) -> float:
        """Nats a token of the held-out text."""
        return sum(self.text_losses) / sum(self.text_tokens)


def arrange(results: Sequence[PolicyResult]) -> list[PolicyResult]:
    """The results in the order of POLICIES, others behind as they come.

    Raises UserError where there is none, two share a name, or their prompts differ.
    """
    if not results:
        raise UserError("report: no policy was evaluated")
    names = [result.name for result in results]
    if len(set(names)) < len(names):
        raise UserError(f"report: policies {names} must have different names")
    for result in results:
        for what in ("prompts", "text_tokens"):
            if getattr(result, what) != getattr(results[0], what):
                raise UserError(f"report: {result.name!r} and {names[0]!r} have different {what}")
    ranks = {name: rank for rank, name in enumerate(POLICIES)}
    return sorted(results, key=lambda result: ranks.get(result.name, len(ranks)))


def summarise(results: Sequence[PolicyResult], seconds: dict[str, float], seed: int) -> dict:
    """The content of report.json.

    {"policies": {name: {"gold_score": {"mean", "low", "high"},
                         "win_rate_vs_sft": {"mean", "low", "high"},
                         "followed", "hallucinated", "harmful": share of the prompts that ask,
                         "kl", "training_kl": nats per response,
                         "pretraining_loss": nats per token,
                         "pretraining_loss_vs_sft": {"mean", "low", "high"}}},
     "seconds": {stage: seconds}, "seed": seed, "findings": [sentence, ...]}

    Bounds are those of 95 % intervals over prompts; of the loss's difference from sft's, paired,
    over documents. None stands where a number is not known: what compares with sft without such a
    policy, a share that no prompt asks for, a loss or KL that diverged, a bound where there are
    too few documents.

    Raises UserError as `arrange` does.
    """
    results = arrange(results)
    sft = next((result for result in results if result.name == "sft"), None)
    policies = {}
    for result in results:
        wins = None
        if sft is not None:
            wins = HALF if result is sft else win_rate(result.scores, sft.scores, seed)
        policies[result.name] = {
            "gold_score": bounded_mean(result.scores, seed).as_json(),
            "win_rate_vs_sft": wins and wins.as_json(),
            **{name: _share(getattr(result, name)) for name in FLAGS},
            "kl": _finite(result.kl),
            "training_kl": _finite(result.training_kl),
            "pretraining_loss": _finite(result.pretraining_loss),
            "pretraining_loss_vs_sft": _loss_vs_sft(result, sft),
        }
    return {
        "policies": policies,
        "seconds": {stage: float(spent) for stage, spent in seconds.items()},
        "seed": int(seed),
        "findings": _findings({result.name: result for result in results}, policies, seed),
    }


def _share(flags: Flags) -> float | None:
    asked = [bool(flag) for flag in flags if flag is not None]
    return sum(asked) / len(asked) if asked else None


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def loss_difference(losses: Sequence[float], others: Sequence[float], tokens) -> Interval | None:
    """How much more a policy loses than another on the same documents, nats a token; None where
    one of them diverged.

    Args: losses, others: [N] nats, summed over each document's tokens; tokens: [N], how many.
    """
    difference = np.subtract(losses, others)
    return mean_interval(difference, tokens) if np.isfinite(difference).all() else None


def _loss_vs_sft(result: PolicyResult, sft: PolicyResult | None) -> dict | None:
    if sft is None or result is sft:
        return None
    difference = loss_difference(result.text_losses, sft.text_losses, sft.text_tokens)
    return difference and difference.as_json()


def _findings(results: dict[str, PolicyResult], policies: dict, seed: int) -> list[str]:
    """One sentence for each expected order, and for the alignment tax; what fails says so."""
    sentences = []
    for better, worse in ORDERS:
        if better in results and worse in results:
            scores = results[better].scores, results[worse].scores
            golds = [Interval(**policies[name]["gold_score"]) for name in (better, worse)]
            sentences.append(_order(better, worse, *golds, bounded_difference(*scores, seed)))
    if "sft" in results and "ppo" in results:
        sentences += _tax(results, {name: p["pretraining_loss"] for name, p in policies.items()})
    missing = [name for name in POLICIES if name not in results]
    if missing:
        sentences.append(f"Not measured, so not judged: {', '.join(missing)}.")
    return sentences


def _order(better: str, worse: str, a: Interval, b: Interval, difference: Interval) -> str:
    apart = a.low > b.high or b.low > a.high
    figures = (
        f"{a.text()} against {b.text()}; the 95 % intervals {'do not ' * apart}overlap, "
        f"the paired difference is {difference.text('+')}."
    )
    verdict = {
        1: f"Holds: {better} scores above {worse},",
        0: f"Not sure: {better} should score above {worse}, and has",
        -1: f"Does not hold: {better} should score above {worse}, but has",
    }
    return f"{verdict[difference.side()]} {figures}"


def _tax(results: dict[str, PolicyResult], losses: dict[str, float | None]) -> list[str]:
    """Whether PPO worsens the pretraining loss, and whether ptx takes that back."""
    diverged = [name for name in ("sft", "ppo", "ppo_ptx") if losses.get(name, 0.0) is None]
    if diverged:
        told = ", ".join(diverged)
        return [f"Not known: the alignment tax, as the pretraining loss of {told} is not finite."]
    tax = _difference(results, "ppo", "sft")
    verdict = {
        1: "Holds: there is an alignment tax, a pretraining loss of",
        0: "Not sure: whether there is an alignment tax, the pretraining loss is",
        -1: "Does not hold: there is no alignment tax, the pretraining loss is",
    }
    sentence = (
        f"{verdict[tax.side()]} {losses['ppo']:.4f} nats per token for ppo, {losses['sft']:.4f} "
        f"for sft, a difference of {tax.text('+')}."
    )
    return [sentence, _repair(results, losses, tax)] if "ppo_ptx" in results else [sentence]


def _repair(results: dict[str, PolicyResult], losses: dict[str, float], tax: Interval) -> str:
    """Whether the loss of ppo_ptx is below ppo's, and what it leaves of the tax."""
    against_ppo, left = (_difference(results, "ppo_ptx", name) for name in ("ppo", "sft"))
    figures = (
        f"ppo_ptx has {losses['ppo_ptx']:.4f} nats per token, against ppo {against_ppo.text('+')}, "
        f"against sft {left.text('+')}."
    )
    if tax.side() <= 0:
        return f"Not known: whether ptx repairs the tax, as there is no sure one; {figures}"
    if against_ppo.side() > 0:
        return f"Does not hold: ptx does not repair the alignment tax; {figures}"
    if against_ppo.side() == 0:
        return f"Not sure: whether ptx repairs the alignment tax; {figures}"
    if left.side() > 0:
        share = -100 * against_ppo.mean / tax.mean
        return f"Holds in part: ptx repairs {share:.0f} % of the tax; {figures}"
    if left.side() == 0:
        return f"Holds: ptx repairs the alignment tax, what is left of it is not sure; {figures}"
    return f"Holds: ptx repairs all of the alignment tax; {figures}"


def _difference(results: dict[str, PolicyResult], name: str, other: str) -> Interval:
    a, b = results[name], results[other]
    return loss_difference(a.text_losses, b.text_losses, b.text_tokens)
