"""Sentences and small stories, and a measure of how similar a sentence is to them."""

import random
import re

from rlhf_jax.worlds.lexicon import ADJECTIVES, NAMES, NOUNS, PLACES, articles

ABOUT_ONE = (
    "The {n} is near the {m}.",
    "The {n} is very {a}.",
    "I can see a {a} {n}.",
    "{p} found a {n} in the {l}.",
    "There is a {n} in the {l}.",
    "{p} put the {n} next to the {m}.",
    "The {a} {n} is in the {l}.",
    "We saw the {n} near the {l}.",
    "{p} took the {n} to the {l}.",
    "{p} looked at the {n} for a long time.",
    "{p} gave the {n} to {q}.",
)
ABOUT_TWO = (
    "The {n} is near the {m}.",
    "{p} put the {n} next to the {m}.",
    "I can see a {n} and a {m}.",
    "{p} found the {n} and the {m} in the {l}.",
    "There is a {n} near the {m} in the {l}.",
    "{p} gave the {n} and the {m} to {q}.",
)
BEGINNINGS = (
    "One morning {p} went to the {l}.",
    "It was a cold day and {p} was in the {l}.",
    "After lunch {p} walked to the {l} with {q}.",
    "{p} and {q} sat in the {l}.",
)
ENDINGS = (
    "{p} was happy.",
    "Then {p} went home.",
    "At night {p} was in bed.",
    "{q} thanked {p}.",
    "They talked for a long time and went home.",
)


def sentence(rng: random.Random, patterns: tuple[str, ...], *nouns: str) -> str:
    """A sentence of a random pattern with the given nouns; its other words are random."""
    words = [*nouns, *rng.sample(NOUNS, 2)]
    people = rng.sample(NAMES, 2)
    pattern = rng.choice(patterns)
    return articles(
        pattern.format(
            n=words[0],
            m=words[1],
            a=rng.choice(ADJECTIVES),
            l=rng.choice(PLACES),
            p=people[0],
            q=people[1],
        )
    )


def story(rng: random.Random, names: list[str]) -> str:
    """Four to seven sentences about two people and a few things."""
    p, q = rng.sample(names, 2)
    place, things = rng.choice(PLACES), rng.sample(NOUNS, 3)
    lines = [rng.choice(BEGINNINGS)]
    lines += [rng.choice(ABOUT_ONE + ABOUT_TWO) for _ in range(rng.randint(2, 5))]
    lines.append(rng.choice(ENDINGS))
    told = []
    for line in lines:
        n, m = rng.sample(things, 2)
        told.append(line.format(p=p, q=q, n=n, m=m, l=place, a=rng.choice(ADJECTIVES)))
    return articles(" ".join(told))


class Fluency:
    """The fraction of a sentence's word triples that occur in the world's stories.

    All nouns and places count as the same word, and so do all adjectives and all names ("the N is
    near the N"). The beginning and the end of a sentence each count as a word.
    """

    def __init__(self):
        self._classes = {
            word: f"<{name}>"
            for name, words in (
                ("noun", [*NOUNS, *PLACES]),
                ("adjective", ADJECTIVES),
                ("name", [name.lower() for name in NAMES]),
            )
            for word in words
        }
        rng = random.Random("fluency")
        self._known = frozenset(
            triple
            for _ in range(1500)
            for line in story(rng, NAMES).split(".")
            for triple in self._triples(re.findall(r"[a-z]+", line.lower()))
        )

    def _triples(self, words: list[str]) -> list[tuple[str, str, str]]:
        tagged = [self._classes.get("a" if word == "an" else word, word) for word in words]
        tagged = ["<", *(("a" if word == "an" else word) for word in tagged), ">"]
        return list(zip(tagged, tagged[1:], tagged[2:], strict=False))

    def __call__(self, words: list[str]) -> float:
        triples = self._triples(words)
        return sum(triple in self._known for triple in triples) / max(len(triples), 1)
