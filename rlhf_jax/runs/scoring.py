"""`rlhf-jax score`: a finished reward model's scores of the responses in a file. It trains nothing
and does not change the run's directory."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.arrays import Close, tokenised_ranking
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, from_json, parse_jsonl
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.evaluation.policies import rounded_up, score_ids, score_program
from rlhf_jax.evaluation.reward_accuracy import pair_accuracy
from rlhf_jax.evaluation.statistics import mean_interval
from rlhf_jax.generation.ending import Response, final_scores
from rlhf_jax.runs.evaluation import shape_of
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.options import POSITIONAL, ReadOptions
from rlhf_jax.runs.reading import (
    check_jsonl,
    chunks,
    finished_stage,
    lines_to,
    reading_run,
    short,
)
from rlhf_jax.runs.run import Run

Ids = list[int]
FORMS = ("response", "responses", "chosen")  # a record has one of these fields


@dataclasses.dataclass(frozen=True)
class ScoreOptions(ReadOptions):
    """Options of the score command, besides the experiment's fields.

    file   a .jsonl file of records: {"prompt", "response"}; {"prompt", "responses"}, with "ranks"
           or without; or {"prompt", "chosen", "rejected"}. A response includes the space between
           it and its prompt. "ended" is false for a response that was cut: its score is
           ending.missing_eos_score, as in PPO
    stage  the stage whose reward model scores; None: the last reward model, in the experiment's
           order, that has finished
    to     a .jsonl file for the records with their scores; None: standard output
    """

    file: Path | None = dataclasses.field(default=None, metadata=POSITIONAL)
    stage: str | None = None
    to: Path | None = None


class StageScorer:
    """The finished reward model of a stage. It scores batches of `evaluation.batch_size` sequences
    of at most `length` ids.

    Raises ConfigError where `length` exceeds the model's context.
    """

    def __init__(self, run: Run, stage: str, length: int):
        model = shape_of(run.config, run.ending, stage)
        require(length <= model.context, "prompt_length + response_length", length,
                f"<= the context of {stage} = {model.context}")  # fmt: skip
        self.tokenizer, self.missing = run.tokenizer, run.ending.missing
        self._params = run.model(stage)
        self.batch_size = run.config.evaluation.batch_size
        self._shape = {"batch_size": self.batch_size, "length": length}
        self._score = score_program(model, **self._shape).compile(run.runner)

    def of(self, sequences: Sequence[Ids], ended: Sequence[bool]) -> np.ndarray:
        """The score of each sequence of ids as in PPO, [N]: `missing_eos_score` where the response
        has not ended, else the model's score at the last id.

        Raises UserError where a score is not finite.
        """
        pad = self.tokenizer.pad_id
        found = score_ids(self._score, self._params, sequences, pad, **self._shape)
        scores = np.asarray(final_scores(found, np.array(ended, bool), self.missing))
        if not np.isfinite(scores).all():
            raise UserError("the reward model gives scores that are not finite: it is damaged")
        return scores

    def of_responses(self, prompts: Sequence[str], responses: Sequence[Response]) -> np.ndarray:
        """`of` for sampled responses, [N]."""
        pairs = zip(prompts, responses, strict=True)
        sequences = [[*self.tokenizer.prompt_ids(prompt), *r.ids] for prompt, r in pairs]
        return self.of(sequences, [response.ended for response in responses])


class Item(NamedTuple):
    """A record of the file, and the sequences that a reward model reads."""

    record: dict[str, Any]
    sequences: list[Ids]  # prompt and response, one sequence per response
    ended: Sequence[bool]  # False where the response was cut
    ranks: Sequence[int] | None  # equal sequences tie; None: the record has no ranks


class Counts(NamedTuple):
    """Counts of one ranking, for `pair_accuracy`."""

    prompt: str
    correct: float
    longer: float
    pairs: int


def score(config: Experiment, options: ScoreOptions) -> None:
    """Writes the records of a file with their scores, in order; on standard error their mean, and,
    for records with ranks, the share of pairs that the scores order as the ranks do.

    If prompt and response are longer than the model's context, the score is null and counted.

    Raises UserError where the stage has not finished, or a record, named by its line, is malformed.
    """
    stage, file = finished_stage(config, options.stage, "score"), options.file
    if file is None:
        raise UserError("score needs FILE.jsonl, as in rlhf-jax score EXPERIMENT.py FILE.jsonl")
    check_jsonl(options.to, "to")
    run = reading_run(config, "score", options.insist)
    context = shape_of(config, run.ending, stage).context
    found = survey(read_items(file, run), stage, context)  # checks all lines before scoring any
    if not found.records:
        raise UserError(f"{file}: holds no record")
    say(f"{stage} in {config.directory}: {found.records} records, {found.responses} responses")
    for line in found.told(context, run.ending.missing):
        say(line)
    scorer = StageScorer(run, stage, rounded_up(found.longest, context))
    counts, totals = [], {}
    with lines_to(options.to) as write:
        for item, scores in scored(read_items(file, run), scorer, context):
            write(as_json(item, scores, stage))
            known = [value for value in scores if value is not None]
            if known:
                total = totals.setdefault(json.dumps(item.record["prompt"]), np.zeros(2))
                total += [sum(known), len(known)]
            if item.ranks is not None and None not in scores:
                counts.append(count_pairs(item, scores))
    if totals:
        mean = mean_interval(*np.array(list(totals.values())).T)
        say(f"the mean score is {mean.text()} (95 % interval over {len(totals)} prompts)")
    if counts:
        say(told(counts, stage, config.seed))


def say(line: str) -> None:
    print(f"score: {line}", file=sys.stderr)


class Survey(NamedTuple):
    """What a file holds.

    longest      tokens of the longest prompt and response that fit the model's context
    over         responses that do not fit it
    cut          responses that fit it and have not ended
    overwritten  records that have a field of the name of a score
    """

    records: int
    responses: int
    longest: int
    over: int
    cut: int
    overwritten: int

    def told(self, context: int, missing: float | None) -> list[str]:
        """Lines about responses that have another score than the reward model's, or none."""
        lines, of = [], f"of {self.responses} responses"
        if self.over:
            lines.append(f"{self.over} {of} are longer than {context} tokens with their prompt, "
                         "the model's context: their score is null")  # fmt: skip
        if self.cut:
            value = "the reward model's, at their last token" if missing is None else f"{missing:g}"
            lines.append(f'{self.cut} {of} were cut ("ended": false): their score is {value} '
                         "(ending.missing_eos_score)")  # fmt: skip
        if self.overwritten:
            lines.append(f"{self.overwritten} of {self.records} records had scores of this stage "
                         "already: they are overwritten")  # fmt: skip
        return lines


