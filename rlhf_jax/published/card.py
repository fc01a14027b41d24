"""README.md of an exported model: what it is, how it was trained, and what was measured."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

POLICY = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
```"""
SCORER = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
# The score of token ids, the end token included: model(input_ids).logits[0, 0]
```"""


@dataclasses.dataclass(frozen=True)
class Card:
    """The content of a model card.

    stage         the stage whose model it is
    scorer        whether it is a reward model
    architecture  transformers' class
    parameters    how many it has
    dtype         the number format of the files
    config        the config of the stage and of all that it was trained from, as JSON values
    records       counts.json of the run's data
    licences      a licence of the data, by data set
    tests         public test sets that it was trained on
    figures       (title, value) of each column of the report
    versions      of packages, by name
    notes         sentences that a user must know
    """

    stage: str
    scorer: bool
    architecture: str
    parameters: int
    dtype: str
    config: Mapping[str, Any]
    records: Mapping[str, Any]
    licences: Mapping[str, str]
    tests: Sequence[str]
    figures: Sequence[tuple[str, str]]
    versions: Mapping[str, str]
    notes: Sequence[str]


def text(card: Card) -> str:
    """The card in Markdown, with the fields that the hub reads in front."""
    kind = "reward model" if card.scorer else "language model"
    task = "text-classification" if card.scorer else "text-generation"
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "tags:",
        "- rlhf",
        "- rlhf_jax",
        "---",
        f"# {card.stage}",
        "",
        f"A {kind} ({card.architecture}, {card.parameters:,} parameters in {card.dtype}): the "
        f"model of the stage `{card.stage}` of a run of rlhf_jax.",
        "",
        *[line for note in card.notes for line in (f"**{note}**", "")],
        *([_tests(card.tests), ""] if card.tests else []),
        SCORER if card.scorer else POLICY,
        "",
        "## Results",
        "",
        *(_table(("figure", "value"), card.figures) or ["There is no report of this model."]),
        "",
        "## Data",
        "",
        *_table(("data set", "licence"), list(card.licences.items())),
        "",
        "Records, and what was left out of them:",
        "",
        *_json(card.records),
        "",
        "## Config",
        "",
        *_json(card.config),
        "",
        "## Versions",
        "",
        *_table(("package", "version"), list(card.versions.items())),
        "",
    ]
    return "\n".join(lines)


def _tests(names: Sequence[str]) -> str:
    return f"**Trained on public test sets: {', '.join(names)}. Do not evaluate it on them.**"


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    cell = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    lines = [f"| {cell(left)} | {cell(right)} |" for left, right in rows]
    return [f"| {' | '.join(head)} |", "|---|---|", *lines] if rows else []


def _json(values: Mapping[str, Any]) -> list[str]:
    text = json.dumps(values, ensure_ascii=False, indent=1)
    fence = "`" * 4  # texts of a config may hold three
    return [f"{fence}json", *text.splitlines(), fence]
