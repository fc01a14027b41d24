"""Reports of several runs side by side: means over seeds, differences, table, page and picture."""

import io
import itertools
import json
import math
import re
from html import escape

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import t as student
from scipy.stats import ttest_1samp, ttest_ind, ttest_rel

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation import comparison_figure
from rlhf_jax.evaluation.comparison import (
    APART,
    ITEMS,
    NOTHING,
    PAIRED_ITEMS,
    PAIRED_SEEDS,
    SEEDS,
    Cell,
    Comparison,
    Estimate,
    as_json,
    difference,
)
from rlhf_jax.evaluation.comparison_figure import axis_of, draw_comparison, styles_of
from rlhf_jax.evaluation.comparison_findings import MANY, findings
from rlhf_jax.evaluation.comparison_page import comparison_page
from rlhf_jax.evaluation.comparison_table import (
    NO_INTERVAL,
    intervals,
    print_between,
    print_comparison,
)
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.figure import LOOKS
from rlhf_jax.evaluation.statistics import Interval, mean_interval
from tests.evaluation.test_report import Page

FIELD = "ppo.kl.coefficient"
GOLD = Column("gold\nscore", "mean grade", better="higher", middle=0.5)
LOSS = Column("loss", "nats per token", better="lower", below="loss_difference")
COLUMNS = {
    "policies": {
        "gold": GOLD._asdict(),
        "loss": LOSS._asdict(),
        "loss_difference": Column("difference", drawn=False)._asdict(),
        "pairs": Column("pairs", digits=0, drawn=False)._asdict(),
        "unknown": Column("unknown")._asdict(),
    },
    "scorers": {},
}
N = 6


def scores(model: str, coefficient: float, seed: int) -> np.ndarray:
    """Of items, in [0, 1]: ppo's depend on what is varied, sft's do not."""
    rng = np.random.default_rng([seed, 7])
    base = rng.uniform(0.2, 0.5, N)
    moved = rng.uniform(0, 0.3, N) * (1 + coefficient) if model == "ppo" else 0.0
    return base + moved


def cell(coefficient=0.1, seed=0, of="data", models=("sft", "ppo"), values=None, **changes) -> Cell:
    """A run of two policies. of: a digest of its items; changes: of a policy's values."""
    report, items = {"policies": {}, "scorers": {}}, {"policies": {}, "scorers": {}}
    tokens = np.arange(1.0, N + 1)
    for model in models:
        gold = scores(model, coefficient, seed)
        loss = float((gold * tokens).sum() / tokens.sum())
        report["policies"][model] = {
            "gold": mean_interval(gold).as_json(), "loss": loss, "pairs": 40,
            "loss_difference": None,
        } | changes.get(model, {})  # fmt: skip
        items["policies"][model] = {
            "gold": {"of": f"{of} {seed}", "totals": gold.tolist(), "weights": [1.0] * N},
            "loss": {
                "of": f"{of} {seed}",
                "totals": (gold * tokens).tolist(),
                "weights": tokens.tolist(),
            },
        }
    known = {model: f"{model} {seed} {coefficient * (model == 'ppo')}" for model in models}
    told = {"columns": COLUMNS, "models": known, "data": f"{of} {seed}", "items": items}
    return Cell({FIELD: str(coefficient)} if values is None else values, seed, report, told)


def compared(coefficients=(0.1, 0.4), seeds=(0, 1, 2), **changes) -> Comparison:
    """As a sweep leaves it: every coefficient with every seed."""
    grid = itertools.product(coefficients, seeds)
    return Comparison(tuple(cell(c, seed, **changes) for c, seed in grid))


