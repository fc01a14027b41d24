"""The number that an answer to a problem in words ends with."""

import decimal
import re

from rlhf_jax.rewards.gsm8k import marked, number

NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> decimal.Decimal | None:
    """The last number in a text, without dollar signs and commas; None without one."""
    found = NUMBER.findall(text)
    return number(found[-1].rstrip(",")) if found else None


def grades(response: str, answer: str) -> dict[str, float]:
    """{"strict", "flexible"}: whether the number behind the first "####", and the last number, is
    the answer's. answer: a solution with "####" before its number.
    """
    expected = marked(answer)
    return {
        "strict": float(marked(response) == expected),
        "flexible": float(last_number(response) == expected),
    }
