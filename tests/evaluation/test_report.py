"""The report from what evaluators found: its content, tables, page and figure."""

import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.behaviour import Behaviour
from rlhf_jax.evaluation.evaluator import Column, Evaluator
from rlhf_jax.evaluation.figure import LOOKS, draw, look
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.page import page
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.samples import Samples, choose
from rlhf_jax.evaluation.sft_loss import SFTLoss
from rlhf_jax.evaluation.statistics import Interval, bounded_mean, mean_interval, win_rate
from rlhf_jax.evaluation.summary import columns_of, duration, entries, measured, summarise
from rlhf_jax.evaluation.table import print_report, tables
from rlhf_jax.evaluation.win_rate import WinRate
from tests.evaluation.test_findings import LOSSES, MEANS, TOKENS, nats, scores

COUNT = 60
IDS = np.arange(COUNT)
POLICIES = ("base", "prompted", "sft", "ppo", "ppo_ptx")
EVALUATORS = (
    GoldScore(above=(("ppo", "sft"),)),
    WinRate("sft"),
    Behaviour(),
    KL("sft"),
    PretrainingLoss(length=8, against="sft", tax=("ppo", "ppo_ptx")),
    RewardAccuracy(length=8),
    Samples(),
)
CURVES = {
    "score": {"ppo": [{"step": i, "score": 0.1 * i} for i in range(5)]},
    "kl": {
        "ppo": [{"step": i, "kl": 0.2 * i} for i in range(5)],
        "ppo_ptx": [{"step": i, "kl": None} for i in range(3)],
    },
    "margin": {},
}


def asked(every: int, of: int) -> np.ndarray:
    """1 of every `every` prompts, of those that ask: one of `of`."""
    known = lambda i: float(i % every == 0) if i % of == 0 else np.nan
    return np.array([known(i) for i in IDS])


def rows_of(evaluator: Evaluator, name: str) -> dict:
    gold, sft = scores(name, MEANS[name]), scores("sft", MEANS["sft"])
    losses = {"id": np.arange(len(TOKENS)), "nats": nats(name, LOSSES[name]), "tokens": TOKENS}
    texts = lambda words: np.array([f"{words} {i}" for i in IDS], dtype=object)
    known, last = name not in ("base", "prompted"), 7.25 if name.startswith("ppo") else np.nan
    rows = {
        "gold_score": {"id": IDS, "score": gold},
        "gold_score_wins_vs_sft": {"id": IDS, "score": gold},
        "behaviour": {"id": IDS, "followed": asked(4, 2), "hallucinated": asked(6, 3),
                      "harmful": np.full(COUNT, np.nan)},
        "kl_to_sft": {"id": IDS, "nats": gold + 1 if known else np.full(COUNT, np.nan),
                      "in_training": np.full(COUNT, last)},
        "pretraining_loss": losses,
        "samples": {"id": IDS, "prompt": texts("prompt"), "response": texts(f" {name} answers"),
                    "ended": (IDS % 2).astype(float), "tokens": gold},
    }[evaluator.name]  # fmt: skip
    if name != "sft" and evaluator.name == "gold_score_wins_vs_sft":
        rows |= {"against": sft}
    if name != "sft" and evaluator.name == "pretraining_loss":
        rows |= {"against": nats("sft", LOSSES["sft"])}
    return rows


