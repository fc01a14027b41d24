"""Turns records into rows, and rows into the NumPy arrays of a batch.

A row holds the indices of its records. Records are tokenised when their row becomes part of a
batch, so that each of several processes tokenises only its own rows; `Tokenised.measured` gives the
lengths of all records. Every kind of rows has an empty row that fills the last batch.
A piece is (ids, targets): a document's ids, and which of them are targets (1 or 0), or the slice
that is.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.buckets import first_fit, most_rows, places_in_rows
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Scored, Text, tie_equal
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import UserError, require
from rlhf_jax.parallel import processes

Batch = dict[str, np.ndarray]
Piece = tuple[np.ndarray, slice | np.ndarray]
Ranked = tuple[Sequence[Piece], Sequence[int]]
Close = Callable[[Sequence[int], bool], list[int]]  # (ids, ended) -> ids, end token included


class Span(NamedTuple):
    """Tokens [start, stop) of a document."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class Rows:
    """The rows of all records."""

    rows: Sequence[Any]
    empty: Any  # the row that fills the last batch
    to_batch: Callable[[Sequence[Any]], Batch]
    examples: int  # records that are kept
    dropped: Mapping[str, int]  # records left out, by reason: "too long", "tied", "equal"
    targets: Callable[[Any], int] | None = None  # the number of targets of a row
    size: Callable[[Any], int] | None = None  # the part of the cut axis that a row fills


class Tokenised:
    """Tokenised records. A record is tokenised when it is first read, and then kept."""

    def __init__(self, records: Sequence[Any], tokenise: Callable[[Any], Any]):
        self._records, self._tokenise = records, tokenise
        self._found: dict[int, Any] = {}

    def __getitem__(self, i: int) -> Any:
        if i not in self._found:
            self._found[i] = self._tokenise(self._records[i])
        return self._found[i]

    def measured(self, measure: Callable[[Any], list], share: bool) -> list[list]:
        """measure(tokenised record), JSON values, for all records.

        share: each of several processes tokenises a share of the records and gets the measures of
        the other records from the other processes; then every process must call this."""
        of, count = lambda i: measure(self[i]), len(self._records)
        return processes.measured(of, count) if share else [of(i) for i in range(count)]


def supervised_batch(rows: Sequence[Sequence[Piece]], length: int, pad_id: int) -> Batch:
    """Tokens, segments and weights [B, T], right padded, with one segment per piece."""
    shape = (len(rows), length)
    tokens = np.full(shape, pad_id, np.int32)
    segments = np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    for b, row in enumerate(rows):
        start = 0
        for number, (ids, targets) in enumerate(row, 1):
            end = start + len(ids)
            tokens[b, start:end] = ids
            segments[b, start:end] = number
            weights[b, start:end][targets] = 1
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
    rows: Sequence[Sequence[Ranked]],
    length: int,
    outputs: int,
    rankings: int,
    pad_id: int,
    row_length: int | None = None,
) -> Batch:
    """Tokens, segments and weights [B, M, T], right padded; ranks [B, G, K], G rankings per row.

    The tokens of output k of an element have the segment k + 1. row_length: the tokens of a row
    that several outputs of an element share (`places_in_rows`); None: each has a row of `length`.
    """
    shape = (len(rows), outputs, length)
    if row_length is not None:
        shape = (len(rows), most_rows(outputs, length, row_length), row_length)
    tokens = np.full(shape, pad_id, np.int32)
    segments = np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    ranks = np.full((len(rows), rankings, outputs), -1, np.int32)
    for b, row in enumerate(rows):
        lengths = [len(ids) for responses, _ in row for ids, _ in responses]
        alone = [(k, 0) for k in range(outputs)]
        places = alone if row_length is None else places_in_rows(lengths, row_length)
        start = 0
        for g, (responses, its_ranks) in enumerate(row):
            for k, (ids, targets) in enumerate(responses, start):
                m, at = places[k]
                here = slice(at, at + len(ids))
                tokens[b, m, here] = ids
                segments[b, m, here] = k + 1
                weights[b, m, here][targets] = 1
            ranks[b, g, start : start + len(its_ranks)] = its_ranks
            start += len(its_ranks)
    return {"tokens": tokens, "segments": segments, "weights": weights, "ranks": ranks}


