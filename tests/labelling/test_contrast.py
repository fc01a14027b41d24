"""The colours of the labelling page: contrast ratios of WCAG 2.2 (1.4.3 text, 1.4.11 controls)."""

import re
from pathlib import Path

import pytest

STYLE = Path(__file__).resolve().parents[2] / "rlhf_jax" / "labelling" / "static" / "label.css"
THEMES = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme)) for theme in THEMES)
TEXT = 4.5
CONTROL = 3.0
# (in front, behind, least ratio): every pair of the style sheet.
PAIRS = [
    *((front, behind, TEXT) for front in ("ink", "soft") for behind in ("back", "card", "tie")),
    ("strong", "back", TEXT),  # links
    ("on-strong", "strong", TEXT),
    ("on-note", "note", TEXT),
    ("on-bad", "bad", TEXT),
    *(
        (front, behind, CONTROL)
        for front in ("edge", "focus")
        for behind in ("back", "card", "tie")
    ),
    *((front, behind, CONTROL) for front in ("strong", "on-bad") for behind in ("back", "card")),
    *(("focus", behind, CONTROL) for behind in ("note", "bad")),
]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG defines it."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ratio(front: str, behind: str) -> float:
    low, high = sorted((luminance(front), luminance(behind)))
    return (high + 0.05) / (low + 0.05)


def test_the_ratio_is_that_of_wcag():
    """Black on white has 21, and #767676 is the lightest grey with 4.5 on white."""
    assert ratio("#000000", "#ffffff") == pytest.approx(21)
    assert ratio("#767676", "#ffffff") > 4.5 > ratio("#777777", "#ffffff")


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_pair_has_its_contrast(theme):
    assert theme.keys() == LIGHT.keys()
    low = {pair: ratio(theme[pair[0]], theme[pair[1]]) for pair in PAIRS}
    assert {pair: found for pair, found in low.items() if found < pair[2]} == {}


def test_every_colour_is_a_variable_that_is_measured():
    """Lines are the only colour without a pair: nothing that must be seen is drawn with them."""
    rules = STYLE.read_text(encoding="utf-8").split("* { box-sizing", 1)[1]
    assert re.findall(r"#[0-9a-f]{3,8}\b", rules) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", rules))
    assert used == LIGHT.keys()
    assert used - {name for front, behind, _ in PAIRS for name in (front, behind)} == {"line"}
