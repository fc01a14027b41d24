"""Batches with Grain: endless shuffled batches for training, finite ordered batches for evaluation.

    tokens    int32    [bos] prompt response [eos]; no eos after a cut response
    segments  int32    0 padding, 1.. the number of the document in the row
    weights   float32  1 where the token is a target, predicted from the tokens before it
    ranks     int32    0 best, equal ranks are ties, -1 no output
    scores    float32  absolute scores of whole responses
    index     int32    index in the prompt set, -1 no prompt

Examples that are too long, and rankings without an untied pair, are left out and counted by reason
(`.dropped`); no example is cut.

With several processes, each process makes the rows `part` of every batch and tokenises only these
rows. To measure lengths, each process first tokenises its share of all records, and the processes
exchange the lengths; therefore all of them must build the same pipelines in the same order. A
position counts whole batches. Without `part` a process makes all rows and exchanges nothing.
"""

import functools
from collections import Counter
from collections.abc import Sequence

from rlhf_jax.data import arrays
from rlhf_jax.data.arrays import Close, Rows
from rlhf_jax.data.batches import Batches, Pass, State
from rlhf_jax.data.buckets import Buckets, most_rows
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Scored, Text
from rlhf_jax.data.sources import (
    MixSource,
    TextSource,
    shuffled_rows,
    size_of_text,
    targets_of_text,
)
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import require
from rlhf_jax.parallel import processes

ALL = slice(None)


def _identity(
    kind: str, tokenizer: Tokenizer, examples: int, batch_size: int, length: int, seed: int
) -> State:
    return {
        "kind": kind,
        "tokenizer": tokenizer.fingerprint,
        "examples": examples,
        "batch_size": batch_size,
        "length": length,
        "seed": seed,
    }


def _shuffled(
    rows: Rows,
    batch_size: int,
    seed: int,
    identity: State,
    part: slice,
    buckets: Buckets | None = None,
) -> Batches:
    return Batches(
        shuffled_rows(rows, batch_size, seed),
        rows.to_batch,
        identity,
        part=part,
        batch_size=batch_size,
        examples=rows.examples,
        dropped=rows.dropped,
        rows=lambda: len(rows.rows),
        targets=rows.targets,
        size=rows.size,
        buckets=buckets,
    )


def supervised_batches(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int,
    packed: bool = False,
    part: slice = ALL,
    buckets: int = 1,
) -> Batches:
    """{tokens, segments, weights} [B, T]; responses and eos are targets.

    `packed` puts several demonstrations into a row (first fit, the same rows in all epochs). T is
    the smallest of `buckets` sizes up to `length` that holds the batch (data/buckets.py).

    Raises:
      UserError: there is no demonstration, or none that fits into `length`.
    """
    rows = arrays.demonstration_rows(demonstrations, tokenizer, length, packed, share=part != ALL)
    kind = "packed demonstrations" if packed else "demonstrations"
    identity = _identity(kind, tokenizer, rows.examples, batch_size, length, seed)
    return _shuffled(rows, batch_size, seed, identity, part, _of_time(length, buckets))


def _of_time(length: int, buckets: int) -> Buckets | None:
    return Buckets(1, length, buckets) if buckets > 1 else None


def scored_batches(
    scored: Sequence[Scored],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int,
    part: slice = ALL,
    close: Close | None = None,
    buckets: int = 1,
) -> Batches:
    """{tokens, segments, weights} [B, T] of scored responses, and {scores} [B]. close: adds the end
    token; None: appends eos. buckets: as in `supervised_batches`.

    Raises:
      UserError: there is no scored response, or none that fits into `length`.
    """
    rows = arrays.scored_rows(scored, tokenizer, length, close, share=part != ALL)
    identity = _identity("scored", tokenizer, rows.examples, batch_size, length, seed)
    return _shuffled(rows, batch_size, seed, identity, part, _of_time(length, buckets))


def scored_pass(
    scored: Sequence[Scored],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    close: Close | None = None,
) -> Pass:
    """Every scored response once, in order, as in `scored_batches`."""
    return Pass(arrays.scored_rows(scored, tokenizer, length, close), batch_size)


def prompt_batches(
    prompts: Sequence[str | Prompt],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int,
    part: slice = ALL,
) -> Batches:
    """{tokens, segments} [B, P] left padded, and {index} [B], the index in `prompts`.

    Raises:
      UserError: there is no prompt, or none that fits into `length`.
    """
    rows = arrays.prompt_rows(prompts, tokenizer, length, share=part != ALL)
    identity = _identity("prompts", tokenizer, rows.examples, batch_size, length, seed)
    return _shuffled(rows, batch_size, seed, identity, part)


