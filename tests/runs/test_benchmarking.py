"""`rlhf-jax eval` on models made by hand: what is kept, what is compared, what stands in training
records, and the page."""

import dataclasses
import html
import itertools
import json
import re

import numpy as np
import pytest

from rlhf_jax.errors import ConfigError, RecordError, UserError
from rlhf_jax.evaluation import benchmark_figure, benchmark_page, benchmark_results
from rlhf_jax.evaluation.benchmarks.benchmark import table
from rlhf_jax.evaluation.benchmarks.crows_pairs import FILE, CrowsPairs
from rlhf_jax.evaluation.benchmarks.gsm8k import GSM8K
from rlhf_jax.evaluation.benchmarks.hhh import HHH
from rlhf_jax.evaluation.benchmarks.known import BENCHMARKS
from rlhf_jax.evaluation.benchmarks.llmbar import LLMBar
from rlhf_jax.evaluation.benchmarks.model import TooLongError
from rlhf_jax.evaluation.benchmarks.overlap import Overlap
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.statistics import bounded_mean, paired_difference
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs import benchmarking, fitting_benchmarks, kept_rows, measured
from rlhf_jax.runs.benchmarking import EvalOptions, Measuring
from rlhf_jax.runs.measured import Named, reading
from tests.evaluation.benchmarks.by_hand import ByHand, prefers, write
from tests.evaluation.judging.fake_server import says, serving

COUNT = 6
MORE = [f"More number {i} <b> of the pairs, stands here" for i in range(COUNT)]
LINES = [f'{i},"{more}","Less {i}",{"age" if i % 2 else "race"}' for i, more in enumerate(MORE)]


class Opened:
    """A model that is opened when it is asked; opened: how many times."""

    def __init__(self, model, fails_after=None):
        self.model, self.opened, self.left = model, 0, fails_after

    def __call__(self):
        self.opened += 1
        return lambda batch_size: self

    def __getattr__(self, name):
        return self.model.__getattribute__(name)

    def likelihoods(self, requests):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise UserError("the judge answers nonsense")
        return self.model.likelihoods(requests)


def named(name, model, trained=None, digest="d", ends="policy", **how):
    return Named(name, ends, digest, f"runs/{name}", 64, Opened(model, **how), trained)


@pytest.fixture
def crows(tmp_path):
    write(tmp_path, FILE, "\n".join([",sent_more,sent_less,bias_type", *LINES]) + "\n")
    return CrowsPairs(data=str(tmp_path), batch_size=1)  # four items at a time


def measure(to, models, benchmark):
    return Measuring(to, models, {benchmark.called: benchmark}).run()[benchmark.called]


def test_what_was_measured_is_kept_and_not_measured_again(crows, tmp_path, capsys):
    one = named("one", prefers([*MORE[:3], "Less 3"]), fails_after=1)
    with pytest.raises(UserError, match="answers nonsense"):
        measure(tmp_path / "to", [one], crows)
    assert "items kept" not in capsys.readouterr().out
    again = named("one", ByHand())  # would answer otherwise
    found = measure(tmp_path / "to", [again], crows)["one"]
    assert [row["stereotype"] for row in found.rows] == [1, 1, 1, 0, 0.5, 0.5]
    assert again.open.opened == 1 and len(again.open.model.asked) == 2 * 2
    told = capsys.readouterr().out
    assert "eval: crows_pairs of one: 4 of 6 items kept from an earlier command\n" in told
    assert "eval: crows_pairs of one: 6 of 6 items, " in told
    last = named("one", ByHand())
    assert measure(tmp_path / "to", [last], crows)["one"].rows == found.rows
    assert last.open.opened == 0  # the model is not even read
    told = "eval: crows_pairs of one: 6 of 6 items kept from an earlier command\n"
    assert capsys.readouterr().out == told


def test_fewer_items_are_not_measured_again_and_another_model_is(crows, tmp_path):
    few = CrowsPairs(data=crows.data, most_items=2, batch_size=3)
    first = measure(tmp_path / "to", [named("one", prefers(MORE))], few)["one"]
    assert len(first.rows) == 2
    more = named("one", ByHand())
    rows = measure(tmp_path / "to", [more], crows)["one"].rows
    assert len(more.open.model.asked) == 2 * (COUNT - 2)
    assert [row for row in rows if row["stereotype"] == 1] == list(first.rows)
    other = named("one", ByHand(), digest="another")
    assert len(measure(tmp_path / "to", [other], crows)["one"].rows) == COUNT
    assert len(other.open.model.asked) == 2 * COUNT


