"""`rlhf-jax generate`: a finished policy's responses to prompts. It trains nothing and does not
change the run's directory."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rlhf_jax.data.messages import Messages
from rlhf_jax.data.records import Prompt, from_json, parse_jsonl, read_lines, to_json
from rlhf_jax.errors import RecordError, UserError, require
from rlhf_jax.generation.ending import Response
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.options import ReadOptions
from rlhf_jax.runs.reading import (
    check_jsonl,
    chunks,
    finished_stage,
    lines_to,
    reading_run,
    short,
)
from rlhf_jax.runs.run import Run
from rlhf_jax.runs.scoring import StageScorer


@dataclasses.dataclass(frozen=True)
class GenerateOptions(ReadOptions):
    """Options of the generate command, besides the experiment's fields. `--seed` is the seed of the
    responses.

    stage    the stage whose policy answers; None: the last policy, in the experiment's order, that
             has finished
    prompts  a file of prompts: .jsonl or .jsonl.gz with {"prompt": ...} and any further fields on
             each line, or .txt with one prompt per line; None: standard input, as text
    to       a .jsonl file for prompts and responses; None: responses as text to standard output
    n        responses to each prompt
    best_of  samples so many responses to each prompt and keeps the one with the highest score
    scorer   the stage whose reward model scores for best_of; None: the last that has finished
    """

    stage: str | None = None
    prompts: Path | None = None
    to: Path | None = None
    n: int = 1
    best_of: int | None = None
    scorer: str | None = None

    def __post_init__(self):
        require(self.n >= 1, "n", self.n, "1 or more")
        if self.best_of is None:
            require(self.scorer is None, "scorer", self.scorer, "left out without --best-of N")
        else:
            require(self.best_of >= 2, "best_of", self.best_of, "2 or more")
            require(self.n == 1, "n", self.n, "1 beside --best-of, which keeps one response")


class Asked(NamedTuple):
    """A prompt, the other fields of its line, and the text that a model reads."""

    where: str
    prompt: str | Messages
    fields: Mapping[str, Any]
    text: str = ""


class Answer(NamedTuple):
    response: Response
    log_prob: float | None  # sum over the sampled tokens, in nats at the temperature
    score: float | None = None


Answered = tuple[Asked, list[Answer]]


def generate(config: Experiment, options: GenerateOptions) -> None:
    """Writes responses to each prompt, batch by batch.

    config.seed is the seed of the responses; the model is the run's, whatever the run's seed.

    Raises UserError where a stage has not finished, or where a prompt, named by its line, is too
    long.
    """
    stage, scorer = finished_stage(config, options.stage, "policy"), None
    if options.best_of is not None:
        scorer = finished_stage(config, options.scorer, "score", "scorer")
    asked = read_prompts(options.prompts)
    check_jsonl(options.to, "to")
    if options.to is not None:
        check_fields(asked, options.n > 1, scorer)
    run = reading_run(config, "generate", options.insist)
    asked = [one._replace(text=text_of(run, one)) for one in asked]
    check_room(run, stage, asked)
    key, count = run.key(f"generate/responses/{config.seed}"), options.best_of or options.n
    found = answered(run, stage, asked, count, key)
    if scorer is not None:
        total = run.evaluation.asked(stage).prompt_length + config.evaluation.response_length
        found = best(found, StageScorer(run, scorer, total), count)
    print(f"generate: the model of {stage} in {config.directory}", file=sys.stderr)
    with lines_to(options.to) as write:
        for one, answers in found:
            if options.to is not None:
                write(as_json(one, answers, options.n > 1, scorer))
                continue
            for answer in answers:
                write(answer.response.text.replace("\n", "\\n"))


def answered(
    run: Run, stage: str, asked: Sequence[Asked], count: int, key: jax.Array
) -> Iterator[Answered]:
    """Each prompt with `count` responses."""
    prompts = [one.text for one in asked for _ in range(count)]
    found = run.evaluation.answering(stage, run.model(stage), prompts, key)
    for one in asked:
        yield one, [Answer(*answer) for _, *answer in islice(found, count)]


def best(found: Iterable[Answered], scorer: StageScorer, count: int) -> Iterator[Answered]:
    """Each prompt with its response of highest score, the first if several have it.

    The score is that of PPO: `missing_eos_score` if a response was cut.
    """
    for part in chunks(found, max(1, scorer.batch_size // count)):
        prompts = [one.text for one, answers in part for _ in answers]
        responses = [answer.response for _, answers in part for answer in answers]
        scores = scorer.of_responses(prompts, responses).reshape(len(part), count)
        for (one, answers), row in zip(part, scores, strict=True):
            place = int(row.argmax())
            yield one, [answers[place]._replace(score=float(row[place]))]


def as_json(one: Asked, answers: Sequence[Answer], several: bool, scorer: str | None) -> str:
    """The line of a prompt and its responses in a .jsonl file."""
    log_probs = [answer.log_prob for answer in answers]
    known = None not in log_probs
    found: dict[str, Any] = to_json(Prompt(one.prompt, one.fields))
    if several:
        found["responses"] = [answer.response.text for answer in answers]
        found["ended"] = [answer.response.ended for answer in answers]
        found |= {"log_probs": list(map(short, log_probs))} if known else {}
    else:
        (answer,) = answers
        found |= {"response": answer.response.text, "ended": answer.response.ended}
        found |= {"log_prob": short(answer.log_prob)} if known else {}
        found |= {f"{scorer}_score": short(answer.score)} if scorer else {}
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def check_fields(asked: Iterable[Asked], several: bool, scorer: str | None) -> None:
    """Raises UserError where a prompt's line has a field with a name that `as_json` writes."""
    one = ("response", "ended", "log_prob", *([f"{scorer}_score"] if scorer else []))
    written = ("responses", "ended", "log_probs") if several else one
    for each in asked:
        if taken := [name for name in written if name in each.fields]:
            raise UserError(f"{each.where}: field {taken[0]!r}: generate writes a field of this "
                            "name: give it another one")  # fmt: skip


