"""Checks a tokenizer on sample texts: what it changes is said, and no text has special tokens."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from rlhf_jax.errors import UserError

# SentencePiece writes a space as this character, and so may read the character as a space.
SPACE_MARK = "\u2581"
# Characters that contain every byte of UTF-8 except NUL: single bytes, first bytes, later bytes.
CHARACTERS = (
    *map(chr, range(1, 0x80)),
    *(chr(first << 6) for first in range(2, 32)),
    *(chr(max(0x800, first << 12)) for first in range(16)),
    *(chr(max(0x10000, first << 18)) for first in range(5)),
    *map(chr, range(0xC0, 0x100)),
)
TEXTS = (
    "cafe\u0301",  # decomposed: NFC
    "x\u00b2",  # compatibility characters: NFKC
    "\ufb01n",
    "it\u2019s",  # typographic
    "Name two rivers, e.g. the Danube 's and Rhine .\n\n do n't  stop;\t 12 345 67!" * 3,
    f"A\n\n b\t\u00e9\u6f22\U0001f600 {SPACE_MARK} <s> ",
    f" A\n\n b\t\u00e9\u6f22\U0001f600 {SPACE_MARK} <s> ",
    " ",
    "   \n \n\n",
)
JOINS = (
    ("Name two rivers.\n\nAssistant:", " The Danube."),
    ("A", "b"),
    ("a ", " b"),
    ("x\n", "\ny"),
    ("1", "2"),
    ("a", ", b"),
    ("cafe", "\u0301"),
)


class Coder(Protocol):
    """The functions that are checked: text to ids, and back."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def try_contract(
    tokenizer: Coder, specials: Mapping[str, int], added: Sequence[str], name: str
) -> tuple[str, str] | None:
    """Checks a tokenizer; returns (a text, its decoded ids) if encoding and decoding changes text.

    Args:
      specials: ids of special tokens by word, which no text may have.
      added: the tokenizer's added tokens; each is tried between spaces.

    Raises:
      UserError: the same text gets different ids, or a text has a special token.
    """
    loss = None
    never = {i: word for word, i in specials.items() if word != "unk"}
    for text in (*TEXTS, *CHARACTERS, *(f"a  {token}  b" for token in added)):
        ids = tokenizer.encode(text)
        if tokenizer.encode(text) != ids:
            raise UserError(f"{name}: expected a text to have the same ids each time: {text!r}")
        if found := [never[i] for i in ids if i in never]:
            raise UserError(
                f"{name}: expected special tokens that no text has, got the {found[0]} token in "
                f"{text!r}"
            )
        back = tokenizer.decode(ids)
        loss = loss or (None if back == text else (text, back))
    for prompt, response in JOINS:
        back = tokenizer.decode(tokenizer.encode(prompt) + tokenizer.encode(response))
        apart = tokenizer.decode(tokenizer.encode(prompt)) + tokenizer.decode(
            tokenizer.encode(response)
        )
        loss = loss or (None if back == apart else (prompt + response, back))
    return loss
