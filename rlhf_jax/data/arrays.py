"""Turns records into rows of ids, and rows of ids into the NumPy arrays of a batch.

A piece is (ids, first): a document's ids and the index of its first target.
A supervised row is a list of pieces; a prompt row is (ids, index); a ranking row is a list of
(one piece per response, ranks). Every kind has an empty row that fills the last batch.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Text, tie_equal
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError, require

Batch = dict[str, np.ndarray]
Piece = tuple[np.ndarray, int]
Ranked = tuple[Sequence[Piece], Sequence[int]]
Close = Callable[[Sequence[int], bool], list[int]]  # (ids, ended) -> ids, end token included


@dataclass(frozen=True)
class Rows:
    """Tokenised records."""

    rows: Sequence[Any]
    empty: Any  # the row that fills the last batch
    to_batch: Callable[[Sequence[Any]], Batch]
    examples: int  # records that are kept
    dropped: Mapping[str, int]  # records left out, by reason: "too long", "tied", "equal"


def supervised_batch(rows: Sequence[Sequence[Piece]], length: int, pad_id: int) -> Batch:
    """Tokens, segments and weights [B, T], right padded, with one segment per piece."""
    shape = (len(rows), length)
    tokens = np.full(shape, pad_id, np.int32)
    segments = np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    for b, row in enumerate(rows):
        start = 0
        for number, (ids, first) in enumerate(row, 1):
            end = start + len(ids)
            tokens[b, start:end] = ids
            segments[b, start:end] = number
            weights[b, start + first : end] = 1
            start = end
    return {"tokens": tokens, "segments": segments, "weights": weights}


def prompt_batch(rows: Sequence[tuple[np.ndarray, int]], length: int, pad_id: int) -> Batch:
    """Tokens and segments [B, P], left padded, and index [B]."""
    tokens = np.full((len(rows), length), pad_id, np.int32)
    segments = np.zeros((len(rows), length), np.int32)
    for b, (ids, _) in enumerate(rows):
        start = length - len(ids)
        tokens[b, start:] = ids
        segments[b, start:] = 1
    index = np.array([index for _, index in rows], np.int32)
    return {"tokens": tokens, "segments": segments, "index": index}


def ranking_batch(
    rows: Sequence[Sequence[Ranked]], length: int, outputs: int, rankings: int, pad_id: int
) -> Batch:
    """Tokens, segments and weights [B, K, T], right padded; ranks [B, G, K], G rankings per row."""
    shape = (len(rows), outputs, length)
    tokens = np.full(shape, pad_id, np.int32)
    segments = np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    ranks = np.full((len(rows), rankings, outputs), -1, np.int32)
    for b, row in enumerate(rows):
        start = 0
        for g, (responses, its_ranks) in enumerate(row):
            for k, (ids, first) in enumerate(responses, start):
                tokens[b, k, : len(ids)] = ids
                segments[b, k, : len(ids)] = 1
                weights[b, k, first : len(ids)] = 1
            ranks[b, g, start : start + len(its_ranks)] = its_ranks
            start += len(its_ranks)
    return {"tokens": tokens, "segments": segments, "weights": weights, "ranks": ranks}


def first_fit(lengths: Sequence[int], capacity: int, most: int | None = None) -> list[list[int]]:
    """Bins of example indices: each example goes into the first bin with enough room.

    most: the most examples of a bin; None: no such limit.
    """
    room = np.full(len(lengths), capacity)
    bins: list[list[int]] = [[] for _ in lengths]
    for i, length in enumerate(lengths):
        b = int(np.argmax(room >= length))
        room[b] -= length
        bins[b].append(i)
        if len(bins[b]) == most:
            room[b] = -1
    return [members for members in bins if members]


def next_text_row(
    document_ids: Callable[[int], np.ndarray],
    count: float,
    document: int,
    offset: int,
    length: int,
) -> tuple[list[Piece], int, int]:
    """(row that starts at a document's offset, document and offset where the next row starts).

    If the row's end cuts a document, the next row repeats the document's last token of this row,
    not as a target. So every token except a document's first is a target exactly once.
    """
    row: list[Piece] = []
    room = length
    while room and document < count:
        ids = document_ids(document)
        piece = ids[offset : offset + room]
        row.append((piece, 1))
        room -= len(piece)
        offset += len(piece)
        if offset == len(ids):
            document, offset = document + 1, 0
    return row, document, max(offset - 1, 0)


def text_ids(text: str | Text, tokenizer: Tokenizer) -> np.ndarray:
    """[bos] text [eos]."""
    text = text if isinstance(text, str) else text.text
    return np.array([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id], np.int32)


def told(counts: Mapping[str, int]) -> str:
    """Counts in words: "3 too long, 2 tied"."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def _some(rows: Sequence[Any], dropped: Mapping[str, int], what: str, length: int) -> None:
    require(bool(rows) or bool(dropped), what, [], "at least one record")
    if not rows:
        count = sum(dropped.values())
        raise UserError(f"length = {length}: all {count} {what} are left out: {told(dropped)}")


def _too_long(records: Sequence[Any], kept: Sequence[Any]) -> dict[str, int]:
    return {"too long": len(records) - len(kept)} if len(kept) < len(records) else {}


def text_rows(texts: Sequence[str | Text], tokenizer: Tokenizer, length: int) -> Rows:
    """All documents in order, concatenated and split into rows of `length` tokens.

    A batch also has `document` [B]: segment s of row b belongs to document document[b] + s - 1.
    """
    require(length >= 2, "length", length, "at least 2")
    _some(texts, {}, "texts", length)
    documents = [text_ids(text, tokenizer) for text in texts]
    rows = []
    document, offset = 0, 0
    while document < len(documents):
        first = document
        row, document, offset = next_text_row(
            documents.__getitem__, len(documents), document, offset, length
        )
        rows.append((row, first))

    def to_batch(rows):
        batch = supervised_batch([row for row, _ in rows], length, tokenizer.pad_id)
        return batch | {"document": np.array([first for _, first in rows], np.int32)}

    return Rows(rows, ([], 0), to_batch, len(texts), {})


def close_with_eos(tokenizer: Tokenizer) -> Close:
    """A `Close` that appends eos to a response that ended, and nothing to a cut response."""
    return lambda ids, ended: [*ids, tokenizer.eos_id] if ended else list(ids)


def demonstration_rows(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    length: int,
    packed: bool,
    close: Close | None = None,
) -> Rows:
    """One demonstration per row, or as many as first-fit packs into it. The targets are the
    response and its end token.

    close: appends the end token; None: appends eos.
    """
    pieces, close = [], close or close_with_eos(tokenizer)
    for each in demonstrations:
        prompt, response = tokenizer.encode(each.prompt), tokenizer.encode(each.response)
        ids = [tokenizer.bos_id, *prompt, *close(response, True)]
        if len(ids) <= length:
            pieces.append((np.array(ids, np.int32), 1 + len(prompt)))
    dropped = _too_long(demonstrations, pieces)
    _some(pieces, dropped, "demonstrations", length)
    rows = [[piece] for piece in pieces]
    if packed:
        bins = first_fit([len(ids) for ids, _ in pieces], length)
        rows = [[pieces[i] for i in members] for members in bins]

    def to_batch(rows):
        return supervised_batch(rows, length, tokenizer.pad_id)

    return Rows(rows, [], to_batch, len(pieces), dropped)


def prompt_rows(prompts: Sequence[str | Prompt], tokenizer: Tokenizer, length: int) -> Rows:
    """[bos] prompt, with the prompt's index in `prompts`."""
    rows = []
    for index, prompt in enumerate(prompts):
        text = prompt if isinstance(prompt, str) else prompt.prompt
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        if len(ids) <= length:
            rows.append((np.array(ids, np.int32), index))
    dropped = _too_long(prompts, rows)
    _some(rows, dropped, "prompts", length)

    def to_batch(rows):
        return prompt_batch(rows, length, tokenizer.pad_id)

    return Rows(rows, (np.zeros(0, np.int32), -1), to_batch, len(rows), dropped)


def tokenised_ranking(ranking: Ranking, tokenizer: Tokenizer, close: Close | None = None) -> Ranked:
    """[bos] prompt response [eos] for each response, and the ranks; equal responses tie.

    A cut response has no eos. close: appends the end token; None: appends eos.
    """
    close = close or close_with_eos(tokenizer)
    prompt = [tokenizer.bos_id, *tokenizer.encode(ranking.prompt)]
    pieces = [
        (np.array([*prompt, *close(tokenizer.encode(text), ended)], np.int32), len(prompt))
        for text, ended in zip(ranking.responses, ranking.ended, strict=True)
    ]
    return pieces, tie_equal([ids.tobytes() for ids, _ in pieces], ranking.ranks)


def left_out(ranking: Ranking, ranked: Ranked, length: int) -> str | None:
    """Why a ranking is left out: "too long" (a response is), "tied" (all responses tie) or "equal"
    (all tie because equal responses tie); None: it can be trained on."""
    pieces, ranks = ranked
    if max(len(ids) for ids, _ in pieces) > length:
        return "too long"
    if max(ranks) > 0:
        return None
    return "tied" if ranking.tied else "equal"


def ranking_rows(
    rankings: Sequence[Ranking],
    tokenizer: Tokenizer,
    length: int,
    outputs: int,
    packed: int,
    keep_tied: bool = True,
    close: Close | None = None,
) -> Rows:
    """Rows of `tokenised_ranking`; a ranking with a response that is too long is left out.

    A row holds one ranking, or up to `packed` rankings that first-fit packs into `outputs`
    responses.
    keep_tied: whether rankings without an untied pair are kept.
    """
    most = max((len(ranking.responses) for ranking in rankings), default=2)
    require(outputs >= most, "outputs", outputs, f"at least {most}, the longest ranking")
    ranked, dropped = [], Counter()
    for ranking in rankings:
        found = tokenised_ranking(ranking, tokenizer, close)
        reason = left_out(ranking, found, length)
        if reason is None or (keep_tied and reason != "too long"):
            ranked.append(found)
        else:
            dropped[reason] += 1
    _some(ranked, dropped, "rankings", length)
    rows = [[each] for each in ranked]
    if packed > 1:
        bins = first_fit([len(ranks) for _, ranks in ranked], outputs, packed)
        rows = [[ranked[i] for i in members] for members in bins]

    def to_batch(rows):
        batch = ranking_batch(rows, length, outputs, packed, tokenizer.pad_id)
        return batch if packed > 1 else batch | {"ranks": batch["ranks"][:, 0]}

    return Rows(rows, [], to_batch, len(ranked), dict(dropped))
