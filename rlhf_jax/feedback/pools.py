"""Pools of simulated labelers who differ: lenience, a taste for length, preferences of their group,
careless answers; and the division of labelers into groups for cross-validation.

A labeler of group g sees, for the response y to the prompt x with the gold score s,

    s + lenience_l + length_l log(1 + words of y) + taste z(g, y)

with lenience_l ~ N(0, lenience^2), length_l ~ N(0, length^2), and z the sum over the different
words w of y of n(g, w) / sqrt(number of them), n ~ N(0, 1); and rates that as a `SimulatedLabeler`
does, with noise of its own. Labelers of one group like the same words: a reward model that learns
from some groups predicts their rankings of new prompts better than those of a group that it has not
seen (Ouyang et al. 2022, section 4.1: 72.4 % of held-out comparisons against 69.6 %).
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf_jax.errors import UserError, require
from rlhf_jax.feedback.labelers import LIKERT, SimulatedLabeler, standard_normal


@dataclass(frozen=True)
class LabelerPool:
    """Simulated labelers who differ, each named "group.number".

    size      number of labelers
    groups    number of groups, as equal as can be
    lenience  standard deviation over labelers of what a labeler adds to each score
    length    standard deviation over labelers of the score for a unit of log(1 + words)
    taste     standard deviation of what a group adds to the score of a response by its words
    careless  share of a labeler's answers that are random
    """

    size: int = 40
    groups: int = 5
    lenience: float = 0.0
    length: float = 0.0
    taste: float = 0.0
    careless: float = 0.0

    def __post_init__(self):
        require(self.groups >= 1, "groups", self.groups, "1 or more")
        require(self.size >= self.groups, "size", self.size, f"at least groups = {self.groups}")
        for field, value in (("lenience", self.lenience), ("length", self.length),
                             ("taste", self.taste)):  # fmt: skip
            require(math.isfinite(value) and value >= 0, field, value, "0 or more")
        require(0 <= self.careless <= 1, "careless", self.careless, "in [0, 1]")

    @property
    def names(self) -> tuple[str, ...]:
        """The labelers, in groups as equal as can be."""
        return tuple(f"{i % self.groups}.{i // self.groups}" for i in range(self.size))

    def assigned(self, prompts: int, seed: int) -> list[str]:
        """A labeler for each prompt; a longer list begins as a shorter one."""
        names = self.names
        return [random.Random(f"{seed}/assigned/{i}").choice(names) for i in range(prompts)]

    def seen(
        self, labeler: str, responses: Sequence[str], scores: Sequence[float], seed: int
    ) -> list[float]:
        """The scores as this labeler sees them, before noise."""
        if labeler not in self.names:
            raise UserError(f"labeler {labeler!r}: must be one of {', '.join(self.names)}")
        group = labeler.partition(".")[0]
        lenience = self.lenience * standard_normal((seed, "lenience", labeler))
        length = self.length * standard_normal((seed, "length", labeler))
        return [
            score
            + lenience
            + length * math.log1p(len(response.split()))
            + (self.taste and self.taste * taste_of(group, response, seed))
            for response, score in zip(responses, scores, strict=True)
        ]

    def rank(
        self, labeler: str, prompt: str, responses: Sequence[str], scores: Sequence[float],
        noise: float, seed: int, levels: int | None = LIKERT,
    ) -> tuple[int, ...]:  # fmt: skip
        """Ranks of the responses by one labeler: 0 is best; equal ratings, and equal responses,
        tie. noise: standard deviation of the labeler's own noise."""
        own = SimulatedLabeler(noise, levels, random.Random(f"{seed}/{labeler}").getrandbits(62))
        scores = self.seen(labeler, responses, scores, seed)
        if random.Random(f"{seed}/careless/{labeler}/{prompt}").random() < self.careless:
            scores = [random.Random(f"{seed}/{labeler}/{prompt}/{text}").random()
                      for text in responses]  # fmt: skip
        return own.rank(prompt, responses, scores)


def taste_of(group: str, response: str, seed: int) -> float:
    """z(g, y): how a group likes the words of a response; 0 without a word."""
    words = sorted(set(response.split()))
    total = sum(standard_normal((seed, "taste", group, word)) for word in words)
    return total / math.sqrt(len(words)) if words else 0.0


def folds(labelers: Sequence[str], count: int, seed: int = 0) -> Mapping[str, int]:
    """{labeler: fold 0..count-1} for cross-validation over labelers, with as equal numbers of
    records as a greedy assignment gives: the labeler with most records goes to the smallest fold.

    labelers: of each record. Raises UserError where there are fewer labelers than folds.
    """
    require(count >= 2, "count", count, "2 or more")
    sizes = Counter(labelers)
    if len(sizes) < count:
        raise UserError(f"{len(sizes)} labelers: {count} folds need as many at least")
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: -sizes[name])
    filled, found = [(0, 0)] * count, {}
    for name in order:
        fold = min(range(count), key=lambda k: filled[k])
        found[name] = fold
        filled[fold] = (filled[fold][0] + sizes[name], filled[fold][1] + 1)
    return found
