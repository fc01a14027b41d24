"""Writes the pictures of docs/labelling.md: python -m tests.labelling.screenshots"""

import io
import random
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from rlhf_jax.data.records import dense_ranks
from rlhf_jax.labelling.item import Item, Output
from rlhf_jax.labelling.store import Store
from rlhf_jax.labelling.words import FLAGS
from tests.labelling.serving import served
from tests.labelling.visitor import enter

DOCS = Path(__file__).resolve().parents[2] / "docs"
COLOURS = 48  # of a picture's palette
LABELED = 20  # items before the pictures
PROMPT = "Give me two fruits. Do not name a berry."
OUTPUTS = (  # origin, text, how good
    ("ppo", "An apple and a pear.", 6),
    ("sft", "A strawberry and an apple. Strawberries are berries: I should not have named one.", 3),
    ("sft", "Two fruits are the apple and the orange.", 6),
    ("base", "Fruits are a kind of food. Fruits are a kind of food. Fruits are a kind of", 1),
)  # fmt: skip


def items() -> list[Item]:
    return [
        Item(
            "rank",
            PROMPT if number == LABELED else f"{PROMPT} ({number})",
            tuple(Output(text, good > 1, (origin,)) for origin, text, good in OUTPUTS),
        )
        for number in range(LABELED + 5)
    ]


def answer(store: Store, labeler: str, noise: float, draw: random.Random) -> None:
    """Answers the labeler's next item as somebody who is often right."""
    asked = store.next(labeler)
    found = [good + draw.gauss(0, noise) for _, _, good in OUTPUTS]
    scores = [round(min(max(value, 1), 7)) for value in found]
    content = {
        "ranks": list(dense_ranks([-score for score in scores])),
        "scores": scores,
        "flags": [[FLAGS[0].code] if score < 3 else [] for score in scores],
    }
    store.answer(labeler, asked.id, "answered", content, None)


def save(page: Page, name: str) -> None:
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
    picture.convert("RGB").quantize(COLOURS).save(DOCS / f"labelling_{name}.png", optimize=True)


def rate(page: Page) -> None:
    """Types scores and ranks, and ticks a flag of bad outputs."""
    shown = page.locator(".output .text").all_inner_texts()
    good = [next(good for _, text, good in OUTPUTS if text == each) for each in shown]
    rated = "".join(f"{value}{'f' * (value < 3)}\n" for value in good)
    page.keyboard.type("\n" + rated)
    page.keyboard.type("".join(str(1 + rank) for rank in dense_ranks([-value for value in good])))
    page.focus("#rank-0")
    page.keyboard.press("Shift+Tab")


def main() -> None:
    draw = random.Random(0)
    names = ("anna", "ben")
    folder = tempfile.TemporaryDirectory()
    with folder as place, served(place, items(), names, each=2) as (url, tokens, store):
        for _ in range(LABELED):
            for name, noise in zip(names, (1.0, 2.0), strict=True):
                answer(store, name, noise, draw)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1180, "height": 860})
            enter(page, url, tokens["anna"])
            rate(page)
            page.evaluate("scrollTo(0, 0)")
            save(page, "rank")
            phone = browser.new_page(viewport={"width": 360, "height": 860}, color_scheme="dark")
            enter(phone, url, tokens["ben"])
            rate(phone)
            phone.locator("#order-title").scroll_into_view_if_needed()
            save(phone, "phone")
            owner = browser.new_page(viewport={"width": 1000, "height": 860})
            owner.goto(f"{url}/enter#{tokens['owner']}")
            owner.click("main button")
            owner.wait_for_selector(".figures")
            save(owner, "owner")
            browser.close()


if __name__ == "__main__":
    main()
