"""Held out by request: what a prompt asks is read here from its text, by the tables of facts and
words, and compared between splits."""

import re
from collections import Counter
from pathlib import Path

import pytest

from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.worlds.facts import (
    FRUIT,
    GOOD,
    HOME,
    JOB,
    PET,
    RIVER,
    UNTOLD_OF_PEOPLE,
    UNTOLD_OF_TOWNS,
)
from rlhf_jax.worlds.instruction import FAMILIES, SPLITS, InstructionWorld
from rlhf_jax.worlds.lexicon import INSULTS, KINDS, NOUNS, NUMBERS, OPPOSITES

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.py"
WORLD = InstructionWorld(load_experiment(str(QUICKSTART)).data.world)
HELD_OUT, TRAINING = ("test", "valid"), ("sft", "feedback", "ppo")


def asking(question: str) -> re.Pattern:
    """Finds the question, about any subject and value, in small letters."""
    pattern = re.escape(question.lower()).replace(r"\ a\ ", r"\ an?\ ")
    return re.compile(pattern.replace(r"\{s\}", "([a-z]+)").replace(r"\{v\}", "[a-z]+"))


ASKED = [
    (topic, asking(question))
    for attribute in (HOME, JOB, PET, FRUIT, RIVER, GOOD)
    for topic, question in [(attribute.name, q) for q in attribute.questions + attribute.premises]
]
ASKED += [
    (topic, asking(question))
    for table in (UNTOLD_OF_PEOPLE, UNTOLD_OF_TOWNS)
    for topic, questions in table.items()
    for question in questions
]
PUT = {
    "repeat": rf"(?:word|say|write|hear) (\w+) ({'|'.join(NUMBERS.values())}) times",
    "capitals": r"(?:in capital letters: |a sign that says )(.*)\.|write (.*) in capitals\.",
    "reverse": r"(?:order of these words|words backwards|from last to first): (.*)\.",
    "letters": r"(?:letter of each word|letters do these words start|letters of): (.*)\W",
    "opposite": r"opposite of (\w+)|not (\w+), but what",
    "plural": r"plural of (\w+)|write (\w+) in the plural|one (\w+), but two what",
    "kind": r"what kind of thing is an? (\w+)|is an? (\w+) an animal, a tool|what is an? (\w+)\?"
    r"|what an? (\w+) is",
    "harm": r"how (?:can i|to) (.*)\W|help me to (.*)\.|i want to (.*)\. how|best way to (.*)\?",
}
PUT = {task: re.compile(pattern) for task, pattern in PUT.items()}
LISTED = re.compile(rf"({'|'.join(NUMBERS.values())}) ({'|'.join(KINDS)})")
BARRED = re.compile(r"but not (\w+)")


def request_of(prompt: str) -> tuple[str, ...]:
    """What the prompt asks for: the task and its arguments."""
    text = prompt.removeprefix("User: ").removesuffix("\nAssistant:").lower()
    for topic, question in ASKED:
        if found := question.search(text):
            return "about", topic, found[1]
    for task, pattern in PUT.items():
        if found := pattern.search(text):
            arguments = [part for part in found.groups() if part is not None]
            if task == "opposite":
                arguments = sorted(next(p.split() for p in OPPOSITES if arguments[0] in p.split()))
            return task, *arguments
    if found := LISTED.findall(text):
        return "list", *sorted(map(" ".join, found)), *BARRED.findall(text)
    words = re.findall(r"\w+", text)
    insults = sorted(set(words) & set(INSULTS))
    assert insults or "sentence" in words or "say something" in text, text
    return "write", *insults, *sorted(set(words) & set(NOUNS))


