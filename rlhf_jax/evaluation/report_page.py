"""report.html: one page that needs nothing else, neither network nor script."""

import base64
from collections.abc import Sequence
from html import escape

from rlhf_jax.evaluation.report_summary import FLAGS, PolicyResult
from rlhf_jax.evaluation.statistics import Interval

SAMPLES = 8
_MARKS = {
    "followed": ("followed", "did not follow"),
    "hallucinated": ("hallucinated", "no hallucination"),
    "harmful": ("harmful", "harmless"),
}
_GOOD = {"followed": True, "hallucinated": False, "harmful": False}

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0;
  --back: #ffffff; --card: #f6f8fa; --good: #0a5c8f; --bad: #a34100; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #3a424c; --back: #14171b; --card: #1d2228;
    --good: #79c0ff; --bad: #ffa657; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); font-size: .88rem; }
ul { padding-left: 1.2rem; } li { margin: .35rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .45rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; font-variant-numeric: tabular-nums; }
th { font-weight: 600; } thead th { color: var(--soft); vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; }
small { display: block; color: var(--soft); } td small { white-space: nowrap; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 8px;
  border: 1px solid var(--line); }
.sample { margin: 1.25rem 0; padding: 1rem 1rem .4rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
.sample pre { margin: 0 0 .6rem; font: inherit; font-weight: 600; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.sample tr:last-child > * { border-bottom: 0; }
.sample th { width: 7rem; } .sample .score { width: 4.5rem; } .sample .marks { width: 11rem; }
.sample .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
"""


def number(value: float | None, digits: int) -> str:
    """The value with so many decimals, a dash where it is not known."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """A share as "12 %", a dash where it is not known."""
    return "-" if share is None else f"{100 * share:.0f} %"


def stacked_kl(policy: dict) -> str:
    """The KL of a policy and, below, that of the last iteration of its training."""
    last = policy["training_kl"]
    return number(policy["kl"], 2) + ("" if last is None else f"\n{last:.2f}")


def duration(seconds: float) -> str:
    """Seconds as "41 s", "3 min 05 s" or "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def choose_samples(results: Sequence[PolicyResult], count: int = SAMPLES) -> list[int]:
    """Which prompts to show: kinds in turn, and evenly spaced within a kind, whatever the scores.

    Prompts are of one kind where they ask for the same of `followed`, `hallucinated`, `harmful`.
    """
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for i in range(len(results[0].prompts)):
        asked = (any(getattr(r, flag)[i] is not None for r in results) for flag in FLAGS)
        kinds.setdefault(tuple(asked), []).append(i)
    shares = dict.fromkeys(sorted(kinds, reverse=True), 0)
    while sum(shares.values()) < min(count, len(results[0].prompts)):
        room = [kind for kind in shares if shares[kind] < len(kinds[kind])]
        for kind in room[: count - sum(shares.values())]:
            shares[kind] += 1
    return [
        kinds[kind][(2 * turn + 1) * len(kinds[kind]) // (2 * share)]
        for kind, share in shares.items()
        for turn in range(share)
    ]


def page(report: dict, results: Sequence[PolicyResult], image: bytes) -> str:
    """The page as text; every word that a model or a data set wrote is escaped."""
    picture = base64.b64encode(image).decode("ascii")
    findings = "".join(map(_finding, report["findings"]))
    samples = "".join(_sample(results, i) for i in choose_samples(results))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rlhf_jax report, seed {report["seed"]}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>rlhf_jax: what each stage brought</h1>
<p class="soft">Seed {report["seed"]}, {len(results[0].prompts)} prompts.
{_times(report["seconds"])}</p>
<h2>Findings</h2>
<ul>{findings}</ul>
<h2>Policies</h2>
<div class="wide">{_table(report["policies"])}</div>
<p class="soft">Small figures: 95 % interval over prompts; of the loss, its paired difference from
the SFT policy's, over documents. A win is a higher gold score than the SFT policy's on the same
prompt, a tie counts one half. Followed, hallucinated, harmful: share of the prompts that ask for
it.</p>
<h2>Figures</h2>
<img alt="Gold scores, win rates, behaviour, alignment tax and training curves"
src="data:image/png;base64,{picture}">
<h2>Samples</h2>
<p class="soft">Taken evenly from each kind of prompt, without regard to the scores.</p>
{samples}
</body>
</html>
"""


def _finding(sentence: str) -> str:
    verdict, colon, rest = sentence.partition(":")
    return f"<li><strong>{escape(verdict + colon)}</strong>{escape(rest)}</li>"


def _times(seconds: dict[str, float]) -> str:
    spent = ", ".join(f"{escape(stage)} {duration(s)}" for stage, s in seconds.items())
    return f"Time: {spent}." if spent else ""


def _table(policies: dict[str, dict]) -> str:
    titles = (
        "gold score",
        "win rate vs SFT",
        *FLAGS,
        "KL from SFT<small>nats per response; below, of training's last iteration</small>",
    )
    titles += ("pretraining loss<small>nats per token</small>",)
    head = "".join(f"<th>{title}</th>" for title in ("policy", *titles))
    rows = ""
    for name, policy in policies.items():
        cells = [_bounds(policy["gold_score"], 3), _bounds(policy["win_rate_vs_sft"], 2)]
        cells += [percent(policy[flag]) for flag in FLAGS]
        kl, *last = stacked_kl(policy).split("\n")
        cells += [kl + "".join(f"<small>{each}</small>" for each in last), _loss(policy)]
        rows += f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _bounds(interval: dict[str, float] | None, digits: int) -> str:
    if interval is None:
        return "-"
    mean, low, high = (number(interval[key], digits) for key in ("mean", "low", "high"))
    return f"{mean}<small>{low} to {high}</small>"


def _loss(policy: dict) -> str:
    loss, difference = number(policy["pretraining_loss"], 3), policy["pretraining_loss_vs_sft"]
    return loss + (f"<small>{Interval.of_json(difference).text('+')}</small>" if difference else "")


def _sample(results: Sequence[PolicyResult], i: int) -> str:
    rows = ""
    for result in results:
        text = escape(result.responses[i].strip()) or '<span class="soft">(empty)</span>'
        rows += (
            f'<tr><th>{escape(result.name)}</th><td class="text">{text}</td>'
            f'<td class="marks">{_marks(result, i)}</td>'
            f'<td class="score">{result.scores[i]:.2f}</td></tr>'
        )
    return (
        f'<section class="sample"><pre>{escape(results[0].prompts[i])}</pre>'
        f'<div class="wide"><table><tbody>{rows}</tbody></table></div></section>'
    )


def _marks(result: PolicyResult, i: int) -> str:
    marks = []
    for flag in FLAGS:
        value = getattr(result, flag)[i]
        if value is not None:
            look = "good" if bool(value) == _GOOD[flag] else "bad"
            marks.append(f'<span class="{look}">{_MARKS[flag][not value]}</span>')
    return "<br>".join(marks)