def survey(items: Iterator[Item], stage: str, context: int) -> Survey:
    """Counts the records of a file. Raises RecordError as `read_items`."""
    found = Survey(0, 0, 0, 0, 0, 0)
    for item in items:
        lengths = [len(ids) for ids in item.sequences]
        fits = [length for length in lengths if length <= context]
        ended = [end for end, n in zip(item.ended, lengths, strict=True) if n <= context]
        found = Survey(
            found.records + 1,
            found.responses + len(lengths),
            max([found.longest, *fits]),
            found.over + len(lengths) - len(fits),
            found.cut + ended.count(False),
            found.overwritten + any(n in item.record for n in fields_of(form_of(item), stage)),
        )
    return found


def scored(
    items: Iterator[Item], scorer: StageScorer, context: int
) -> Iterator[tuple[Item, list[float | None]]]:
    """Each item with the scores of its responses; None for one that exceeds the context."""
    for part in chunks(items, scorer.batch_size):
        each = [pair for item in part for pair in zip(item.sequences, item.ended, strict=True)]
        fits = [(ids, ended) for ids, ended in each if len(ids) <= context]
        found = iter(scorer.of([ids for ids, _ in fits], [ended for _, ended in fits]).tolist())
        for item in part:
            yield item, [next(found) if len(s) <= context else None for s in item.sequences]


def read_items(file: Path, run: Run) -> Iterator[Item]:
    """The records of a file, one at a time.

    Raises RecordError naming file, line and field.
    """
    for where, record in parse_jsonl(file):
        try:
            yield item_of(record, run.tokenizer, run.ending.close, run.as_text)
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None


