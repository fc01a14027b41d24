"""A labeler with a browser who wants to say something known: what is stored must be that."""

import random
import re
from typing import Any

from rlhf_jax.data.records import dense_ranks
from rlhf_jax.labelling.item import Item, Output
from rlhf_jax.labelling.words import FLAGS, Choice

BEST = 7
TEXT = "Item {item}, output {output}: quality {quality}."


def ranking_items(count: int, outputs: int = 4) -> list[Item]:
    """Items whose outputs say how good they are; some are equally good."""
    draw = random.Random(0)
    return [
        Item(
            "rank",
            f"Prompt {item}",
            tuple(
                Output(TEXT.format(item=item, output=output, quality=draw.randint(1, BEST)))
                for output in range(outputs)
            ),
        )
        for item in range(count)
    ]


def quality_of(text: str) -> int:
    return int(re.findall(r"\d+", text)[2])


def flag_of(text: str) -> Choice:
    """The flag that an output gets."""
    item, output, _ = map(int, re.findall(r"\d+", text))
    return FLAGS[(item + output) % len(FLAGS)]


def wanted(item: Item) -> dict[str, Any]:
    """What is to be stored of an item that was ranked."""
    texts = [output.text for output in item.outputs]
    return {
        "ranks": list(dense_ranks([BEST - quality_of(text) for text in texts])),
        "scores": [quality_of(text) for text in texts],
        "flags": [[flag_of(text).code] for text in texts],
    }


def enter(page, url: str, token: str) -> None:
    """Signs in by a link, and consents."""
    page.goto(f"{url}/enter#{token}")
    follow(page, "main button")
    page.check("[name=agree]")
    follow(page, "main button")
    page.wait_for_selector("#answer")


def texts(page) -> list[str]:
    """The outputs of the page in the order in which they are shown."""
    return page.locator(".output .text").all_inner_texts()


def ranks(page) -> list[str]:
    """What the fields of the ranks hold, in the order in which the outputs are shown."""
    return [page.input_value(f"#rank-{place}") for place in range(page.locator(".row").count())]


def tab_to(page, selector: str) -> None:
    """Goes to an element by the Tab key."""
    for _ in range(200):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached by Tab")


def leaving(page, act) -> None:
    """Does what leads to another page, and waits for it."""
    with page.expect_navigation():
        act()


def follow(page, selector: str) -> None:
    """Clicks what leads to another page, and waits for it."""
    leaving(page, lambda: page.click(selector))


def rank_by_keys(page) -> None:
    """Rates, flags and ranks the outputs of the page by the keyboard alone, but saves nothing."""
    shown = texts(page)
    rated = "".join(f"{quality_of(text)}{flag_of(text).key}\n" for text in shown)
    ranked = dense_ranks([BEST - quality_of(text) for text in shown])
    # Enter goes from the prompt to the first output.
    page.keyboard.type("\n" + rated + "".join(str(1 + rank) for rank in ranked))


def save_by_keys(page) -> None:
    leaving(page, lambda: page.keyboard.press("Control+Enter"))


def undo_by_keys(page) -> None:
    tab_to(page, "#undo")
    leaving(page, lambda: page.keyboard.press("Enter"))


def skip_by_keys(page) -> None:
    """With the second reason."""
    tab_to(page, ".skip summary")
    page.keyboard.press("Enter")
    tab_to(page, "[name=reason]")
    page.keyboard.press("ArrowDown")
    tab_to(page, ".skip button")
    leaving(page, lambda: page.keyboard.press("Enter"))


def rate_by_mouse(page) -> None:
    for place, text in enumerate(texts(page)):
        output = page.locator(".output").nth(place)
        output.locator(f"[type=radio][value='{quality_of(text)}']").check()
        output.locator(f"[value={flag_of(text).code}]").check()


def drag(page, place: int, to: str, part: float) -> None:
    """Drags an output to a part of the height of an element, 0 its top."""
    start = page.locator(f".row[data-place='{place}'] .handle").bounding_box()
    page.mouse.move(start["x"] + 10, start["y"] + start["height"] / 2)
    page.mouse.down()
    box = page.locator(to).bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + part * box["height"], steps=3)
    page.mouse.up()


def rank_by_dragging(page) -> None:
    """Puts each output where it belongs among those before it: on one that is as good, above one
    that is worse, or below all."""
    placed: dict[int, int] = {}  # quality: the place of an output of it
    for place, text in enumerate(texts(page)):
        quality = quality_of(text)
        worse = [other for other in sorted(placed, reverse=True) if other < quality]
        if quality in placed:
            drag(page, place, f"li.tier:has([data-place='{placed[quality]}'])", 0.5)
        elif worse:
            drag(page, place, f"li.tier:has([data-place='{placed[worse[0]]}'])", 0.1)
        else:
            drag(page, place, ".empty", 0.5)
        placed.setdefault(quality, place)