def test_a_line_that_a_kill_has_cut_is_measured_again(crows, tmp_path):
    measure(tmp_path / "to", [named("one", prefers(MORE))], crows)
    (file,) = (tmp_path / "to" / "crows_pairs").glob("one-*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    again = named("one", prefers(MORE))
    measure(tmp_path / "to", [again], crows)
    assert file.read_bytes() == whole and len(again.open.model.asked) == 2
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], b"{broken\n", *lines[4:]]))
    with pytest.raises(RecordError, match=r"jsonl:4: expected JSON"):
        measure(tmp_path / "to", [again], crows)
    file.write_bytes(b"".join([*lines[:3], b'{"no": "id"}\n']))
    with pytest.raises(RecordError, match=r"jsonl:4: expected a row with an id"):
        measure(tmp_path / "to", [again], crows)
    file.write_bytes(lines[0].replace(b'"d"', b'"e"'))
    with pytest.raises(RecordError, match=r"jsonl:1: expected what this command measures"):
        measure(tmp_path / "to", [again], crows)
    file.write_bytes(lines[0].replace(b'"format": 0', b'"format": 9'))
    with pytest.raises(UserError, match="later version"):
        measure(tmp_path / "to", [again], crows)


def test_only_what_changes_rows_makes_another_file(crows, tmp_path):
    of = lambda benchmark: kept_rows.measured_as(benchmark, "d", None)
    assert of(crows) == of(CrowsPairs(data=crows.data, most_items=1, batch_size=9))
    write(tmp_path, "hhh_alignment/hhh_alignment_eval.json", [])
    hhh = HHH(data=str(tmp_path))
    assert of(hhh) != of(HHH(data=str(tmp_path), shots=1))
    before = of(crows)
    write(tmp_path, FILE, ",sent_more,sent_less,bias_type\n1,a,b,c\n")
    assert of(crows) != before
    assert kept_rows.measured_as(crows, "e", None) != of(crows) != of(hhh)
    assert kept_rows.measured_as(crows, "d", {"model": "j"}) != of(crows)


def test_items_in_training_records_are_counted_and_told(crows, tmp_path, capsys):
    records = ["so MORE number 2 b of the pairs -- stands here!", "More number 3", "Less 4"]
    one = named("one", prefers(MORE), lambda: iter(records))
    two = named("two", ByHand())
    found = measure(tmp_path / "to", [one, two], crows)
    assert found["one"].known == {"2"} and found["two"].known is None
    assert "1 of 6 items stand in the run's training records: 2" in capsys.readouterr().out
    content = benchmark_results.of_benchmark(crows, COUNT, found, None, 0)
    one = content["models"]["one"]
    assert one["in_training"] == ["2"] and content["models"]["two"]["in_training"] is None
    without = one["without_training"]["crows_pairs_stereotype"]
    assert without == bounded_mean([1] * 5).as_json()


def test_a_text_stands_in_a_record_that_has_its_words_in_a_row():
    long = " ".join(f"w{i}" for i in range(20))
    texts = {"five": "one two, three four FIVE", "long": long, "short": "one two three four"}
    overlap = Overlap(texts)
    assert overlap.short == ["short"]
    of = lambda *records: Overlap(texts).found(records)
    assert of("zero One two three; four five six") == {"five"}
    assert of("one two three four", "five", "one two three four six five") == set()
    row = long.split()
    assert of("x " + " ".join(row[4:17])) == {"long"}  # 13 words in a row are enough
    assert of("x " + " ".join(row[4:16])) == set()


def found_of(crows, tmp_path):
    models = [named("base", prefers(MORE[:2])), named("tuned", prefers(MORE)),
              named("flat", ByHand())]  # fmt: skip
    return measure(tmp_path / "to", models, crows)


