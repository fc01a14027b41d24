"""A benchmark: an evaluator that reads its items from published files.

A benchmark is one file of this package: a frozen dataclass that inherits from `Benchmark`, or from
`Questions` where it asks for answers. It reads its items, turns each into a row, and says which
means of the rows are its results.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from rlhf_jax.data.messages import Message
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.evaluation.benchmarks.files import find_file
from rlhf_jax.evaluation.benchmarks.language_model import Policy, RewardModel, Texts
from rlhf_jax.evaluation.benchmarks.model import GREEDY, Answer, Judge, Prompt
from rlhf_jax.evaluation.benchmarks.programs import ANSWERS, LIKELIHOODS, programs_of
from rlhf_jax.evaluation.evaluator import Evaluator, Parts, Rows, Summary
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval
from rlhf_jax.generation.sampling import SamplingConfig

Row = Mapping[str, Any]  # JSON values of one item
SHUFFLE = 0  # seed of the order in which items are taken for `most_items` and for examples
PLAIN, CHAT, SLOT = "plain", "chat", "{prompt}"


class Item(NamedTuple):
    """One item of a benchmark.

    id      unique among the items
    fields  what the benchmark reads of it
    text    what is looked for in the training records of the model, such as the question
    """

    id: str
    fields: Mapping[str, Any]
    text: str


class Beside(NamedTuple):
    """What a benchmark may use besides the model."""

    judge: Judge | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark(Evaluator):
    """Measures a model on the items of published files.

    data        the folder with the files, as docs/evaluation.md lists them, or hub:OWNER/NAME;
                None: the folder that RLHF_JAX_DATA names
    most_items  the maximum number of items, drawn without replacement; a smaller number gives a
                part of the items of a larger one; None: all
    batch_size  sequences per batch
    """

    asks = False
    called: ClassVar[str]  # its name on the command line, and of its columns
    title: ClassVar[str]
    licence: ClassVar[str]  # of the files
    source: ClassVar[str]  # the paper
    files: ClassVar[tuple[str, ...]]  # below the folder `data`
    uses: ClassVar[tuple[str, ...]] = (LIKELIHOODS,)  # what it asks of a model: the programs
    takes_judge: ClassVar[bool] = False  # whether it can use a judge
    needs_judge: ClassVar[bool] = False
    judged_fields: ClassVar[tuple[str, ...]] = ()  # the fields of a row that a judge's answers give
    by_default: ClassVar[bool] = True  # whether `--on all` runs it
    data: str | None = None
    most_items: int | None = None
    batch_size: int = 16

    def __post_init__(self):
        super().__post_init__()
        most = self.most_items
        require(most is None or most > 0, "most_items", most, "positive, or None for all")
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")

    @property
    def name(self) -> str:
        return self.called

    def paths(self) -> list[Path]:
        """Its files. Raises UserError where one is not there."""
        return [find_file(self.data, name) for name in self.files]

    def items(self) -> list[Item]:
        """All items of its files, in order. Raises RecordError, naming file, line and field."""
        raise NotImplementedError

    def answered(self, items: Sequence[Item], model: Any, beside: Beside) -> list[Row]:
        """A row of JSON values for each item, with "id".

        The page reads these names: "score" (of this item, higher is better; examples are shown
        where models differ most in it), "prompt", "answer" and "expected" (texts), and "group"
        (results are given for each group too).
        model: a model.LanguageModel; a model.Scorer where `judges` is "score".
        """
        raise NotImplementedError

    def judge_questions(self, items: Sequence[Item], answer: str) -> list[str]:
        """What the judge is asked if each answer to the items, in each turn, is this text."""
        return []

    def means(self) -> Mapping[str, str]:
        """{column: name in the rows}: the columns that are means over the items; None in a row
        leaves the item out."""
        raise NotImplementedError

    def chance(self, rows: Rows) -> Mapping[str, float]:
        """The expected value of columns for a model that chooses at random."""
        return {}

    def measured(self) -> list[Item]:
        """The items that are measured, in the order of the files."""
        return some(read_items(self), self.most_items)

    @property
    def at_once(self) -> int:
        """How many items `answered` is given at a time: a kill loses no more."""
        return 4 * self.batch_size

    @property
    def sampling(self) -> SamplingConfig:
        """How answers are drawn."""
        return GREEDY

    @property
    def longest_answer(self) -> int:
        """The maximum number of tokens of an answer."""
        return 1

    def programs(self, build, asked):
        model, size = build.shapes["subject"], self.batch_size
        given = (model, build.ending, size, self.longest_answer, self.sampling)
        return programs_of(self.uses, *given)

    def check(self, facts, grader):
        self.paths()

    def rows(self, subject):
        chat = subject.tokenizer if subject.tokenizer.chat else None
        begins = chat is None or subject.tokenizer.begins_texts  # as its stages were trained
        kind = RewardModel if self.judges == "score" else Policy
        model = kind(
            subject.build.shapes["subject"],
            subject.params,
            Texts(subject.tokenizer, chat, begins),
            subject.build.ending,
            lambda name, program: subject.programs[name],
            self.batch_size,
        )
        items, size, found = self.measured(), self.at_once, []
        for start in range(0, len(items), size):
            found += self.answered(items[start : start + size], model, Beside())
        return table(found)

    def summary(self, rows, seed) -> Summary:
        return {column: self._mean(column, rows[name], seed)
                for column, name in self.means().items() if name in rows}  # fmt: skip

    def _mean(self, column: str, values: np.ndarray, seed: int):
        known = values[np.isfinite(values)]
        if not len(known):
            return None
        shared = self.columns()[column].possible == (0, 1)
        return bounded_mean(known, seed) if shared else mean_interval(known)

    def parts(self, rows) -> Parts:
        return {
            column: (np.nan_to_num(rows[name]), np.isfinite(rows[name]).astype(float))
            for column, name in self.means().items()
            if name in rows and np.isfinite(rows[name]).any()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions(Benchmark):
    """A benchmark that asks a policy questions.

    form   how a question is put: "chat" (by the model's chat template), "plain" (the benchmark's
           own text), or a text with {prompt} where the question stands; None: the usual one
    shots  questions with their answers before each question; they are drawn from the items, which
           are then not measured
    """

    plain: ClassVar[str] = SLOT  # the text that puts a question
    chat_first: ClassVar[bool] = False  # whether the usual form is "chat" where there is a template
    between: ClassVar[str] = "\n\n"  # between questions with their answers
    form: str | None = None
    shots: int = 0

    def __post_init__(self):
        super().__post_init__()
        ok = self.form in (None, PLAIN, CHAT) or SLOT in self.form
        require(ok, "form", self.form, f"chat, plain, or a text with {SLOT} in it")
        require(self.shots >= 0, "shots", self.shots, "0 or more")

    def solved(self, item: Item) -> tuple[str, str]:
        """(question, right answer) of an item, for a question's examples."""
        raise NotImplementedError

    def examples(self) -> list[tuple[str, str]]:
        """The questions with answers before each question."""
        return [self.solved(item) for item in self._parted()[0]]

    def measured(self):
        return some(self._parted()[1], self.most_items)

    def _parted(self) -> tuple[list[Item], list[Item]]:
        """(items that are examples, the others)"""
        items = read_items(self)
        require(self.shots < len(items), "shots", self.shots, f"below the {len(items)} items")
        order = np.random.default_rng(SHUFFLE).permutation(len(items))
        places = order[: self.shots].tolist()
        taken = set(places)
        return [items[i] for i in places], [x for i, x in enumerate(items) if i not in taken]

    def prompt(self, question: str, model: Any, examples: Sequence[tuple[str, str]] = ()) -> Prompt:
        """A question behind examples, in the form that the benchmark has for this model."""
        return prompt_of(self.form_for(model), question, examples, self.between)

    def form_for(self, model: Any) -> str:
        """ "chat", or a text with {prompt}. Raises UserError where the model has no template."""
        form = self.form or (CHAT if self.chat_first and model.has_chat else PLAIN)
        if form == CHAT and not model.has_chat:
            raise UserError(f"{self.called}: form = chat: the model has no chat template")
        return self.plain if form == PLAIN else form


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers(Questions):
    """A benchmark that grades sampled answers.

    most_tokens  the maximum number of tokens of an answer
    temperature  divides the logits; 0: the likeliest token each time
    top_p        draws among the fewest likeliest tokens of so much mass; 1: all
    """

    uses = (ANSWERS,)
    chat_first = True
    plain_stops: ClassVar[tuple[str, ...]] = ()  # texts that end an answer, but not in form "chat"
    most_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        require(self.most_tokens > 0, "most_tokens", self.most_tokens, "positive")
        _ = self.sampling  # which checks its fields

    @property
    def sampling(self):
        return SamplingConfig(temperature=self.temperature, top_p=self.top_p)

    @property
    def longest_answer(self):
        return self.most_tokens

    def asked(
        self,
        prompts: Sequence[Prompt],
        model: Any,
        ids: Sequence[str],
        stops: Sequence[str] | None = None,
    ) -> list[Answer]:
        """The model's answers to prompts.

        ids: different names, such as the items' ids. stops: texts that end an answer; None:
        `plain_stops`, unless the chat template puts the questions."""
        if stops is None:
            stops = () if self.form_for(model) == CHAT else self.plain_stops
        return model.answers(prompts, most_tokens=self.most_tokens, sampling=self.sampling,
                             stops=stops, ids=ids)  # fmt: skip