def test_a_model_that_is_the_same_in_all_settings_is_one_row():
    found = compared()
    assert [(row.model, row.setting, row.seeds) for row in found.rows] == [
        ("sft", "", [0, 1, 2]),
        ("ppo", f"{FIELD}=0.1", [0, 1, 2]),
        ("ppo", f"{FIELD}=0.4", [0, 1, 2]),
    ]
    assert [row.name for row in found.rows] == [
        "sft", f"ppo@{FIELD}=0.1", f"ppo@{FIELD}=0.4",
    ]  # fmt: skip
    assert found.row("sft") == found.rows[0]
    with pytest.raises(UserError, match=r"^ppo: several models have this name: ppo@ppo\.kl.*0\.4$"):
        found.row("ppo")
    with pytest.raises(UserError, match=r"^dpo: no such model; there are sft, ppo@ppo\.kl"):
        found.row("dpo")


def test_a_model_of_one_setting_is_found_without_it():
    found = Comparison((cell(0.1, models=("sft", "ppo")), cell(0.4, models=("sft", "rloo"))))
    assert found.row("rloo").name == f"rloo@{FIELD}=0.4"
    assert found.row("ppo") == found.row(f"ppo@{FIELD}=0.1")


@pytest.mark.parametrize("change", ["another figure", "another model", "no seed in common"])
def test_a_model_that_may_not_be_the_same_has_a_row_in_each_setting(change):
    one, other = cell(0.1), cell(0.4, seed=1 if change == "no seed in common" else 0)
    if change == "another figure":
        other.report["policies"]["sft"]["loss"] += 1e-9
    if change == "another model":
        other.items["models"]["sft"] = "other"
    rows = [row for row in Comparison((one, other)).rows if row.model == "sft"]
    assert [row.setting for row in rows] == [f"{FIELD}=0.1", f"{FIELD}=0.4"]


def test_of_one_setting_a_row_has_its_model_s_name():
    found = Comparison(tuple(cell(seed=seed, values={}) for seed in (0, 1)))
    assert [row.name for row in found.rows] == ["sft", "ppo"] and found.settings == {"": {}}


def test_of_several_seeds_the_interval_is_student_s_over_seeds():
    means = [scores("ppo", 0.4, seed).mean() for seed in (0, 1, 2)]
    found = compared().rows[2].estimate("gold")
    expected = ttest_1samp(means, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.value, (np.mean(means), *expected), rtol=1e-9)
    assert found.over == SEEDS
    assert found.by_seed == pytest.approx(dict(enumerate(means)))


def test_of_one_seed_it_is_the_report_s_or_else_over_items():
    row = compared(seeds=(2,)).rows[2]
    gold, loss, pairs = (row.estimate(name) for name in ("gold", "loss", "pairs"))
    assert (gold.over, loss.over, pairs.over) == (ITEMS, ITEMS, NOTHING)
    values, tokens = scores("ppo", 0.4, 2), np.arange(1.0, N + 1)
    np.testing.assert_allclose(gold.value, mean_interval(values), rtol=1e-12)
    np.testing.assert_allclose(loss.value, mean_interval(values * tokens, tokens), rtol=1e-12)
    assert pairs.value == (40, -math.inf, math.inf)


def test_what_one_seed_does_not_know_is_not_known_of_their_mean():
    bad = cell(0.1, 1, ppo={"gold": None})
    row = Comparison((cell(0.1, 0, values={}), bad.__class__({}, 1, bad.report, bad.items))).rows[1]
    found = row.estimate("gold")
    assert found.value is None and list(found.by_seed) == [0, 1] and found.by_seed[1] is None
    assert difference(row, row, "gold") is None


def test_a_count_has_a_mean_over_seeds_and_no_interval():
    """No item brings anything to it, and the report gives it none."""
    cells = [cell(0.1, 0, values={}), cell(0.1, 1, values={}, sft={"pairs": 50})]
    found = Comparison(tuple(cells)).rows[0].estimate("pairs")
    assert found.value == (45, -math.inf, math.inf) and found.over == NOTHING
    assert Comparison(tuple(cells)).rows[0].estimate("loss").over == SEEDS


# Differences.