def test_models_are_compared_item_by_item(crows, tmp_path):
    found = found_of(crows, tmp_path)
    content = benchmark_results.of_benchmark(crows, COUNT, found, None, 0)
    assert content["against"] == "base" and content["items"] == content["of"] == COUNT
    rows = {name: table(of.rows)["stereotype"] for name, of in found.items()}
    ones = np.ones(COUNT)
    expected = paired_difference((rows["tuned"], ones), (rows["base"], ones))
    assert content["differences"]["tuned"]["crows_pairs_stereotype"] == expected.as_json()
    assert expected.mean == pytest.approx(1 - 4 / 6)
    groups = content["models"]["base"]["groups"]
    assert {name: of["n"] for name, of in groups.items()} == {"race": 3, "age": 3}
    assert content["chance"] == {"crows_pairs_stereotype": 0.5}
    other = benchmark_results.of_benchmark(crows, COUNT, found, "flat", 0)
    assert other["against"] == "flat" and set(other["differences"]) == {"base", "tuned"}


def test_examples_are_where_models_differ_most():
    rows = lambda *scores: table([{"id": str(i), "score": score, "prompt": f"p{i}",
                                   "answer": f"a{i}", "expected": None}
                                  for i, score in enumerate(scores)])  # fmt: skip
    found = benchmark_results.examples({"a": rows(1, 0, 0.5, None), "b": rows(0.9, 1, 0.5, 1)}, 2)
    assert [item["id"] for item in found] == ["1", "0"]  # those without a difference are left out
    assert found[0] == {"id": "1", "prompt": "p1",
                        "models": {"a": {"answer": "a1", "score": 0.0},
                                   "b": {"answer": "a1", "score": 1.0}}}  # fmt: skip


def test_the_page_has_every_figure_with_its_interval_and_n(crows, tmp_path):
    found = found_of(crows, tmp_path)
    results = benchmark_results.of_benchmark(crows, COUNT, found, None, 0)
    models = {name: {"kind": "policy", "place": f"runs/{name}", "digest": "d"} for name in found}
    content = benchmark_results.as_content({"crows_pairs": results}, models, 0)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    html = benchmark_page.page(content)
    values = results["models"]["tuned"]["values"]["crows_pairs_stereotype"]
    cell = f"<small>{100 * values['low']:.0f} to {100 * values['high']:.0f}</small>"
    assert f'<td data-value="1.0">100 %{cell}</td>' in html
    assert f'<td data-value="{COUNT}">{COUNT}</td>' in html
    assert "&lt;b&gt;" in html and "<b>" not in html  # texts of the data are escaped
    assert html.count("<svg") == 1 and "Examples where the models differ most" in html
    assert "base: its training records are not known" in html
    for tag in ("table", "tr", "td", "th", "details", "section", "svg", "ul"):
        assert html.count(f"<{tag}>") + html.count(f"<{tag} ") == html.count(f"</{tag}>"), tag
    heads = [re.findall(r"<th[ >]", part) for part in re.findall(r"<thead>.*?</thead>", html)]
    bodies = re.findall(r"<thead>.*?</thead><tbody><tr>(.*?)</tr>", html)
    for head, row in zip(heads, bodies, strict=True):
        assert len(head) == len(re.findall(r"<t[hd][ >]", row))
    assert not re.search(r"(src|href)=", html)  # needs nothing else


def test_the_figure_places_points_and_intervals():
    column = Column("share", percent=True)
    values = {"a": {"mean": 0.5, "low": 0.4, "high": 0.6}, "b": 0.2, "c": None}
    drawn = benchmark_figure.forest(values, column, chance=0.2)
    points = [float(x) for x in re.findall(r'cx="([\d.]+)"', drawn)]
    bars = [tuple(map(float, x)) for x in
            re.findall(r'class="bar" x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', drawn)]  # fmt: skip
    dashed = float(re.search(r'class="chance" x1="([\d.]+)"', drawn)[1])
    assert len(points) == 2 and dashed == points[1]
    scale = (points[0] - points[1]) / 0.3
    assert bars[0] == pytest.approx((points[0] - 0.1 * scale, points[0] + 0.1 * scale), abs=0.11)
    assert bars[1] == (points[1], points[1])
    assert benchmark_figure.forest({"a": None}, column) == ""
    assert benchmark_figure.ticks(0, 1) == [0, 0.5, 1]
    for low, high in ((0, 1), (0.31, 0.34), (-250, 40), (1e-6, 2e-6)):
        found = benchmark_figure.ticks(low, high)
        assert 2 <= len(found) <= 5 and all(low <= x <= high for x in found)
        assert len({round((b - a) / (high - low), 6) for a, b in itertools.pairwise(found)}) == 1


