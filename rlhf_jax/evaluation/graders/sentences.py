"""Sentences of an English text."""

import re

_KNOWN = """mr mrs ms dr prof rev gen col capt lt sgt st jr sr vs etc e.g i.e cf al inc ltd co corp
    dept fig no vol pp ed eds approx jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k a.m
    p.m ph.d m.d b.a m.a d.c ave blvd mt ft"""
ABBREVIATIONS = frozenset(_KNOWN.split())
END = re.compile(r"[.?!]+[\"'”’)\]*_]*(?=\s)")


def sentences(text: str) -> list[str]:
    """The sentences, without white space around them.

    A sentence ends at `.`, `?` or `!` before white space. A full stop ends none behind an
    abbreviation, an initial ("J. Smith") or a number or dots that a small letter follows. Line
    feeds end none. It follows the rules of Kiss and Strunk (2006, Computational Linguistics 32)
    with a short list of abbreviations in place of a learned one.
    """
    found, start = [], 0
    for end in END.finditer(text):
        before, behind = text[start : end.start()], text[end.end() :].lstrip()
        if behind and _ends(end[0], before, behind):
            found.append(text[start : end.end()])
            start = end.end()
    found.append(text[start:])
    return [part.strip() for part in found if part.strip()]


def _ends(mark: str, before: str, behind: str) -> bool:
    if "?" in mark or "!" in mark:
        return True
    word = (before.split() or [""])[-1].lstrip("\"'“‘([*_")
    small = behind[0].islower()
    if mark.startswith("..") or word.isdigit():
        return not small
    initial = len(word) == 1 and word.isupper() and word != "I"
    if initial or word.lower() in ABBREVIATIONS:
        # "at 5 p.m. The" and "etc. The" end; "Dr. Smith" does not.
        return word.lower() in ("etc", "a.m", "p.m") and behind[0].isupper()
    return True
