"""Checks a tokenizer on sample texts: it must not change text, except by its normaliser."""

from collections.abc import Callable, Sequence
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
    tokenizer: Coder, normalise: Callable[[str], str], added: Sequence[str], name: str
) -> tuple[str, str] | None:
    """Checks a tokenizer; returns (a text, its decoded ids) if the normaliser changes text.

    Args:
      normalise: the tokenizer's normaliser.
      added: the tokenizer's added tokens; each is tried between spaces.

    Raises:
      UserError: text is changed in another way than by the normaliser; the same text gets different
        ids; or the ids of a prompt and a response decode to other text together than separately.
    """
    loss = None
    for text in (*TEXTS, *CHARACTERS, *(f"a  {token}  b" for token in added)):
        ids = tokenizer.encode(text)
        back = tokenizer.decode(ids)
        if tokenizer.encode(text) != ids:
            raise UserError(f"{name}: expected a text to have the same ids each time: {text!r}")
        if back == text:
            continue
        normal = normalise(text)
        normalised = back in (normal, normal.replace(SPACE_MARK, " "))
        if not normalised or tokenizer.encode(back) != ids:
            raise UserError(f"{name}: expected a lossless tokenizer, got {back!r} for {text!r}")
        loss = loss or (text, back)
    for prompt, response in JOINS:
        first, then = tokenizer.encode(prompt), tokenizer.encode(response)
        joined = tokenizer.decode(first + then)
        apart = tokenizer.decode(first) + tokenizer.decode(then)
        if joined != apart:
            raise UserError(
                f"{name}: expected a lossless tokenizer, got {joined!r} for {prompt!r} and "
                f"{response!r} coded one after the other"
            )
    return loss