def test_each_figure_names_its_measure_and_fits_a_phone():
    for kind in BENCHMARKS.values():
        column = next(iter(kind().columns().values()))
        values = {"m" * 60: {"mean": 0.5, "low": 0.4, "high": 0.6}, "<b>": 0.2}
        drawn = benchmark_figure.forest(values, column, chance=0.3)
        caption = re.search(r"<figcaption [^>]*>(.*)</figcaption>", drawn)[1]
        assert caption.startswith(html.escape(f"{column.plain}: {column.about}. ")), kind
        assert f">{html.escape(column.plain)}</text>" in drawn  # the axis
        assert "m" * 41 + "...</text>" in drawn and "&lt;b&gt;</text>" in drawn
        width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn).groups())
        assert width <= 360
        for x, y, how, text in re.findall(r'<text[^>]* x="(.*?)" y="(.*?)"([^>]*)>(.*?)<',
                                          drawn):  # fmt: skip
            wide = 7 * len(html.unescape(text))  # pixels of a letter
            left = float(x) - wide / 2 if "middle" in how else float(x)
            assert left >= 0 and left + wide <= width and 0 < float(y) < height, (kind, text)


def test_all_is_what_needs_no_judge_and_unknown_names_are_refused():
    assert set(benchmarking.asked_benchmarks(["all"])) == {
        name for name, kind in BENCHMARKS.items() if kind.by_default and not kind.needs_judge
    }
    assert list(benchmarking.asked_benchmarks(["hhh", "bbq"])) == ["hhh", "bbq"]
    for words in (["--on", "hhh", "bbq", "--to", "x"], ["--to", "x", "--on=hhh", "bbq"]):
        assert benchmarking._on(words) == ["hhh", "bbq"]
    with pytest.raises(ConfigError, match=r"on = 'mmlu': must be all, or of truthfulqa_mc, hhh"):
        benchmarking.asked_benchmarks(["mmlu"])
    with pytest.raises(ConfigError, match=r"on = \[\]: must be one or more of truthfulqa_mc"):
        benchmarking.asked_benchmarks([])


def test_all_leaves_out_benchmarks_without_files_and_says_so(crows, tmp_path, capsys):
    both = {"crows_pairs": crows, "hhh": HHH(data=str(tmp_path))}
    assert list(fitting_benchmarks.with_files(both, ["all"])) == ["crows_pairs"]
    assert "eval: hhh is left out: " in capsys.readouterr().out
    with pytest.raises(UserError, match="no such file"):
        fitting_benchmarks.with_files(both, ["all", "hhh"])
    with pytest.raises(UserError, match="no such file"):
        fitting_benchmarks.with_files({"hhh": both["hhh"]}, ["all"])


def test_a_benchmark_that_measures_none_of_the_models_is_refused_or_left_out(
    crows, tmp_path, capsys, monkeypatch
):
    both = {"crows_pairs": crows, "llmbar": LLMBar(data=str(tmp_path))}
    policy = named("one", ByHand())
    scorer = policy._replace(name="two", ends="score")
    of = lambda models, *names: list(fitting_benchmarks.for_models(both, models, names))
    assert of([policy, scorer], "crows_pairs", "llmbar") == ["crows_pairs", "llmbar"]
    assert capsys.readouterr().out == ""
    assert of([policy], "all") == ["crows_pairs"]
    assert capsys.readouterr().out == "eval: left out, for want of a reward model: llmbar\n"
    told = r"^llmbar measures reward models: got one \(a policy\)$"
    for names in (("crows_pairs", "llmbar"), ("all", "llmbar")):
        with pytest.raises(UserError, match=told):
            of([policy], *names)
    del both["llmbar"]
    assert of([policy, scorer], "crows_pairs") == ["crows_pairs"]
    told = "eval: two is not measured: no benchmark of reward models is named\n"
    assert capsys.readouterr().out == told
    with pytest.raises(UserError, match=r"^crows_pairs measures policies: got two \(a reward"):
        of([scorer], "all")
    monkeypatch.setattr(benchmarking, "of_folder", lambda name, context: scorer)
    with pytest.raises(UserError, match="crows_pairs measures policies"):
        options = EvalOptions(on=("crows_pairs",), to=tmp_path / "to")
        benchmarking.evaluate(None, ["two"], options, both)
    assert not (tmp_path / "to").exists() and not scorer.open.opened


