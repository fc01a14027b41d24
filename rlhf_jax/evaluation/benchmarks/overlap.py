"""Items of a benchmark that stand in training records."""

import re
from collections.abc import Hashable, Iterable, Mapping

WORDS = 13  # of an item that has more, so many in a row are enough (Brown et al. 2020, appendix C)
LEAST = 5  # items with fewer words are not looked for: many texts have them by chance
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and without punctuation."""
    return WORD.findall(text.lower())


class Overlap:
    """Finds texts in records. A text stands in a record if the record has all its words in a row,
    or of a longer text any WORDS words in a row."""

    def __init__(self, texts: Mapping[Hashable, str]):
        self.short: list[Hashable] = []  # texts that are not looked for
        self._heads: dict[tuple[str, ...], list[tuple[list[str], Hashable]]] = {}
        for key, text in texts.items():
            words = words_of(text)
            if len(words) < LEAST:
                self.short.append(key)
                continue
            size = min(WORDS, len(words))
            for start in range(len(words) - size + 1):
                some = words[start : start + size]
                self._heads.setdefault(tuple(some[:LEAST]), []).append((some, key))

    def found(self, records: Iterable[str]) -> set[Hashable]:
        """The keys of the texts that stand in the records."""
        found: set[Hashable] = set()
        for record in records:
            words = words_of(record)
            for start in range(len(words) - LEAST + 1):
                for some, key in self._heads.get(tuple(words[start : start + LEAST]), ()):
                    if key not in found and words[start : start + len(some)] == some:
                        found.add(key)
        return found
