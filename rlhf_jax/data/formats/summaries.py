"""Summaries that people compared or rated: summarize-from-feedback and SQuALITY."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf_jax.data.formats.item import (
    Dialogue,
    Format,
    Item,
    Left,
    Noted,
    Row,
    asked,
    choice,
    field,
    has,
)
from rlhf_jax.data.messages import Message
from rlhf_jax.data.records import parse_jsonl
from rlhf_jax.errors import RecordError

VALID = ("valid1", "valid2")


def _post(where: str, info: dict) -> Dialogue:
    """The prompt of Stiennon et al.: a post of Reddit, or a news article."""
    if info.get("post") is None:
        text = f"Article: {field(where, info, 'article', str)}\n\nTL;DR:"
    else:
        text = "SUBREDDIT: r/{}\n\nTITLE: {}\n\nPOST: {}\n\nTL;DR:".format(
            *(field(where, info, name, str) for name in ("subreddit", "title", "post"))
        )
    return Dialogue((Message("user", text),), text)


def read_comparison(where: str, row: dict, by: str) -> Iterator[Item | Noted]:
    """{info, summaries: [{text}, {text}], choice}: `choice` is the index of the better summary. Its
    files mix splits; rows for validation are kept and counted."""
    summaries = field(where, row, "summaries", list)
    if len(summaries) != 2:
        raise RecordError(f"{where}: field 'summaries': expected 2, got {len(summaries)}")
    texts = tuple(f" {field(where, each, 'text', str).strip()}" for each in summaries)
    ranks = choice(where, row, "choice", {0: (0, 1), 1: (1, 0)})
    if row.get("split") in VALID:
        yield Noted(f"rows of the split {row['split']}")
    yield Item(_post(where, field(where, row, "info", dict)), texts, ranks)


def read_axes(where: str, row: dict, by: str) -> Iterator[Item]:
    """{info, summary: {text, axes}}: a summary with scores from 1 to 7 on several axes."""
    summary = field(where, row, "summary", dict)
    axes = field(where, summary, "axes", dict)
    if axes.get(by) is None:
        raise Left(f"no score of {by}")
    text = f" {field(where, summary, 'text', str).strip()}"
    score = field(where, axes, by, (int, float))
    yield Item(_post(where, field(where, row, "info", dict)), (text,), scores=(score,))


def stories(path: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """SQuALITY's ratings, with the story and the questions that the ratings' file names by number.

    Raises RecordError where the folder of the stories is missing.
    """
    folder = path.resolve().parent.parent / "v1-3" / "txt"
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise RecordError(f"{path}: expected the stories in {folder}, got no .jsonl there")
    known = {}
    for file in files:
        for where, story in parse_jsonl(file):
            passage = field(where, field(where, story, "metadata", dict), "passage_id", str)
            known[passage] = where, story
    for where, row in rows:
        passage = field(where, row, "passage-id", str)
        if passage not in known:
            raise RecordError(f"{where}: field 'passage-id': expected a story of {folder}, got "
                              f"{passage!r:.60}")  # fmt: skip
        yield where, row | {"story": known[passage]}


def _question(where: str, story: dict, number: int) -> Dialogue:
    text = field(where, story, "document", str).strip()
    questions = field(where, story, "questions", list)
    if not 0 <= number < len(questions):
        raise RecordError(f"{where}: field 'questions': expected number {number}, got "
                          f"{len(questions)} questions")  # fmt: skip
    return asked(f"{text}\n\n{field(where, questions[number], 'question_text', str)}")


def read_ratings(where: str, row: dict, by: str) -> Iterator[Item]:
    """{passage-id, questions: {number: {system: {response, overall}}}}: the summaries of two models
    and a person, with the mean ratings and the ranks of three readers; 1 is the best rank."""
    there, story = row["story"]
    for number, systems in field(where, row, "questions", dict).items():
        place = f"{where}: field 'questions.{number}'"
        if not number.isdigit():
            raise RecordError(f"{place}: expected a number")
        found = [field(place, systems, name, dict) for name in systems]
        means = [field(place, each, "overall", dict) for each in found]
        scores = tuple(field(place, mean, f"{by}-rating", (int, float)) for mean in means)
        ranks = tuple(field(place, mean, f"{by}-ranking", int) for mean in means)
        texts = tuple(field(place, each, "response", str) for each in found)
        yield Item(_question(there, story, int(number)), texts, ranks, scores)


def read_squality(where: str, row: dict, by: str) -> Iterator[Item]:
    """{document, questions: [{question_text, responses: [{response_text}]}]}: summaries that people
    wrote."""
    for number, question in enumerate(field(where, row, "questions", list)):
        prompt = _question(where, row, number)
        for response in field(where, question, "responses", list):
            yield Item(prompt, (field(where, response, "response_text", str),))


SFF = "Stiennon et al. 2020, arXiv 2009.01325"
SQUALITY = "Wang et al. 2022, arXiv 2205.11465"
FORMATS = (
    Format("summarize-from-feedback comparisons",
           lambda row: has(row, info=dict, summaries=list, choice=int),
           read_comparison, ("rankings",), source=SFF),
    Format("summarize-from-feedback ratings",
           lambda row: has(row, info=dict, summary=dict),
           read_axes, ("scored",), ("overall", "accuracy", "coverage", "coherence"),
           source=SFF),
    Format("SQuALITY ratings", lambda row: has(row, **{"passage-id": str, "questions": dict}),
           read_ratings, ("rankings", "scored"), ("overall", "correctness", "selection"),
           licence="CC BY 4.0", called=("squality",), test=True, rows=stories, source=SQUALITY),
    Format("SQuALITY", lambda row: has(row, metadata=dict, document=str, questions=list),
           read_squality, ("demonstrations",), licence="CC BY 4.0", source=SQUALITY),
)  # fmt: skip
