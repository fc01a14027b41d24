"""A SentencePiece BPE model with byte fallback, as data/tokenizer.py trains it, in JSON."""

import json
from typing import Any

import sentencepiece
import tokenizers

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.data.tokenizer_contract import SPACE_MARK, TEXTS

# Texts on which the two tokenizers are compared; of U+2581, which ours writes as bytes, none.
TRIED = tuple(text for text in TEXTS if SPACE_MARK not in text)


def converted(content: bytes) -> dict[str, Any]:
    """The fields of a tokenizer.json that encodes as the SentencePiece model does.

    BPE by scores is BPE by merges: a merge of two pieces has the rank of the piece that it makes.
    """
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromSerializedProto(content)
    pieces = [model.id_to_piece(i) for i in range(model.piece_size())]
    score = {piece: model.get_score(i) for i, piece in enumerate(pieces)}
    others = (model.is_control, model.is_unknown, model.is_byte, model.is_unused)
    plain = {piece for i, piece in enumerate(pieces) if not any(kind(i) for kind in others)}
    merges = [
        (-score[piece], cut, (piece[:cut], piece[cut:]))
        for piece in plain
        for cut in range(1, len(piece))
        if piece[:cut] in plain and piece[cut:] in plain
    ]
    control = [i for i in range(len(pieces)) if model.is_control(i) or model.is_unknown(i)]
    space = lambda pattern, text: {"type": "Replace", "pattern": {"String": pattern},
                                   "content": text}  # fmt: skip
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(i, pieces[i]) for i in control],
        "normalizer": space(" ", SPACE_MARK),
        "pre_tokenizer": None,
        "post_processor": _begins(model.bos_id(), pieces[model.bos_id()]),
        "decoder": {
            "type": "Sequence",
            "decoders": [space(SPACE_MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[model.unk_id()],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [list(pair) for *_, pair in sorted(merges)],
        },
    }


def differing(tokenizer: Tokenizer, fields: dict[str, Any]) -> str | None:
    """A text that tokenizer.json encodes in another way than the run's tokenizer; None: none that
    was tried."""
    made = tokenizers.Tokenizer.from_str(json.dumps(fields))
    encode = lambda text: made.encode(text, add_special_tokens=False).ids
    return next((text for text in TRIED if encode(text) != tokenizer.encode(text)), None)


def added(i: int, piece: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": i, "content": piece, **flags, "special": True}


def _begins(i: int, piece: str) -> dict[str, Any]:
    """Puts a token before each text."""
    special = {"SpecialToken": {"id": piece, "type_id": 0}}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {piece: {"id": piece, "ids": [i], "tokens": [piece]}},
    }