def test_answers_longer_than_a_context_are_refused_or_left_out(crows, capsys):
    """gsm8k's answers have up to 64 tokens, and so many a model reads in all."""
    both = {"crows_pairs": crows, "gsm8k": GSM8K(most_tokens=64)}
    long, short = named("long", ByHand())._replace(context=65), named("short", ByHand())
    scorer = short._replace(ends="score")
    of = lambda models, *names: list(fitting_benchmarks.within_context(both, models, names))
    assert of([long, scorer], "gsm8k") == ["crows_pairs", "gsm8k"]
    assert capsys.readouterr().out == ""
    assert of([long, short], "all") == ["crows_pairs"]
    assert "eval: gsm8k is left out: its answers have up to 64" in capsys.readouterr().out
    told = "gsm8k: its answers have up to 64 tokens, and short reads 64 with the prompt"
    with pytest.raises(UserError, match=told):
        of([long, short], "all", "gsm8k")
    del both["crows_pairs"]
    with pytest.raises(UserError, match="no benchmark is left"):
        of([short], "all")


def test_a_text_longer_than_a_context_leaves_its_benchmark_out(crows, tmp_path, monkeypatch):
    """The page has what the others measured; a benchmark that is named ends with an error."""

    class Short(ByHand):
        def likelihoods(self, requests):
            raise TooLongError("the text 'More' has 9 tokens: must be 1 to 8")

    models = {"short": named("short", Short()), "long": named("long", ByHand())}
    monkeypatch.setattr(benchmarking, "of_folder", lambda name, context: models[name])
    of = lambda to, *on: benchmarking.evaluate(
        None, list(models), EvalOptions(on=on, to=tmp_path / to), {"crows_pairs": crows}
    )
    content = of("all", "all")
    assert list(content["benchmarks"]["crows_pairs"]["models"]) == ["long"]
    with pytest.raises(UserError, match=r"^crows_pairs of short: the text 'More' has 9 tokens"):
        of("named", "crows_pairs")
    assert json.loads((tmp_path / "named" / "eval.json").read_text()) == content
    del models["long"]
    with pytest.raises(UserError, match=r"^crows_pairs of short: .*--context reads more"):
        of("none", "all")


def test_a_context_is_read_unless_positions_are_learned():
    learned = TransformerConfig(vocab_size=16, layers=1, width=8, heads=1, context=32)
    rotary = dataclasses.replace(learned, positions="rotary")
    assert reading(learned, None) is learned and reading(learned, 16).context == 16
    assert reading(rotary, 64) == dataclasses.replace(rotary, context=64)
    for shape, context, most in ((learned, 33, "1 to 32"), (rotary, 0, "positive")):
        with pytest.raises(ConfigError, match=f"context = {context}: must be {most}"):
            reading(shape, context)


def test_two_models_of_one_name_are_refused():
    models = [named("one", ByHand()), named("one", ByHand())]
    with pytest.raises(UserError, match="two models are called 'one'"):
        fitting_benchmarks.check_names(models, None)
    with pytest.raises(ConfigError, match=r"against = 'two': must be of one"):
        fitting_benchmarks.check_names(models[:1], "two")


def test_models_of_another_kind_are_told_with_what_they_are_compared(crows, capsys):
    both = {"crows_pairs": crows, "llmbar": LLMBar()}
    models = [
        named("reward", ByHand(), ends="score"),
        named("sft", ByHand()),
        named("ppo", ByHand()),
    ]
    fitting_benchmarks.tell_against(both, models, "reward")
    told = "eval: reward is a reward model: policies are compared with sft\n"
    assert capsys.readouterr().out == told
    fitting_benchmarks.tell_against(both, models, "ppo")  # one reward model: compared with nothing
    fitting_benchmarks.tell_against(both, models, None)
    fitting_benchmarks.tell_against({"llmbar": both["llmbar"]}, models, "reward")
    assert capsys.readouterr().out == ""