def test_of_one_seed_a_difference_is_paired_by_item():
    sft, low, high = compared(seeds=(1,)).rows
    a, b = scores("ppo", 0.4, 1), scores("ppo", 0.1, 1)
    found = difference(high, low, "gold")
    expected = ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose(found.value, ((a - b).mean(), *expected), rtol=1e-9)
    assert (found.how, found.seeds) == (PAIRED_ITEMS, 1)
    assert difference(sft, low, "gold").value.mean == pytest.approx(
        scores("sft", 0, 1).mean() - b.mean()
    )
    tokens = np.arange(1.0, N + 1)
    loss = difference(high, low, "loss").value
    np.testing.assert_allclose(loss, mean_interval((a - b) * tokens, tokens), rtol=1e-9)


def test_of_several_seeds_a_difference_is_paired_by_seed():
    _, low, high = compared().rows
    apart = [
        scores("ppo", 0.4, seed).mean() - scores("ppo", 0.1, seed).mean() for seed in (0, 1, 2)
    ]
    found = difference(high, low, "gold")
    expected = ttest_1samp(apart, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.value, (np.mean(apart), *expected), rtol=1e-9)
    assert (found.how, found.seeds) == (PAIRED_SEEDS, 3)


def test_where_the_items_differ_nothing_is_paired():
    """Of several seeds Welch's interval over seeds, of one over items."""
    whole = [cell(0.1, s, "one") for s in (0, 1, 2)] + [cell(0.4, s, "other") for s in (0, 1, 2)]
    rows = {row.name: row for row in Comparison(tuple(whole)).rows}
    low, high = (rows[f"ppo@{FIELD}={c}"] for c in (0.1, 0.4))
    found = difference(high, low, "gold")
    means = [[scores("ppo", c, seed).mean() for seed in (0, 1, 2)] for c in (0.4, 0.1)]
    expected = ttest_ind(*means, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found.value[1:], expected, rtol=1e-9)
    assert (found.how, found.seeds) == (APART, 0)
    assert difference(high, low, "pairs").how == APART  # it tells no items: by the data
    same = Comparison(tuple(cell(c, s) for c in (0.1, 0.4) for s in (0, 1))).rows
    assert difference(same[2], same[1], "pairs").how == PAIRED_SEEDS
    pair = Comparison((cell(0.1, 0, "one"), cell(0.4, 0, "other")))
    low, high = (pair.row(f"ppo@{FIELD}={c}") for c in (0.1, 0.4))
    found = difference(high, low, "gold")
    a, b = scores("ppo", 0.4, 0), scores("ppo", 0.1, 0)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(found.value[1:], expected, rtol=1e-9)
    assert found.how == APART


