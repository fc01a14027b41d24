"""The screening test of labelers: their answers beside a researcher's (Ouyang et al. 2022, appendix
B.1: agreement on sensitive speech and on rankings, and scores of demonstrations).
"""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError, require
from rlhf_jax.feedback.agreement import Agreement, Ratings, raw_agreement

CANDIDATE, RESEARCHER = "candidate", "researcher"
Verdict = Literal["passed", "failed", "close"]


@dataclass(frozen=True)
class Cutoffs:
    """What a candidate must reach; the values are the paper's.

    flags           share of texts that the candidate and the researcher both call sensitive or both
                    call not sensitive
    rankings        share of pairs of outputs that they order alike
    demonstrations  mean score of the candidate's demonstrations, 1 to 7
    """

    flags: float = 0.75
    rankings: float = 0.75
    demonstrations: float = 6.0

    def __post_init__(self):
        for name, value in (("flags", self.flags), ("rankings", self.rankings)):
            require(0 <= value <= 1, name, value, "in [0, 1]")
        require(1 <= self.demonstrations <= 7, "demonstrations", self.demonstrations, "1 to 7")


@dataclass(frozen=True)
class Answers:
    """The answers of one person to the screening test, by item.

    flags           whether a text is sensitive: it may cause strong negative feelings
    rankings        ranks of the outputs of a prompt, 0 is best
    demonstrations  scores 1..7 that the researchers gave to demonstrations of this person
    """

    flags: Mapping[Hashable, bool] = field(default_factory=dict)
    rankings: Mapping[Hashable, Sequence[int]] = field(default_factory=dict)
    demonstrations: Sequence[float] = ()


class Screened(NamedTuple):
    """The result of a candidate. A part that was not tested is None.

    verdict  "passed" or "failed" by the values; "close" where the interval of a part that decides
             contains its cutoff, because the paper's cutoffs are soft
    missed   the parts below their cutoffs
    """

    flags: Agreement | None
    rankings: Agreement | None
    demonstrations: float | None
    verdict: Verdict
    missed: tuple[str, ...]


def screen(candidate: Answers, researcher: Answers, cutoffs: Cutoffs = Cutoffs()) -> Screened:
    """A candidate beside the researcher, over the items that both answered.

    Raises UserError where they have no item in common, or a score is not in 1..7.
    """
    flags = _flags(candidate.flags, researcher.flags)
    rankings = _rankings(candidate.rankings, researcher.rankings)
    scores = candidate.demonstrations
    if wrong := [score for score in scores if not 1 <= score <= 7]:
        raise UserError(f"demonstrations: a score of {wrong[0]}: must be 1 to 7")
    mean = statistics.fmean(scores) if scores else None
    if flags is rankings is mean is None:
        raise UserError("the candidate and the researcher answered no item of the test in common")
    missed, close = [], False
    for name, found, least in (("flags", flags, cutoffs.flags),
                               ("rankings", rankings, cutoffs.rankings)):  # fmt: skip
        if found is None:
            continue
        missed += [name] * (found.value < least)
        close |= math.isfinite(found.high - found.low) and found.low < least <= found.high
    missed += ["demonstrations"] * (mean is not None and mean < cutoffs.demonstrations)
    verdict: Verdict = "failed" if missed else "passed"
    if close and "demonstrations" not in missed:
        verdict = "close"
    return Screened(flags, rankings, mean, verdict, tuple(missed))


def _flags(one: Mapping[Hashable, bool], other: Mapping[Hashable, bool]) -> Agreement | None:
    both = [item for item in one if item in other]
    if not both:
        return None
    labels = np.array([[one[item], other[item]] for item in both], np.float64)
    return raw_agreement(Ratings(labels, (CANDIDATE, RESEARCHER)))


def _rankings(
    one: Mapping[Hashable, Sequence[int]], other: Mapping[Hashable, Sequence[int]]
) -> Agreement | None:
    both = [prompt for prompt in one if prompt in other]
    if not both:
        return None
    sides = ((CANDIDATE, one), (RESEARCHER, other))
    rows = [(prompt, name, ranks[prompt]) for prompt in both for name, ranks in sides]
    return raw_agreement(Ratings.of_rankings(rows))
