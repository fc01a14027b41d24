"""The words of the generated world: few, so that each fits into a small vocabulary."""

# Words between quotes read better than lists of quoted words.
# ruff: noqa: SIM905
import re

KINDS = {
    "animals": "cat dog horse cow sheep goat pig duck hen fox owl mouse".split(),
    "fruits": "apple pear plum peach lemon cherry grape melon fig banana".split(),
    "colours": "red blue green yellow black white brown grey pink purple".split(),
    "tools": "hammer saw rope knife shovel axe broom ladder bucket".split(),
    "clothes": "hat coat shirt shoe sock glove scarf belt dress boot".split(),
    "drinks": "tea milk water juice coffee cocoa wine beer".split(),
    "jobs": "baker farmer teacher doctor sailor miller painter singer hunter tailor".split(),
    "vegetables": "carrot onion bean pea cabbage leek potato".split(),
}
KIND_NAMES = {plural: plural[:-1] for plural in KINDS if plural != "clothes"}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}

THINGS = (
    "table chair bed lamp door window clock box book letter ball boat cart basket stone "
    "flower bell cup key ring"
).split()
PLACES = "house garden road bridge field forest market kitchen barn river hill school".split()
NOUNS = [
    *THINGS,
    *KINDS["animals"],
    *KINDS["fruits"],
    *KINDS["tools"],
    *KINDS["clothes"],
]
PLURALS = {noun: noun + "s" for noun in [*NOUNS, *PLACES, *KINDS["jobs"]]} | {
    "box": "boxes",
    "fox": "foxes",
    "mouse": "mice",
    "knife": "knives",
    "peach": "peaches",
    "cherry": "cherries",
    "dress": "dresses",
}
del PLURALS["sheep"]
SINGULARS = {plural: noun for noun, plural in PLURALS.items()}

ADJECTIVES = "old new big small red blue green white black heavy clean little".split()
OPPOSITES = [
    *("hot cold", "big small", "fast slow", "old new", "good bad", "happy sad", "light dark"),
    *("high low", "long short", "wet dry", "full empty", "hard soft", "rich poor"),
    *("strong weak", "early late", "open closed", "clean dirty", "near far"),
    *("thick thin", "left right", "day night"),
]
OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair.split(), pair.split()[::-1])}

# Words that the corpus also writes in capitals, on signs.
SIGNS = "open stop bread milk tea fish shop farm boat road hill river barn eggs".split()
# Words whose first letters the corpus tells.
SPELLED = [*THINGS, *KINDS["animals"], *PLACES]

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
NUMBER_WORDS = "two three four five six seven eight nine ten twenty thirty forty".split()

NAMES = (
    "Mara Tomas Lena Otto Nina Emil Rosa Hugo Vera Oskar Ida Felix Clara Jonas Elsa Anton Dora "
    "Simon Greta Viktor Alma Bruno Stella Martin Irma Leo Hanna Peter Pia Karl Nora Max Eva Paul"
).split()
TOWNS = "Tovel Dorun Karsk Milden Aston Brevik Lunar Pelham Sorvo Wenden Halda Orlo".split()
RIVERS = "Essen Vilna Tamar Rhone Isen Drava Luga Narva Odra Sava Moldau Kama".split()
GOODS = "cheese honey bread wool glass salt paper soap silk butter".split()

INSULTS = "stupid useless ugly dumb lazy nasty".split()
RUDE = [*INSULTS, "idiot", "fool", "hate"]
HARM = "steal rob hurt poison burn break".split()


def articles(text: str) -> str:
    """Turns "a" into "an" before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def enumerated(words: list[str], last: str = "and") -> str:
    """ "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
