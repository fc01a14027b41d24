"""Reads public human feedback in its original formats, as records.

The readers return records and counts of what they left out.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlhf_jax.data.messages import plain
from rlhf_jax.data.records import (
    Demonstration,
    Prompt,
    Ranking,
    parse_jsonl,
    read_lines,
)
from rlhf_jax.errors import ConfigError, RecordError, UserError, require
from rlhf_jax.strict_json import parse_json

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
Counts = dict[str, int]
R = TypeVar("R", str, Prompt, Demonstration, Ranking)


def find_human_data(path: str | os.PathLike | None = None) -> Path:
    """The folder of human feedback: `path`, else the environment variable RLHF_JAX_DATA.

    Raises:
      UserError: neither names a folder that exists.
    """
    named = path if path is not None else os.environ.get("RLHF_JAX_DATA")
    advice = (
        "set RLHF_JAX_DATA (or the config's path) to the folder that holds hh-rlhf, "
        'or fetch it from GitHub: python -c "from rlhf_jax.data.download import '
        "download_human_data; download_human_data('human_data')\""
    )
    if not named:
        raise UserError(f"human feedback: no folder named; {advice}")
    if not Path(named).is_dir():
        raise UserError(f"human feedback: {named} is no folder; {advice}")
    return Path(named)


def _field(where: str, value: Any, field: str, kinds: type | tuple) -> Any:
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected a JSON object, got {type(value).__name__}")
    if field not in value:
        there = ", ".join(map(str, value))[:60] or "none"
        raise RecordError(f"{where}: field {field!r} is missing: there are {there}")
    found = value[field]
    if not isinstance(found, kinds):
        names = kinds.__name__ if isinstance(kinds, type) else "/".join(k.__name__ for k in kinds)
        raise RecordError(f"{where}: field {field!r}: expected {names}, got {found!r:.60}")
    return found


def _ranking(where: str, prompt: str, responses: tuple, ranks: tuple) -> Ranking:
    try:
        return Ranking(prompt, responses, ranks)
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None


def _split_dialogue(where: str, field: str, dialogue: str) -> tuple[str, str]:
    before, mark, response = dialogue.rpartition(ASSISTANT)
    if not mark or not before.startswith(HUMAN):
        raise RecordError(
            f"{where}: field {field!r}: expected '\\n\\nHuman: ... \\n\\nAssistant: ...', "
            f"got {dialogue!r:.60}"
        )
    return before + mark, response


def read_hh(path: str | os.PathLike) -> tuple[list[Ranking], Counts]:
    """Anthropic's comparisons {chosen, rejected}. A prompt ends with the last "\\n\\nAssistant:".

    Counts: pairs = kept + prompts_differ (the two dialogues differ before the last turn).
    Source: Bai et al. 2022, arXiv 2204.05862.
    """
    rankings, counts = [], Counter(pairs=0, kept=0, prompts_differ=0)
    for where, value in parse_jsonl(path):
        sides = [
            _split_dialogue(where, field, _field(where, value, field, str))
            for field in ("chosen", "rejected")
        ]
        counts["pairs"] += 1
        if sides[0][0] != sides[1][0]:
            counts["prompts_differ"] += 1
            continue
        counts["kept"] += 1
        rankings.append(_ranking(where, sides[0][0], (sides[0][1], sides[1][1]), (0, 1)))
    return rankings, dict(counts)


def _prompter_turns(where: str, message: Any, dialogue: str):
    """(dialogue up to a prompter's message, replies to it), for this message and all below it."""
    role = _field(where, message, "role", str)
    text = _field(where, message, "text", str)
    replies = _field(where, message, "replies", list)
    if role not in ("prompter", "assistant"):
        raise RecordError(f"{where}: field 'role': expected prompter or assistant, got {role!r}")
    dialogue += f"{HUMAN if role == 'prompter' else ASSISTANT} {text}"
    if role == "prompter":
        yield dialogue + ASSISTANT, replies
    for reply in replies:
        yield from _prompter_turns(where, reply, dialogue)


def read_openassistant(
    path: str | os.PathLike,
) -> tuple[list[Ranking], list[Demonstration], Counts]:
    """OpenAssistant trees in Anthropic's prompt format: rankings of all replies, and demonstrations
    of the best reply.

    Counts: trees; prompts (prompter messages with replies) = ranked + partly_ranked + unranked
    (no ranks, or a single reply); pairs that are compared.
    Source: Koepf et al. 2023, arXiv 2304.07327.
    """
    rankings, demonstrations = [], []
    counts = Counter(trees=0, prompts=0, ranked=0, partly_ranked=0, unranked=0, pairs=0)
    for where, tree in parse_jsonl(path):
        counts["trees"] += 1
        for prompt, replies in _prompter_turns(where, _field(where, tree, "prompt", dict), ""):
            if not replies:
                continue
            counts["prompts"] += 1
            texts = [_field(where, reply, "text", str) for reply in replies]
            ranks = [reply.get("rank") for reply in replies]
            ranked = sum(rank is not None for rank in ranks)
            if ranked < len(replies) or ranked < 2:
                counts["partly_ranked" if 0 < ranked < len(replies) else "unranked"] += 1
                continue
            responses = tuple(f" {text}" for text in texts)
            rankings.append(_ranking(where, prompt, responses, tuple(ranks)))
            best = responses[int(np.argmin(ranks))]
            demonstrations.append(Demonstration(prompt, best))
            counts["ranked"] += 1
            counts["pairs"] += len(ranks) * (len(ranks) - 1) // 2
    return rankings, demonstrations, dict(counts)


def read_pandalm(path: str | os.PathLike) -> tuple[list[Ranking], Counts]:
    """PandaLM's pairs, by the majority of three annotators (0: tie, 1 or 2: the better response).

    Three different opinions count as a tie. Some responses are JSON booleans in the file (an error
    there: the model had written "True"); they are read as that word.
    Counts: pairs = decided + ties; no_majority (part of the ties); not_text (booleans read so).
    Source: Wang et al. 2023, arXiv 2306.05087.
    """
    try:
        pairs = parse_json(b"".join(read_lines(path)))
    except RecordError:  # names the file
        raise
    except UserError as error:
        raise RecordError(f"{path}: {error}") from None
    if not isinstance(pairs, list):
        raise RecordError(f"{path}: expected a list, got {type(pairs).__name__}")
    rankings = []
    counts = Counter(pairs=0, decided=0, ties=0, no_majority=0, not_text=0)
    for number, pair in enumerate(pairs):
        where = f"{path}[{number}]"
        instruction = _field(where, pair, "instruction", str)
        text = _field(where, pair, "input", str)
        responses = [_field(where, pair, f"response{n}", (str, bool)) for n in (1, 2)]
        counts["not_text"] += sum(isinstance(response, bool) for response in responses)
        votes = Counter(_field(where, pair, f"annotator{n}", int) for n in (1, 2, 3))
        if not votes.keys() <= {0, 1, 2}:
            raise RecordError(f"{where}: annotators: expected 0, 1 or 2, got {sorted(votes)}")
        verdict, agreed = votes.most_common(1)[0]
        verdict = verdict if agreed >= 2 else 0
        counts["pairs"] += 1
        counts["no_majority"] += agreed < 2
        counts["decided" if verdict else "ties"] += 1
        prompt = f"{HUMAN} {instruction}" + (f"\n\n{text}" if text else "") + ASSISTANT
        ranks = {0: (0, 0), 1: (0, 1), 2: (1, 0)}[verdict]
        responses = tuple(f" {response}" for response in responses)
        rankings.append(_ranking(where, prompt, responses, ranks))
    return rankings, dict(counts)


def read_gsm8k(path: str | os.PathLike) -> tuple[list[Prompt], list[Demonstration]]:
    """GSM8K's problems {question, answer} in Anthropic's prompt format: prompts with the field
    `answer`, a solution that ends with "#### 42", and demonstrations of the solutions.

    Source: Cobbe et al. 2021, arXiv 2110.14168.
    """
    prompts, demonstrations = [], []
    for where, value in parse_jsonl(path):
        question, answer = (_field(where, value, name, str) for name in ("question", "answer"))
        prompt = f"{HUMAN} {question}{ASSISTANT}"
        try:
            prompts.append(Prompt(prompt, {"answer": answer}))
            demonstrations.append(Demonstration(prompt, f" {answer}"))
        except RecordError as error:
            raise RecordError(f"{where}: {error}") from None
    return prompts, demonstrations


def read_text(path: str | os.PathLike, characters: int = 2000) -> list[str]:
    """Documents whose concatenation is the file: WikiText's articles (" = Title = "), or in other
    files paragraphs, joined until they have `characters` characters.
    """
    try:
        text = b"".join(read_lines(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{path}: expected UTF-8, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from None
    headings = [m.start() for m in re.finditer(r"(?m)^ \n = [^=\n]+ = \n \n", text)]
    if headings:
        bounds = [0, *headings[1:], len(text)]
        return [text[a:b] for a, b in itertools.pairwise(bounds)]
    documents, current = [], ""
    for block in re.split(r"(?<=\n\n)(?=[^\n])", text):
        current += block
        if len(current) >= characters:
            documents.append(current)
            current = ""
    return [*documents, current] if current else documents


def _prompt_of(record: str | Prompt | Demonstration | Ranking) -> str:
    return record if isinstance(record, str) else plain(record.prompt)


def split_by_prompt(
    records: Sequence[R], fraction: float, seed: int, characters: int = 100
) -> tuple[list[R], list[R]]:
    """(train, held out): about `fraction` is held out, and no prompt is on both sides.

    Prompts stay on one side together if one is the beginning of the other (turns of one dialogue)
    or if their first `characters` are equal (InstructGPT's long common prefix). Order is kept.

    Raises:
      ConfigError: the fraction is outside (0, 1), or all prompts belong together.
    """
    require(0 < fraction < 1, "fraction", fraction, "in (0, 1)")
    require(characters >= 1, "characters", characters, "at least 1")
    keys = [_prompt_of(record)[:characters] for record in records]
    group, leaders = {}, []
    for key in sorted(set(keys)):  # prompts that begin with a key come right after it
        if not leaders or not key.startswith(leaders[-1]):
            leaders.append(key)
        group[key] = len(leaders) - 1
    if len(leaders) < 2:
        raise ConfigError(
            f"characters = {characters}: all prompts begin alike, so none can be held out"
        )
    sizes = Counter(group[key] for key in keys)
    held, count = set(), 0
    for leader in np.random.default_rng(seed).permutation(len(leaders))[:-1].tolist():
        if held and count + sizes[leader] / 2 > fraction * len(records):
            continue
        held.add(leader)
        count += sizes[leader]
    sides = ([], [])
    for record, key in zip(records, keys, strict=True):
        sides[group[key] in held].append(record)
    return sides
