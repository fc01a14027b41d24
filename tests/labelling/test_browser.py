"""The labelling page in a browser: labelers who use keys alone, drag, come back, or have no
JavaScript. What is stored is compared with what they wanted to say."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from rlhf_jax import cli
from rlhf_jax.data.records import Demonstration, Ranking, read_jsonl, to_json
from rlhf_jax.labelling import answers, export
from rlhf_jax.labelling.item import Item, Output
from tests.labelling import visitor
from tests.labelling.serving import served

ROOT = Path(__file__).resolve().parents[2]
TRAINED = """--stages reward --data.held-out 0.2 --model.layers 1 --model.width 32 --model.heads 2
    --model.context 128 --model.vocab-size 300 --sft.epochs 2 --reward.epochs 20
    --evaluation.prompt-length 16 --evaluation.response-length 16"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
# For every text of a page: its contrast with what is behind it. Backgrounds here are opaque.
CONTRAST = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!colour.endsWith(", 0)") && colour !== "transparent") return colour;
    }
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility()) continue;
    const both = [getComputedStyle(element).color, behind(element)].map(light).sort();
    found.push([(both[1] + 0.05) / (both[0] + 0.05), node.data.trim().slice(0, 40)]);
  }
  return found;
}"""
# Controls that are smaller than 24 by 24 pixels; the label of a box to tick counts as its target.
SMALL = """() => [...document.querySelectorAll("button, input, summary, textarea")]
  .filter((control) => control.checkVisibility() && control.type !== "hidden")
  .map((control) => (/radio|checkbox/.test(control.type) ? control.labels[0] : control))
  .filter((target) => {
    const { width, height } = target.getBoundingClientRect();
    return width < 24 || height < 24;
  }).map((target) => target.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """visit(url, token, ...): a page of a browser of its own, signed in. A complaint of the browser
    fails the test: an error of a script, or something that the policy of the page refuses."""
    complaints, contexts = [], []

    def open_page(url, token=None, viewport=DESK, **more):
        contexts.append(browser.new_context(viewport=viewport, **more))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)  # a machine may be busy
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda told: told.type == "error" and complaints.append(told.text))
        if token is not None:
            visitor.enter(page, url, token)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in complaints if "status of 4" not in text] == []


def stored(store, labeler: str) -> list:
    return [answer for answer in answers.read(store.database) if answer.labeler == labeler]


def assert_as_wanted(found) -> None:
    assert [answer.content for answer in found] == [visitor.wanted(a.item) for a in found]


def label(visit, folder, by_keys: int, by_dragging: int) -> list[Ranking]:
    """A labeler ranks so many items by keys alone and so many by dragging, with ties; takes back an
    answer and a skip. The export, which is what the labeler wanted to say."""
    items = visitor.ranking_items(by_keys + by_dragging)
    with served(folder, items) as (url, tokens, store):
        page = visit(url, tokens["anna"])
        for number in range(by_keys):
            visitor.rank_by_keys(page)
            typed = dict(zip(visitor.texts(page), visitor.ranks(page), strict=True))
            visitor.save_by_keys(page)
            if number == 0:
                visitor.undo_by_keys(page)
                assert dict(zip(visitor.texts(page), visitor.ranks(page), strict=True)) == typed
                assert stored(store, "anna") == []
                visitor.save_by_keys(page)
            if number == 1:
                visitor.skip_by_keys(page)
                skipped = stored(store, "anna")[-1]
                assert (skipped.state, skipped.content["reason"]) == ("skipped", "knowledge")
                visitor.undo_by_keys(page)
        found = stored(store, "anna")
        ties = [len(set(answer.content["ranks"])) < 4 for answer in found]
        assert len(found) == by_keys and any(ties) and not all(ties)
        for _ in range(by_dragging):
            visitor.rate_by_mouse(page)
            visitor.rank_by_dragging(page)
            visitor.follow(page, "#save")
        assert "Nothing left" in page.inner_text("h1")
        found = stored(store, "anna")
        assert {a.item.digest for a in found} == {item.digest for item in items}
        assert_as_wanted(found)
        export.write(store.database, folder / "records")
        records = list(read_jsonl(folder / "records" / "rankings.train.jsonl", Ranking))
        assert [(r.responses, list(r.ranks), r.labeler) for r in records] == [
            (tuple(o.text for o in a.item.outputs), visitor.wanted(a.item)["ranks"], "anna")
            for a in found
        ]
    return records


def test_a_labeler_ranks_by_keys_alone_and_by_dragging(visit, tmp_path):
    assert len(label(visit, tmp_path, by_keys=3, by_dragging=2)) == 5


