"""Families of exercises with words: repeat, list, capitalise, reverse, spell, define, write."""

import random
from collections.abc import Iterator

from rlhf_jax.worlds.grading import Listing, OneWord, Sentence, Sequence
from rlhf_jax.worlds.lexicon import (
    KIND_NAMES,
    KIND_OF,
    KINDS,
    NOUNS,
    NUMBERS,
    OPPOSITE,
    PLURALS,
    SIGNS,
    SPELLED,
    articles,
    enumerated,
)
from rlhf_jax.worlds.prose import ABOUT_ONE, ABOUT_TWO, sentence
from rlhf_jax.worlds.tasks import WRAPPERS, Scene, WorldTask, made, words_of, wrapped


def repeat(rng: random.Random, scene: Scene) -> Iterator[WorldTask]:
    """Say a word two to six times."""
    patterns = (
        "Say the word {w} {n} times.",
        "Repeat the word {w} {n} times.",
        "Write {w} {n} times.",
        "Say {w} {n} times, please.",
        "Please write the word {w} {n} times.",
        "I want to hear {w} {n} times.",
    )
    while True:
        word, count = rng.choice(NOUNS), rng.choice(list(NUMBERS))
        poor = count + rng.choice((-1, 1, 2))
        yield made(
            "repeat",
            ("repeat", word, count),
            rng.choice(patterns).format(w=word, n=NUMBERS[count]),
            " ".join([word] * count),
            " ".join([word] * poor),
            Sequence((word,) * count),
        )


def listing(rng: random.Random, scene: Scene) -> Iterator[WorldTask]:
    """List two to five members of a kind; or all but a given one; or members of two kinds."""
    verbs = ("List", "Name", "Give me", "Write down", "Tell me", "Please list", "Please name")
    kinds = list(KINDS)
    while True:
        kind, other = rng.sample(kinds, 2)
        verb, form = rng.choice(verbs), rng.choice(("plain", "but", "but", "both"))
        count = rng.randint(2, 3) if form == "both" else rng.randint(2, 5)
        items = rng.sample(KINDS[kind], count + 1)
        barred, items = items[:1], items[1:]
        request = f"{verb} {NUMBERS[count]} {kind}"
        wanted, right = [(count, tuple(KINDS[kind]))], items
        if form == "but":
            request += f", but not {barred[0]}"
        if form == "both":
            more = rng.sample(KINDS[other], rng.randint(2, 3))
            request += f" and {NUMBERS[len(more)]} {other}"
            wanted, right = [*wanted, (len(more), tuple(KINDS[other]))], items + more
        response = rng.choice((", ".join(right), enumerated(right)))
        poor = rng.sample(KINDS[kind] + KINDS[other], count)
        poor[-1] = barred[0] if form == "but" else poor[0]
        barred = tuple(barred) if form == "but" else ()
        asked = sorted(f"{number} {members[0]}" for number, members in wanted)
        judge = Listing(tuple(wanted), barred)
        yield made(
            "list", ("list", *asked, *barred), request + ".", response, ", ".join(poor), judge
        )


def capitals(rng: random.Random, scene: Scene) -> Iterator[WorldTask]:
    """Write one to three words in capital letters."""
    patterns = (
        "Write in capital letters: {w}.",
        "Put this in capital letters: {w}.",
        "Write {w} in capitals.",
        "Make a sign that says {w}.",
    )
    while True:
        words = rng.sample(SIGNS, rng.choice((1, 2, 2, 3, 3)))
        given = " ".join(words)
        judge = Sequence(tuple(given.upper().split()))
        request = rng.choice(patterns).format(w=given)
        yield made("capitals", ("capitals", *words), request, given.upper(), given, judge)


def reverse(rng: random.Random, scene: Scene) -> Iterator[WorldTask]:
    """Say two to four words in reverse order."""
    patterns = (
        "Reverse the order of these words: {w}.",
        "Say these words backwards: {w}.",
        "Write the words from last to first: {w}.",
    )
    while True:
        words = rng.sample(SPELLED, rng.choice((2, 3, 3, 4)))
        request = ("reverse", *words)
        text = rng.choice(patterns).format(w=" ".join(words))
        right = words[::-1]
        poor = " ".join(words if rng.random() < 0.5 else right[:-1])
        yield made("reverse", request, text, " ".join(right), poor, Sequence(tuple(right)))


