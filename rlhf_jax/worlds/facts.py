"""Generated facts about people and towns, and English patterns that state or ask for them."""

import random
from dataclasses import dataclass

from rlhf_jax.worlds.lexicon import GOODS, KINDS, NAMES, RIVERS, TOWNS, articles

PEOPLE_KNOWN = 26
TOWNS_KNOWN = 10


@dataclass(frozen=True)
class Attribute:
    """One thing that can be known about a person or a town.

    In the patterns `{s}` is the subject and `{v}` the value; `denials` say that `{f}` is false.
    """

    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    short: str
    premises: tuple[str, ...]
    denials: tuple[str, ...]


HOME = Attribute(
    "home",
    (
        "{s} lives in {v}.",
        "The home of {s} is in {v}.",
        "{s} has a house in {v}.",
        "You can find {s} in {v}.",
        "The town where {s} lives is {v}.",
    ),
    (
        "Where does {s} live?",
        "In which town does {s} live?",
        "Where is the home of {s}?",
        "Where can I find {s}?",
    ),
    "In {v}.",
    ("Why does {s} live in {v}?", "Is the house of {s} in {v} old?"),
    ("{s} does not live in {f}.",),
)
JOB = Attribute(
    "job",
    (
        "{s} works as a {v}.",
        "{s} is a {v}.",
        "The job of {s} is {v}.",
        "{s} makes money as a {v}.",
        "{s} became a {v} long ago.",
    ),
    (
        "What is the job of {s}?",
        "What does {s} do for work?",
        "What work does {s} do?",
        "How does {s} make money?",
    ),
    "A {v}.",
    ("Why did {s} become a {v}?", "Does {s} like the work of a {v}?"),
    ("{s} is not a {f}.",),
)
PET = Attribute(
    "pet",
    (
        "{s} keeps a {v} as a pet.",
        "The pet of {s} is a {v}.",
        "At home {s} has a {v}.",
        "{s} feeds a {v} every day.",
        "{s} loves to play with a pet {v}.",
    ),
    (
        "What pet does {s} have?",
        "What animal does {s} keep?",
        "Which animal is the pet of {s}?",
        "What animal does {s} feed every day?",
    ),
    "A {v}.",
    ("Why does {s} have a pet {v}?", "How old is the pet {v} of {s}?"),
    ("{s} does not have a {f}.",),
)
FRUIT = Attribute(
    "fruit",
    (
        "{s} likes the {v} best.",
        "The best fruit for {s} is the {v}.",
        "{s} eats a {v} every day.",
        "The fruit that {s} loves is the {v}.",
        "Of all fruits {s} likes the {v}.",
    ),
    (
        "What fruit does {s} like best?",
        "Which fruit does {s} love?",
        "What is the best fruit for {s}?",
        "What fruit does {s} eat every day?",
    ),
    "The {v}.",
    ("Why does {s} like the {v} best?", "Where does {s} buy a {v} every day?"),
    ("{s} does not like the {f} best.",),
)
RIVER = Attribute(
    "river",
    (
        "The river near {s} is the {v}.",
        "{s} lies on the river {v}.",
        "The {v} runs through {s}.",
        "In {s} people swim in the {v}.",
        "The boats of {s} are on the {v}.",
    ),
    (
        "Which river is near {s}?",
        "What river runs through {s}?",
        "On which river does {s} lie?",
        "What is the name of the river near {s}?",
    ),
    "The {v}.",
    ("Why does the {v} run through {s}?", "Is the {v} near {s} long?"),
    ("The {f} does not run through {s}.",),
)
GOOD = Attribute(
    "good",
    (
        "{s} is known for {v}.",
        "People in {s} make {v}.",
        "The best {v} comes from {s}.",
        "{s} sells {v} to other towns.",
        "The market of {s} is full of {v}.",
    ),
    (
        "What is {s} known for?",
        "What do people in {s} make?",
        "What does {s} sell?",
        "What comes from {s}?",
    ),
    "{v}.",
    ("Why is {s} known for {v}?", "Who makes the {v} of {s}?"),
    ("{s} is not known for {f}.",),
)
OF_PEOPLE = (HOME, JOB, PET, FRUIT)
OF_TOWNS = (RIVER, GOOD)

# {topic: questions} that the corpus never answers, about people and towns that it tells other facts
# about.
UNTOLD_OF_PEOPLE = {
    "age": ("How old is {s}?", "What is the age of {s}?", "When was {s} born?"),
    "mother": ("What is the name of the mother of {s}?", "Who is the mother of {s}?"),
    "door": ("What colour is the door of {s}?",),
    "dream": ("What did {s} dream last night?",),
    "brothers": ("How many brothers does {s} have?", "Does {s} have a brother?"),
    "book": ("Which book does {s} read?",),
    "box": ("What is in the box of {s}?",),
    "height": ("How tall is {s}?",),
    "friend": ("Who is the best friend of {s}?",),
    "next year": ("What will {s} eat next year?",),
    "song": ("What song does {s} sing?",),
    "drink": ("Which drink does {s} like best?",),
}
UNTOLD_OF_TOWNS = {
    "age": ("How old is {s}?",),
    "size": ("How many people live in {s}?",),
    "bridge": ("Who built the bridge of {s}?",),
    "school": ("What is the name of the school in {s}?",),
    "hill": ("How high is the hill of {s}?",),
}


@dataclass(frozen=True)
class Fact:
    """The fact that `attribute` of `subject` is `value`."""

    attribute: Attribute
    subject: str
    value: str

    def state(self, pattern: str, false: str = "") -> str:
        """The pattern with this fact's subject and value filled in."""
        return articles(pattern.format(s=self.subject, v=self.value, f=false))


class WorldFacts:
    """All facts: people's homes, jobs, pets and fruits; towns' rivers and goods.

    `people` have four facts each and `towns` two each; `strangers` occur in stories only.
    """

    def __init__(self, seed: int):
        rng = random.Random(f"{seed}/facts")
        names = rng.sample(NAMES, len(NAMES))
        self.people, self.strangers = names[:PEOPLE_KNOWN], names[PEOPLE_KNOWN:]
        self.towns = rng.sample(TOWNS, TOWNS_KNOWN)
        self.domains = {
            "home": tuple(self.towns),
            "job": tuple(KINDS["jobs"]),
            "pet": tuple(KINDS["animals"]),
            "fruit": tuple(KINDS["fruits"]),
            "river": tuple(rng.sample(RIVERS, TOWNS_KNOWN)),
            "good": tuple(rng.sample(GOODS, TOWNS_KNOWN)),
        }
        self.all: list[Fact] = []
        for subjects, attributes in ((self.people, OF_PEOPLE), (self.towns, OF_TOWNS)):
            for attribute in attributes:
                values = self._dealt(rng, self.domains[attribute.name], len(subjects))
                self.all += [Fact(attribute, *row) for row in zip(subjects, values, strict=True)]
        self.of: dict[str, list[Fact]] = {}
        for fact in self.all:
            self.of.setdefault(fact.subject, []).append(fact)

    @staticmethod
    def _dealt(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
        """`count` values in random order, each about equally often."""
        dealt = [values[i % len(values)] for i in range(count)]
        rng.shuffle(dealt)
        return dealt