def next_text_row(
    length_of: Callable[[int], int], count: float, document: int, offset: int, length: int
) -> tuple[list[Span], int, int]:
    """(row that starts at a document's offset, document and offset where the next row starts).

    length_of: the number of tokens of a document.
    If the row's end cuts a document, the next row repeats the document's last token of this row,
    not as a target. So every token except a document's first is a target exactly once.
    """
    row: list[Span] = []
    room = length
    while room and document < count:
        tokens = length_of(document)
        stop = min(offset + room, tokens)
        row.append(Span(document, offset, stop))
        room -= stop - offset
        offset = stop
        if offset == tokens:
            document, offset = document + 1, 0
    return row, document, max(offset - 1, 0)


def text_batch(
    rows: Sequence[Sequence[Span]], ids: Callable[[int], np.ndarray], length: int, pad_id: int
) -> Batch:
    """`supervised_batch` of rows of spans. ids: gives the ids of a document."""
    pieces = [[(ids(of)[start:stop], slice(1, None)) for of, start, stop in row] for row in rows]
    return supervised_batch(pieces, length, pad_id)


def text_ids(text: str | Text, tokenizer: Tokenizer) -> np.ndarray:
    """[bos] text [end of text]."""
    text = text if isinstance(text, str) else text.text
    return np.array(tokenizer.document_ids(text), np.int32)


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
    length_of = lambda document: len(documents[document])
    rows = []
    document, offset = 0, 0
    while document < len(documents):
        row, document, offset = next_text_row(length_of, len(documents), document, offset, length)
        rows.append(row)

    def to_batch(rows):
        first = [row[0].document if row else 0 for row in rows]
        batch = text_batch(rows, documents.__getitem__, length, tokenizer.pad_id)
        return batch | {"document": np.array(first, np.int32)}

    return Rows(rows, [], to_batch, len(texts), {})


def close_with_eos(tokenizer: Tokenizer) -> Close:
    """A `Close` that appends eos to a response that ended, and nothing to a cut response."""
    return lambda ids, ended: [*ids, tokenizer.eos_id] if ended else list(ids)


def demonstration_piece(each: Demonstration, tokenizer: Tokenizer, close: Close) -> Piece:
    """The ids of a demonstration; its targets are the response and its end token, and in the prompt
    the tokens that lie in the spans `trained`."""
    prompt = tokenizer.prompt_ids(each.prompt)
    ids = np.array([*prompt, *close(tokenizer.encode(each.response), True)], np.int32)
    if not each.trained:
        return ids, slice(len(prompt), None)
    targets = np.ones(len(ids), bool)
    _, places = tokenizer.parse(each.prompt)
    targets[: len(prompt)] = [
        any(start <= a < b <= stop for start, stop in each.trained) for a, b in places
    ]
    return ids, targets


def demonstration_rows(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    length: int,
    packed: bool,
    close: Close | None = None,
    share: bool = False,
) -> Rows:
    """One demonstration per row, or as many as first-fit packs into it. The targets are the
    response and its end token.

    close: appends the end token; None: appends eos. share: see `Tokenised.measured`.
    """
    close = close or close_with_eos(tokenizer)

    pieces = Tokenised(demonstrations, lambda each: demonstration_piece(each, tokenizer, close))
    sizes = pieces.measured(lambda piece: [len(piece[0]), len(piece[0][piece[1]])], share)
    kept = [i for i, (tokens, _) in enumerate(sizes) if tokens <= length]
    dropped = _too_long(demonstrations, kept)
    _some(kept, dropped, "demonstrations", length)
    rows = [[i] for i in kept]
    if packed:
        bins = first_fit([sizes[i][0] for i in kept], length)
        rows = [[kept[i] for i in members] for members in bins]

    def to_batch(rows):
        return supervised_batch(
            [[pieces[i] for i in row] for row in rows], length, tokenizer.pad_id
        )

    def targets(row):
        return sum(sizes[i][1] for i in row)

    def size(row):
        return sum(sizes[i][0] for i in row)

    return Rows(rows, [], to_batch, len(kept), dropped, targets, size)