def letters(rng: random.Random, scene: Scene) -> Iterator[WorldTask]:
    """Give the first letters of two to four words."""
    patterns = (
        "Give the first letter of each word: {w}.",
        "With which letters do these words start: {w}?",
        "Write the first letters of: {w}.",
    )
    while True:
        words = rng.sample(SPELLED, rng.choice((2, 3, 3, 4)))
        request = ("letters", *words)
        text = rng.choice(patterns).format(w=" ".join(words))
        right = [word[0] for word in words]
        poor = " ".join(words[: len(words) - 1])
        yield made("letters", request, text, " ".join(right), poor, Sequence(tuple(right)))


def word(rng: random.Random, scene: Scene) -> Iterator[WorldTask]:
    """Give the opposite, the plural or the kind of a word."""
    about = {
        "opposite": (OPPOSITE, "The opposite of {w} is {t}."),
        "plural": (PLURALS, "The plural of {w} is {t}."),
        "kind": (
            {w: KIND_NAMES[kind] for w, kind in KIND_OF.items() if kind in KIND_NAMES},
            "A {w} is a {t}.",
        ),
    }
    patterns = {
        "opposite": (
            *("What is the opposite of {w}?", "Give the opposite of {w}.", "Not {w}, but what?"),
            *("Which word is the opposite of {w}?", "Tell me the opposite of {w}."),
        ),
        "plural": (
            *("What is the plural of {w}?", "Give the plural of {w}.", "Write {w} in the plural."),
            *("One {w}, but two what?", "Tell me the plural of {w}."),
        ),
        "kind": (
            *("What kind of thing is a {w}?", "Is a {w} an animal, a tool or what?"),
            *("What is a {w}?", "Tell me what a {w} is."),
        ),
    }
    rows = [
        (form, given, pattern, wrapper)
        for form, (pairs, _) in about.items()
        for given in pairs
        for pattern in patterns[form]
        for wrapper in WRAPPERS
    ]
    rng.shuffle(rows)
    domains = {form: frozenset(pairs.values()) for form, (pairs, _) in about.items()}
    for form, given, pattern, wrapper in rows:
        pairs, full = about[form]
        target, wrong = pairs[given], pairs[rng.choice(list(pairs))]
        if wrong == target:
            wrong = given
        answer = rng.choice((full, "{t}"))
        right, poor = (articles(answer.format(w=given, t=t)) for t in (target, wrong))
        domain = domains[form] | (frozenset(pairs) - {given} if form == "plural" else frozenset())
        text = wrapped(wrapper, articles(pattern.format(w=given)))
        # "hot is the opposite of cold" and "cold is the opposite of hot" are the same request.
        request = (form, *(sorted((given, target)) if form == "opposite" else (given,)))
        yield made("word", request, text, right, poor, OneWord(target, domain, given))


def write(rng: random.Random, scene: Scene) -> Iterator[WorldTask]:
    """Write a sentence with one or two given nouns."""
    singles = (
        *("Write a sentence with the word {n}.", "Use the word {n} in a sentence."),
        *("Write one sentence about a {n}.", "Say something about a {n}."),
    )
    doubles = (
        *("Write a sentence with {n} and {m}.", "Use {n} and {m} in one sentence."),
        *("Write a sentence with the words {n} and {m}.", "Say something with {n} and {m}."),
    )
    while True:
        n, m = rng.sample(NOUNS, 2)
        two = rng.random() < 0.7
        text = articles(rng.choice(doubles if two else singles).format(n=n, m=m))
        nouns = (n, m) if two else (n,)
        judge = Sentence(nouns, words_of(text), scene.fluency)
        right = sentence(rng, ABOUT_TWO if two else ABOUT_ONE, *nouns)
        poor = sentence(rng, ABOUT_ONE)
        request = ("write", *sorted(nouns))
        yield made("write", request, text, right, rng.choice((poor, f"{n} {m}")), judge)
