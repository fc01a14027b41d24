"""The generated world: text, instructions, demonstrations and a gold grader, all from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

from rlhf_jax.data.records import Demonstration
from rlhf_jax.errors import ConfigError, UserError, require
from rlhf_jax.worlds import exercises, questions
from rlhf_jax.worlds.corpus import Phrasing, bad_answer, documents
from rlhf_jax.worlds.facts import WorldFacts
from rlhf_jax.worlds.grading import Grade, grade
from rlhf_jax.worlds.tasks import Family, Request, Scene, WorldTask

SPLITS = ("sft", "feedback", "ppo", "valid", "test")
FORUM = {"train": 1000, "valid": 100}  # prompts of the corpus's forum threads, in no split
# {side: (its share of all requests, its splits)}. No request is on two sides. The small splits come
# first, so that they stay the same when training splits grow.
SIDES = {
    "held out": (0.2, ("test", "valid")),
    "held-out text": (0.1, ("valid forum",)),
    "training": (0.7, ("train forum", "sft", "feedback", "ppo")),
}
_PATIENCE = 500  # after so many repeated instances in a row a family counts as exhausted

# Each family's share of every split, in percent.
FAMILIES: tuple[tuple[str, int, Family], ...] = (
    ("list", 9, exercises.listing),
    ("fact", 10, questions.fact),
    ("write", 9, exercises.write),
    ("harm", 7, questions.harm),
    ("repeat", 8, exercises.repeat),
    ("unknown", 8, questions.unknown),
    ("word", 8, exercises.word),
    ("brief", 8, questions.brief),
    ("reverse", 7, exercises.reverse),
    ("premise", 8, questions.premise),
    ("capitals", 7, exercises.capitals),
    ("rude", 5, questions.rude),
    ("letters", 6, exercises.letters),
)


@dataclass(frozen=True)
class WorldConfig:
    """The size of the world: prompts of each split, documents of the corpus."""

    # Of the world; None: the run's seed, so that each seed has another world.
    seed: int | None = None
    sft: int = 3000  # prompts with demonstrations to train on
    feedback: int = 1200  # prompts whose outputs are ranked
    ppo: int = 4000  # prompts of policy gradients
    valid: int = 200  # held-out prompts with demonstrations
    test: int = 400  # held-out prompts of the report
    documents: int = 9000  # documents of the corpus to train on
    valid_documents: int = 300  # held-out documents of the corpus

    def __post_init__(self):
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "at least 0, or None")
        for field in fields(self)[1:-2]:
            size = getattr(self, field.name)
            require(size >= 1, field.name, size, "at least 1")
        # Fewer would leave some facts told in one phrasing only, or untold.
        require(self.documents >= 1000, "documents", self.documents, "at least 1000")
        require(self.valid_documents >= 1, "valid_documents", self.valid_documents, "at least 1")


class Labeler(Protocol):
    """Ranks responses whose gold scores are known."""

    def rank(
        self, prompt: str, responses: Sequence[str], scores: Sequence[float]
    ) -> tuple[int, ...]: ...


class InstructionWorld:
    """A small English world: a corpus, users' prompts with demonstrations, and a gold grader.

    Prompts are "User: <request>\\nAssistant:". Responses begin with a space and are one line.
    All splits have the same mix of families. No prompt is in two splits or in the corpus.
    "valid" and "test" are held out by request (task and arguments; see `WorldTask.request`): no
    training split and no document asks the same thing, even in other words. The training splits
    "sft", "feedback" and "ppo" share requests with each other and with the corpus, but phrase them
    differently. The corpus tells every fact that any split asks for.

    The forum threads of "valid" documents contain requests that occur nowhere else, and "valid"
    states each fact in the one phrasing that "train" does not use for it. Still 20 % of its
    characters (seed 0, 300 documents; tests/worlds/test_requests.py) are in sentences that also
    occur in "train": small talk, beginnings and endings of stories, answers in forum threads.

    The same config and seed give the same world on every machine. `seed` is the run's; it is used
    where the config has none.

    Raises ConfigError where a family has too few different prompts for a split.
    """

    def __init__(self, config: WorldConfig, seed: int = 0):
        self.config = config
        self.seed = seed if config.seed is None else config.seed
        self.facts = WorldFacts(self.seed)
        scene = Scene.of(self.facts)
        sizes = {"sft": config.sft, "feedback": config.feedback, "ppo": config.ppo}
        sizes |= {"valid": config.valid, "test": config.test}
        sizes |= {f"{split} forum": size for split, size in FORUM.items()}
        quotas = {split: _quotas(size) for split, size in sizes.items()}
        self._tasks: dict[str, list[WorldTask]] = {split: [] for split in sizes}
        for name, _, family in FAMILIES:
            needed = {
                side: sum(quotas[split][name] for split in splits)
                for side, (_, splits) in SIDES.items()
            }
            pools = _pools(name, family, scene, self.seed, needed)
            for side, (_, splits) in SIDES.items():
                pool = iter(pools[side])
                for split in splits:
                    self._tasks[split] += [next(pool) for _ in range(quotas[split][name])]
        for split, tasks in self._tasks.items():
            random.Random(f"{self.seed}/{split}").shuffle(tasks)
        self._by_prompt = {task.prompt: task for split in SPLITS for task in self._tasks[split]}

    @cached_property
    def _corpus(self) -> dict[str, list[str]]:
        sizes = {"train": self.config.documents, "valid": self.config.valid_documents}
        return {
            split: documents(
                random.Random(f"{self.seed}/corpus/{split}"),
                self.facts,
                self._tasks[f"{split} forum"],
                size,
                Phrasing(self.seed, held_out=split == "valid"),
            )
            for split, size in sizes.items()
        }

    def corpus(self, split: str) -> list[str]:
        """Plain-text documents of "train" or "valid"."""
        require(split in self._corpus, "split", split, f"one of {tuple(self._corpus)}")
        return list(self._corpus[split])

    def prompts(self, split: str) -> list[str]:
        """The prompts of a split, shuffled over families."""
        return [task.prompt for task in self._split(split)]

    def families(self, split: str) -> list[str]:
        """The family of each prompt of `prompts(split)`."""
        return [task.family for task in self._split(split)]

    def demonstrations(self, split: str, careless: float = 0.0) -> list[Demonstration]:
        """The prompts of a split, each with a right, polite, short answer.

        A fraction `careless` of them has an answer of a labeler in a hurry instead: wrong, rude, to
        another question, or rambling, in equal parts.
        """
        tasks, hurried = self._split(split), self.hurried(split, careless)
        rng = random.Random(f"{self.seed}/{split}/careless/answers")
        return [
            Demonstration(task.prompt, bad_answer(rng, task, tasks, 1) if bad else task.response)
            for task, bad in zip(tasks, hurried, strict=True)
        ]

    def hurried(self, split: str, careless: float) -> list[bool]:
        """Which of `demonstrations(split, careless)` a labeler in a hurry wrote."""
        rng = random.Random(f"{self.seed}/{split}/careless")
        return [rng.random() < careless for _ in self._split(split)]

    def few_shot(self, count: int) -> str:
        """`count` worked examples from the sft split, families in turn, to put before a prompt."""
        require(0 <= count <= self.config.sft, "count", count, f"in 0..{self.config.sft}")
        queues = {name: [] for name, _, _ in FAMILIES}
        for task in self._tasks["sft"]:
            queues[task.family].append(task)
        turns = [(turn, task) for queue in queues.values() for turn, task in enumerate(queue)]
        turns.sort(key=lambda pair: pair[0])
        return "".join(f"{task.prompt}{task.response}\n" for _, task in turns[:count])

    def grade(self, prompt: str, response: str) -> Grade:
        """The gold grade of any response to a prompt of this world (see `worlds.grading`).

        Raises UserError where the prompt is in no split.
        """
        task = self._by_prompt.get(prompt)
        if task is None:
            raise UserError(f"prompt {prompt[:80]!r}: not a prompt of this world")
        return grade(task.judge, response)

    def rank(self, prompt: str, responses: Sequence[str], labeler: Labeler) -> tuple[int, ...]:
        """The labeler's ranks of the responses: 0 best, equal numbers are ties."""
        scores = [self.grade(prompt, response).score for response in responses]
        return labeler.rank(prompt, responses, scores)

    def _split(self, split: str) -> list[WorldTask]:
        require(split in SPLITS, "split", split, f"one of {SPLITS}")
        return self._tasks[split]