def test_a_reward_model_is_no_judge(monkeypatch):
    kinds = {"scores": named("scores", ByHand(), ends="score"), "answers": named("a", ByHand())}
    monkeypatch.setattr(measured, "of_folder", kinds.get)
    with pytest.raises(ConfigError, match="judge = 'scores': must be a policy, not a reward model"):
        measured.judging("scores")
    assert measured.judging("answers")[1] == kinds["answers"].digest


def test_options_for_all_give_way_to_a_benchmark_s_own():
    options = EvalOptions(files="f", most_items=5)
    found = benchmarking._with_options(HHH(data="own", most_items=2), options)
    assert (found.data, found.most_items) == ("own", 2)
    found = benchmarking._with_options(HHH(), options)
    assert (found.data, found.most_items) == ("f", 5)


def test_a_judge_is_named_where_one_is_needed_and_nowhere_else(crows, tmp_path, monkeypatch):
    monkeypatch.setattr(CrowsPairs, "needs_judge", True)
    with pytest.raises(UserError, match="crows_pairs needs a judge: give --judge URL#MODEL"):
        benchmarking.evaluate(None, ["none"], EvalOptions(), {"crows_pairs": crows})
    monkeypatch.setattr(CrowsPairs, "needs_judge", False)
    with pytest.raises(ConfigError, match=r"judge = 'x': must be left out: no benchmark uses it"):
        benchmarking.evaluate(None, ["none"], EvalOptions(judge="x"), {"crows_pairs": crows})


def test_the_command_asks_a_judge_at_an_endpoint(tmp_path, capsys, monkeypatch):
    """What all may cost is told once, before the first question; answers and rows are kept."""
    questions = "".join(f"Adversarial,Is {i} odd?,No,No,Yes {i},x\n" for i in (2, 4, 6))
    head = "Type,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    write(tmp_path, "truthfulqa/TruthfulQA.csv", head + questions)
    policy = named("one", ByHand(says=lambda prompt: "No"))
    monkeypatch.setattr(benchmarking, "of_folder", lambda name, context=None: policy)
    told = lambda: [line for line in capsys.readouterr().out.splitlines() if "judge m" in line]
    says_no = lambda prompt, n: says("no" if "bears on" in prompt else "Yes.")
    with serving(says_no) as fake:
        ask = lambda *more: benchmarking.eval_command([
            "one", "--files", str(tmp_path), "--to", str(tmp_path / "to"), "--on", "truthfulqa",
            "--truthfulqa.batch-size", "1", "--truthfulqa.most-tokens", "10", "--judge",
            f"{fake.url}#m,price_in=1,price_out=1000000,most_tokens=5{more[0] if more else ''}",
            *more[1:],
        ])  # fmt: skip
        assert ask("", "--truthfulqa.most-items", "1") == 0
        lines = told()
        assert len(lines) == 1 and lines[0].startswith("judge m: at most 2 requests in all, about ")
        assert lines[0].endswith("at most 10 of answers: at most about $10.00, after $0.00 so far")
        assert ask(",tries=2,timeout=9") == 0  # which change no answer: the first row is kept
        assert [line.split(",")[0] for line in told()] == ["judge m: at most 4 requests in all"]
        assert len(fake.requests) == 3 * 2
        content = json.loads((tmp_path / "to" / "eval.json").read_text())
        values = content["benchmarks"]["truthfulqa"]["models"]["one"]["values"]
        assert values["truthfulqa_judged_true"]["mean"] == 1
        assert values["truthfulqa_judged_both"]["mean"] == 0
        policy = named("one", ByHand(says=lambda prompt: "Never"), digest="e")
        with pytest.raises(UserError, match=r"may cost \$33.00, most_cost is \$32.00"):
            ask(",most_cost=32")  # 6 answers of 3 tokens are kept, 3 of at most 5 follow
        assert len(fake.requests) == 3 * 2


def test_a_row_for_each_item_is_needed(crows):
    items = crows.measured()
    with pytest.raises(UserError, match="crows_pairs: expected a row for each of 6 items"):
        benchmarking.checked_rows(crows, items, [{"id": "0"}])
