"""How well labelers agree: raw agreement and the coefficients of Cohen, Fleiss and Krippendorff.

All are functions of one table: how often two labelers of an item gave it the labels c and k. The
intervals are percentiles of the bootstrap over groups of items, such as prompts, because pairs of
outputs of one prompt are not independent. Float64.
"""

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError, require

Metric = Literal["nominal", "ordinal", "interval"]
METRICS = ("nominal", "ordinal", "interval")


class Agreement(NamedTuple):
    """A coefficient with the bounds of its interval.

    value   NaN where it is not defined: all labels are equal, or no item has two labels
    low     lower bound; infinite, as `high`, where the spread is not known
    items   how many items have two labels or more
    """

    value: float
    low: float
    high: float
    items: int

    def text(self) -> str:
        """For example "0.852 [0.821, 0.880] of 999 items"."""
        if math.isnan(self.value):
            return f"not defined for {self.items} items"
        bounds = f"[{self.low:z.3f}, {self.high:z.3f}]"
        known = math.isfinite(self.high - self.low)
        return f"{self.value:z.3f} {bounds if known else '(no interval)'} of {self.items} items"


@dataclass(frozen=True, eq=False)
class Ratings:
    """The labels that several labelers gave to the same items.

    labels    [N, R] numbers, one row an item and one column a labeler; NaN: no label
    labelers  R names
    groups    [N] whole numbers: items of one group are drawn together by the bootstrap; None: each
              item is its own group
    """

    labels: np.ndarray
    labelers: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    def __post_init__(self):
        labels = np.asarray(self.labels, np.float64)
        if labels.ndim != 2 or np.isinf(labels).any():
            raise UserError("labels: must be finite numbers [items, labelers], NaN where absent; "
                            f"got the shape {labels.shape}")  # fmt: skip
        names = tuple(self.labelers) or tuple(str(1 + r) for r in range(labels.shape[1]))
        if len(names) != labels.shape[1] or len(set(names)) < len(names):
            raise UserError(f"labelers: must be {labels.shape[1]} different names, got {names}")
        groups = np.arange(len(labels)) if self.groups is None else np.asarray(self.groups)
        if groups.shape != (len(labels),):
            raise UserError(f"groups: must be one for each of {len(labels)} items")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "labelers", names)
        object.__setattr__(self, "groups", np.unique(groups, return_inverse=True)[1])

    @classmethod
    def of_labels(cls, rows: Iterable[tuple[Hashable, str, float]]) -> "Ratings":
        """From rows of (item, labeler, label).

        Raises UserError where a labeler labels an item twice.
        """
        found: dict[tuple[Hashable, str], float] = {}
        for item, labeler, label in rows:
            if (item, labeler) in found:
                raise UserError(f"labeler {labeler!r} labels item {item!r} twice")
            found[item, labeler] = label
        items = {item: n for n, item in enumerate(dict.fromkeys(item for item, _ in found))}
        names = tuple(sorted({labeler for _, labeler in found}))
        labels = np.full((len(items), len(names)), np.nan)
        for (item, labeler), label in found.items():
            labels[items[item], names.index(labeler)] = label
        return cls(labels, names)

    @classmethod
    def of_rankings(cls, rows: Iterable[tuple[Hashable, str, Sequence[int]]]) -> "Ratings":
        """From rows of (prompt, labeler, ranks of the prompt's outputs; 0 is best).

        An item is a pair i < j of outputs of a prompt. Its label is sign(rank_j - rank_i): 1 where
        i is better, -1 where j is, 0 where they tie. A prompt's pairs are one group.
        Raises UserError where a labeler ranks a prompt twice, or two rank unequal numbers of
        outputs.
        """
        rankings: dict[tuple[Hashable, str], Sequence[int]] = {}
        outputs: dict[Hashable, int] = {}
        for prompt, labeler, ranks in rows:
            if (prompt, labeler) in rankings:
                raise UserError(f"labeler {labeler!r} ranks prompt {prompt!r} twice")
            if outputs.setdefault(prompt, len(ranks)) != len(ranks):
                raise UserError(f"prompt {prompt!r}: labelers ranked {outputs[prompt]} outputs and "
                                f"{len(ranks)}: must be the same outputs")  # fmt: skip
            rankings[prompt, labeler] = ranks
        names = tuple(sorted({labeler for _, labeler in rankings}))
        pairs = [
            (n, prompt, i, j)
            for n, (prompt, count) in enumerate(outputs.items())
            for i, j in itertools.combinations(range(count), 2)
        ]
        labels = np.full((len(pairs), len(names)), np.nan)
        for row, (_, prompt, i, j) in enumerate(pairs):
            for column, name in enumerate(names):
                if (prompt, name) in rankings:
                    ranks = rankings[prompt, name]
                    labels[row, column] = np.sign(ranks[j] - ranks[i])
        return cls(labels, names, np.array([n for n, *_ in pairs], int))

    def column(self, labeler: str) -> np.ndarray:
        """The labels [N] of one labeler. Raises UserError where there is none of this name."""
        if labeler not in self.labelers:
            raise UserError(f"labeler {labeler!r}: must be one of {', '.join(self.labelers)}")
        return self.labels[:, self.labelers.index(labeler)]

    def of(self, labelers: Sequence[str]) -> "Ratings":
        """The labels of these labelers alone."""
        columns = [self.column(name) for name in labelers]
        return Ratings(np.stack(columns, axis=1), tuple(labelers), self.groups)


