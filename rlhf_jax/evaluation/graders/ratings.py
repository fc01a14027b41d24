"""The rating that a judge gives in words."""

import re

RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]"), re.compile(r"\[\s*(\d+(?:\.\d+)?)\s*\]")


def rating(text: str, low: float = 1, high: float = 10) -> float | None:
    """The number in a judge's first "[[7]]", else in its first "[7]"; None where there is none, or
    it is not in low..high.

    Source: Zheng et al. 2023 (arXiv 2306.05685), single-answer grading.
    """
    found = next((match for form in RATING if (match := form.search(text))), None)
    value = float(found[1]) if found else None
    return value if value is not None and low <= value <= high else None