def item_of(
    record: Any, tokenizer: Tokenizer, close: Close, as_text: Callable = lambda one: one
) -> Item:
    """The item of a record. Raises RecordError where the record has no response."""
    from_json(record, Prompt)  # the prompt, and values that JSON can hold
    forms = [name for name in FORMS if name in record]
    if len(forms) != 1:
        allowed = "prompt and one of: response, responses, or chosen and rejected"
        raise RecordError(f"expected {allowed}, got the fields {', '.join(record) or 'none'}")
    given = lambda *names: {name: record[name] for name in names if name in record}
    if forms[0] == "response":
        one = as_text(from_json(given("prompt", "response"), Demonstration))
        ended = record.get("ended", True)
        if not isinstance(ended, bool):
            raise RecordError(f"field 'ended': expected true or false, got {ended!r:.60}")
        ids = close(tokenizer.encode(one.response), ended)
        return Item(record, [[*tokenizer.prompt_ids(one.prompt), *ids]], [ended], None)
    ranked = forms[0] == "chosen" or "ranks" in record
    fields = given("prompt", "chosen", "rejected", "tie")
    if forms[0] == "responses":
        listed = record["responses"]
        none = {"ranks": [0] * len(listed) if isinstance(listed, list) else []}
        fields = given("prompt", "responses", "ended") | none | given("ranks")
    ranking = as_text(from_json(fields, Ranking))
    pieces, ranks = tokenised_ranking(ranking, tokenizer, close)
    sequences = [ids.tolist() for ids, _ in pieces]
    return Item(record, sequences, ranking.ended, ranks if ranked else None)


def form_of(item: Item) -> str:
    """The field that holds the responses of a record, or the better one."""
    return next(name for name in FORMS if name in item.record)


def fields_of(form: str, stage: str) -> list[str]:
    """The field names of a record's scores."""
    return {
        "response": [f"{stage}_score"],
        "responses": [f"{stage}_scores"],
        "chosen": [f"chosen_{stage}_score", f"rejected_{stage}_score"],
    }[form]


def as_json(item: Item, scores: Sequence[float | None], stage: str) -> str:
    """The line of a record with its scores."""
    form = form_of(item)
    given = [None if value is None else short(value) for value in scores]
    values = [given] if form == "responses" else given
    found = item.record | dict(zip(fields_of(form, stage), values, strict=True))
    return json.dumps(found, ensure_ascii=False)


def count_pairs(item: Item, scores: Sequence[float]) -> Counts:
    """The untied pairs of a ranking, the pairs that the scores order right, and the pairs whose
    better output has more tokens; a pair of equal scores or lengths counts one half."""
    ranks = np.array(item.ranks)
    better = ranks[:, None] < ranks[None, :]
    alike = lambda values: float((better * _above(np.array(values))).sum())
    lengths = [len(ids) for ids in item.sequences]
    return Counts(
        json.dumps(item.record["prompt"]), alike(scores), alike(lengths), int(better.sum())
    )


def _above(values: np.ndarray) -> np.ndarray:
    """1 where the row's value is above the column's, 1/2 where they are equal, else 0."""
    return (np.sign(values[:, None] - values[None, :]) + 1) / 2


def told(counts: Sequence[Counts], stage: str, seed: int) -> str:
    """A line with the share of pairs that the scores order as the ranks do, with its interval over
    prompts."""
    prompts, correct, longer, pairs = zip(*counts, strict=True)
    names, of = np.unique(prompts, return_inverse=True)
    total = lambda values: np.bincount(of, np.array(values, float), len(names))
    found = pair_accuracy(total(correct), total(longer), total(pairs), seed)
    if not found["pairs"]:
        return "all rankings tie, so that there is no pair to order"
    return (
        f"{stage} orders {found['accuracy'].text()} of {found['pairs']} pairs of "
        f"{found['prompts']} prompts as the file does; the longer response is the better one in "
        f"{found['longer_is_better'].text()} (95 % intervals over prompts)"
    )