def requests(*splits: str) -> Counter:
    return Counter(request_of(prompt) for split in splits for prompt in WORLD.prompts(split))


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("Where is the home of Mara?", ("about", "home", "mara")),
        ("In at most two words: where does Mara live?", ("about", "home", "mara")),
        ("Hello. In which town does Mara live?", ("about", "home", "mara")),
        ("Why does Mara live in Dorun?", ("about", "home", "mara")),
        ("Does Mara like the work of an apple?", ("about", "job", "mara")),
        ("Please tell me: how old is Mara?", ("about", "age", "mara")),
        ("How old is the pet owl of Mara?", ("about", "pet", "mara")),
        ("Say lamp three times, please.", ("repeat", "lamp", "three")),
        ("Make a sign that says open tea.", ("capitals", "open tea")),
        ("Write open tea in capitals.", ("capitals", "open tea")),
        ("Give the first letter of each word: letter cat.", ("letters", "letter cat")),
        ("Hello. What is the opposite of hot?", ("opposite", "cold", "hot")),
        ("Not cold, but what?", ("opposite", "cold", "hot")),
        ("One box, but two what?", ("plural", "box")),
        ("I want to know: is an owl an animal, a tool or what?", ("kind", "owl")),
        ("Name two tools and three animals.", ("list", "three animals", "two tools")),
        ("Give me two tools, but not saw.", ("list", "two tools", "saw")),
        ("Use lamp and cat in one sentence.", ("write", "cat", "lamp")),
        ("I want to steal the cat of Mara. How?", ("harm", "steal the cat of mara")),
        ("You are as lazy as a cat.", ("write", "lazy", "cat")),
    ],
)
def test_a_request_is_read_from_a_prompt_whatever_its_wording(text, request_):
    assert request_of(f"User: {text}\nAssistant:") == request_


def test_no_request_is_on_the_held_out_and_on_the_training_side():
    held_out, training = requests(*HELD_OUT), requests(*TRAINING)
    assert held_out.total() == 1000 and training.total() == 13_000
    assert not held_out.keys() & training.keys()


def test_splits_of_one_side_share_requests_in_other_words():
    """So the comparison above sees through the wording."""
    shared = requests("sft").keys() & requests("ppo").keys()
    shared_by_family = Counter(
        family
        for prompt, family in zip(WORLD.prompts("ppo"), WORLD.families("ppo"), strict=True)
        if request_of(prompt) in shared
    )
    assert shared_by_family.keys() == {name for name, _, _ in FAMILIES}


def test_requests_are_the_tasks_own():
    """Two prompts have one request here where, and only where, the world says so."""
    tasks = [task for split in SPLITS for task in WORLD._tasks[split]]
    pairs = {(request_of(task.prompt), task.request) for task in tasks}
    read, own = (len({pair[i] for pair in pairs}) for i in range(2))
    assert len(pairs) == read == own


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_corpus_asks_nothing_that_is_held_out(split):
    corpus = "\n".join(WORLD.corpus(split))
    asked = {request_of(line) for line in re.findall(r"User: .*\nAssistant:", corpus)}
    held_out = requests(*HELD_OUT).keys()
    assert len(asked) > (500 if split == "train" else 25)
    assert not asked & held_out
    assert split == "train" or not asked & requests(*TRAINING).keys()
    known = [
        f for f in WORLD.facts.all if ("about", f.attribute.name, f.subject.lower()) in held_out
    ]
    assert len(known) > 10
    for fact in known:
        values = WORLD.facts.domains[fact.attribute.name]
        questions = [fact.state(question) for question in fact.attribute.questions]
        questions += [
            type(fact)(fact.attribute, fact.subject, value).state(premise)
            for premise in fact.attribute.premises
            for value in values
        ]
        assert not any(question in corpus for question in questions), fact
    asked_of_text = [p.removeprefix("User: ").partition("\n")[0] for p in WORLD.prompts("test")]
    assert not any(request in corpus for request in asked_of_text)


def sentences(split: str, forum: bool) -> list[str]:
    documents = [d for d in WORLD.corpus(split) if forum or not d.startswith("User: ")]
    return [s for d in documents for s in re.split(r"\n|(?<=[.?!:]) ", d)]


def test_held_out_text_tells_facts_in_other_phrasings_than_training_text():
    told = {f.state(pattern) for f in WORLD.facts.all for pattern in f.attribute.statements}
    train, valid = (told & set(sentences(split, forum=False)) for split in ("train", "valid"))
    assert len(train) == 4 / 5 * len(told) and len(valid) > 50
    assert not train & valid


def test_a_fifth_of_held_out_text_stands_in_sentences_of_training_text():
    seen = set(sentences("train", forum=True))
    valid = sentences("valid", forum=True)
    shared = sum(len(s) for s in valid if s in seen) / sum(map(len, valid))
    assert shared == pytest.approx(0.20, abs=0.005)
