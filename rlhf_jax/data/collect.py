"""`rlhf-jax data FILE... --to FOLDER`: files of known formats as one folder of records."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rlhf_jax.data import about, hygiene
from rlhf_jax.data.convert import Entry, FileRead, Reading, read_file
from rlhf_jax.data.counting import texts_of
from rlhf_jax.data.folder import FILES
from rlhf_jax.data.formats.to_records import KINDS
from rlhf_jax.data.messages import plain
from rlhf_jax.data.records import Prompt, Record, Text, write_jsonl
from rlhf_jax.errors import UserError, require

PREFIX = 100  # characters by which prompts are told apart where none are named


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Of `data` with files."""

    to: Path | None = None  # the folder for the records; None: the files are only counted
    # The files' format by name; None: found by the fields of each file. Names: OpenAssistant
    # trees, OpenAssistant messages, Anthropic HH, Nectar, HelpSteer, UltraFeedback, WebGPT
    # comparisons, SHP, PKU-SafeRLHF, HelpSteer preferences, PandaLM, GSM8K, TruthfulQA,
    # TruthfulQA choices, LLMBar, HHH, MT-Bench questions, HumanEval, summarize-from-feedback
    # comparisons, summarize-from-feedback ratings, SQuALITY ratings, SQuALITY, Alpaca, Dolly,
    # Self-Instruct, ShareGPT, TRL preferences, TRL preferences with implicit prompts, TRL
    # unpaired preferences, TRL prompts and completions, messages, rankings, scored responses,
    # demonstrations, prompts, text, strings
    format: str | None = None
    # The kinds of records: text, demonstrations, rankings, scored, prompts; none: those that the
    # format gives. A ranking's demonstration is its only best response.
    kinds: tuple[str, ...] = ()
    by: str | None = None  # the judgement that ranks or scores, such as helpfulness or safer
    # What prompts become: messages, which the tokenizer's chat template renders, or text in
    # Anthropic's template, "\n\nHuman: ... \n\nAssistant:". Prompts that are text stay as they are.
    template: Literal["messages", "human"] = "messages"
    split: Literal["train", "valid"] = "train"  # of the records; valid: held out
    licence: str | None = None  # of the data; None: that of the format's data set, if it has one
    prompt_characters: int | None = None  # older turns of a longer prompt are removed; None: none
    # Of prompts with the same first characters (this many, without a system's turns) only the first
    # one is kept, in each kind of records; None: all are.
    prefix_characters: int | None = None
    user: str | None = None  # the field of the files that names the user of a prompt
    per_user: int | None = None  # the most different prompts of a user; None: any number
    # Leaves out records with e-mail addresses, telephone or card numbers, and the field `user`.
    drop_personal: bool = False
    # The fraction of the records that is held out: by user, if the users are known, else by prompt
    held_out: float = 0.0
    seed: int = 0  # of what is held out

    def __post_init__(self):
        for field in ("prefix_characters", "per_user"):
            value = getattr(self, field)
            require(value is None or value > 0, field, value, "positive, or None")
        require(0 <= self.held_out < 1, "held_out", self.held_out, "in [0, 1)")
        needed = self.per_user is None or self.user is not None
        require(needed, "per_user", self.per_user, "None if no field is named as user")
        one = self.split == "train" or not self.held_out
        require(one, "held_out", self.held_out, f"0 if split is {self.split}")
        self.reading()

    def reading(self) -> Reading:
        return Reading(self.format, self.kinds, self.by, self.template, self.user,
                       self.prompt_characters, self.licence)  # fmt: skip


def collect(names: Sequence[str], options: DataOptions) -> dict[str, int]:
    """Reads the files, prints the counts of each, and writes the records to `options.to`. Returns
    the number of records of each file that is written.

    Raises UserError as `read_file` does, and where a file of records is there already; nothing is
    written then.
    """
    files = [_told(read_file(name, options.reading())) for name in names]
    entries = [entry for file in files for entry in file.entries]
    entries, cleaned = clean(entries, options)
    for what, count in cleaned.items():
        print(f"data: left out: {count} records {what}", flush=True)
    if not entries:
        raise UserError("data: no records are left")
    train, held = split(entries, options)
    parts = {}
    for side, found in enumerate((train, held)):
        for kind in KINDS:
            if records := [entry.record for entry in found if entry.kind == kind]:
                parts[f"{kind}.{FILES[kind][1][side]}.jsonl"] = records
    if options.to is not None:
        _write(options.to, parts, files, cleaned, options)
    return {name: len(records) for name, records in parts.items()}


