"""The report of a run: report.json, report.png, report.html, and a table on the terminal."""

import json
from collections.abc import Sequence

from etils import epath
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.evaluation.report_figure import Curves, draw
from rlhf_jax.evaluation.report_page import duration, number, page, percent, stacked_kl
from rlhf_jax.evaluation.report_summary import FLAGS, PolicyResult, arrange, summarise

__all__ = ["PolicyResult", "print_report", "summarise", "write_report"]


def write_report(
    report: dict, results: Sequence[PolicyResult], curves: Curves, directory: epath.PathLike
) -> None:
    """Writes report.png, report.html and, last, report.json into `directory`.

    Args:
      report: what `summarise` made of `results`.
      curves: per policy, rows {"step": PPO iteration, "score": mean reward-model score,
        "kl": nats per response}; empty where nothing was trained.
    """
    results = arrange(results)
    image = draw(report, results, curves)
    files = {
        "report.png": image,
        "report.html": page(report, results, image).encode("utf-8"),
        "report.json": (json.dumps(report, indent=2, allow_nan=False) + "\n").encode("utf-8"),
    }
    for name, content in files.items():
        write_atomically(epath.Path(directory) / name, content)


def print_report(report: dict) -> None:
    """Prints the policies' table, the findings and the time that each stage took."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("policy", no_wrap=True)
    for title in (
        "gold score",
        "wins\nvs sft",
        "followed",
        "halluci-\nnated",
        "harmful",
        "KL, in\ntraining",
        "loss",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for name, policy in report["policies"].items():
        wins = policy["win_rate_vs_sft"]
        table.add_row(
            name,
            _bounds(policy["gold_score"]),
            "-" if wins is None else _bounds(wins),
            *(percent(policy[flag]) for flag in FLAGS),
            stacked_kl(policy),
            number(policy["pretraining_loss"], 3),
        )
    console = Console(highlight=False)
    console.print(table)
    for sentence in report["findings"]:
        console.print(Text(f"- {sentence}"))
    spent = (f"{stage} {duration(seconds)}" for stage, seconds in report["seconds"].items())
    console.print(Text(f"seed {report['seed']}; " + ", ".join(spent)))


def _bounds(interval: dict[str, float]) -> str:
    return "{mean:.3f}\n{low:.2f}-{high:.2f}".format(**interval)
