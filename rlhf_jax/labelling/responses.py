"""Items to label from files: responses of models, and rankings that are known to be right."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.messages import Messages, dialogue, require_field
from rlhf_jax.data.records import Ranking, parse_jsonl, read_jsonl
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.labelling.item import MOST_OUTPUTS, Item, Output, check_utf8, told, with_equal_joined

SUFFIXES = (".jsonl", ".jsonl.gz")


class Found(NamedTuple):
    """Items, and how many prompts were left out because their outputs are all the same text."""

    items: list[Item]
    alike: int


def of_folder(folder: Path) -> Found:
    """Items to rank of a folder with a file of responses for each model, which the file's name
    names: {"prompt", "response"} or {"prompt", "responses"} on each line, with {"ended"} perhaps;
    other fields are not read. Outputs to equal prompts are one item.

    Raises UserError where there is no such file, or a line, which is named, is malformed.
    """
    found: dict[str, tuple[str | Messages, list[Output]]] = {}
    for file in _files(folder):
        name = file.name.partition(".jsonl")[0]
        for where, fields in parse_jsonl(file):
            try:
                prompt, outputs = _of_line(fields, name)
            except RecordError as error:
                raise RecordError(f"{where}: {error}") from None
            found.setdefault(json.dumps(told(prompt)), (prompt, []))[1].extend(outputs)
    return items_of(found.values(), str(folder))


def items_of(prompts, place: str) -> Found:
    """Items to rank of pairs (prompt, outputs); a text that several models gave is shown once.

    place: names in messages where the outputs are from. Raises UserError where a prompt has more
    outputs than a page shows.
    """
    items, alike = [], 0
    for prompt, outputs in prompts:
        different = with_equal_joined(outputs)
        if len(different) > MOST_OUTPUTS:
            raise UserError(f"{place}: {len(different)} outputs for the prompt {_start(prompt)}: "
                            f"must be {MOST_OUTPUTS} at most")  # fmt: skip
        if len(different) < 2:
            alike += 1
            continue
        items.append(Item("rank", prompt, different))
    return Found(items, alike)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"responses: {folder} is no folder")
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    if not files:
        raise UserError(f"responses: {folder} has no file *.jsonl or *.jsonl.gz")
    for file in files:
        check_utf8("responses", file.name)  # the owner's page and the export have it
    return files


def _of_line(fields: Any, name: str) -> tuple[str | Messages, list[Output]]:
    """The prompt and the outputs of a line."""
    require_field(isinstance(fields, dict), "(line)", fields, "a JSON object")
    require_field("prompt" in fields, "prompt", fields, "a prompt")
    one, several = "response" in fields, "responses" in fields
    require_field(one != several, "response", fields, "a response, or a list of responses")
    prompt = dialogue("prompt", fields["prompt"])
    texts = [fields["response"]] if one else fields["responses"]
    field = "response" if one else "responses"
    require_field(isinstance(texts, list), field, texts, "a list")
    ended = fields.get("ended", True if one else [True] * len(texts))
    ended = [ended] if one else ended
    booleans = isinstance(ended, list) and all(isinstance(value, bool) for value in ended)
    told = f"true or false for each of {len(texts)} responses"
    require_field(booleans and len(ended) == len(texts), "ended", ended, told)
    for text in texts:
        require_field(isinstance(text, str), field, text, "a string")
        check_utf8(field, text)
    pairs = zip(texts, ended, strict=True)
    return prompt, [Output(text, end, (name,)) for text, end in pairs]


def gold(file: Path) -> Iterator[Item]:
    """Gold items of a file of rankings, not wholly tied.

    Raises RecordError, which names the line's number, where a ranking cannot be one.
    """
    for number, ranking in enumerate(read_jsonl(file, Ranking), 1):
        outputs = tuple(map(Output, ranking.responses, ranking.ended))
        try:
            yield Item("rank", ranking.prompt, outputs, ranking.ranks)
        except RecordError as error:
            raise RecordError(f"{file}:{number}: {error}") from None


def _start(prompt: str | Messages) -> str:
    text = json.dumps(told(prompt), ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