def _told(file: FileRead) -> FileRead:
    print(f"data: {file.told()}", flush=True)
    return file


def _prompt(entry: Entry) -> str:
    """What tells prompts apart: the text without a system's turns."""
    if isinstance(entry.record, Text):
        return entry.record.text
    prompt = entry.record.prompt
    if isinstance(prompt, str):
        return prompt
    return plain([message for message in prompt if message.role != "system"])


def _said(record: Record) -> Iterator[str]:
    """All texts of a record, those in a prompt's further fields too."""
    yield from map(plain, texts_of(record))
    if isinstance(record, Prompt):
        yield from _strings(record.fields)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _without_user(entry: Entry, name: str | None) -> Entry:
    """The entry without the field that names its user."""
    if not isinstance(entry.record, Prompt) or name not in entry.record.fields:
        return entry
    fields = {field: value for field, value in entry.record.fields.items() if field != name}
    return entry._replace(record=dataclasses.replace(entry.record, fields=fields))


def clean(entries: Sequence[Entry], options: DataOptions) -> tuple[list[Entry], dict[str, int]]:
    """(the entries that are kept, the numbers of those left out by reason), as the options ask."""
    kept, counts = list(entries), {}
    if options.drop_personal:
        kept = [_without_user(entry, options.user) for entry in kept]
        found = [hygiene.personal(_said(entry.record)) for entry in kept]
        for kind in hygiene.PERSONAL:
            counts[f"with a possible {kind}"] = found.count(kind)
        kept = [entry for entry, kind in zip(kept, found, strict=True) if kind is None]
    if options.prefix_characters is not None:
        most = options.prefix_characters
        key = lambda entry: (entry.kind, _prompt(entry)[:most])
        kept, counts["with the beginning of an earlier prompt"] = hygiene.first_of_each(kept, key)
    if options.per_user is not None:
        kept, others = hygiene.at_most(kept, options.per_user, lambda e: e.user, _prompt)
        counts[f"beyond the first {options.per_user} prompts of a user"] = others
    return kept, counts


def split(entries: Sequence[Entry], options: DataOptions) -> tuple[list[Entry], list[Entry]]:
    """(train, held out): by user; entries without one by prompt."""
    if options.split == "valid":
        return [], list(entries)
    if not options.held_out:
        return list(entries), []
    prefix = options.prefix_characters or PREFIX
    alike = hygiene.dialogues([_prompt(entry) for entry in entries], prefix)
    groups = [("prompt", group) if entry.user is None else ("user", entry.user)
              for entry, group in zip(entries, alike, strict=True)]  # fmt: skip
    held = hygiene.hold_out(groups, options.held_out, options.seed)
    sides = ([], [])
    for entry, out in zip(entries, held, strict=True):
        sides[out].append(entry)
    return sides


def _write(
    folder: Path, parts: dict, files: Sequence[FileRead], cleaned: dict, options: DataOptions
) -> None:
    there = [name for name in parts if (folder / name).exists()]
    if there:
        raise UserError(f"{folder / there[0]}: is there already; remove it, or give another --to")
    known = about.read(folder)
    for file in files:
        known.append(file.facts() | {"split": options.split, "cleaned": cleaned})
    about.write(folder, known)  # first: records without it would count as one's own
    for name, records in parts.items():
        write_jsonl(folder / name, records)
        print(f"data: {folder / name}: {len(records)} records", flush=True)
    for file in files:
        if file.test and options.split == "train":
            print(f"data: {file.name} is public as a test set: training on {folder} needs "
                  "data.allow_test", flush=True)  # fmt: skip
