"""A task: a request of the world's users, with its right answer and its judge."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from rlhf_jax.worlds.facts import WorldFacts
from rlhf_jax.worlds.grading import Judge, World
from rlhf_jax.worlds.prose import Fluency

Request = tuple[str | int, ...]


@dataclass(frozen=True)
class WorldTask:
    """A prompt with a right answer, a typical poor one, and its judge.

    `request` is what the prompt asks, independent of its words: the kind of task and its arguments,
    in alphabetical order where their order does not matter. Two prompts of one request have the
    same answer. A fact is the same request in the families "fact", "brief" and "premise".
    """

    family: str
    request: Request
    prompt: str
    response: str
    poor: str
    judge: Judge


@dataclass(frozen=True)
class Scene:
    """What all families use to make tasks."""

    facts: WorldFacts
    world: World
    fluency: Fluency

    @classmethod
    def of(cls, facts: WorldFacts) -> "Scene":
        values = [value.lower() for domain in facts.domains.values() for value in domain]
        return cls(facts, World(frozenset(values)), Fluency())


Family = Callable[[Random, Scene], Iterator[WorldTask]]


def dress(request: str) -> str:
    """The prompt text of a request."""
    return f"User: {request}\nAssistant:"


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, in lower case."""
    return tuple(re.findall(r"[a-z']+", text.lower()))


def lowered(question: str) -> str:
    """The question with its first letter in lower case, for use after a colon."""
    return question[0].lower() + question[1:]


WRAPPERS = (
    *("{Q}", "Please tell me: {q}", "Hello. {Q}", "I want to know: {q}"),
    *("{Q} Please tell me.", "Can you help me? {Q}"),
)


def wrapped(wrapper: str, question: str) -> str:
    """The question in a wrapper: unchanged for {Q}, with its first letter in lower case for {q}."""
    return wrapper.format(Q=question, q=lowered(question))


def made(
    family: str, request: Request, text: str, response: str, poor: str, judge: Judge
) -> WorldTask:
    return WorldTask(family, request, dress(text), f" {response}", f" {poor}", judge)
