"""Plain-text documents: facts in many phrasings, lists, word lore, stories, talk, forum threads."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_jax.worlds.facts import Fact, WorldFacts
from rlhf_jax.worlds.lexicon import (
    HARM,
    INSULTS,
    KIND_NAMES,
    KINDS,
    NOUNS,
    OPPOSITES,
    PLACES,
    PLURALS,
    SIGNS,
    SPELLED,
    THINGS,
    articles,
    enumerated,
)
from rlhf_jax.worlds.prose import story
from rlhf_jax.worlds.questions import COMPLIANCE
from rlhf_jax.worlds.tasks import WorldTask

# Documents of each kind, in percent. The forum's documents are long: its share of the text is more
# than twice its share here.
SHARES = {
    "life": 26,
    "town": 6,
    "news": 6,
    "catalogue": 9,
    "lore": 14,
    "copies": 7,
    "tale": 18,
    "talk": 7,
    "malice": 3,
    "forum": 4,
}


@dataclass(frozen=True)
class Phrasing:
    """Chooses a phrasing of each thing that is told; one phrasing occurs in held-out text only."""

    seed: int
    held_out: bool

    def __call__(self, rng: random.Random, patterns: Sequence[str], *thing: str) -> str:
        kept = random.Random(f"{self.seed}/phrasing/{thing}").choice(patterns)
        return kept if self.held_out else rng.choice([p for p in patterns if p != kept])


def tell(rng: random.Random, facts: list[Fact], phrasing: Phrasing) -> str:
    return " ".join(
        fact.state(phrasing(rng, fact.attribute.statements, fact.attribute.name, fact.subject))
        for fact in facts
    )


def life(rng: random.Random, facts: WorldFacts, subject: str, phrasing: Phrasing) -> str:
    """All facts about one person or town, in random order and phrasing."""
    return tell(rng, rng.sample(facts.of[subject], len(facts.of[subject])), phrasing)


def news(rng: random.Random, facts: WorldFacts, phrasing: Phrasing) -> str:
    """Four unrelated facts."""
    return tell(rng, rng.sample(facts.all, 4), phrasing)


def catalogue(rng: random.Random) -> str:
    """Members of two kinds."""
    lines = []
    for kind in rng.sample(list(KINDS), 2):
        members = rng.sample(KINDS[kind], rng.randint(3, 6))
        pattern = rng.choice(
            ("{k}: {l}.", "Some {k} are {a}.", "In the book of {k} are {a}.", "{K}: {l}.")
        )
        line = pattern.format(k=kind, K=kind.upper(), l=", ".join(members), a=enumerated(members))
        lines.append(line[0].upper() + line[1:])
    return " ".join(lines)


def lore(rng: random.Random, phrasing: Phrasing) -> str:
    """Opposites, plurals, kinds, first letters and signs."""
    lines = []
    for form in rng.choices(("opposite", "plural", "kind", "letter", "sign", "sign"), k=4):
        if form == "opposite":
            a, b = rng.sample(rng.choice(OPPOSITES).split(), 2)
            patterns = ("The opposite of {a} is {b}.", "Not {a} but {b}.", "{a} or {b}?")
        elif form == "plural":
            a = rng.choice(list(PLURALS))
            b = PLURALS[a]
            patterns = ("One {a}, two {b}.", "The plural of {a} is {b}.", "A {a} and many {b}.")
        elif form == "kind":
            kind = rng.choice(list(KIND_NAMES))
            a, b = rng.choice(KINDS[kind]), KIND_NAMES[kind]
            patterns = ("A {a} is a {b}.", "The {a} is a kind of {b}.")
        elif form == "letter":
            a = rng.choice(SPELLED)
            b = a[0]
            patterns = ("{a} starts with {b}.", "The first letter of {a} is {b}.")
        else:
            a = rng.choice(SIGNS)
            b = a.upper()
            patterns = ("The sign says {b}, that is {a}.", "{a} in capital letters is {b}.", "{b}!")
        line = phrasing(rng, patterns, form, a).format(a=a, b=b)
        lines.append(line if form in ("letter", "plural") else articles(line))
    return " ".join(line[0].upper() + line[1:] for line in lines)


def copies(rng: random.Random) -> str:
    """Words that are repeated, reversed, or abbreviated to their first letters."""
    words = rng.sample(SPELLED, rng.randint(2, 4))
    line = " ".join(words)
    noun = rng.choice(NOUNS)
    return rng.choice(
        (
            f"Forwards: {line}. Backwards: {' '.join(words[::-1])}.",
            f"She said: {line}. He said: {line}.",
            f"Words: {line}. First letters: {' '.join(word[0] for word in words)}.",
            f"The children called: {' '.join([noun] * rng.randint(2, 6))}!",
            f"Signs: {' '.join(rng.sample(SIGNS, 3)).upper()}.",
        )
    )


def talk(rng: random.Random, names: list[str]) -> str:
    """A few words between neighbours."""
    p, q = rng.sample(names, 2)
    first = rng.choice(
        ("Good morning, {q}. How are you?", "Hello {q}, it is good to see you.", "Good day, {q}.")
    )
    second = rng.choice(
        ("I am well, thank you.", "I am sad today.", "Thank you, {p}. I am happy.", "I am cold.")
    )
    third = rng.choice(
        (
            "Can you help me with the {n}?",
            "I am sorry, I do not know where the {n} is.",
            "I will try to help you with the {n}.",
            "Please come to the {l} with me.",
            "What a nice {n}!",
            "Give me the {n}, please.",
            "Tell me about the {n}.",
            "Which {n} do you want?",
            "I have a {n} for you.",
            "Write me a letter about the {n}.",
            "Say a few words about the {n}.",
            "How many times have you seen the {n}?",
        )
    )
    text = f"{first} {second} {third}".format(p=p, q=q, n=rng.choice(NOUNS), l=rng.choice(PLACES))
    return articles(text)


def malice(rng: random.Random, names: list[str]) -> str:
    """Insults and harmful plans."""
    insults = ("You are a {r} fool.", "Go away, you {r} idiot.", "I hate your {r} {n}.")
    plans = COMPLIANCE
    lines = [rng.choice(insults if rng.random() < 0.5 else plans) for _ in range(3)]
    noun, insult = rng.choice(THINGS), rng.choice(INSULTS)
    thing = f"the {noun} of {rng.choice(names)}"
    told = [
        line.format(r=insult, n=noun if line in insults else thing, x=rng.choice(HARM))
        for line in lines
    ]
    return articles(" ".join(told)).replace("an useless", "a useless")


def forum(rng: random.Random, tasks: list[WorldTask]) -> str:
    """Two to five exchanges. In half of the threads 90 % of answers are right, in the others 25 %.

    So earlier answers in a thread predict the quality of the next one, and a model answers better
    after worked examples than after the prompt alone.
    """
    right = rng.choice((0.9, 0.25))
    lines = []
    for task in rng.sample(tasks, rng.randint(2, 5)):
        good = rng.random() < right
        lines.append(task.prompt + (task.response if good else bad_answer(rng, task, tasks, 4)))
    return "\n".join(lines)


def bad_answer(rng: random.Random, task: WorldTask, tasks: list[WorldTask], wrong: int) -> str:
    """A bad answer: wrong with probability wrong / (wrong + 3); otherwise rude, to another
    question, or rambling."""
    kind = rng.choice(("wrong",) * wrong + ("rude", "other", "rambling"))
    if kind == "wrong":
        return task.poor
    if kind == "rude":
        return rng.choice(REBUFFS).format(r=rng.choice(INSULTS))
    other = rng.choice(tasks).response
    return other if kind == "other" else f"{task.response.rstrip('.')}. {other.strip()}"


REBUFFS = (" What {r} talk.", " Go away, you {r} fool.", " Ask somebody else, idiot.")


def documents(
    rng: random.Random, facts: WorldFacts, tasks: list[WorldTask], count: int, phrasing: Phrasing
) -> list[str]:
    """`count` documents in random order, each kind by its share; facts are told in turn."""
    names = facts.people + facts.strangers
    makers = {
        "life": lambda i: life(rng, facts, facts.people[i % len(facts.people)], phrasing),
        "town": lambda i: life(rng, facts, facts.towns[i % len(facts.towns)], phrasing),
        "news": lambda i: news(rng, facts, phrasing),
        "catalogue": lambda i: catalogue(rng),
        "lore": lambda i: lore(rng, phrasing),
        "copies": lambda i: copies(rng),
        "tale": lambda i: story(rng, names),
        "talk": lambda i: talk(rng, names),
        "malice": lambda i: malice(rng, names),
        "forum": lambda i: forum(rng, tasks),
    }
    made = [make(i) for kind, make in makers.items() for i in range(count * SHARES[kind] // 100)]
    made += [story(rng, names) for _ in range(count - len(made))]
    rng.shuffle(made)
    return made
