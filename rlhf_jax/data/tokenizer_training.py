"""Trains a SentencePiece tokenizer on texts."""

import io
import re
from collections.abc import Iterable

import numpy as np
import sentencepiece
from etils import epath

from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import ConfigError, require

TRAINING_CHARACTERS = 50_000_000


def _training_lines(texts: Iterable[str], seed: int) -> list[str]:
    """Lines in an order drawn by seed, up to `TRAINING_CHARACTERS` characters in all."""
    lines = [line for text in texts for line in text.split("\n") if line]
    order = np.random.default_rng(seed).permutation(len(lines))
    ends = np.cumsum([len(lines[i]) for i in order])
    return [lines[i] for i in order[: np.searchsorted(ends, TRAINING_CHARACTERS) + 1]]


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, path: epath.PathLike, seed: int = 0
) -> Tokenizer:
    """Trains BPE with byte fallback on texts, saves it at `path` (.model) and returns it.

    It has `vocab_size` tokens, or as many as the texts allow if these are fewer. There is no
    normalisation and no dummy prefix; newlines and digits are separate pieces. Only the first 50
    million characters in an order drawn by seed are used. One thread is used, so that equal input
    gives equal bytes. pad, bos, eos, unk are ids 0 to 3.

    Raises:
      ConfigError: the vocabulary is too small for bytes and characters.
    """
    require(epath.Path(path).suffix == ".model", "path", str(path), "named *.model")
    lines = _training_lines(texts, seed)
    require(bool(lines), "texts", "", "some text")
    try:
        content = _train(lines, vocab_size)
    except RuntimeError as error:
        most = re.search(r"too high \(\d+\)\. Please set it to a value <= (\d+)", str(error))
        if most is None:
            reason = str(error).rpartition("] ")[2].partition(" or decrease")[0].rstrip(".")
            raise ConfigError(f"vocab_size = {vocab_size}: {reason}") from None
        content = _train(lines, int(most[1]))
    write_atomically(path, content)
    return load_tokenizer(path)


def _train(lines: list[str], vocab_size: int) -> bytes:
    """The bytes of a SentencePiece model. Raises RuntimeError, with the library's text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        user_defined_symbols=["\n"],
        byte_fallback=True,
        split_digits=True,
        character_coverage=0.9999,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=1 << 30,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()
