"""CheckedReward("rlhf_jax.rewards.gsm8k:correct"): whether a response solves a GSM8K problem.

Source: Cobbe et al. 2021 (arXiv 2110.14168). A solution ends with a line such as "#### 42", and
this number is compared (github.com/openai/grade-school-math, dataset.py).
"""

import decimal
import re

MARKED = re.compile(r"#### *([-+]?\$?[\d.,]+)")


def correct(prompt: str, response: str, record: dict) -> float:
    """1 if the number after the response's first "####" equals the number of the record's `answer`,
    else 0. A response without "####" gets 0, whatever numbers it contains.

    An `answer` is a solution with "####", or the number alone. 1,000 equals 1000; 2.50 equals 2.5.

    Raises ValueError where the record has no such answer.
    """
    del prompt
    answer = str(record["answer"])
    expected = marked(answer) if "####" in answer else number(answer)
    if expected is None:
        raise ValueError(f"the record's answer holds no number: {answer!r:.60}")
    return float(marked(response) == expected)


def marked(text: str) -> decimal.Decimal | None:
    """The number after the first "####"; None if there is none."""
    found = MARKED.search(text)
    return found and number(found[1])


def number(text: str) -> decimal.Decimal | None:
    """The number in a text that is one number, perhaps with commas, a dollar sign or a final full
    stop; None for other text."""
    plain = text.strip().replace(",", "").replace("$", "")
    try:
        found = decimal.Decimal(plain)
    except decimal.InvalidOperation:
        return None
    return found if found.is_finite() else None
