"""Agreement of labelers against statsmodels, krippendorff and the figures that papers print."""

import json
import warnings

import krippendorff as published
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.feedback import agreement
from rlhf_jax.feedback.agreement import Ratings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from statsmodels.stats import inter_rater


def labels(items=60, labelers=4, kinds=4, absent=0.0, seed=0) -> np.ndarray:
    """Labels that agree more often than chance, some of them absent."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, kinds, (items, 1))
    made = np.where(rng.random((items, labelers)) < 0.6, truth,
                    rng.integers(0, kinds, (items, labelers))).astype(float)  # fmt: skip
    made[rng.random(made.shape) < absent] = np.nan
    return made


def test_cohen_and_its_interval_are_statsmodels():
    made = labels(items=800, labelers=2)
    table = np.histogram2d(*made.T, bins=4)[0]
    theirs = inter_rater.cohens_kappa(table)
    ours = agreement.cohen(Ratings(made, ("a", "b")), "a", "b")
    assert ours.value == pytest.approx(theirs.kappa, abs=1e-12) and ours.items == 800
    assert (ours.high - ours.low) / 2 == pytest.approx(1.96 * theirs.std_kappa, rel=0.1)
    assert ours.low < theirs.kappa < ours.high


def test_cohen_reads_the_items_that_both_labeled():
    made = labels(absent=0.3, labelers=3)
    both = made[~np.isnan(made[:, [0, 2]]).any(axis=1)][:, [0, 2]]
    theirs = inter_rater.cohens_kappa(np.histogram2d(*both.T, bins=4)[0], return_results=False)
    ours = agreement.cohen(Ratings(made), "1", "3")
    assert ours.value == pytest.approx(theirs, abs=1e-12) and ours.items == len(both)


def test_fleiss_is_statsmodels():
    made = labels()
    counts, _ = inter_rater.aggregate_raters(made.astype(int))
    ours = agreement.fleiss(Ratings(made))
    assert ours.value == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-12)
    with pytest.raises(UserError, match="as many labels for each item, got 3 to 4"):
        made[0, 0] = np.nan
        agreement.fleiss(Ratings(made))


@pytest.mark.parametrize("metric", agreement.METRICS)
@pytest.mark.parametrize("absent", [0.0, 0.5])
def test_krippendorff_is_the_library_of_that_name(metric, absent):
    made = labels(absent=absent, kinds=6, labelers=5) ** 2  # uneven steps
    theirs = published.alpha(made.T, level_of_measurement=metric)
    ours = agreement.krippendorff(Ratings(made), metric)
    assert ours.value == pytest.approx(theirs, abs=1e-12)
    assert ours.items == ((~np.isnan(made)).sum(axis=1) > 1).sum()
    assert ours.low < theirs < ours.high


def test_krippendorff_s_own_example():
    """The example of the reliability data in Krippendorff (2011): alpha 0.743 nominal, 0.815
    ordinal and 0.849 interval."""
    x = np.nan
    rows = [[1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
            [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x]]  # fmt: skip
    found = {m: agreement.krippendorff(Ratings(np.transpose(rows)), m).value
             for m in agreement.METRICS}  # fmt: skip
    assert found == pytest.approx({"nominal": 0.743, "ordinal": 0.815, "interval": 0.849}, abs=6e-4)


def test_raw_agreement_is_a_count_of_pairs_of_labelers():
    made = labels(absent=0.4)
    alike = pairs = 0
    for row in made:
        there = row[~np.isnan(row)]
        for r, one in enumerate(there):
            for other in there[r + 1 :]:
                alike, pairs = alike + (one == other), pairs + 1
    assert agreement.raw_agreement(Ratings(made)).value == pytest.approx(alike / pairs, abs=1e-12)


def test_one_labeler_with_the_others():
    made = np.array([[1, 1, 2], [1, 2, 2], [1, 1, np.nan], [np.nan, 1, 1]])
    found = agreement.with_the_others(Ratings(made, ("a", "b", "c")))
    shares = {name: each.value for name, each in found.items()}
    assert shares == {"a": 2 / 5, "b": 4 / 6, "c": 2 / 5}
    assert {name: each.items for name, each in found.items()} == {"a": 3, "b": 4, "c": 3}


def test_items_of_one_group_count_once_for_the_interval():
    """A copy of an item tells nothing new: with groups the interval stays as wide."""
    made = labels(items=100)
    copied, groups = np.repeat(made, 4, axis=0), np.repeat(np.arange(100), 4)
    width = {}
    for name, ratings in {"once": Ratings(made), "grouped": Ratings(copied, groups=groups),
                          "apart": Ratings(copied)}.items():  # fmt: skip
        found = agreement.raw_agreement(ratings)
        width[name] = found.high - found.low
    assert width["grouped"] == pytest.approx(width["once"], rel=1e-9)
    assert width["apart"] == pytest.approx(width["once"] / 2, rel=0.15)


def test_a_known_spread_of_raw_agreement():
    """Two labelers: the share of N items, with the normal interval of a share."""
    made = labels(items=1500, labelers=2)
    share = (made[:, 0] == made[:, 1]).mean()
    found = agreement.raw_agreement(Ratings(made))
    half = 1.96 * np.sqrt(share * (1 - share) / 1500)
    assert (found.low, found.high) == pytest.approx((share - half, share + half), abs=0.1 * half)


def test_where_nothing_differs_there_is_no_interval_and_no_kappa():
    same = Ratings(np.ones((5, 2)), ("a", "b"))
    found = agreement.raw_agreement(same)
    assert found == (1.0, -np.inf, np.inf, 5) and found.text() == "1.000 (no interval) of 5 items"
    for kappa in (agreement.cohen(same, "a", "b"), agreement.fleiss(same),
                  agreement.krippendorff(same)):  # fmt: skip
        assert np.isnan(kappa.value) and kappa.text() == "not defined for 5 items"
    alone = agreement.krippendorff(Ratings(np.array([[1, np.nan], [np.nan, 2]])))
    assert np.isnan(alone.value) and alone.items == 0


def test_rankings_are_labels_of_pairs():
    rows = [("p", "b", (0, 1, 1)), ("p", "a", (1, 0, 2)), ("q", "a", (0, 0))]
    ratings = Ratings.of_rankings(rows)
    assert ratings.labelers == ("a", "b") and ratings.groups.tolist() == [0, 0, 0, 1]
    expected = [[-1, 1], [1, 1], [1, 0], [0, np.nan]]
    np.testing.assert_array_equal(ratings.labels, expected)
    assert agreement.raw_agreement(ratings).value == 1 / 3
    np.testing.assert_array_equal(ratings.of(["b"]).labels[:, 0], ratings.column("b"))


def test_labels_come_as_rows():
    rows = [("x", "b", 2), ("x", "a", 1), ("y", "b", 1)]
    ratings = Ratings.of_labels(rows)
    np.testing.assert_array_equal(ratings.labels, [[1, 2], [np.nan, 1]])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Ratings.of_labels([("x", "a", 1), ("x", "a", 2)]), "'a' labels item 'x' twice"),
        (lambda: Ratings.of_rankings([("x", "a", (0, 1))] * 2), "'a' ranks prompt 'x' twice"),
        (lambda: Ratings.of_rankings([("x", "a", (0, 1)), ("x", "b", (0, 1, 2))]),
         "ranked 2 outputs and 3"),
        (lambda: Ratings(np.ones(3)), r"got the shape \(3,\)"),
        (lambda: Ratings(np.ones((3, 2)), ("a", "a")), "2 different names"),
        (lambda: Ratings(np.ones((3, 2)), groups=np.zeros(2)), "one for each of 3 items"),
        (lambda: agreement.cohen(Ratings(labels(), ("a", "b", "c", "d")), "a", "e"),
         "labeler 'e': must be one of a, b, c, d"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_a_metric_is_one_of_three():
    with pytest.raises(ConfigError, match="metric = 'ratio': must be one of nominal, ordinal"):
        agreement.krippendorff(Ratings(labels()), "ratio")


def test_squality_s_raters_agree_on_87_1_percent_of_pairs(human_data):
    """784 of 900 pairs: the published pairwise agreement of Wang et al. 2022, arXiv 2205.11465."""
    rows = []
    for number, line in enumerate((human_data / "squality/human-eval/all-responses.jsonl").open()):
        for question, systems in json.loads(line)["questions"].items():
            ranks: dict[str, list[int]] = {}
            for system in systems.values():
                for review in system["reviews"]:
                    ranks.setdefault(review["worker_id"], []).append(review["overall-rank"])
            rows += [((number, question), rater, own) for rater, own in ranks.items()]
    found = agreement.raw_agreement(Ratings.of_rankings(rows))
    assert (found.value, found.items) == (784 / 900, 300)
    assert round(100 * found.value, 1) == 87.1 and found.low < 0.871 < found.high


def test_pandalm_s_annotators_have_the_published_kappas(human_data):
    """0.85, 0.88 and 0.86: Wang et al. 2023, arXiv 2306.05087."""
    rows = json.loads((human_data / "pandalm/testset-v1.json").read_text())
    made = Ratings(np.array([[row[f"annotator{n}"] for n in (1, 2, 3)] for row in rows]))
    kappas = [round(agreement.cohen(made, a, b).value, 2) for a, b in ("12", "13", "23")]
    assert kappas == [0.85, 0.88, 0.86]
