"""What InstructGPT did to prompts before training (appendix A.2): one prompt for each long common
prefix, a limit for each user, splits by user, no personal data. Each function returns counts."""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from rlhf_jax.data.messages import Messages, plain
from rlhf_jax.errors import ConfigError, require

T = TypeVar("T")
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)*\.[A-Za-z]{2,}\b")
# Groups of digits, with a country code, brackets or separators; no address of the internet. Or ten
# digits and perhaps a 1 or 0 before them, but no number that is round.
PHONE = re.compile(
    r"(?<![\w.,/-])(?!\d+(\.\d+){3}(?!\d))(\+\d{1,3}[ .-]?)?(\(\d{2,4}\)[ .-]?|\d{2,4}[ .-])"
    r"\d{3,4}[ .-]\d{2,4}([ .-]\d{2,4})?"
    r"(?![\w/-]|[.,]\d)|(?<![\w.])\+\d{8,14}(?!\w)"
    r"|(?<![\w.,/+*=-])(?<![=+*] )(?!\d*0000)(1?[2-9]\d{9}|0\d{9,10})(?![\w/*=-]|[.,]\d| [=+*])"
)
CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)")


PERSONAL = ("e-mail address", "card number", "telephone number")


def luhn(digits: str) -> bool:
    """Whether the last digit of a card's number checks the others (ISO/IEC 7812)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def personal(texts: Iterable[str]) -> str | None:
    """The first kind of PERSONAL data in the texts; None: there is none. Other kinds, such as
    names, are not looked for."""
    for text in texts:
        if EMAIL.search(text):
            return "e-mail address"
        if any(luhn(re.sub(r"\D", "", found[0])) for found in CARD.finditer(text)):
            return "card number"
        if PHONE.search(text):
            return "telephone number"
    return None


def deduplicate_by_prefix(
    prompts: Sequence[str | Messages], characters: int
) -> tuple[list[str | Messages], int]:
    """Keeps the first prompt of each prefix of `characters` characters: (kept, number dropped).

    Source: InstructGPT, appendix A.2 (prompts that share a long common prefix).
    """
    require(characters >= 1, "characters", characters, "at least 1")
    kept = {}
    for prompt in prompts:
        kept.setdefault(plain(prompt)[:characters], prompt)
    return list(kept.values()), len(prompts) - len(kept)


def first_of_each(items: Sequence[T], key: Callable[[T], Hashable]) -> tuple[list[T], int]:
    """(the first item of each key, the number of the others)."""
    kept: dict[Hashable, T] = {}
    for item in items:
        kept.setdefault(key(item), item)
    return list(kept.values()), len(items) - len(kept)


def at_most(
    items: Sequence[T], most: int, user: Callable[[T], str | None], prompt: Callable[[T], Hashable]
) -> tuple[list[T], int]:
    """(items of the first `most` different prompts of each user, the number of the others). Items
    without a user are kept."""
    require(most >= 1, "per_user", most, "at least 1")
    seen: dict[str, set] = {}
    kept = []
    for item in items:
        name = user(item)
        prompts = seen.setdefault(name, set()) if name is not None else set()
        if prompt(item) in prompts or len(prompts) < most:
            prompts.add(prompt(item))
            kept.append(item)
    return kept, len(items) - len(kept)


def hold_out(groups: Sequence, fraction: float, seed: int) -> list[bool]:
    """Whether each item is held out: whole groups are, until they have about `fraction` of all.

    groups: the group of each item, such as its user. At least one group is held out, and not all.
    Raises ConfigError where the fraction is outside (0, 1) or all items are of one group.
    """
    require(0 < fraction < 1, "fraction", fraction, "in (0, 1)")
    sizes = Counter(groups)
    names = sorted(sizes)
    if len(names) < 2:
        raise ConfigError(f"fraction = {fraction}: all prompts begin alike or are of one user, so "
                          "none can be held out")  # fmt: skip
    held, count = set(), 0
    for place in np.random.default_rng(seed).permutation(len(names))[:-1].tolist():
        name = names[place]
        if held and count + sizes[name] / 2 > fraction * len(groups):
            continue
        held.add(name)
        count += sizes[name]
    return [group in held for group in groups]


def dialogues(prompts: Sequence[str], characters: int) -> list[int]:
    """The group of each prompt, a number. Prompts are of one group if one is the beginning of the
    other (turns of one dialogue) or if their first `characters` are equal (InstructGPT's long
    common prefix)."""
    require(characters >= 1, "characters", characters, "at least 1")
    keys = [prompt[:characters] for prompt in prompts]
    group: dict[str, int] = {}
    leaders: list[str] = []
    for key in sorted(set(keys)):  # prompts that begin with a key come right after it
        if not leaders or not key.startswith(leaders[-1]):
            leaders.append(key)
        group[key] = len(leaders) - 1
    return [group[key] for key in keys]


def split_by_prompt(
    records: Sequence[T], fraction: float, seed: int, characters: int = 100
) -> tuple[list[T], list[T]]:
    """(train, held out): about `fraction` is held out, whole groups of `dialogues`, so that no
    prompt is on both sides. Order is kept. records: texts, or records with a prompt.

    Raises ConfigError as `hold_out` does.
    """
    prompts = [r if isinstance(r, str) else plain(r.prompt) for r in records]
    held = hold_out(dialogues(prompts, characters), fraction, seed)
    train, out = ([r for r, h in zip(records, held, strict=True) if h == side]
                  for side in (False, True))  # fmt: skip
    return train, out
