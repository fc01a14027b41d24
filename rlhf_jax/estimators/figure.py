"""estimators.png: bias, variance and cosine of each estimator; many steps on one batch."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

UNBIASED, BIASED, SOFT = "#0072b2", "#d55e00", "#59636e"
# Okabe and Ito's colours; the dashes distinguish the lines too.
LINES = (
    *(("#d55e00", "-"), ("#e69f00", "--"), ("#cc79a7", "-."), ("#56b4e9", (0, (3, 1, 1, 1)))),
    *(("#0072b2", "-"), ("#7f7f7f", ":")),
)


def draw(result: dict[str, Any]) -> bytes:
    """The figure of estimators.json, as the bytes of a PNG."""
    height = 3 + 0.27 * len(result["estimators"])
    figure = Figure(figsize=(16, height), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))
    panels = left.subplots(1, 3, sharey=True, width_ratios=(1.5, 1, 1))
    _estimators(panels, result)
    value, distance = right.subplots(2, 1, sharex=True)
    _drift(value, result["drift"], "objective", "True objective", "J")
    _drift(distance, result["drift"], "kl", "Distance from the sampler", "KL (nats per response)")
    distance.set_yscale("log")
    distance.set_xlabel("gradient steps on one batch")
    distance.set_ylim(bottom=0.01)
    distance.legend(loc="lower right", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _estimators(panels: list[Axes], result: dict[str, Any]) -> None:
    """One row per estimator, in the table's order; filled markers: unbiased, open: biased."""
    bias, variance, cosine = panels
    rows = result["estimators"]
    for at, (name, row) in enumerate(rows.items()):
        unbiased = row["unbiased_in_theory"]
        color = UNBIASED if unbiased else BIASED
        look = {"color": color, "marker": "o", "markerfacecolor": color if unbiased else "white"}
        interval = row["bias_norm"]
        bias.plot([interval["low"], interval["high"]], [at, at], color=color, linewidth=2)
        bias.plot(interval["mean"], at, linestyle="", **look)
        expected = result["checks"][name]["theory_bias_norm"]
        bias.plot(expected, at, marker="|", color="black", markersize=12, linestyle="")
        variance.plot(row["variance"], at, linestyle="", **look)
        cosine.plot(row["cosine"], at, linestyle="", **look)
        cosine.plot(
            result["checks"][name]["cosine_of_one"], at, marker="x", color=color, linestyle=""
        )
    bias.set_yticks(range(len(rows)), list(rows))
    bias.set_ylim(len(rows) - 0.5, -0.5)
    _frame(bias, "Bias", "norm of the mean error")
    _frame(variance, "Variance", "trace of covariance")
    _frame(cosine, "Cosine to the exact gradient", "o mean, x one estimate")
    variance.set_xscale("log")
    stale = sum(not check["stale"] for check in result["checks"].values())
    for panel in panels:
        panel.axhline(stale - 0.5, color=SOFT, linestyle="--", linewidth=1)
    bias.annotate(
        "responses of the old policy", (1, stale - 0.5), (-4, -13), ha="right",
        xycoords=("axes fraction", "data"), textcoords="offset points", color=SOFT,
    )  # fmt: skip
    bias.legend(
        handles=[
            Line2D([], [], color=UNBIASED, marker="o", label="unbiased in theory"),
            Line2D([], [], color=BIASED, marker="o", markerfacecolor="white", label="biased"),
            Line2D([], [], color="black", marker="|", markersize=12, linestyle="", label="theory"),
        ],
        loc="upper right",
        frameon=False,
        title=f"bars: {result['config']['level']:.0%} for all rows together",
    )


def _drift(panel: Axes, drift: dict[str, Any], key: str, title: str, up: str) -> None:
    for (name, curve), (color, dashes) in zip(drift.items(), LINES, strict=True):
        steps = range(len(curve[key]))
        panel.plot(steps, curve[key], color=color, linestyle=dashes, linewidth=2, label=name)
        both = list(zip(curve[key], curve[f"{key}_error"], strict=True))
        low, high = ([mean + side * error for mean, error in both] for side in (-2, 2))
        panel.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    _frame(panel, title, "")
    panel.set_ylabel(up)


def _frame(panel: Axes, title: str, across: str) -> None:
    panel.set_title(title, loc="left", fontweight="bold")
    panel.set_xlabel(across)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(color=SOFT)
    panel.grid(color="#e5e8eb")
    panel.set_axisbelow(True)