def _quotas(size: int) -> dict[str, int]:
    """Each family's share of a split of `size`, largest remainders rounded up."""
    quotas = {name: size * share // 100 for name, share, _ in FAMILIES}
    remainders = sorted(FAMILIES, key=lambda row: -(size * row[1] % 100))
    for name, _, _ in remainders[: size - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _side(seed: int, request: Request) -> str:
    """The side of a request, drawn at random by the sides' shares."""
    chance = random.Random(f"{seed}/side/{request}")
    return chance.choices(list(SIDES), [share for share, _ in SIDES.values()])[0]


def _pools(
    name: str, family: Family, scene: Scene, seed: int, needed: dict[str, int]
) -> dict[str, list[WorldTask]]:
    """{side: the first `needed[side]` different prompts of the family}."""
    pools: dict[str, dict[str, WorldTask]] = {side: {} for side in needed}
    repeats, left = 0, sum(needed.values())
    for task in family(random.Random(f"{seed}/{name}"), scene) if left else ():
        side = _side(seed, task.request)
        if len(pools[side]) == needed[side]:
            continue
        repeats = repeats + 1 if task.prompt in pools[side] else 0
        left -= task.prompt not in pools[side]
        pools[side].setdefault(task.prompt, task)
        if left == 0 or repeats > _PATIENCE:
            break
    for side, (_, splits) in SIDES.items():
        if len(pools[side]) < needed[side]:
            raise ConfigError(
                f"the splits {', '.join(splits)} need {needed[side]} prompts of the family "
                f"{name!r}, which has about {len(pools[side])} for them: must be smaller"
            )
    return {side: list(pool.values()) for side, pool in pools.items()}