def prompt_of(
    form: str, question: str, examples: Sequence[tuple[str, str]] = (), between: str = "\n\n"
) -> Prompt:
    """A question behind examples (question, answer), as messages or as text.

    form: "chat", or a text with {prompt}.
    """
    if form == CHAT:
        turns = [(("user", asked), ("assistant", answer)) for asked, answer in examples]
        spoken = [*(turn for pair in turns for turn in pair), ("user", question)]
        return tuple(Message(*turn) for turn in spoken)
    put = lambda text: form.replace(SLOT, text)
    before = [put(asked) + continued(put(asked), answer) for asked, answer in examples]
    return between.join([*before, put(question)])


def continued(prompt: Prompt, text: str) -> str:
    """The text as it continues a prompt: behind a space, unless the prompt ends with white space or
    is messages."""
    apart = isinstance(prompt, str) and not prompt[-1:].isspace()
    return f" {text}" if apart else text


def some(items: Sequence[Item], most: int | None) -> list[Item]:
    """At most so many of the items, in their order: the first ones of a fixed random order."""
    if most is None or most >= len(items):
        return list(items)
    order = np.random.default_rng(SHUFFLE).permutation(len(items))
    return [items[i] for i in sorted(order[:most].tolist())]


@functools.lru_cache(8)
def read_items(benchmark: Benchmark) -> list[Item]:
    """All items of a benchmark, which is read once."""
    return checked_items(benchmark.called, benchmark.items())


def checked_items(name: str, items: Sequence[Item]) -> list[Item]:
    """The items. Raises RecordError where there is none, or two have one id."""
    if not items:
        raise RecordError(f"{name}: its files hold no item")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise RecordError(f"{name}: two items have the id {item.id!r}")
        seen.add(item.id)
    return list(items)


def table(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Rows as columns: numbers as float64 with NaN for None, other values as objects."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {}
    for name in names:
        values = [row.get(name) for row in rows]
        numbers = all(value is None or isinstance(value, int | float) for value in values)
        if numbers and name != "id":
            known = [np.nan if value is None else float(value) for value in values]
            found[name] = np.array(known, np.float64)
        else:
            found[name] = np.empty(len(values), object)
            found[name][:] = values
    return found
