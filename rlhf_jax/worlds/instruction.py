"""The instruction world: text, instructions, demonstrations and a gold grader, all from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

from rlhf_jax.data.records import Demonstration
from rlhf_jax.errors import ConfigError, UserError, require
from rlhf_jax.worlds.corpus import bad_answer, documents
from rlhf_jax.worlds.facts import Facts
from rlhf_jax.worlds.grading import Grade, grade
from rlhf_jax.worlds.tasks import FAMILIES, Family, Scene, Task

SPLITS = ("sft", "feedback", "ppo", "valid", "test")
FORUM = 1000  # prompts of the corpus's forum threads, in no split
_PATIENCE = 50  # instances seen before in a row after which a family has no more


@dataclass(frozen=True)
class WorldConfig:
    """What the world holds: prompts of each split, documents of the corpus."""

    seed: int | None = None  # None: the run's, so that runs of two seeds have a world each
    sft: int = 3000
    feedback: int = 1200
    ppo: int = 4000
    valid: int = 200
    test: int = 400
    documents: int = 9000
    valid_documents: int = 300

    def __post_init__(self):
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "at least 0, or None")
        for field in fields(self)[1:-2]:
            size = getattr(self, field.name)
            require(size >= 1, field.name, size, "at least 1")
        # Fewer would leave some facts told in one phrasing only, or untold.
        require(self.documents >= 1000, "documents", self.documents, "at least 1000")
        require(self.valid_documents >= 1, "valid_documents", self.valid_documents, "at least 1")


class Labeler(Protocol):
    """Whoever ranks responses of known gold scores."""

    def rank(
        self, prompt: str, responses: Sequence[str], scores: Sequence[float]
    ) -> tuple[int, ...]: ...


class InstructionWorld:
    """A small English world: what its corpus tells, what its users ask, what its grader wants.

    Prompts are "User: <request>\\nAssistant:", responses begin with a space and are one line.
    The splits share families and templates in the same proportions but no instance: no prompt
    (template and arguments) is in two splits or in the corpus. The corpus tells every fact that
    any split asks for, never by that question. The same config and seed give the same world
    anywhere; `seed`, the run's, counts where the config has none of its own.

    Raises ConfigError where a split is larger than the instances that a family has.
    """

    def __init__(self, config: WorldConfig, seed: int = 0):
        self.config = config
        self.seed = seed if config.seed is None else config.seed
        self.facts = Facts(self.seed)
        scene = Scene.of(self.facts)
        # The small splits first, so that training splits may grow and leave them as they are.
        sizes = {"test": config.test, "valid": config.valid, "forum": FORUM}
        sizes |= {"sft": config.sft, "feedback": config.feedback, "ppo": config.ppo}
        quotas = {split: _quotas(size) for split, size in sizes.items()}
        self._tasks: dict[str, list[Task]] = {split: [] for split in sizes}
        for name, _, family in FAMILIES:
            needed = sum(quota[name] for quota in quotas.values())
            pool = iter(_pool(name, family, scene, self.seed, needed))
            for split, quota in quotas.items():
                self._tasks[split] += [next(pool) for _ in range(quota[name])]
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
                self._tasks["forum"],
                size,
            )
            for split, size in sizes.items()
        }

    def corpus(self, split: str) -> list[str]:
        """Plain-text documents of "train" or "valid"."""
        require(split in self._corpus, "split", split, f"one of {tuple(self._corpus)}")
        return list(self._corpus[split])

    def prompts(self, split: str) -> list[str]:
        """The prompts of a split, families mixed."""
        return [task.prompt for task in self._split(split)]

    def families(self, split: str) -> list[str]:
        """The family of each prompt of `prompts(split)`."""
        return [task.family for task in self._split(split)]

    def demonstrations(self, split: str, careless: float = 0.0) -> list[Demonstration]:
        """The prompts of a split, each with a right, polite, short answer.

        A share `careless` of them has instead what a labeler in a hurry writes: a wrong answer, a
        rude one, one to another question, or one that rambles on, in equal parts.
        """
        tasks = self._split(split)
        rng = random.Random(f"{self.seed}/{split}/careless")
        hurried = [rng.random() < careless for _ in tasks]
        return [
            Demonstration(task.prompt, bad_answer(rng, task, tasks, 1) if bad else task.response)
            for task, bad in zip(tasks, hurried, strict=True)
        ]

    def few_shot(self, count: int) -> str:
        """`count` worked examples of the sft split, families in turn, to put before a prompt."""
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

    def _split(self, split: str) -> list[Task]:
        require(split in SPLITS, "split", split, f"one of {SPLITS}")
        return self._tasks[split]


def _quotas(size: int) -> dict[str, int]:
    """Each family's share of a split of `size`, largest remainders rounded up."""
    quotas = {name: size * share // 100 for name, share, _ in FAMILIES}
    remainders = sorted(FAMILIES, key=lambda row: -(size * row[1] % 100))
    for name, _, _ in remainders[: size - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _pool(name: str, family: Family, scene: Scene, seed: int, needed: int) -> list[Task]:
    """The first `needed` different instances of a family."""
    pool: dict[str, Task] = {}
    if needed == 0:
        return []
    repeats = 0
    for task in family(random.Random(f"{seed}/{name}"), scene):
        repeats = repeats + 1 if task.prompt in pool else 0
        pool.setdefault(task.prompt, task)
        if len(pool) == needed:
            return list(pool.values())
        if repeats > _PATIENCE:
            break
    raise ConfigError(
        f"splits need {needed} prompts of the family {name!r}, which has about {len(pool)}: "
        "must be smaller"
    )