def test_of_other_seeds_nothing_is_paired_and_of_one_beside_several_nothing_is_known():
    cells = [cell(0.1, 0), cell(0.1, 1), cell(0.4, 2), cell(0.4, 3), cell(0.9, 0)]
    rows = {row.name: row for row in Comparison(tuple(cells)).rows}
    low, high, more = (rows[f"ppo@{FIELD}={c}"] for c in (0.1, 0.4, 0.9))
    means = [[scores("ppo", c, s).mean() for s in of] for c, of in ((0.4, (2, 3)), (0.1, (0, 1)))]
    expected = ttest_ind(*means, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose(difference(high, low, "gold").value[1:], expected, rtol=1e-9)
    found = difference(more, low, "gold")
    assert found.how == APART and found.value[1:] == (-math.inf, math.inf)
    assert found.value.mean == pytest.approx(scores("ppo", 0.9, 0).mean() - np.mean(means[1]))


def test_intervals_are_cut_to_the_possible_values():
    """The figures of shares far apart, over two seeds: Student's interval is wider than [0, 1]."""
    told = {"ppo": {"kl": {"mean": 0.6, "low": 0.5, "high": 0.7}, "share": 0.1},
            "sft": {"kl": {"mean": 0.0, "low": None, "high": None}, "share": 0.9}}  # fmt: skip
    more = {"ppo": {"kl": {"mean": 0.2, "low": 0.1, "high": 0.3}, "share": 0.8},
            "sft": {"kl": {"mean": 0.1, "low": 0.0, "high": 0.2}, "share": 0.2}}  # fmt: skip
    cells = [cell(0.1, seed, values={}, **of) for seed, of in enumerate((told, more))]
    columns = {"kl": Column("KL", range=(0, None)), "share": Column("share", percent=True)}
    columns = {name: column._asdict() for name, column in columns.items()}
    for each in cells:
        each.items["columns"] = {"policies": json.loads(json.dumps(columns)), "scorers": {}}
        for items in each.items["items"]["policies"].values():
            items["share"] = items["kl"] = items["gold"]
    sft, ppo = Comparison(tuple(cells)).rows
    wide = mean_interval([0.6, 0.2])
    assert ppo.estimate("kl").value == pytest.approx((0.4, 0.0, wide.high))
    assert ppo.estimate("share").value == pytest.approx((0.45, 0.0, 1.0))
    assert difference(ppo, sft, "share").value == pytest.approx((-0.1, -1.0, 1.0))
    kl = mean_interval([0.6, 0.1])
    assert difference(ppo, sft, "kl").value == pytest.approx(kl)  # may have any sign


def test_items_without_weight_are_none_of_an_interval():
    row = compared(seeds=(0,)).rows[0]
    parts = row.cells[0].items["items"]["policies"]["sft"]["loss"]
    parts["weights"][0] = parts["totals"][0] = 0.0
    values, tokens = scores("sft", 0, 0)[1:], np.arange(2.0, N + 1)
    found = row.estimate("loss").value
    np.testing.assert_allclose(found, mean_interval(values * tokens, tokens), rtol=1e-9)


# What is written and shown.


def test_the_json_holds_rows_and_differences():
    found = as_json(Comparison(compared().cells, {"x,seed=1": "broken"}))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["settings"] == {f"{FIELD}={c}": {FIELD: str(c)} for c in (0.1, 0.4)}
    assert found["failed"] == {"x,seed=1": "broken"}
    ppo = found["rows"][2]
    assert (ppo["name"], ppo["model"], ppo["seeds"]) == (f"ppo@{FIELD}=0.4", "ppo", [0, 1, 2])
    means = [scores("ppo", 0.4, seed).mean() for seed in (0, 1, 2)]
    gold = ppo["columns"]["gold"]
    half = student.ppf(0.975, 2) * np.std(means, ddof=1) / 3**0.5
    assert gold["mean"] == pytest.approx(np.mean(means))
    assert gold["high"] - gold["mean"] == pytest.approx(half)
    assert gold["by_seed"] == pytest.approx(dict(zip("012", means, strict=True)))
    assert gold["over"] == SEEDS
    assert [(d["a"], d["b"], d["how"], d["seeds"]) for d in found["differences"]["gold"]] == [
        ("sft", f"ppo@{FIELD}=0.1", PAIRED_SEEDS, 3),
        ("sft", f"ppo@{FIELD}=0.4", PAIRED_SEEDS, 3),
        (f"ppo@{FIELD}=0.1", f"ppo@{FIELD}=0.4", PAIRED_SEEDS, 3),
    ]
    assert "loss_difference" not in ppo["columns"]  # it stands below another
    assert "unknown" not in ppo["columns"]  # of no model


def test_the_table_has_a_row_for_each_model_and_setting(capsys):
    print_comparison(Comparison(compared().cells, {"x,seed=1": "broken"}))
    out = capsys.readouterr().out
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    named = {tuple(row[:2]): row[2:] for row in rows if row[0] in ("sft", "ppo")}
    mean = np.mean([scores("ppo", 0.4, seed).mean() for seed in (0, 1, 2)])
    assert named["ppo", f"{FIELD}=0.4"][:2] == ["3", f"{mean:.3f}"]
    assert ("sft", "3") in named
    assert "over seeds" in out and "x,seed=1: failed: broken" in out
    print_comparison(compared(seeds=(0,)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "do not say how much seeds differ" in printed and "two seeds" not in printed
    print_comparison(Comparison(()))  # without evaluators
    assert "over seeds" not in capsys.readouterr().out
    print_comparison(compared(seeds=(0, 1)))
    assert "extends 12.7 standard errors" in " ".join(capsys.readouterr().out.split())


def test_the_difference_of_two_models_is_printed(capsys):
    _, low, high = compared().rows
    found = difference(high, low, "gold")
    print_between(high, low, {"gold": (GOLD, found)})
    assert capsys.readouterr().out.splitlines() == [
        f"ppo@{FIELD}=0.4 minus ppo@{FIELD}=0.1, with 95 % intervals",
        f"  gold  {found.value.text('+')}  (paired by seed, 3 seeds)",
    ]
    print_between(high, low, {})
    assert "they have no column in common" in capsys.readouterr().out


def test_what_setting_is_clearly_better_is_told():
    """By the interval of the difference from the best one, in the direction of the column."""
    found = compared((0.1, 0.2, 0.9))
    rows = {c: found.row(f"ppo@{FIELD}={c}") for c in (0.1, 0.2, 0.9)}
    told = {}
    for column, best in (("gold", 0.9), ("loss", 0.1)):
        sign, of = {"gold": 1, "loss": -1}[column], {}
        for c in (0.1, 0.2, 0.9):
            minus = difference(rows[best], rows[c], column).value
            if c != best and (minus.low if sign > 0 else -minus.high) > 0:
                of[c] = minus
        assert of, column
        others = "; ".join(f"{FIELD}={c} ({of[c].text('+')}, paired by seed, 3 seeds)" for c in of)
        told[column] = f"ppo: by {column}, {FIELD}={best} is clearly better than {others}."
    assert findings(found) == [*told.values(), MANY]
    page = comparison_page("x", found, b"")
    assert all(escape(sentence) in page for sentence in findings(found))
    assert findings(compared(seeds=(0, 1), ppo={"gold": 0.5, "loss": 1.0})) == [
        "ppo: no setting is clearly better by gold, loss."
    ]
    assert findings(compared((0.1,))) == []


def test_an_interval_that_is_not_known_is_explained():
    assert NO_INTERVAL not in intervals(compared())
    assert NO_INTERVAL in intervals(
        compared(ppo={"loss": {"mean": 1.0, "low": None, "high": None}})
    )


def test_a_panel_hardly_exceeds_the_possible_values():
    panel = Figure().subplots()
    one = lambda mean, low, high: Estimate(Interval(mean, low, high), SEEDS, {0: mean})
    limits = lambda *found, possible: pytest.approx(
        (comparison_figure._around(panel, found, possible), panel.get_ylim())[1]
    )
    share, loss = (0, 1), (0, math.inf)
    assert limits(one(0.9, 0.9, 0.9), possible=share) == (0.4, 1 + 0.04 * 0.6)
    assert limits(one(0.5, 0.25, 0.75), possible=share) == (0.22, 0.78)
    assert limits(one(0.1, 0.0, 2.0), possible=loss) == (-0.04 * 2.12, 2.12)


def test_the_page_escapes_and_has_a_matrix_a_column():
    found = Comparison(compared().cells, {"<b>cell": "<script>"})
    source = comparison_page("<i>sweep", found, b"png")
    read = Page(source)
    assert not {tag for tag, _ in read.tags} & {"script", "b", "i", "link"}
    assert "<i>sweep" in read.text and "<b>cell: <script>" in read.text
    (image,) = [attrs for tag, attrs in read.tags if tag == "img"]
    assert image["src"] == "data:image/png;base64,cG5n"
    assert re.findall(r"<h3>(.*?)</h3>", source) == ["gold score (gold)", "loss", "pairs"]
    matrix = source.split("<h3>gold score (gold)</h3>")[1].split("</table>")[0]
    cells = re.findall(r"<td>(.*?)</td>", matrix)
    assert len(cells) == 9 and cells[0] == cells[4] == cells[8] == ""
    _, low, high = found.rows
    one, other = difference(low, high, "gold").value, difference(high, low, "gold").value
    assert f">{one.mean:+.3f}</span><small>{one.low:+.3f} to {one.high:+.3f}</small>" in cells[5]
    assert f">{other.mean:+.3f}</span><small>{other.low:+.3f} to {other.high:+.3f}" in cells[7]
    assert 'class="good"' in cells[7] and 'class="bad"' in cells[5]
    assert "Paired by seed: " in source and "Not paired" not in source


def test_a_lower_loss_is_good():
    source = comparison_page("x", compared(), b"")
    matrix = source.split("<h3>loss</h3>")[1].split("</table>")[0]
    cells = re.findall(r"<td>(.*?)</td>", matrix)
    assert 'class="bad"' in cells[7] and 'class="good"' in cells[5]


SETTINGS = {
    "few of one size": (("0.1", "0.2", "0.4"), "linear", {}),
    "decades": (("0.01", "0.1", "1"), "log", {}),
    "decades and zero": (("0", "0.1", "1"), "symlog", {}),
    "below zero": (("-1", "10"), "linear", {}),
    "words": (("gae", "1"), "linear", {0.0: "gae", 1.0: "1"}),
    "not finite": (("nan", "1"), "linear", {0.0: "nan", 1.0: "1"}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_axis_is_of_what_the_values_span(name):
    values, scale, labels = SETTINGS[name]
    found = axis_of({f"x={v}": {"x": v, "y": "1"} for v in values})
    expected = list(labels) or [float(v) for v in values]
    assert (found.label, found.scale, found.labels) == ("x", scale, labels)
    assert list(found.places.values()) == expected


def test_a_second_field_has_a_line_s_style():
    made = {f"{x},{y}": {"x": x, "y": y} for x in "12" for y in "ab"}
    assert styles_of(made) == {"y=a": "-", "y=b": "--"}
    assert styles_of({"": {}}) == {"": "-"}


def drawn(comparison, monkeypatch) -> list:
    """The axes of the figure."""
    figures, made = [], comparison_figure.Figure

    def figure(**how):
        figures.append(made(**how))
        return figures[-1]

    monkeypatch.setattr(comparison_figure, "Figure", figure)
    image = matplotlib.image.imread(io.BytesIO(draw_comparison(comparison)))
    assert image.shape[0] > 300
    return [axes for axes in figures[0].axes if axes.get_title(loc="left")]


def test_the_picture_has_a_panel_a_column_with_lines_bars_and_seeds(monkeypatch):
    gold, loss = drawn(compared(), monkeypatch)
    assert [axes.get_title(loc="left") for axes in (gold, loss)] == ["Gold", "Loss"]
    assert gold.get_xlabel() == FIELD
    means = [np.mean([scores("ppo", c, s).mean() for s in (0, 1, 2)]) for c in (0.1, 0.4)]
    (bars,) = gold.containers
    np.testing.assert_allclose(bars[0].get_xdata(orig=False), [0.1, 0.4])
    np.testing.assert_allclose(bars[0].get_ydata(orig=False), means)
    ends = np.array(bars[2][0].get_segments())[:, :, 1]
    value = compared().rows[2].estimate("gold").value
    np.testing.assert_allclose(ends[1], value[1:])
    assert gold.get_ylim()[0] < ends.min() and ends.max() < gold.get_ylim()[1]
    assert gold.get_xlim() == pytest.approx((0.01, 0.43))
    seeds = [line for line in gold.lines if line.get_marker() == "_" and line.get_markersize() == 9]
    np.testing.assert_allclose(
        seeds[1].get_ydata(orig=False), [scores("ppo", 0.4, s).mean() for s in (0, 1, 2)]
    )
    marked = [line for line in gold.lines if line.get_marker() == LOOKS[0][1]]
    levels = [line.get_ydata(orig=False) for line in marked]
    (level,) = levels  # sft's, the same in both settings
    assert level == pytest.approx([np.mean([scores("sft", 0, s).mean() for s in (0, 1, 2)])])


def test_of_one_setting_the_models_stand_side_by_side(monkeypatch):
    found = Comparison(tuple(cell(seed=seed, values={}) for seed in (0, 1)))
    gold, _ = drawn(found, monkeypatch)
    assert [label.get_text() for label in gold.get_xticklabels()] == ["sft", "ppo"]