def raw_agreement(ratings: Ratings, seed: int = 0, level: float = 0.95) -> Agreement:
    """The share of pairs of labelers of an item that gave it the same label, over all items.

    sum_u sum_{r < s} 1[x_ur = x_us] / sum_u m_u (m_u - 1) / 2, with m_u labels of item u.
    """
    return _estimate(_Cells.of(ratings, each_pair=True), _same, seed, level)


def cohen(ratings: Ratings, one: str, other: str, seed: int = 0, level: float = 0.95) -> Agreement:
    """Cohen's kappa of two labelers over the items that both labeled.

    (p_o - p_e) / (1 - p_e) with p_o = sum_c p_cc and p_e = sum_c p_c. p_.c, where p_ck is the share
    of the items that `one` labels c and `other` labels k.
    Source: Cohen (1960), Educational and Psychological Measurement 20.
    """
    both = np.stack([ratings.column(one), ratings.column(other)], axis=1)
    both_labeled = ~np.isnan(both).any(axis=1)
    values, codes = np.unique(both[both_labeled], return_inverse=True)
    first, second = codes.reshape(-1, 2).T
    ones = np.ones(len(first))
    cells = _Cells(first, second, ones, ratings.groups[both_labeled], values, len(first))
    return _estimate(cells, _kappa, seed, level)


def fleiss(ratings: Ratings, seed: int = 0, level: float = 0.95) -> Agreement:
    """Fleiss' kappa over items that all have the same number m of labels, by any labelers.

    (P - P_e) / (1 - P_e) with P = mean_u sum_c n_uc (n_uc - 1) / (m (m - 1)) and
    P_e = sum_c (sum_u n_uc / (N m))^2, where item u has n_uc labels c.
    Raises UserError where items have unequal numbers of labels.
    Source: Fleiss (1971), Psychological Bulletin 76.
    """
    counts = np.unique((~np.isnan(ratings.labels)).sum(axis=1))
    if len(counts) > 1:
        raise UserError(f"Fleiss' kappa needs as many labels for each item, got {counts[0]} to "
                        f"{counts[-1]}: use Krippendorff's alpha")  # fmt: skip
    return _estimate(_Cells.of(ratings), _kappa, seed, level)


def krippendorff(
    ratings: Ratings, metric: Metric = "nominal", seed: int = 0, level: float = 0.95
) -> Agreement:
    """Krippendorff's alpha = 1 - D_o / D_e over the items with two labels or more.

    With o_ck = sum_u (pairs of labels c, k of item u) / (m_u - 1), n_c = sum_k o_ck, n = sum_c n_c:
    D_o = sum_ck o_ck d_ck / n and D_e = sum_ck (n_c n_k - 1[c = k] n_c) d_ck / (n (n - 1)).
    d_ck is 1[c != k] (nominal), (c - k)^2 (interval) or (sum_{g = c..k} n_g - (n_c + n_k) / 2)^2
    (ordinal).
    Source: Krippendorff (2011), Computing Krippendorff's alpha-reliability.
    """
    require(metric in METRICS, "metric", metric, f"one of {', '.join(METRICS)}")
    cells = _Cells.of(ratings)
    distance = {"nominal": _nominal, "ordinal": _ordinal, "interval": _interval}[metric]

    def alpha(table: np.ndarray) -> float:
        totals = table.sum(axis=1)
        apart = distance(cells.values, totals)
        expected = totals @ apart @ totals
        if expected == 0:
            return math.nan
        return 1 - (totals.sum() - 1) * (table * apart).sum() / expected

    return _estimate(cells, alpha, seed, level)


