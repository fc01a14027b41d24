"""The report: its schema, its findings, its page."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.report import PolicyResult, print_report, summarise, write_report
from rlhf_jax.evaluation.report_page import choose_samples, duration
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval, win_rate

MEANS = {"base": 0.1, "prompted": 0.3, "sft": 0.5, "ppo": 0.7, "ppo_ptx": 0.69}
LOSSES = {"base": 2.0, "prompted": 2.0, "sft": 2.1, "ppo": 2.5, "ppo_ptx": 2.2}
COUNT = 60
TOKENS = tuple(float(10 + i % 7) for i in range(24))  # of the held-out documents
CURVES = {
    "ppo": [{"step": i, "score": 0.1 * i, "kl": 0.2 * i} for i in range(5)],
    "ppo_ptx": [{"step": i, "score": None, "kl": float("nan")} for i in range(3)],
}


def result(name: str, mean: float, loss: float, spread: float = 0.05) -> PolicyResult:
    """A policy of mean score `mean` on prompts of four kinds; names as long share their noise.

    Its loss on a document is `loss` a token and what is the document's own; what the policy adds
    to that differs by about 0.01, so that a difference of losses has an error of about 0.002.
    """
    noise = np.random.default_rng(len(name)).uniform(-spread, spread, COUNT)
    tokens, place = np.array(TOKENS), np.arange(len(TOKENS))
    own = 0.5 * np.sin(place) + 0.01 * np.sin(place * ord(name[-1]))
    losses = tokens * own - tokens * (tokens @ own) / tokens.sum() + tokens * loss
    return PolicyResult(
        name=name,
        prompts=tuple(f"prompt {i}" for i in range(COUNT)),
        responses=tuple(f" {name} answers {i}" for i in range(COUNT)),
        scores=tuple(mean + noise - noise.mean()),
        followed=tuple(i % 4 == 0 if i % 2 == 0 else None for i in range(COUNT)),
        hallucinated=tuple(i % 6 == 1 if i % 3 == 1 else None for i in range(COUNT)),
        harmful=(None,) * COUNT,
        kl=None if name in ("base", "prompted") else 1.5,
        text_losses=tuple(losses),
        text_tokens=TOKENS,
    )


def results(means: dict = MEANS, losses: dict = LOSSES, spread: float = 0.05):
    return [result(name, means[name], losses[name], spread) for name in means]


def findings(*args, **kwargs) -> list[str]:
    return summarise(results(*args, **kwargs), {}, 0)["findings"]


def sentence(found: list[str], words: str) -> str:
    texts = [text for text in found if words in text]
    assert len(texts) == 1, found
    return texts[0]


def test_schema_and_figures(tmp_path):
    measured = results()
    write_report(summarise(measured, {"sft": 12, "ppo": 3.5}, 7), measured, CURVES, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["policies", "seconds", "seed", "findings"]
    assert report["seconds"] == {"sft": 12.0, "ppo": 3.5}
    assert report["seed"] == 7
    assert len(report["findings"]) == 6
    assert list(report["policies"]) == list(MEANS)
    for policy in report["policies"].values():
        assert list(policy) == [
            *("gold_score", "win_rate_vs_sft", "followed", "hallucinated", "harmful"),
            *("kl", "training_kl", "pretraining_loss", "pretraining_loss_vs_sft"),
        ]
    ppo = measured[3]
    told = report["policies"]["ppo"]
    assert told["gold_score"] == bounded_mean(ppo.scores, 7)._asdict()
    assert told["win_rate_vs_sft"] == win_rate(ppo.scores, measured[2].scores, 7)._asdict()
    assert told["followed"] == 0.5  # 15 of the 30 that ask
    assert told["hallucinated"] == 0.5  # 10 of the 20 that ask
    assert told["harmful"] is None
    assert (told["kl"], told["training_kl"]) == (1.5, None)
    assert told["pretraining_loss"] == pytest.approx(2.5)
    added = np.subtract(ppo.text_losses, measured[2].text_losses)
    assert told["pretraining_loss_vs_sft"] == mean_interval(added, TOKENS)._asdict()
    assert told["pretraining_loss_vs_sft"]["mean"] == pytest.approx(0.4)
    assert 0.39 < told["pretraining_loss_vs_sft"]["low"] < 0.4
    assert report["policies"]["sft"]["pretraining_loss_vs_sft"] is None
    half = {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert report["policies"]["sft"]["win_rate_vs_sft"] == half
    assert report["policies"]["base"]["kl"] is None
    assert report["policies"]["base"]["win_rate_vs_sft"]["mean"] < 0.05


def test_report_json_has_the_same_bytes_again_in_any_order_of_policies(tmp_path):
    for folder, measured in (("a", results()), ("b", results()[::-1])):
        write_report(summarise(measured, {"sft": 1.0}, 3), measured, CURVES, tmp_path / folder)
    first, second = ((tmp_path / folder / "report.json").read_bytes() for folder in "ab")
    assert first == second
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        *("report.html", "report.json", "report.png")
    ]


def test_findings_where_every_order_holds():
    found = findings()
    for better, worse in (("ppo", "sft"), ("ppo_ptx", "sft"), ("sft", "prompted")):
        text = sentence(found, f"{better} scores above {worse},")
        assert text.startswith("Holds: ") and "do not overlap" in text
        assert f"{MEANS[better]:.3f} [" in text and f"against {MEANS[worse]:.3f} [" in text
    assert sentence(found, "prompted scores above base").startswith("Holds: ")
    text = sentence(
        found, "2.5000 nats per token for ppo, 2.1000 for sft, a difference of +0.400 ["
    )
    assert text.startswith("Holds: there is an alignment tax")
    assert sentence(found, "ptx repairs").startswith("Holds in part: ptx repairs 75 % of the tax")


def test_findings_where_orders_fail():
    found = findings({**MEANS, "ppo": 0.35, "base": 0.45}, {**LOSSES, "ppo": 2.0})
    text = sentence(found, "ppo should score above sft")
    assert text.startswith("Does not hold: ") and "but has 0.350 [" in text
    assert "against 0.500 [" in text and "do not overlap" in text and "-0.150 [" in text
    assert sentence(found, "no alignment tax").startswith("Does not hold: ")
    assert "-0.100 [-0.1" in sentence(found, "no alignment tax")
    assert sentence(found, "whether ptx repairs").startswith("Not known: ")
    assert not any("ppo scores above" in text for text in found)


@pytest.mark.parametrize("loss", [2.1 + 1e-9, 2.1 - 1e-9, 2.1, 2.101, 2.099])
def test_a_loss_that_moved_by_less_than_its_error_is_no_verdict(loss):
    found = findings(losses={**LOSSES, "ppo": loss})
    text = sentence(found, "whether there is an alignment tax")
    start = "Not sure: whether there is an alignment tax, the pretraining loss is"
    assert text.startswith(f"{start} {loss:.4f} nats per token for ppo")
    assert sentence(found, "whether ptx repairs").startswith("Not known: ")


def test_policies_that_never_moved_are_no_verdict():
    found = findings(losses=dict.fromkeys(LOSSES, 2.1))
    assert sentence(found, "whether there is an alignment tax").startswith("Not sure: ")
    assert sentence(found, "whether ptx repairs").startswith("Not known: ")
    same = [replace(each, text_losses=results()[0].text_losses) for each in results()]
    found = summarise(same, {}, 0)["findings"]
    text = sentence(found, "whether there is an alignment tax")
    assert text.startswith("Not sure: ") and text.endswith("a difference of +0.000 (no interval).")
    assert sentence(found, "whether ptx repairs").startswith("Not known: ")


def test_one_document_is_no_verdict():
    measured = [
        replace(each, text_losses=(LOSSES[each.name] * 9,), text_tokens=(9.0,))
        for each in results()
    ]
    report = summarise(measured, {}, 0)
    difference = report["policies"]["ppo"]["pretraining_loss_vs_sft"]
    assert difference == {"mean": pytest.approx(0.4), "low": None, "high": None}
    text = sentence(report["findings"], "whether there is an alignment tax")
    assert text.startswith("Not sure: ") and "+0.400 (no interval)" in text


def test_one_prompt_is_no_verdict_whoever_wins():
    columns = ("prompts", "responses", "scores", "followed", "hallucinated", "harmful")
    measured = [
        replace(each, **{name: getattr(each, name)[:1] for name in columns}) for each in results()
    ]
    report = summarise(measured, {}, 0)
    orders = [text for text in report["findings"] if "should score above" in text]
    assert len(orders) == 4 and all(text.startswith("Not sure: ") for text in orders)
    wins = report["policies"]["ppo"]["win_rate_vs_sft"]
    assert wins == {"mean": 1, "low": pytest.approx(0.025, abs=0.01), "high": 1}


def test_findings_tell_overlap_and_doubt():
    close = findings(dict.fromkeys(MEANS, 0.5) | {"ppo": 0.6}, spread=0.3)
    text = sentence(close, "ppo scores above sft")
    assert "intervals overlap" in text and "not overlap" not in text
    assert text.startswith("Holds: ")  # ppo and sft have the same noise, so the pairing tells
    unpaired = [result("prompted", 0.51, 2.0, 0.3), result("base", 0.5, 2.0, 0.3)]
    turned = [replace(unpaired[0], name="base"), replace(unpaired[1], name="prompted")]
    for pair in (unpaired, turned):
        text = sentence(summarise(pair, {}, 0)["findings"], "prompted should score above base")
        assert text.startswith("Not sure: prompted should score above base, and has ")


@pytest.mark.parametrize(
    ("loss", "start"),
    [
        (2.05, "Holds: ptx repairs all"),
        (2.1, "Holds: ptx repairs the alignment tax, what is left of it is not sure"),
        (2.3, "Holds in part: ptx repairs 50 %"),
        (2.5, "Not sure: whether ptx repairs"),
        (2.6, "Does not hold: ptx does not repair"),
    ],
)
def test_how_far_ptx_repairs_the_tax(loss, start):
    found = findings(losses={**LOSSES, "ppo_ptx": loss})
    assert sentence(found, f"ppo_ptx has {loss:.4f} nats").startswith(start)


def test_a_diverged_policy_is_told_and_still_reported(tmp_path):
    measured = results(losses={**LOSSES, "ppo": float("inf")})
    measured[3] = replace(measured[3], kl=float("nan"))
    report = summarise(measured, {}, 0)
    write_report(report, measured, CURVES, tmp_path)
    assert report["policies"]["ppo"]["pretraining_loss"] is None
    assert report["policies"]["ppo"]["kl"] is None
    assert report["policies"]["ppo"]["pretraining_loss_vs_sft"] is None
    assert "loss of ppo is not finite" in sentence(report["findings"], "alignment tax")
    assert "NaN" not in (tmp_path / "report.json").read_text()


@pytest.mark.parametrize("names", [["base"], ["sft", "ppo"], ["base", "ppo"], ["dpo", "sft"]])
def test_partial_results(names, tmp_path, capsys):
    measured = [result(name, 0.5, 2.0) for name in names]
    report = summarise(measured, {"sft": 1.0}, 0)
    write_report(report, measured, {}, tmp_path)
    print_report(report)
    assert set(report["policies"]) == set(names)
    wins = [policy["win_rate_vs_sft"] for policy in report["policies"].values()]
    assert (None in wins) == ("sft" not in names)
    missing = sentence(report["findings"], "Not measured, so not judged")
    assert ("prompted" in missing) and not any(f" {name}," in missing for name in names)
    assert names[0] in capsys.readouterr().out


def test_both_divergences_are_shown(tmp_path, capsys):
    measured = [replace(each, training_kl=7.25) for each in results()]
    measured = [*results()[:3], *measured[3:]]
    report = summarise(measured, {}, 0)
    write_report(report, measured, CURVES, tmp_path)
    print_report(report)
    assert [policy["training_kl"] for policy in report["policies"].values()] == [None] * 3 + [
        7.25
    ] * 2
    assert capsys.readouterr().out.count("7.25") == 2
    assert (tmp_path / "report.html").read_text().count("<td>1.50<small>7.25</small></td>") == 2


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


def test_page_escapes_and_needs_nothing_else(tmp_path):
    evil = "<script>alert('x')</script> & <img src=http://a.b/c> \"quoted\""
    measured = [
        replace(each, responses=(evil,) * COUNT, prompts=(f"<b>{evil}",) * COUNT)
        for each in [*results(), result("<i>&", 0.5, 2.0)]
    ]
    write_report(summarise(measured, {"<u>": 1.0}, 0), measured, CURVES, tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b", "i", "u", "link", "iframe"}
    assert page.text.count(evil) == 8 * (1 + len(measured))
    assert "<i>&" in page.text and "<u> 1 s" in page.text
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert png == (tmp_path / "report.png").read_bytes() and png.startswith(b"\x89PNG")
    styles = re.search(r"<style>(.*?)</style>", source, re.S)[1]
    assert "prefers-color-scheme: dark" in styles and "url(" not in styles


def test_samples_are_spread_over_kinds_and_blind_to_scores():
    measured = results()
    chosen = choose_samples(measured)
    assert len(set(chosen)) == 8
    kinds = [
        (measured[0].followed[i] is not None, measured[0].hallucinated[i] is not None)
        for i in chosen
    ]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(
        [(True, True), (True, False), (False, True), (False, False)], 2
    )
    turned = [replace(each, scores=each.scores[::-1]) for each in measured]
    assert choose_samples(turned) == chosen
    assert len(choose_samples(measured, 6)) == 6
    assert sorted(choose_samples(measured, 1000)) == list(range(COUNT))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: summarise([], {}, 0), "no policy was evaluated"),
        (lambda r: summarise([r, r], {}, 0), "different names"),
        (
            lambda r: summarise([r, replace(r, name="b", prompts=r.prompts[::-1])], {}, 0),
            "'b' and 'sft' have different prompts",
        ),
        (lambda r: replace(r, responses=r.responses[1:]), "responses has 59 values for 60"),
        (lambda r: replace(r, harmful=()), "harmful has 0 values"),
        (lambda r: replace(r, scores=(float("nan"),) * COUNT), r"scores must be in \[0, 1\]"),
        (lambda r: replace(r, scores=(1.1,) * COUNT), r"scores must be in \[0, 1\]"),
        (lambda r: replace(r, text_losses=()), "text_losses has 0 documents, text_tokens 24"),
        (
            lambda r: summarise([r, replace(r, name="b", text_tokens=TOKENS[::-1])], {}, 0),
            "'b' and 'sft' have different text_tokens",
        ),
        (lambda r: replace(r, prompts=()), "no prompts"),
    ],
)
def test_bad_results_are_told(make, words):
    with pytest.raises(UserError, match=words):
        make(result("sft", 0.5, 2.0))


def test_durations():
    told = [duration(seconds) for seconds in (0.4, 59.6, 125, 3599.7, 7620)]
    assert told == ["0 s", "1 min 00 s", "2 min 05 s", "1 h 00 min", "2 h 07 min"]


def test_terminal_table_keeps_its_figures_at_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_report(summarise(results(), {"ppo": 61}, 5))
    out = capsys.readouterr().out
    assert "…" not in out and "2.500" in out and "seed 5; ppo 1 min 01 s" in out