def ranking_batches(
    rankings: Sequence[Ranking],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    outputs: int,
    seed: int,
    packed: int = 1,
    part: slice = ALL,
    close: Close | None = None,
    buckets: int = 1,
    row_length: int | None = None,
) -> Batches:
    """{tokens, segments, weights} [B, M, T] and {ranks} [B, K], with K = `outputs`.

    Weights are 1 at the tokens of a response and its eos, the targets of a preference loss. A cut
    response has no eos. `close` (`Ending.close`) appends another end token than eos.
    Equal responses tie, at the mean of their ranks. A ranking with a response that is too long, or
    without an untied pair, is left out. Up to `packed` = G > 1 rankings share the outputs of a
    batch element (first fit, the same in all epochs). Ranks are then [B, G, K], with -1 at the
    outputs of other rankings.
    The tokens of output k have the segment k + 1. With `row_length` several outputs of an element
    lie in a row of T = `row_length` tokens (first fit), and M is the smallest of `buckets` sizes
    that holds the batch. Otherwise M is K, and T is the smallest size up to `length`.

    Raises:
      UserError: there is no ranking, none that can be trained on, or one with more than `outputs`
        responses.
    """
    rows = arrays.ranking_rows(
        rankings,
        tokenizer,
        length,
        outputs,
        packed,
        keep_tied=False,
        close=close,
        share=part != ALL,
        row_length=row_length,
    )
    kind = f"rankings, packed {packed}" if packed > 1 else "rankings"
    identity = _identity(kind, tokenizer, rows.examples, batch_size, length, seed)
    cut = Buckets(2, length, buckets)
    if row_length is not None:
        cut = Buckets(1, most_rows(outputs, length, row_length), buckets)
    cut = cut if buckets > 1 else None
    return _shuffled(rows, batch_size, seed, identity | {"outputs": outputs}, part, cut)


def text_batches(
    texts: Sequence[str | Text],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int,
    part: slice = ALL,
) -> Batches:
    """{tokens, segments, weights} [B, T] of documents [bos] ... [eos], concatenated and split.

    `texts` is any random-access source; a document is tokenised when it is needed. If the row
    before cut a document, a row begins with the last token of that part. So every token except the
    first of a document is a target exactly once per epoch.

    Raises:
      UserError: there is no text.
    """
    require(len(texts) > 0, "texts", [], "at least one record")
    require(length >= 2, "length", length, "at least 2")
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")

    share = part != ALL

    @functools.cache
    def lengths() -> list[int]:
        found = arrays.Tokenised(texts, lambda text: len(arrays.text_ids(text, tokenizer)))
        return found.measured(lambda tokens: tokens, share)

    # With several processes, each must know at which documents its rows begin.
    known = lengths if share and processes.count() > 1 else None
    source = TextSource(texts, tokenizer, batch_size, length, seed, known)
    return Batches(
        source,
        source.to_batch,
        _identity("text", tokenizer, len(texts), batch_size, length, seed),
        part=part,
        batch_size=batch_size,
        examples=len(texts),
        dropped={},
        rows=lambda: sum(lengths()) / (length - 1),
        targets=targets_of_text,
        size=size_of_text,
    )


def supervised_pass(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    packed: bool = False,
    close: Close | None = None,
) -> Pass:
    """Every demonstration once, in order, as in `supervised_batches`. close: adds the end token."""
    rows = arrays.demonstration_rows(demonstrations, tokenizer, length, packed, close)
    return Pass(rows, batch_size)


def text_pass(
    texts: Sequence[str | Text], tokenizer: Tokenizer, *, batch_size: int, length: int
) -> Pass:
    """Every document once, in order, as in `text_batches`, with `document` [B]: the index in
    `texts` of each row's first segment; the next segments are of the next documents."""
    return Pass(arrays.text_rows(texts, tokenizer, length), batch_size)


def prompt_pass(
    prompts: Sequence[str | Prompt], tokenizer: Tokenizer, *, batch_size: int, length: int
) -> Pass:
    """Every prompt once, in order, as in `prompt_batches`."""
    return Pass(arrays.prompt_rows(prompts, tokenizer, length), batch_size)


def ranking_pass(
    rankings: Sequence[Ranking],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    outputs: int,
    packed: int = 1,
    close: Close | None = None,
) -> Pass:
    """Every ranking once, tied rankings too, as in `ranking_batches`; in order if not packed."""
    rows = arrays.ranking_rows(rankings, tokenizer, length, outputs, packed, close=close)
    return Pass(rows, batch_size)


def mixed_batches(
    a: Batches, b: Batches, fraction: float, seed: int, part: slice = ALL, of: str = "rows"
) -> Batches:
    """Batches of `a`'s size in which a fraction of the rows is from `b`, in an order drawn by seed.

    of: "rows"; or "loss": the weights w of b's rows are multiplied by
    fraction / (1 - fraction) * sum(w of a's rows) / sum(w of b's rows), over the whole batch, so
    that b has this fraction of the weight of each batch with weights of both.

    After n batches floor(n * fraction * batch_size) rows came from b. No row of a or b is skipped,
    so an epoch of `a` takes 1 / (1 - fraction) times as many batches.
    Source: InstructGPT, appendix C.4 (10 % of pretraining data mixed into SFT).

    Raises:
      ConfigError: the fraction is outside [0, 1), or rows of a and b differ in kind (raised at the
        first batch).
    """
    require(0 <= fraction < 1, "fraction", fraction, "in [0, 1)")
    require(of in ("rows", "loss"), "of", of, "'rows' or 'loss'")
    source = MixSource(a, b, fraction, seed, of)
    return Batches(
        source,
        source.to_batch,
        {"kind": "mixed", "fraction": fraction, "of": of, "seed": seed},
        part=part,
        batch_size=a.batch_size,
        examples=a.examples,
        dropped=dict(Counter(a.dropped) + Counter(b.dropped)),
        rows=lambda: a.rows() / (1 - fraction),
        size=source.size,
        buckets=a.buckets,
    )