def text_of(run: Run, one: Asked) -> str:
    """The text that a model reads. Raises RecordError, naming the line."""
    try:
        return run.as_text(Prompt(one.prompt)).prompt
    except RecordError as error:
        raise RecordError(f"{one.where}: {error}") from None


def check_room(run: Run, stage: str, asked: Iterable[Asked]) -> None:
    """Raises UserError where a prompt is too long, or prompt and response exceed the context."""
    config, before = run.evaluation.asked(stage), run.evaluation.prompting(stage).before
    for one in asked:
        tokens, most = len(run.tokenizer.prompt_ids(before + one.text)), config.prompt_length
        if tokens > most:
            raise UserError(f"{one.where}: {tokens} tokens, a prompt of {stage} has {most} at most "
                            "(evaluation.prompt_length)")  # fmt: skip
    context = run.config.stages[stage].shape(run.build(stage)).context
    total, allowed = config.prompt_length + config.response_length, f"<= its context {context}"
    require(total <= context, f"prompt_length + response_length of {stage}", total, allowed)


def read_prompts(file: Path | None) -> list[Asked]:
    """The prompts of a file, or of standard input.

    Raises UserError where a prompt is malformed (naming file, line and field), or there is none.
    """
    if file is None:
        if sys.stdin.isatty():
            print("generate: a prompt a line, then Ctrl-D", file=sys.stderr)
        asked = text_prompts(sys.stdin.buffer, "line ")
    elif file.name.endswith((".jsonl", ".jsonl.gz")):
        asked = [_of_json(where, fields) for where, fields in parse_jsonl(file)]
    else:
        require(file.suffix == ".txt", "prompts", str(file), "named *.jsonl, *.jsonl.gz or *.txt")
        asked = text_prompts(read_lines(file), f"{file}:")
    if not asked:
        place = "standard input, one a line" if file is None else str(file)
        raise UserError(f"generate reads prompts from {place}: there was none")
    return asked


def _of_json(where: str, fields: Any) -> Asked:
    try:
        record = from_json(fields, Prompt)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None
    return Asked(where, record.prompt, record.fields)


def text_prompts(lines: Iterable[bytes], place: str) -> list[Asked]:
    """One prompt per line; \\n in it means a line break. place: precedes the line's number in
    errors.

    Raises UserError, naming the line, where a line is not UTF-8.
    """
    asked = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{place}{number}: byte {line[error.start]:#04x} at {error.start + 1} "
                            "is not UTF-8")  from None  # fmt: skip
        prompt = text.rstrip("\r\n").replace("\\n", "\n")
        asked.append(Asked(f"{place}{number}", prompt, {}))
    return asked