def with_the_others(ratings: Ratings, seed: int = 0, level: float = 0.95) -> dict[str, Agreement]:
    """For each labeler, the raw agreement with each other labeler of the same items."""
    found = {}
    for name, own in zip(ratings.labelers, ratings.labels.T, strict=True):
        others = np.delete(ratings.labels, ratings.labelers.index(name), axis=1)
        rows, columns = np.nonzero(~np.isnan(others) & ~np.isnan(own)[:, None])
        pairs = np.stack([own[rows], others[rows, columns]], axis=1)
        values, codes = np.unique(pairs, return_inverse=True)
        first, second = codes.reshape(-1, 2).T
        items = len(np.unique(rows))
        cells = _Cells(first, second, np.ones(len(rows)), ratings.groups[rows], values, items)
        found[name] = _estimate(cells, _same, seed, level)
    return found


class _Cells(NamedTuple):
    """Pairs of labels values[first[p]], values[second[p]], with a weight and a group of items."""

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray
    group: np.ndarray
    values: np.ndarray
    items: int

    @classmethod
    def of(cls, ratings: Ratings, each_pair: bool = False) -> "_Cells":
        """All ordered pairs of two labels of an item with m labels, each of weight 1 / (m - 1), or
        of weight 1 with `each_pair`."""
        labels = ratings.labels
        there = ~np.isnan(labels)
        counts = there.sum(axis=1)
        values = np.unique(labels[there & (counts > 1)[:, None]])
        codes = np.searchsorted(values, np.where(there, labels, np.inf))
        both = there[:, :, None] & there[:, None, :] & ~np.eye(labels.shape[1], dtype=bool)
        item, one, other = np.nonzero(both)
        weight = np.ones(len(item)) if each_pair else 1 / (counts[item] - 1)
        return cls(codes[item, one], codes[item, other], weight, ratings.groups[item], values,
                   int((counts > 1).sum()))  # fmt: skip

    def table(self, times: np.ndarray) -> np.ndarray:
        """[C, C]: the weight of each pair of labels, where group g counts times[g]."""
        size = len(self.values)
        cell = self.first * size + self.second
        found = np.bincount(cell, self.weight * times[self.group], size * size)
        return found.reshape(size, size)


def _same(table: np.ndarray) -> float:
    total = table.sum()
    return float(np.trace(table) / total) if total else math.nan


def _kappa(table: np.ndarray) -> float:
    total = table.sum()
    if not total:
        return math.nan
    observed = np.trace(table) / total
    chance = table.sum(axis=0) @ table.sum(axis=1) / total**2
    return float((observed - chance) / (1 - chance)) if chance < 1 else math.nan


def _nominal(values: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return (values[:, None] != values[None]).astype(np.float64)


def _interval(values: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return (values[:, None] - values[None]) ** 2


def _ordinal(values: np.ndarray, totals: np.ndarray) -> np.ndarray:
    middle = np.cumsum(totals) - totals / 2  # the mean place of each label in the order
    return (middle[:, None] - middle[None]) ** 2


def _estimate(
    cells: _Cells,
    statistic: Callable[[np.ndarray], float],
    seed: int,
    level: float,
    resamples: int = 1000,
) -> Agreement:
    """The statistic of the table of all items, and the percentiles of it over groups drawn with
    replacement. Draws for which it is not defined are left out."""
    require(0 < level < 1, "level", level, "between 0 and 1")
    groups, group = np.unique(cells.group, return_inverse=True)
    cells = cells._replace(group=group)
    count = len(groups)
    value = statistic(cells.table(np.ones(count)))
    if count < 2 or math.isnan(value):
        return Agreement(value, -math.inf, math.inf, cells.items)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), resamples)
    found = np.array([statistic(cells.table(times)) for times in draws])
    found = found[~np.isnan(found)]
    if not len(found) or np.ptp(found) <= 1e-12:
        return Agreement(value, -math.inf, math.inf, cells.items)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Agreement(value, min(float(low), value), max(float(high), value), cells.items)
