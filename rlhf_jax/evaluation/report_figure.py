"""report.png: what each policy reached, what it cost, and how PPO got there."""

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rlhf_jax.evaluation.report_summary import FLAGS, POLICIES, PolicyResult
from rlhf_jax.evaluation.statistics import bounded_mean

Curves = dict[str, list[dict]]

# Okabe and Ito's colours, told apart by the colour-blind; the marker tells the same again.
_LOOKS = (
    *(("#7f7f7f", "o"), ("#56b4e9", "s"), ("#e69f00", "D"), ("#0072b2", "^"), ("#d55e00", "v")),
    *(("#009e73", "P"), ("#cc79a7", "X"), ("#000000", "*")),
)
_SOFT = "#59636e"


def draw(report: dict, results: Sequence[PolicyResult], curves: Curves) -> bytes:
    """The figure as the bytes of a PNG; `results` in the order of `report`, as arranged."""
    looks = _looks([*report["policies"], *curves])
    figure = Figure(figsize=(15, 8.6), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14, h_pad=0.14)
    (gold, wins, behaviour), (tax, score, distance) = figure.subplots(2, 3)
    policies = report["policies"]
    _gold_scores(gold, policies, looks)
    _win_rates(wins, policies, looks)
    _behaviour(behaviour, results, looks)
    _tax(tax, policies, looks)
    _frame(score, "Training: score", "PPO iteration", "mean reward-model score")
    _lines(score, curves, "score", looks)
    _frame(distance, "Training: distance from SFT", "PPO iteration", "KL (nats per response)")
    _lines(distance, curves, "kl", looks)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=8, label=name)
        for name, (color, marker) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by name: those of POLICIES are the same in every report."""
    others = [name for name in dict.fromkeys(names) if name not in POLICIES]
    order = {name: i for i, name in enumerate((*POLICIES, *others))}
    return {name: _LOOKS[order[name] % len(_LOOKS)] for name in dict.fromkeys(names)}


def _gold_scores(panel: Axes, policies: dict[str, dict], looks: dict) -> None:
    _frame(panel, "Gold score", "mean gold score (95 % interval)")
    _rows(panel, {name: policy["gold_score"] for name, policy in policies.items()}, looks)


def _win_rates(panel: Axes, policies: dict[str, dict], looks: dict) -> None:
    _frame(panel, "Win rate against SFT", "share of prompts won (95 % interval)")
    wins = {name: policy["win_rate_vs_sft"] for name, policy in policies.items()}
    if None in wins.values():
        return _nothing(panel, "no SFT policy to compare with")
    panel.axvline(0.5, color=_SOFT, linestyle="--", linewidth=1, zorder=0)
    _rows(panel, wins, looks)


def _rows(panel: Axes, rows: dict[str, dict[str, float]], looks: dict) -> None:
    """One row per policy, the first on top: the mean, also as text, and its interval."""
    for row, (name, interval) in enumerate(rows.items()):
        mean = interval["mean"]
        _point(panel, mean, row, "x", interval["low"], interval["high"], looks[name])
        panel.annotate(
            f"{mean:.2f}",
            (mean, row),
            (0, 9),
            textcoords="offset points",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    panel.set_yticks(range(len(rows)), list(rows))
    panel.set_ylim(len(rows) - 0.5, -0.7)
    low = min(0.0, *(interval["low"] for interval in rows.values()))
    high = max(1.0, *(interval["high"] for interval in rows.values()))
    margin = 0.04 * (high - low)
    panel.set_xlim(low - margin, high + margin)
    panel.grid(visible=False, axis="y")


def _behaviour(panel: Axes, results: Sequence[PolicyResult], looks: dict) -> None:
    """followed, hallucinated, harmful: one group each, policies beside one another."""
    _frame(panel, "Behaviour", "", "share of prompts that ask (%, 95 % interval)")
    for group, flag in enumerate(FLAGS):
        for place, result in enumerate(results):
            asked = [value for value in getattr(result, flag) if value is not None]
            if asked:
                at = group + 0.7 * ((place + 0.5) / len(results) - 0.5)
                share, low, high = (100 * value for value in bounded_mean(asked))
                _point(panel, at, share, "y", low, high, looks[result.name])
    better = ("higher is better", "lower is better", "lower is better")
    panel.set_xticks(range(len(FLAGS)), [f"{f}\n({b})" for f, b in zip(FLAGS, better, strict=True)])
    panel.set_xlim(-0.5, len(FLAGS) - 0.5)
    panel.set_ylim(-4, 104)
    panel.grid(visible=False, axis="x")


def _tax(panel: Axes, policies: dict[str, dict], looks: dict) -> None:
    """Pretraining loss over gold score: PPO moves right, and up by the alignment tax."""
    _frame(panel, "Alignment tax", "mean gold score (95 % interval)")
    panel.set_ylabel("pretraining loss (nats per token)")
    for name, policy in policies.items():
        gold, loss = policy["gold_score"], policy["pretraining_loss"]
        if loss is not None:
            _point(panel, gold["mean"], loss, "x", gold["low"], gold["high"], looks[name])
    panel.margins(0.12, 0.15)


def _lines(panel: Axes, curves: Curves, key: str, looks: dict) -> None:
    """One line per policy over PPO iterations; gaps where a value is absent or not finite."""
    if not any(curves.values()):
        return _nothing(panel, "no training curves")
    for name, rows in curves.items():
        values = [row.get(key) for row in rows]
        values = [math.nan if value is None else value for value in values]
        color, marker = looks[name]
        panel.plot(
            [row["step"] for row in rows],
            values,
            color=color,
            marker=marker,
            markevery=max(1, len(rows) // 10),
            markersize=6,
            linewidth=1.4,
        )


def _frame(panel: Axes, title: str, across: str, up: str = "") -> None:
    """Title, axis labels, and lines light enough to stay behind the data."""
    panel.set_title(title, loc="left", fontweight="bold", pad=12)
    panel.set(xlabel=across, ylabel=up)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(color=_SOFT)
    panel.grid(color="#e5e8eb")
    panel.set_axisbelow(True)


def _point(
    panel: Axes, x: float, y: float, along: str, low: float, high: float, look: tuple[str, str]
) -> None:
    """A marker with its interval along one axis."""
    middle = x if along == "x" else y
    reach = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
    color, marker = look
    panel.errorbar(
        x,
        y,
        **{f"{along}err": reach},
        color=color,
        marker=marker,
        markersize=8,
        elinewidth=2,
        capsize=3,
    )


def _nothing(panel: Axes, why: str) -> None:
    panel.text(0.5, 0.5, why, ha="center", va="center", color=_SOFT, transform=panel.transAxes)
    panel.set_xticks([])
    panel.set_yticks([])
