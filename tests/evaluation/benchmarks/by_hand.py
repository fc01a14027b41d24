"""Models made by hand, whose results on a benchmark are known."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlhf_jax.data.messages import plain
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark, Beside, table
from rlhf_jax.evaluation.benchmarks.model import Answer, Likelihood, Prompt


class ByHand:
    """A policy and reward model of functions. log_prob(prompt, text), says(prompt), score(prompt,
    response); asked: every prompt and text so far."""

    def __init__(
        self,
        log_prob: Callable[[str, str], float] = lambda prompt, text: -1.0,
        says: Callable[[str], str] = lambda prompt: "",
        score: Callable[[str, str], float] = lambda prompt, response: 0.0,
        has_chat: bool = False,
    ):
        self._log_prob, self._says, self._score = log_prob, says, score
        self.has_chat, self.context, self.cut = has_chat, 10**6, 0
        self.asked: list[tuple[Prompt, str]] = []

    def likelihoods(self, requests):
        self.asked += requests
        values = [(self._log_prob(plain(prompt), text), text) for prompt, text in requests]
        return [Likelihood(value, len(text.split()), False) for value, text in values]

    def documents(self, texts):
        return self.likelihoods([("", text) for text in texts])

    def answers(self, prompts, *, most_tokens, sampling=None, stops=(), ids=None):
        assert ids is None or len(set(ids)) == len(ids) == len(prompts)
        self.asked += [(prompt, "") for prompt in prompts]
        texts = [self._says(plain(prompt)) for prompt in prompts]
        for stop in stops:
            texts = [text.split(stop)[0] for text in texts]
        return [Answer(text, len(text.split()), True) for text in texts]

    def scores(self, prompts, responses):
        self.asked += zip(prompts, responses, strict=True)
        pairs = zip(prompts, responses, strict=True)
        return np.array([self._score(plain(prompt), response) for prompt, response in pairs])


UNIFORM = ByHand()  # finds every text equally likely


def prefers(texts: Sequence[str]) -> ByHand:
    """Finds these texts likelier than all others."""
    known = {text.strip() for text in texts}
    return ByHand(log_prob=lambda prompt, text: -1.0 if text.strip() in known else -50.0)


def write(folder: Path, name: str, content) -> Path:
    """A file of a benchmark: text, or JSON lines of a list of records, or JSON of anything else."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str):
        if name.endswith(".jsonl"):
            content = "".join(json.dumps(record) + "\n" for record in content)
        else:
            content = json.dumps(content)
    path.write_text(content, encoding="utf-8")
    return path


def results(benchmark: Benchmark, model, judge=None) -> tuple[dict, dict]:
    """(rows as columns, summary) of all items, two at a time, as the command measures them."""
    items, rows = benchmark.measured(), []
    for start in range(0, len(items), 2):
        rows += benchmark.answered(items[start : start + 2], model, Beside(judge))
    assert json.loads(json.dumps(rows, allow_nan=False)) == [*map(as_read, rows)]
    assert [row["id"] for row in rows] == [item.id for item in items]
    said = [field for row in rows for field in benchmark.judged_fields if field in row]
    assert len(said) == (0 if judge is None else len(judge.asked))
    columns = table(rows)
    summary = benchmark.summary(columns, 0)
    assert summary.keys() <= benchmark.columns().keys()
    assert all(name.startswith(benchmark.called) for name in summary)
    return columns, summary


def as_read(row):
    """A row as JSON gives it back."""
    return json.loads(json.dumps(row))


def mean(value) -> float:
    """Of an interval, or the number itself."""
    return value if isinstance(value, int | float) else value.mean