@pytest.mark.slow
def test_a_reward_model_learns_from_the_export(visit, tmp_path, monkeypatch, capsys):
    """Of 25 items that were ranked in the browser; one item in five is held out."""
    records = label(visit, tmp_path, by_keys=20, by_dragging=5)
    best = [Demonstration(r.prompt, r.responses[r.ranks.index(0)]) for r in records]
    lines = "".join(json.dumps(to_json(record)) + "\n" for record in best)
    (tmp_path / "records" / "demonstrations.train.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    experiment = str(ROOT / "experiments" / "folder.py")
    assert cli.command(["run", experiment, "--data.path", "records", *TRAINED.split()]) == 0
    report = json.loads((tmp_path / "runs" / "folder" / "report.json").read_text())
    found = report["scorers"]["reward"]
    told = f"Reward model reward: {found['accuracy']['mean']:.3f}"
    assert told in " ".join(capsys.readouterr().out.split())
    assert found["accuracy_prompts"] == 5 and found["accuracy"]["mean"] > 0.6


@pytest.mark.slow
def test_two_labelers_at_once_and_one_in_two_tabs(visit, tmp_path):
    """Nothing is lost or doubled. The owner sees on how many pairs the labelers agree."""
    items = visitor.ranking_items(4, outputs=3)
    with served(tmp_path, items, each=2) as (url, tokens, store):
        anna, ben = (visit(url, tokens[name]) for name in ("anna", "ben"))
        again = anna.context.new_page()
        again.goto(url)
        for _ in items:
            visitor.rank_by_keys(anna)
            again.reload()
            assert visitor.texts(again) == visitor.texts(anna)
            visitor.rank_by_keys(again)
            visitor.rank_by_keys(ben)
            ben.keyboard.press("Alt+ArrowUp")  # the output that was ranked last
            visitor.save_by_keys(anna)
            visitor.save_by_keys(again)  # the same again: it goes on
            visitor.save_by_keys(ben)
        both = stored(store, "anna"), stored(store, "ben")
        assert_as_wanted(both[0])
        assert [len({a.number for a in found}) for found in both] == [4, 4]
        same = [
            (a.content["ranks"][i] - a.content["ranks"][j] > 0)
            - (a.content["ranks"][i] - a.content["ranks"][j] < 0)
            == (b.content["ranks"][i] - b.content["ranks"][j] > 0)
            - (b.content["ranks"][i] - b.content["ranks"][j] < 0)
            for a, b in zip(*both, strict=True)
            for i, j in itertools.combinations(range(3), 2)
        ]
        assert 0 < sum(same) < len(same) == 12
        owner = visit(url)
        owner.goto(f"{url}/enter#{tokens['owner']}")
        owner.click("main button")
        shown = owner.inner_text(".figures")
        assert f"{100 * sum(same) / len(same):.1f} %" in shown
        assert owner.locator("main table").count() == 5


def test_the_keys_of_the_ranking(visit, tmp_path):
    """Half a rank up or down, a rank in its field, an output taken out, a tap, a missing score."""
    with served(tmp_path, visitor.ranking_items(1)) as (url, tokens, _):
        page = visit(url, tokens["anna"])
        press, ranks = page.keyboard.press, lambda: "".join(visitor.ranks(page)) or "-"
        row = lambda place: f".row[data-place='{place}'] .handle"
        page.focus(row(0))
        for key, expected, heard in [
            ("2", "2", "Output A, rank 2"),
            ("1", "21", "Output B, rank 1"),
            ("1", "211", "Output C, rank 1, tied with B"),
            ("4", "2114", "Output D, rank 4"),
            ("Alt+ArrowUp", "2112", "Output D, rank 2, tied with A"),
            ("Alt+ArrowUp", "3112", "Output D, rank 2"),
            ("Alt+ArrowUp", "2111", "Output D, rank 1, tied with B, C"),
            ("Alt+ArrowDown", "3112", "Output D, rank 2"),
            ("Delete", "311", "Output D, not ranked"),
        ]:
            press(key)
            assert (ranks(), page.inner_text("#said")) == (expected, heard)
        page.fill("#rank-3", "1")
        assert page.locator("li.tier").first.locator(".row").count() == 3
        page.focus(row(0))
        press("Backspace")
        page.click(row(0))
        assert ranks() == "2111"
        press("Control+Enter")  # without scores
        assert page.evaluate("document.activeElement.name") == "score-0"
        assert page.locator("#answer").get_attribute("data-sent") is None


@pytest.mark.slow
def test_a_page_without_javascript(visit, tmp_path):
    items = visitor.ranking_items(2)[1:]  # no two are as good: no order is its own reverse
    with served(tmp_path, items) as (url, tokens, store):
        page = visit(url, java_script_enabled=False)
        page.goto(f"{url}/enter")
        page.fill("#token", tokens["anna"])
        visitor.follow(page, "main button")
        page.check("[name=agree]")
        visitor.follow(page, "main button")
        visitor.rate_by_mouse(page)
        shown = visitor.texts(page)
        order = sorted({visitor.quality_of(text) for text in shown}, reverse=True)
        for place, text in enumerate(shown):
            page.fill(f"#rank-{place}", str(1 + order.index(visitor.quality_of(text))))
        visitor.follow(page, "#save")
        assert_as_wanted(stored(store, "anna"))
        visitor.follow(page, "#undo")
        assert visitor.texts(page) == shown and stored(store, "anna") == []


def test_texts_of_models_are_shown_as_texts(visit, tmp_path):
    """Tags, right to left, control characters, and 100 kB, on a phone."""
    hostile = (
        "<script>document.title = 'owned'</script><img src=x onerror='document.title = \"owned\"'>",
        "{{ csrf }} </div></form><style>body { display: none }</style>",
        "שלום עולם \u202e abc",
        "a\0b\x1b[31m",
        "long " * 20_000,
        "&lt;b&gt;",
    )
    items = [Item("rank", hostile[0], tuple(map(Output, hostile)))]
    with served(tmp_path, items) as (url, tokens, _):
        page = visit(url, tokens["anna"], viewport=PHONE)
        found = page.locator(".output .text").all_text_contents()
        expected = [text.replace("\0", "␀").replace("\x1b", "␛") for text in hostile]
        assert sorted(found) == sorted(expected) and page.title() != "owned"
        assert page.locator(".asked .text").text_content() == hostile[0]
        assert page.locator("img, main style, main script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        heights = page.locator(".text").evaluate_all("all => all.map((text) => text.clientHeight)")
        assert max(heights) <= PHONE["height"] / 2


def test_what_is_typed_stays(visit, tmp_path):
    """After a reload, a lost session and an undo; the next labeler of the browser sees nothing."""
    items = [Item("demonstrate", "Say two words."), Item("write", "Any prompt."), Item("write", "")]
    with served(tmp_path, items, labelers=("anna",)) as (url, tokens, store):
        page = visit(url, tokens["anna"])
        page.keyboard.press("Enter")
        page.keyboard.type("one\ntwo")
        page.reload()
        assert page.input_value("#response") == "one\ntwo"
        assert page.evaluate("location.href").startswith(f"{url}/") and "#" not in page.url
        page.context.clear_cookies()
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#answer", state="detached")
        page.goto(f"{url}/enter#{tokens['anna']}")
        assert page.evaluate("location.hash") == ""
        visitor.follow(page, "main button")
        assert page.input_value("#response") == "one\ntwo"
        visitor.save_by_keys(page)
        page.fill("#prompt", "A prompt.")
        visitor.follow(page, "#undo")
        visitor.save_by_keys(page)
        assert page.input_value("#prompt") == "A prompt."
        visitor.save_by_keys(page)
        assert [a.content["text"] for a in stored(store, "anna")] == ["one\ntwo", "A prompt."]
        page.fill("#prompt", "A secret.")
        visitor.follow(page, "#leave")
        assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.slow
def test_the_time_of_an_item_counts_while_the_page_is_used(visit, tmp_path):
    with served(tmp_path, [Item("write", "")], labelers=("anna",)) as (url, tokens, _):
        page = visit(url, tokens["anna"])
        page.clock.install(time=0)
        page.clock.pause_at(1_000)
        page.reload()
        clock = lambda: page.inner_text("#clock")
        page.clock.run_for(30_000)
        assert clock() == "0:30"
        page.keyboard.press("a")
        page.clock.run_for(200_000)  # it counts for less than 60 seconds after the last key
        assert clock() == "1:29"
        page.click("#pause")
        page.clock.run_for(20_000)
        assert clock() == "1:29"
        page.click("#resume")
        page.clock.run_for(5_000)
        assert clock() == "1:34" and page.input_value("#seconds") == "94"


@pytest.mark.slow
def test_every_page_fits_a_phone_and_can_be_read(visit, tmp_path):
    """360 pixels without scrolling sideways, AA contrast of all texts, targets of 24 pixels."""
    items = [*visitor.ranking_items(1), Item("demonstrate", "Say two words."), Item("write", "")]

    def look(page):
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            contrasts = page.evaluate(CONTRAST)
            assert contrasts and [text for found, text in contrasts if found < 4.5] == []
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert page.evaluate(SMALL) == []

    with served(tmp_path, items, labelers=("anna",)) as (url, tokens, _):
        page = visit(url, viewport=PHONE)
        page.goto(f"{url}/enter")
        look(page)
        page.fill("#token", "wrong")
        visitor.follow(page, "main button")
        look(page)
        page.fill("#token", tokens["anna"])
        visitor.follow(page, "main button")
        look(page)  # the consent
        page.check("[name=agree]")
        visitor.follow(page, "main button")
        visitor.rank_by_keys(page)
        for summary in page.locator("summary").all():
            summary.click()
        look(page)
        visitor.follow(page, "#save")
        page.evaluate("document.querySelector('textarea').required = false")
        visitor.follow(page, "#save")  # refused: it is empty
        look(page)
        page.fill("#response", "Two words.")
        visitor.follow(page, "#save")
        look(page)
        page.fill("#prompt", "A prompt.")
        visitor.follow(page, "#save")
        look(page)  # nothing left
        page.goto(f"{url}/nothing")
        look(page)
        page.context.clear_cookies()
        page.goto(f"{url}/enter#{tokens['owner']}")
        visitor.follow(page, "main button")
        look(page)
