"""What was measured of each policy, and what it says about InstructGPT's claims."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.statistics import Interval, bootstrap_mean, win_rate

POLICIES = ("base", "prompted", "sft", "ppo", "ppo_ptx")
ORDERS = (("ppo", "sft"), ("ppo_ptx", "sft"), ("sft", "prompted"), ("prompted", "base"))
FLAGS = ("followed", "hallucinated", "harmful")
HALF = Interval(0.5, 0.5, 0.5)  # of sft against itself, by definition

Flags = tuple[bool | None, ...]


@dataclass(frozen=True)
class PolicyResult:
    """One policy's responses to the test prompts, as graded.

    Raises UserError where a field does not have one value per prompt or a score is not finite.
    """

    name: str  # one of POLICIES, or any other
    prompts: tuple[str, ...]
    responses: tuple[str, ...]  # one per prompt
    scores: tuple[float, ...]  # gold score of each response
    followed: Flags  # None where the prompt does not ask for it, as in the next two
    hallucinated: Flags
    harmful: Flags
    kl: float | None  # from SFT, in nats per response; None where meaningless
    pretraining_loss: float  # on held-out text, in nats per token

    def __post_init__(self):
        if not self.prompts:
            raise UserError(f"policy {self.name!r}: no prompts")
        for field in fields(self)[2:-2]:
            count = len(getattr(self, field.name))
            if count != len(self.prompts):
                raise UserError(
                    f"policy {self.name!r}: {field.name} has {count} values "
                    f"for {len(self.prompts)} prompts"
                )
        if not all(map(math.isfinite, self.scores)):
            raise UserError(f"policy {self.name!r}: scores must be finite")


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
        if result.prompts != results[0].prompts:
            raise UserError(f"report: {result.name!r} and {names[0]!r} have different prompts")
    ranks = {name: rank for rank, name in enumerate(POLICIES)}
    return sorted(results, key=lambda result: ranks.get(result.name, len(ranks)))


def counted(flags: Flags) -> tuple[int, int]:
    """(how many are true, how many are asked for)."""
    asked = [flag for flag in flags if flag is not None]
    return sum(map(bool, asked)), len(asked)


def summarise(results: Sequence[PolicyResult], seconds: dict[str, float], seed: int) -> dict:
    """The content of report.json.

    {"policies": {name: {"gold_score": {"mean", "low", "high"},
                         "win_rate_vs_sft": {"mean", "low", "high"},
                         "followed", "hallucinated", "harmful": share of the prompts that ask,
                         "kl": nats per response, "pretraining_loss": nats per token}},
     "seconds": {stage: seconds}, "seed": seed, "findings": [sentence, ...]}

    Bounds are those of 95 % bootstrap intervals over prompts. None stands where a number is not
    known: win rates without an sft policy, a share that no prompt asks for, a loss or KL that
    diverged.

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
            "gold_score": bootstrap_mean(result.scores, seed)._asdict(),
            "win_rate_vs_sft": wins and wins._asdict(),
            **{name: _share(getattr(result, name)) for name in FLAGS},
            "kl": _finite(result.kl),
            "pretraining_loss": _finite(result.pretraining_loss),
        }
    return {
        "policies": policies,
        "seconds": {stage: float(spent) for stage, spent in seconds.items()},
        "seed": int(seed),
        "findings": _findings({result.name: result for result in results}, policies, seed),
    }


def _share(flags: Flags) -> float | None:
    true, asked = counted(flags)
    return true / asked if asked else None


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _findings(results: dict[str, PolicyResult], policies: dict, seed: int) -> list[str]:
    """One sentence for each expected order, and for the alignment tax; what fails says so."""
    sentences = []
    for better, worse in ORDERS:
        if better in results and worse in results:
            scores = results[better].scores, results[worse].scores
            difference = bootstrap_mean(np.subtract(*scores), seed)
            golds = [Interval(**policies[name]["gold_score"]) for name in (better, worse)]
            sentences.append(_order(better, worse, *golds, difference))
    losses = {name: policy["pretraining_loss"] for name, policy in policies.items()}
    if "sft" in losses and "ppo" in losses:
        sentences += _tax(losses)
    missing = [name for name in POLICIES if name not in results]
    if missing:
        sentences.append(f"Not measured, so not judged: {', '.join(missing)}.")
    return sentences


def _order(better: str, worse: str, a: Interval, b: Interval, difference: Interval) -> str:
    apart = a.low > b.high or b.low > a.high
    figures = (
        f"{_bounds(a)} against {_bounds(b)}; the 95 % intervals {'do not ' * apart}overlap, "
        f"the paired difference is {_bounds(difference, '+')}."
    )
    if a.mean > b.mean:
        verdict = "Holds" if difference.low > 0 else "Holds, but not surely"
        return f"{verdict}: {better} scores above {worse}, {figures}"
    return f"Does not hold: {better} should score above {worse}, but has {figures}"


def _tax(losses: dict[str, float | None]) -> list[str]:
    """Whether PPO worsens the pretraining loss, and whether ptx takes that back."""
    diverged = [name for name in ("sft", "ppo", "ppo_ptx") if losses.get(name, 0.0) is None]
    if diverged:
        told = ", ".join(diverged)
        return [f"Not known: the alignment tax, as the pretraining loss of {told} is not finite."]
    sft, ppo = losses["sft"], losses["ppo"]
    tax = ppo - sft
    figures = f"{ppo:.4f} nats per token for ppo, {sft:.4f} for sft ({tax:+.4f})."
    if tax > 0:
        sentences = [f"Holds: there is an alignment tax, a pretraining loss of {figures}"]
    else:
        sentences = [f"Does not hold: there is no alignment tax, the pretraining loss is {figures}"]
    if "ppo_ptx" not in losses:
        return sentences
    ptx = losses["ppo_ptx"]
    figures = f"ppo_ptx has {ptx:.4f} nats per token, ppo {ppo:.4f}, sft {sft:.4f}."
    if tax <= 0:
        sentence = f"Not known: whether ptx repairs the tax, as there is none; {figures}"
    elif ptx >= ppo:
        sentence = f"Does not hold: ptx does not repair the alignment tax; {figures}"
    elif ptx > sft:
        sentence = (
            f"Holds in part: ptx repairs {100 * (ppo - ptx) / tax:.0f} % of the tax; {figures}"
        )
    else:
        sentence = f"Holds: ptx repairs all of the alignment tax; {figures}"
    return [*sentences, sentence]


def _bounds(interval: Interval, sign: str = "") -> str:
    mean, low, high = (f"{value:{sign}.3f}" for value in interval)
    return f"{mean} [{low}, {high}]"