def scored_rows(
    scored: Sequence[Scored],
    tokenizer: Tokenizer,
    length: int,
    close: Close | None = None,
    share: bool = False,
) -> Rows:
    """`demonstration_rows` of scored responses, one per row; a batch also has `scores` [B], 0 in an
    empty row."""
    shown = [Demonstration(each.prompt, each.response) for each in scored]
    rows = demonstration_rows(shown, tokenizer, length, False, close, share)

    def to_batch(some):
        scores = [scored[row[0]].score if row else 0 for row in some]
        return rows.to_batch(some) | {"scores": np.array(scores, np.float32)}

    return dataclasses.replace(rows, to_batch=to_batch)


def prompt_rows(
    prompts: Sequence[str | Prompt], tokenizer: Tokenizer, length: int, share: bool = False
) -> Rows:
    """[bos] prompt, with the prompt's index in `prompts`. share: see `Tokenised.measured`."""

    def tokenise(prompt: str | Prompt) -> np.ndarray:
        text = prompt if isinstance(prompt, str) else prompt.prompt
        return np.array(tokenizer.prompt_ids(text), np.int32)

    found, none = Tokenised(prompts, tokenise), -1
    sizes = found.measured(lambda ids: [len(ids)], share)
    rows = [i for i, (tokens,) in enumerate(sizes) if tokens <= length]
    dropped = _too_long(prompts, rows)
    _some(rows, dropped, "prompts", length)

    def to_batch(rows):
        ids = [np.zeros(0, np.int32) if i == none else found[i] for i in rows]
        return prompt_batch(list(zip(ids, rows, strict=True)), length, tokenizer.pad_id)

    return Rows(rows, none, to_batch, len(rows), dropped)


def tokenised_ranking(ranking: Ranking, tokenizer: Tokenizer, close: Close | None = None) -> Ranked:
    """[bos] prompt response [eos] for each response, and the ranks; equal responses tie.

    A cut response has no eos. close: appends the end token; None: appends eos.
    """
    close = close or close_with_eos(tokenizer)
    prompt = tokenizer.prompt_ids(ranking.prompt)
    targets = slice(len(prompt), None)
    pieces = [
        (np.array([*prompt, *close(tokenizer.encode(text), ended)], np.int32), targets)
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
    share: bool = False,
    row_length: int | None = None,
) -> Rows:
    """Rows of `tokenised_ranking`; a ranking with a response that is too long is left out.

    A row holds one ranking, or up to `packed` rankings that first-fit packs into `outputs`
    responses.
    keep_tied: whether rankings without an untied pair are kept.
    share: see `Tokenised.measured`. row_length: as in `ranking_batch`; a row's size is then the
    number of its rows in the batch, else the length of its longest output.
    """
    most = max((len(ranking.responses) for ranking in rankings), default=2)
    require(outputs >= most, "outputs", outputs, f"at least {most}, the longest ranking")
    dropped = Counter()

    def tokenise(ranking: Ranking) -> tuple[Ranked, str | None]:
        found = tokenised_ranking(ranking, tokenizer, close)
        return found, left_out(ranking, found, length)

    def measure(made) -> list:
        (pieces, _), reason = made
        return [[len(ids) for ids, _ in pieces], reason]

    found, kept = Tokenised(rankings, tokenise), []
    sizes = found.measured(measure, share)
    for i, (_, reason) in enumerate(sizes):
        if reason is None or (keep_tied and reason != "too long"):
            kept.append(i)
        else:
            dropped[reason] += 1
    _some(kept, dropped, "rankings", length)
    rows = [[i] for i in kept]
    if packed > 1:
        bins = first_fit([len(sizes[i][0]) for i in kept], outputs, packed)
        rows = [[kept[i] for i in members] for members in bins]

    def to_batch(rows):
        ranked = [[found[i][0] for i in row] for row in rows]
        batch = ranking_batch(ranked, length, outputs, packed, tokenizer.pad_id, row_length)
        return batch if packed > 1 else batch | {"ranks": batch["ranks"][:, 0]}

    def size(row):
        lengths = [tokens for i in row for tokens in sizes[i][0]]
        if row_length is None:
            return max(lengths, default=0)
        return len(first_fit(lengths, row_length))

    return Rows(rows, [], to_batch, len(kept), dict(dropped), size=size)
