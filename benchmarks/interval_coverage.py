"""How often the 95 % intervals of the reports hold the truth, and how wide they are.

    python benchmarks/interval_coverage.py [--trials 1000]

Columns: the percentile bootstrap and Wilson's interval with a trial a prompt, which the reports do
not use, and the intervals of evaluation/statistics.py: `ours` for values within 0 and 1, `student`
for others. N prompts or documents; the share of 1,000 samples whose interval holds the truth (its
standard error is .007), and the median width. Some of the lines:

                           N     percentile         wilson           ours
right or wrong, p .5       1   0.000 (0.00)   1.000 (0.79)   1.000 (0.97)
right or wrong, p .5       3   0.775 (1.00)   1.000 (0.73)   1.000 (0.89)
right or wrong, p .5      10   0.965 (0.60)   0.978 (0.52)   0.978 (0.61)
right or wrong, p .5      30   0.952 (0.33)   0.951 (0.33)   0.959 (0.37)
right or wrong, p .5     300   0.944 (0.11)   0.938 (0.11)   0.948 (0.12)
right or wrong, p .9       1   0.000 (0.00)   0.904 (0.79)   1.000 (0.97)
right or wrong, p .9       3   0.267 (0.00)   0.980 (0.56)   0.997 (0.71)
right or wrong, p .9      10   0.651 (0.30)   0.920 (0.39)   0.989 (0.44)
right or wrong, p .9      30   0.944 (0.20)   0.977 (0.22)   0.982 (0.24)
right or wrong, p .9     300   0.949 (0.07)   0.963 (0.07)   0.966 (0.07)
right or wrong, p .99      1   0.000 (0.00)   0.989 (0.79)   0.989 (0.97)
right or wrong, p .99      3   0.031 (0.00)   0.969 (0.56)   0.991 (0.71)
right or wrong, p .99     10   0.108 (0.00)   0.892 (0.28)   0.998 (0.31)
right or wrong, p .99     30   0.270 (0.00)   0.960 (0.11)   0.995 (0.12)
right or wrong, p .99    300   0.952 (0.02)   0.969 (0.03)   0.989 (0.03)
scores, Beta(2, 1)         1   0.000 (0.00)   1.000 (0.87)   1.000 (0.97)
scores, Beta(2, 1)         3   0.730 (0.37)   1.000 (0.73)   1.000 (0.73)
scores, Beta(2, 1)        10   0.906 (0.26)   1.000 (0.50)   0.995 (0.38)
scores, Beta(2, 1)        30   0.935 (0.16)   0.999 (0.32)   0.986 (0.20)
scores, Beta(2, 1)       300   0.938 (0.05)   1.000 (0.11)   0.961 (0.06)
several pairs, p .95       1   0.000 (0.00)   0.946 (0.79)   1.000 (0.97)
several pairs, p .95       3   0.269 (0.00)   0.939 (0.56)   0.985 (0.74)
several pairs, p .95      10   0.623 (0.09)   0.944 (0.31)   0.979 (0.35)
several pairs, p .95      30   0.766 (0.10)   0.973 (0.17)   0.986 (0.16)
several pairs, p .95     300   0.918 (0.04)   0.960 (0.05)   0.952 (0.05)
                           N     percentile        student
scores, normal             3   0.752 (3.04)   0.945 (8.20)
scores, normal            10   0.888 (2.24)   0.932 (2.75)
scores, normal            30   0.916 (1.37)   0.934 (1.47)
scores, normal           300   0.940 (0.45)   0.943 (0.45)
losses of documents        3   0.750 (0.08)   0.976 (0.32)
losses of documents       10   0.878 (0.06)   0.939 (0.08)
losses of documents       30   0.919 (0.04)   0.934 (0.05)
losses of documents      300   0.949 (0.01)   0.953 (0.02)
"""

import argparse
from statistics import NormalDist

import numpy as np

from rlhf_jax.evaluation import statistics

Z = NormalDist().inv_cdf(0.975)


def percentile(values: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> tuple:
    """The percentile bootstrap of sum(values) / sum(weights)."""
    drawn = rng.integers(len(values), size=(500, len(values)))
    return np.quantile(values[drawn].sum(1) / weights[drawn].sum(1), [0.025, 0.975])


def wilson(values: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> tuple:
    n, p = len(values), values.sum() / weights.sum()
    centre, half = p + Z**2 / 2 / n, Z * (p * (1 - p) / n + Z**2 / 4 / n**2) ** 0.5
    return (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)


def ours(values: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> tuple:
    return statistics.ratio_interval(values, weights, int(rng.integers(2**31)), resamples=1000)[1:]


def student(values: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> tuple:
    return statistics.mean_interval(values, weights)[1:]


def right_or_wrong(p):
    return lambda rng, n: ((rng.random(n) < p).astype(float), np.ones(n)), p


def graded(a, b):
    """Values in [0, 1] like gold scores."""
    return lambda rng, n: (rng.beta(a, b, n), np.ones(n)), a / (a + b)


def many_pairs(p):
    """Prompts of 1, 3, 6 or 10 pairs that have a chance of being right in common."""

    def draw(rng, n):
        pairs = rng.choice([1, 3, 6, 10], n).astype(float)
        return rng.binomial(pairs.astype(int), rng.beta(p, 1 - p, n)).astype(float), pairs

    return draw, p


def normal():
    return lambda rng, n: (rng.normal(1, 2, n), np.ones(n)), 1.0


def documents():
    """Differences of summed losses of documents whose lengths spread by a factor of ten or so."""

    def draw(rng, n):
        tokens = np.ceil(rng.lognormal(5, 0.8, n))
        return tokens * rng.normal(0.02, 0.05, n), tokens

    return draw, 0.02


BOUNDED = {
    "right or wrong, p .5": right_or_wrong(0.5),
    "right or wrong, p .9": right_or_wrong(0.9),
    "right or wrong, p .99": right_or_wrong(0.99),
    "scores, Beta(2, 1)": graded(2, 1),
    "scores, Beta(40, 20)": graded(40, 20),
    "several pairs, p .6": many_pairs(0.6),
    "several pairs, p .95": many_pairs(0.95),
}
UNBOUNDED = {"scores, normal": normal(), "losses of documents": documents()}
SIZES = (1, 2, 3, 10, 30, 300)


def table(cases: dict, methods: tuple, sizes: tuple, trials: int) -> None:
    titles = "".join(f"{method.__name__:>15}" for method in methods)
    print(f"{'':24}{'N':>4}{titles}")
    for name, (draw, truth) in cases.items():
        for n in sizes:
            rng, cells = np.random.default_rng(0), ""
            samples = [draw(rng, n) for _ in range(trials)]
            for method in methods:
                bounds = np.array([method(*sample, rng) for sample in samples])
                held = np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1]))
                cells += f"{held:.3f} ({np.median(bounds[:, 1] - bounds[:, 0]):.2f})".rjust(15)
            print(f"{name:24}{n:4}{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    table(BOUNDED, (percentile, wilson, ours), SIZES, trials)
    table(UNBOUNDED, (percentile, student), SIZES[1:], trials)


if __name__ == "__main__":
    main()