def reward_rows(count=40) -> dict:
    ones, group = np.ones(count), np.array(["hh", "web"] * (count // 2), dtype=object)
    return {"id": np.arange(count), "group": group, "correct": (np.arange(count) % 4 > 0) * 1.0,
            "longer": np.arange(count) % 2, "pairs": ones, "over_long": ones - 1,
            "loss": 0.25 + np.arange(count) % 2, "rankings": ones}  # fmt: skip


def results(policies=POLICIES, seed=7, change=lambda evaluator, name, rows: rows):
    found = []
    for evaluator in EVALUATORS:
        names = ["reward"] if evaluator.judges == "score" else policies
        rows = {
            name: reward_rows() if name == "reward" else rows_of(evaluator, name) for name in names
        }
        rows = {name: change(evaluator, name, of) for name, of in rows.items()}
        found.append((evaluator, {n: measured(evaluator, of, seed) for n, of in rows.items()}))
    return found


def report_of(found, seed=7) -> dict:
    about = {
        "prompts": {"all": 70, "asked": COUNT},
        "records": {"origin": {"licences": {"a<b>.jsonl": "MIT"}, "test_sets": ["a<b>.jsonl"]}},
        "saved": {"ppo": "the average of <b>weights</b>"},
        "seconds": {"sft": 12, "<u>": 61},
    }
    return summarise(found, seed) | about | {"seed": seed}


@pytest.fixture(scope="module")
def report():
    return report_of(results())


def test_content(report):
    assert list(report)[:3] == ["policies", "scorers", "findings"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert tuple(report["policies"]) == POLICIES
    for policy in report["policies"].values():
        assert list(policy) == [
            *("gold_score", "gold_score_wins_vs_sft", "followed", "hallucinated", "harmful"),
            *("kl_to_sft", "kl_to_sft_in_training", "pretraining_loss"),
            *("pretraining_loss_vs_sft", "ended", "response_tokens"),
        ]
    ppo, sft, base = (report["policies"][name] for name in ("ppo", "sft", "base"))
    gold = scores("ppo", 0.7)
    assert ppo["gold_score"] == bounded_mean(gold, 7)._asdict()
    assert ppo["gold_score_wins_vs_sft"] == win_rate(gold, scores("sft", 0.5), 7)._asdict()
    assert ppo["followed"]["mean"] == 0.5  # 15 of the 30 that ask
    assert ppo["hallucinated"]["mean"] == 0.5  # 10 of the 20 that ask
    assert ppo["harmful"] is None
    assert ppo["kl_to_sft"] == mean_interval(gold + 1)._asdict()
    assert (ppo["kl_to_sft_in_training"], sft["kl_to_sft_in_training"]) == (7.25, None)
    assert ppo["pretraining_loss"] == pytest.approx(2.5)
    added = mean_interval(nats("ppo", 2.5) - nats("sft", 2.1), TOKENS)
    assert (
        ppo["pretraining_loss_vs_sft"] == added._asdict() and sft["pretraining_loss_vs_sft"] is None
    )
    assert sft["gold_score_wins_vs_sft"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert base["kl_to_sft"] is None
    told = report["columns"]["policies"]
    assert list(told) == list(ppo) and all(column["about"] for column in told.values())
    assert told["pretraining_loss"]["title"] == "text loss"
    assert told["pretraining_loss"]["better"] == "lower"
    assert report["columns"]["scorers"].keys() == report["scorers"]["reward"].keys() - {"groups"}
    assert all(column["about"] for column in report["columns"]["scorers"].values())
    assert "95 % interval" in report["interval"]
    starts = [text.split(":")[0] for text in report["findings"]]
    assert starts[:3] == ["Holds", "Holds", "Holds in part"] and len(starts) > 3


def test_policies_are_in_the_order_of_the_stages_whatever_is_measured_first():
    first = [(e, {n: of[n] for n in of if n == "ppo"}) for e, of in results()[:1]]
    found = summarise([*first, *results()[1:]], 7, ("reward", *POLICIES))
    assert tuple(found["policies"]) == POLICIES and tuple(found["scorers"]) == ("reward",)
    assert found["policies"]["ppo"].keys() > found["policies"]["sft"].keys()


def test_an_evaluator_s_parts_come_to_its_columns():
    """Of items that `compare` pairs: totals over weights are the estimate."""
    rng = np.random.default_rng(0)
    ranked = {"id": IDS, "over_long": 0 * IDS} | {
        name: rng.integers(1, 4, COUNT) * 1.0
        for name in ("pairs", "margin", "loss", "rankings", "nats", "tokens")
    }
    ranked["correct"] = ranked["pairs"] - 1
    more = [PreferenceAccuracy(length=8, reference="sft"), SFTLoss(length=8)]
    held_out = [(evaluator, {"sft": measured(evaluator, ranked, 7)}) for evaluator in more]
    told = {}
    for evaluator, found in [*results(), *held_out]:
        for of in found.values():
            parts = evaluator.parts(of.rows)
            told[evaluator.name] = told.get(evaluator.name, set()) | parts.keys()
            for column, (totals, weights) in parts.items():
                assert len(totals) == len(weights) == len(of.rows["id"])
                value = of.summary[column]
                if value is None:
                    assert not np.any(weights)
                    continue
                mean = value if isinstance(value, float) else value.mean
                assert np.sum(totals) / np.sum(weights) == pytest.approx(mean, nan_ok=True), column
    held_out = {"preference_accuracy", "preference_margin", "preference_loss"}
    assert told == {
        "gold_score": {"gold_score"},
        "gold_score_wins_vs_sft": {"gold_score_wins_vs_sft"},
        "behaviour": {"followed", "hallucinated", "harmful"},
        "kl_to_sft": {"kl_to_sft"},
        "pretraining_loss": {"pretraining_loss", "pretraining_loss_vs_sft"},
        "accuracy": {"accuracy", "accuracy_longer_is_better", "accuracy_difference", "loss"},
        "samples": {"ended", "response_tokens"},
        "preference_accuracy": held_out,
        "sft_loss": {"sft_loss"},
    }


def test_groups_stand_beside_the_whole(report):
    reward = report["scorers"]["reward"]
    assert reward["accuracy"]["mean"] == 0.75 and reward["accuracy_pairs"] == 40
    assert {name: of["accuracy"]["mean"] for name, of in reward["groups"].items()} == {
        "hh": 0.5, "web": 1.0,
    }  # fmt: skip
    assert reward["groups"]["hh"]["accuracy_pairs"] == 20
    assert list(entries(report["scorers"])) == ["reward", "reward, hh", "reward, web"]


def test_the_same_rows_make_the_same_bytes(report):
    again = report_of(results())
    assert json.dumps(again) == json.dumps(report)
    images = [draw(report, results(), CURVES, (*POLICIES, "reward")) for _ in range(2)]
    assert images[0] == images[1]


def test_a_diverged_policy_is_told_and_still_reported(tmp_path):
    def diverged(evaluator, name, rows):
        if name == "ppo" and "nats" in rows:
            return rows | {"nats": rows["nats"] * np.inf}
        return rows

    found = results(change=diverged)
    report = report_of(found)
    ppo = report["policies"]["ppo"]
    assert ppo["pretraining_loss"] is ppo["kl_to_sft"] is ppo["pretraining_loss_vs_sft"] is None
    assert any("loss of ppo is not finite" in text for text in report["findings"])
    assert "NaN" not in json.dumps(report, allow_nan=False)
    assert page(report, found, draw(report, found, CURVES, (*POLICIES, "reward"))).count(
        "<td>-</td>"
    )


def test_what_was_saved_is_told_where_it_is_not_the_last_weights(report, capsys):
    told = "ppo is the average of <b>weights</b>"
    print_report(report, results())
    assert told in capsys.readouterr().out
    assert f"{told}." in Page(page(report, results(), b"")).text


def test_public_test_sets_and_licences_are_told(report, capsys):
    found = results()
    print_report(report, found)
    printed, html = " ".join(capsys.readouterr().out.split()), page(report, found, b"")
    for line in ("Trained on a<b>.jsonl (MIT).", "Trained on public test sets: a<b>.jsonl. Scores "
                 "on them say nothing about these models."):  # fmt: skip
        assert line in printed
        assert line.replace("<", "&lt;").replace(">", "&gt;") in html


@pytest.mark.parametrize("names", [(), ("base",), ("sft", "ppo"), ("base", "ppo")])
def test_whatever_has_finished_is_reported(names, capsys):
    found = results(names)
    report = report_of(found)
    print_report(report, found)
    source = page(report, found, draw(report, found, {}, (*POLICIES, "reward")))
    out = capsys.readouterr().out
    for name in POLICIES:
        assert (f"<tr><th>{name}</th>" in source) == (name in names)
        assert (f"\n {name} " in out) == (name in names)
    assert list(report["policies"]) == list(names)


# The page.


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_escapes_and_needs_nothing_else():
    evil = "<script>alert('x')</script> & <img src=http://a.b/c> \"quoted\""

    def wicked(evaluator, name, rows):
        words = np.full(COUNT, evil, dtype=object)
        return rows | {"prompt": words, "response": words} if "prompt" in rows else rows

    found = [
        (evaluator, {("<i>&" if name == "ppo" else name): of for name, of in stages.items()})
        for evaluator, stages in results(change=wicked)
    ]
    source = page(report_of(found), found, b"png")
    read = Page(source)
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"script", "b", "i", "u", "link", "iframe"}
    assert read.text.count(evil) == 8 * (1 + len(POLICIES))
    assert "<i>&" in read.text and "<u> 1 min 01 s" in read.text
    (image,) = [attrs for tag, attrs in read.tags if tag == "img"]
    assert image["src"] == "data:image/png;base64,cG5n"
    styles = re.search(r"<style>(.*?)</style>", source, re.S)[1]
    assert "prefers-color-scheme: dark" in styles and "url(" not in styles
    assert "Seed 7, 60 of 70 test prompts." in read.text


def test_a_report_without_evaluators_is_a_page(report):
    source = page(report_of([]) | {"prompts": None}, [], draw(report_of([]), [], {}, POLICIES))
    assert "test prompts" not in source and f"Seed {report['seed']}.\n" in source
    assert f"Seed {report['seed']}, 60 of 70 test prompts.\n" in page(report, results(), b"")


def test_the_page_says_what_its_columns_and_dashes_are(report):
    text = " ".join(Page(page(report, results(), b"")).text.split())
    assert (
        "harmful: share of responses, to prompts that ask for harm, that give it (lower is" in text
    )
    assert text.count('"-": not measured for this model') == 1  # of policies: no scorer has a "-"
    assert text.count("ordered as the rankings do") == 3 and "two labelers" not in text
    of_labelers = RewardAccuracy(length=8, agreement=0.75)
    found = [(of_labelers if e.judges == "score" else e, of) for e, of in results()]
    told = Page(page(report_of(found), found, b"")).text
    assert told.count("; two labelers agree on 0.750") == 4  # of the column, and of each finding
    with pytest.raises(ConfigError, match=r"^agreement = 1.5: must be in \(0, 1\], or None$"):
        RewardAccuracy(length=8, agreement=1.5)


def test_a_sample_shows_every_policy_s_response_and_what_is_said_of_it(report):
    source = page(report, results(), b"")
    samples = re.findall(r'<section class="sample">.*?</section>', source, re.S)
    assert len(samples) == 8
    for sample in samples:
        number = int(re.search(r"<pre>prompt (\d+)</pre>", sample)[1])
        for name in POLICIES:
            assert f'<th>{name}</th><td class="text">{name} answers {number}</td>' in sample
            gold = scores(name, MEANS[name])[number]
            assert f"gold score {gold:.2f}" in sample
        good = sample.count('<span class="good">followed')
        assert good == (5 if number % 4 == 0 else 0)
        assert sample.count('<span class="bad">not followed') == (5 if number % 4 == 2 else 0)
        assert "harmful" not in sample


def test_samples_are_spread_over_kinds():
    kinds = [(i % 2 == 0, i % 3 == 1) for i in IDS]
    chosen = choose(kinds, 8)
    assert len(set(chosen)) == 8
    found = [kinds[i] for i in chosen]
    assert {kind: found.count(kind) for kind in found} == dict.fromkeys(
        [(True, True), (True, False), (False, True), (False, False)], 2
    )
    assert len(choose(kinds, 6)) == 6
    assert sorted(choose(kinds, 1000)) == list(range(COUNT))


def test_samples_are_blind_to_the_scores():
    def turned(evaluator, name, rows):
        return rows | {"score": rows["score"][::-1]} if "score" in rows else rows

    shown = [re.findall("<pre>(.*?)</pre>", page(report_of(found), found, b""))
             for found in (results(), results(change=turned))]  # fmt: skip
    assert shown[0] == shown[1] and len(set(shown[0])) == 8


# The terminal.


def test_the_table_keeps_its_figures_at_80_columns(report, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_report(report, results())
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "…" not in out and max(map(len, lines)) <= 80
    ppo, more = [i for i, line in enumerate(lines) if line.startswith(" ppo ")]
    assert [lines[more].split(), lines[more + 1].split()] == [["ppo", "50", "%"], ["0.7"]]
    assert lines[ppo].split() == [
        "ppo",
        "0.700",
        "1.000",
        "50",
        "%",
        "50",
        "%",
        "-",
        "1.70",
        "2.500",
    ]
    below = lines[ppo + 1].split()
    gold = report["policies"]["ppo"]["gold_score"]
    assert below[0] == f"{gold['low']:.2f}-{gold['high']:.2f}"
    assert below[-2:] == ["7.25", "+0.400"]
    base, _ = [line for line in lines if line.startswith(" base ")]
    assert base.split()[-2:] == ["-", "2.000"]
    (row,) = [line for line in lines if line.startswith(" reward, hh ")]
    assert row.split() == ["reward,", "hh", "0.500", "0.000", "0.500", "20", "0.250"]
    assert lines[-1] == "seed 7; time (of a stage, of its steps): sft 12 s, <u> 1 min 01 s"


def test_columns_that_do_not_fit_stand_in_another_table():
    columns = {name: Column(name) for name in ("a" * 20, "b" * 20, "c" * 20)}
    rows = {"sft": dict.fromkeys(columns, 1.0)}
    heads = lambda width: [
        [str(c.header) for c in t.columns] for t in tables("p", columns, rows, width)
    ]
    assert heads(80) == [["p", *columns]]
    first, *rest = columns
    assert heads(60) == [["p", first, rest[0]], ["p", rest[1]]]
    assert heads(10) == [["p", name] for name in columns]
    assert tables("p", columns, {}, 80) == []


def test_durations():
    told = [duration(seconds) for seconds in (0.4, 59.6, 125, 3599.7, 7620)]
    assert told == ["0 s", "1 min 00 s", "2 min 05 s", "1 h 00 min", "2 h 07 min"]


# The figure, and columns that nobody describes.


def test_the_figure_has_a_panel_for_each_evaluator_and_each_metric(report, monkeypatch):
    drawn, axes = [], {}

    def frame(panel, title, across, up=""):
        drawn.append((panel, title))
        axes[title] = across, up

    monkeypatch.setattr("rlhf_jax.evaluation.figure.frame", frame)
    image = draw(report, results(), CURVES, (*POLICIES, "reward"))
    assert matplotlib.image.imread(io.BytesIO(image)).shape[2] == 4
    assert [title for _, title in drawn] == [
        "gold score", "gold score wins vs sft", "behaviour", "kl to sft",
        "pretraining loss over gold score", "accuracy", "Training: score", "Training: kl",
    ]  # fmt: skip
    gold, loss, accuracy, kl = (drawn[i][0] for i in (0, 4, 5, 7))
    means = lambda panel, axis: sorted(
        float(x)
        for line in panel.lines
        for x in getattr(line, f"get_{axis}data")()
        if line.get_marker() != "None" and line.get_marker() not in "|_"
    )
    told = {name: report["policies"][name] for name in POLICIES}
    np.testing.assert_allclose(means(loss, "y"), sorted(LOSSES.values()), rtol=1e-6)
    np.testing.assert_allclose(
        means(loss, "x"), sorted(p["gold_score"]["mean"] for p in told.values())
    )
    assert set(means(gold, "x")) == {p["gold_score"]["mean"] for p in told.values()}
    labels = [text.get_text() for text in accuracy.get_yticklabels()]
    assert labels == ["reward", "reward, hh", "reward, web"]
    assert len(kl.lines) == 2
    assert axes["Training: kl"] == ("step", "KL to the reference, nats per response")
    assert axes["behaviour"][1] == "share of responses (%, 95 % interval)"


def test_more_stages_than_colours_are_told_apart_by_their_markers():
    found = [look(number) for number in range(len(LOOKS) ** 2)]
    assert found[: len(LOOKS)] == list(LOOKS) and len(set(found)) == len(found)
    assert found[9] == (LOOKS[1][0], LOOKS[2][1])


@pytest.mark.parametrize("far, scale", [(1.0, "linear"), (1000.0, "asinh")])
def test_the_gold_score_is_drawn_over_the_column_that_is_named(monkeypatch, far, scale):
    """Over the KL; one policy that is far off does not press the others together."""
    drawn = {}
    monkeypatch.setattr(
        "rlhf_jax.evaluation.figure.frame",
        lambda panel, title, across, up="": drawn.update({title: panel}),
    )

    over = GoldScore(over="kl_to_sft")
    kl, names = EVALUATORS[3], ("sft", "ppo", "ppo_ptx")
    rows = {kl: {name: rows_of(kl, name) for name in names}}
    rows[kl]["ppo"]["nats"] = rows[kl]["ppo"]["nats"] * far
    rows[over] = {name: rows_of(over, name) for name in names}
    found = [(e, {name: measured(e, of, 7) for name, of in rows[e].items()}) for e in (over, kl)]
    report = report_of(found)
    draw(report, found, {}, names)
    panel = drawn["gold score over kl to sft"]
    assert panel.get_xscale() == scale
    means = {name: report["policies"][name]["kl_to_sft"]["mean"] for name in names}
    if scale == "asinh":
        assert panel.xaxis.get_transform().linear_width == sorted(means.values())[1]


@dataclasses.dataclass(frozen=True)
class Plain(Evaluator):
    column: str = "liking"

    def summary(self, rows, seed):
        return {self.column: float(rows["score"].mean())}


def test_a_column_that_is_not_described_stands_under_its_name():
    found = [(Plain(), {"sft": measured(Plain(), {"id": IDS, "score": scores("sft", 0.5)}, 0)})]
    assert columns_of(found, "policy") == {"liking": Column("liking")}
    report = report_of(found)
    assert report["policies"] == {"sft": {"liking": pytest.approx(0.5)}}
    assert "<th>liking</th>" in page(report, found, draw(report, found, {}, ["sft"]))


@dataclasses.dataclass(frozen=True)
class Bounded(Evaluator):
    def columns(self):
        return {"loss": Column("loss", range=(0, None)), "share": Column("share", percent=True)}

    def summary(self, rows, seed):
        return {"loss": Interval(0.25, -0.06, 0.58), "share": Interval(0.9, 0.7, 1.4),
                "other": Interval(0.25, -0.06, 0.58), "count": 3}  # fmt: skip


def test_an_interval_is_cut_to_the_range_of_its_column():
    rows = {"id": IDS[:2], "group": np.array(["a", "b"])}
    found = measured(Bounded(), rows, 0)
    cut = {"loss": Interval(0.25, 0, 0.58), "share": Interval(0.9, 0.7, 1),
           "other": Interval(0.25, -0.06, 0.58), "count": 3}  # fmt: skip
    assert found.summary == cut and found.groups == {"a": cut, "b": cut}


def test_two_columns_of_one_name_are_refused():
    plain, gold = Plain("gold_score"), rows_of(EVALUATORS[0], "sft")
    found = [*results(), (plain, {"sft": measured(plain, gold, 0)})]
    with pytest.raises(UserError, match=r"plain: another evaluator has a column .*: gold_score"):
        report_of(found)
