"""CheckedReward("rlhf_jax.rewards.gsm8k:correct"): whether a response solves a school problem.

Source: Cobbe et al. 2021 (arXiv 2110.14168); a solution ends with a line "#### 42", and the number
there is compared (github.com/openai/grade-school-math, dataset.py).
"""

import decimal
import re

MARKED = re.compile(r"#### *([-+]?\$?[\d.,]+)")


def correct(prompt: str, response: str, record: dict) -> float:
    """1 where the number behind the response's first "####" equals that of the record's `answer`,
    else 0; a response without the mark solves nothing, whatever numbers it names.

    An `answer` is a solution with the mark, or the number alone. 1,000 is 1000, and 2.50 is 2.5.

    Raises ValueError where the record has no such answer.
    """
    del prompt
    answer = str(record["answer"])
    expected = marked(answer) if "####" in answer else number(answer)
    if expected is None:
        raise ValueError(f"the record's answer holds no number: {answer!r:.60}")
    return float(marked(response) == expected)


def marked(text: str) -> decimal.Decimal | None:
    """The number behind the first "####"; None: there is none."""
    found = MARKED.search(text)
    return found and number(found[1])


def number(text: str) -> decimal.Decimal | None:
    """Of text that is one number, maybe with commas, a dollar sign and a full stop behind it."""
    plain = text.strip().replace(",", "").replace("$", "")
    try:
        found = decimal.Decimal(plain)
    except decimal.InvalidOperation:
        return None
    return found if found.is_finite() else None
