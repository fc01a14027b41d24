"""Names and numbers of a response that its passage does not have: a proxy for hallucination."""

import re
from typing import NamedTuple

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
# Capitals that name nothing.
NO_NAMES = frozenset(["i", "i'm", "i've", "i'll", "i'd", "mr", "mrs", "ms", "dr"])
_OPENERS = """after again all also although and another as at because before both but by despite
    during each even every first for from he her here his how however if in instead it its later
    like many meanwhile most my next no not now of on once one only or other our she since so some
    soon that the their then there these they this though through thus to today together two under
    unlike until we well what when where while who why with without yes you your"""
OPENERS = frozenset(_OPENERS.split())  # of sentences before a name, besides words in -ing and -ly
_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL = {word: value for value, word in enumerate(_UNITS.split())}
SMALL |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}


class Claims(NamedTuple):
    """The names and numbers of a response, each once, and those that the passage does not have."""

    names: tuple[str, ...]
    numbers: tuple[str, ...]
    absent: tuple[str, ...]


def claims(response: str, passage: str) -> Claims:
    """The names and numbers that a response states, and which of them are not in the passage.

    A name is a word that begins with a capital inside of a sentence; at the beginning of one it
    counts if it also stands inside of one, or if a name follows it. A number is written in digits
    or in words ("forty-two"); "zero", "one" and "two" do not count. Case, possessive and plural s
    do not matter.

    What it cannot see: wrong relations between right names, claims without a name or number, and
    names that only begin sentences. A synonym of a name ("the Captain" as "Commander") counts as
    absent.
    """
    known = {_stem(word) for word in _parts(passage)}
    names = tuple(dict.fromkeys(_names(response)))
    numbers = tuple(dict.fromkeys(_numbers(response, least=3)))
    there = set(_numbers(passage, least=0))
    lost = [name for name in names if _stem(name.lower()) not in known]
    return Claims(names, numbers, (*lost, *(n for n in numbers if n not in there)))


def _parts(text: str) -> list[str]:
    """All words in small letters; a word with a hyphen is there as a whole and in its parts."""
    whole = [word.lower() for word in WORD.findall(text)]
    return whole + [part for word in whole if "-" in word for part in word.split("-")]


def _stem(word: str) -> str:
    word = re.sub(r"['’]s?$", "", word.lower())
    return word[:-1] if word.endswith("s") and len(word) > 3 else word


def _names(text: str) -> list[str]:
    """The capitalized words that name something, in order."""
    inside, first = [], []
    for sentence in re.split(r"(?<=[.!?])[\"'”’)]*\s+|\n+", text):
        words = list(WORD.finditer(sentence))
        capitals = [w for w in words if w[0][0].isupper() and w[0].lower() not in NO_NAMES]
        opening = {id(w) for w in capitals if _opens(sentence, w.start())}
        for w in capitals:
            follows = any(o.start() == w.end() + 1 and id(o) not in opening for o in capitals)
            kept = id(w) not in opening or (follows and not _opener(w[0].lower()))
            parts = [part for part in w[0].split("-") if part[:1].isupper()]
            (inside if kept else first).extend(parts)
    known = {_stem(name) for name in inside}
    return inside + [name for name in first if _stem(name) in known]


def _opener(word: str) -> bool:
    return word in OPENERS or word.endswith(("ing", "ly"))


def _opens(sentence: str, start: int) -> bool:
    """Whether nothing but marks stands before, or a quotation or a list's item begins there."""
    before = sentence[:start].rstrip()
    return not re.search(r"\w", before) or before[-1] in '"“‘:*•' or before.endswith("(")


def _numbers(text: str, least: int) -> list[str]:
    """The values of all numbers, in digits; those in words from `least` on."""
    found = [value.replace(",", "") for value in NUMBER.findall(text)]
    found = [value.rstrip("0").rstrip(".") if "." in value else value for value in found]
    run: list[str] = []
    for word in [*re.findall(r"[a-z]+", text.lower()), ""]:
        if word in SMALL or (run and word in LARGE) or (run and word == "and"):
            run.append(word)
        elif run:
            value = _value(run)
            found += [str(value)] if value >= least else []
            run = []
    return found


def _value(words: list[str]) -> int:
    """The value of a number in words: ["forty", "two", "thousand"] is 42,000."""
    total = part = 0
    for word in words:
        if word in SMALL:
            part += SMALL[word]
        elif word == "hundred":
            part *= 100
        elif word in LARGE:
            total, part = total + part * LARGE[word], 0
    return total + part
