"""README.md of an exported model: what it is, how it was trained, and what was measured."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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

ADAPTER = """```python
from peft import PeftModel
from transformers import {kind}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
base = {kind}.from_pretrained("{base}"{labels})
model = PeftModel.from_pretrained(base, "FOLDER")
```"""


def adapter_code(base: str, scorer: bool) -> str:
    """How an adapter is loaded. base: the folder or name of the model that it lies on."""
    kind = "AutoModelForSequenceClassification" if scorer else "AutoModelForCausalLM"
    return ADAPTER.format(kind=kind, base=base, labels=", num_labels=1" if scorer else "")


class Base(NamedTuple):
    """The published model that a run starts from.

    name     what `pretrained` of the experiment was; None: the run has not kept it
    digest   the sha256 of its files
    licence  of the model; None: its card names none
    hub      its name on the hub, or that of the model that it was converted from; None: not known
    """

    name: str | None
    digest: str
    licence: str | None = None
    hub: str | None = None

    def sentence(self) -> str:
        name = "not kept" if self.name is None else f"`{self.name}`"
        hub = "" if self.hub in (None, self.name) else f", made from {self.hub}"
        return (f"The base model is {name}{hub} (sha256 {self.digest}). Its licence: "
                f"{self.licence or 'not known'}.")  # fmt: skip

    def front(self) -> list[str]:
        """The line that the hub reads."""
        return [] if self.hub is None else [f"base_model: {json.dumps(self.hub)}"]


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
    base          the published model that it was trained from; None: there is none
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
    base: Base | None = None


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
        *(card.base.front() if card.base else []),
        "---",
        f"# {card.stage}",
        "",
        f"A {kind} ({card.architecture}, {card.parameters:,} parameters in {card.dtype}): the "
        f"model of the stage `{card.stage}` of a run of rlhf_jax.",
        "",
        *([card.base.sentence(), ""] if card.base else []),
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
