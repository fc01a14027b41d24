"""Text to ids and back: SentencePiece models and Hugging Face `tokenizers` JSON files.

Files are read as data (protobuf, JSON), never unpickled.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import sentencepiece
import tokenizers
from etils import epath

from rlhf_jax.data import special_tokens
from rlhf_jax.data.chat import ChatTemplate
from rlhf_jax.data.tokenizer_contract import CHARACTERS, SPACE_MARK, TEXTS, try_contract
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError, require
from rlhf_jax.strict_json import parse_json

NAMES = ("tokenizer.json", "tokenizer.model")
CHOICE = "rlhf_jax_special_tokens"  # key of a .json that stores what it does not say by itself
# Before a text that continues another one. No vocabulary joins these characters with others.
ANCHORS = ("\x01", "\x02", "\n")


class Coder(Protocol):
    """A library's tokenizer. encode: the ids of a text at the start of a sequence. special: its
    special tokens by id."""

    def special(self) -> dict[int, str]: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def normalise(self, text: str) -> str: ...


class _SentencePiece:
    """A SentencePiece processor; U+2581 is encoded as three bytes, so that it is not lost."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self.processor = processor
        self.mark = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]

    def special(self) -> dict[int, str]:
        pieces = range(self.processor.piece_size())
        return {i: self.processor.id_to_piece(i) for i in pieces if self.processor.is_control(i)}

    def encode(self, text: str) -> list[int]:
        first, *rest = text.split(SPACE_MARK)
        ids = self.processor.encode(first)
        for part in rest:
            ids += self.mark + self.processor.encode(part)
        return ids

    def begins(self, bos: int) -> bool:
        return True

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)

    def normalise(self, text: str) -> str:
        parts = [self.processor.normalize(part) for part in text.split(SPACE_MARK)]
        return SPACE_MARK.join(part.replace(SPACE_MARK, " ") for part in parts)


class _HuggingFace:
    """A tokenizer of the `tokenizers` library. Text that spells a special token is text.

    first: the id, in a list, with which its file begins the text "a"."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, first: list[int]) -> None:
        self.tokenizer, self.first = tokenizer, first

    def special(self) -> dict[int, str]:
        added = self.tokenizer.get_added_tokens_decoder()
        return {i: token.content for i, token in added.items() if token.special}

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def begins(self, bos: int) -> bool:
        return self.first == [bos]

    def parse(self, text: str) -> tokenizers.Encoding:
        """Ids and offsets of a text in which spelled special tokens are those tokens."""
        self.tokenizer.encode_special_tokens = False
        try:
            return self.tokenizer.encode(text, add_special_tokens=False)
        finally:
            self.tokenizer.encode_special_tokens = True

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def normalise(self, text: str) -> str:
        normaliser = self.tokenizer.normalizer
        return text if normaliser is None else normaliser.normalize_str(text)


class _Anchored:
    """Ids of texts that continue another text, of a tokenizer that begins each text otherwise:
    Llama 2's puts a space before it. The text is encoded behind an anchor, whose ids are removed.
    """

    def __init__(self, coder: Coder, anchor: str) -> None:
        self._coder, self._anchor = coder, anchor
        self._ids = coder.encode(anchor)
        self._text = coder.decode(self._ids)

    def holds(self, text: str) -> bool:
        """Whether the anchor's ids and text stay as they are before a text."""
        ids = self._coder.encode(self._anchor + text)
        same = ids[: len(self._ids)] == self._ids
        return same and self._coder.decode(ids).startswith(self._text)

    def encode(self, text: str) -> list[int]:
        return self._coder.encode(self._anchor + text)[len(self._ids) :]

    def decode(self, ids: list[int]) -> str:
        return self._coder.decode([*self._ids, *ids])[len(self._text) :]

    def normalise(self, text: str) -> str:
        return self._coder.normalise(self._anchor + text).partition(self._anchor)[2]


JOINED = (("a", "b"), ("A", " b"), ("x\n", "y"), ("1", "2"))


def _continuing(coder: Coder) -> Coder:
    """The coder of texts that continue another one."""
    apart = lambda a, b: coder.decode(coder.encode(a) + coder.encode(b))
    if all(apart(a, b) == coder.decode(coder.encode(a + b)) for a, b in JOINED):
        return coder
    for anchor in ANCHORS:
        found = _Anchored(coder, anchor)
        if found._text.endswith(anchor) and all(map(found.holds, (*TEXTS, *CHARACTERS))):
            return found
    return coder


class Tokenizer:
    """decode(encode(text)) is the text without NUL, or the text that `loss` shows an example of.

    Attributes: vocab_size, the largest id + 1; pad_id, bos_id, eos_id (pad differs from both; bos
    may equal eos); text_eos_id, the end of documents (eos, unless a chat template ends turns with
    another token); fingerprint, the sha256 (hex) of the file's bytes; loss, (a text, the decoded
    text) if the tokenizer changes text, else None; told, sentences about special tokens that the
    file does not name; config, what is published beside it (`special_tokens.published`); special,
    how special tokens are written, by id; chat, the template of prompts, or None. `load_tokenizer`
    makes tokenizers.
    """

    def __init__(
        self,
        content: bytes,
        suffix: str,
        model: _SentencePiece | _HuggingFace,
        vocab_size: int,
        specials: Mapping[str, int],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._content, self._suffix, self._model = content, suffix, model
        self._continuing = _continuing(model)
        self._specials = frozenset(specials.values())
        self.vocab_size = vocab_size
        self.pad_id = specials["pad"]
        self.bos_id = specials["bos"]
        self.eos_id = specials["eos"]
        self.text_eos_id = specials.get("text_eos", self.eos_id)
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.loss: tuple[str, str] | None = None
        self.told: tuple[str, ...] = ()
        self.config: Mapping[str, Any] = config or {}
        self.chat: ChatTemplate | None = None
        self.special = model.special()

    def encode(self, text: str) -> list[int]:
        """The ids of a text that continues another one, such as a response. No special token is
        added; text that looks like one stays text."""
        return self._continuing.encode(text)

    def prompt_ids(self, prompt: str) -> list[int]:
        """[bos] prompt; with a chat template, the ids of the text that it rendered: special tokens
        in it are special tokens, and bos is there only if the template writes it."""
        if self.chat is not None:
            return self._model.parse(prompt).ids
        return [self.bos_id, *self._model.encode(prompt)]

    def document_ids(self, text: str) -> list[int]:
        """[bos] text [end of text]."""
        return [self.bos_id, *self._model.encode(text), self.text_eos_id]

    @property
    def begins_texts(self) -> bool:
        """Whether bos begins a text, as its publisher has it: by add_bos_token, else by what the
        file itself puts before texts; so it is for a tokenizer.model."""
        told = self.config.get("add_bos_token")
        return self._model.begins(self.bos_id) if told is None else bool(told)

    def parse(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """(ids, spans of characters) of a text that a chat template rendered."""
        found = self._model.parse(text)
        return found.ids, found.offsets

    def special_pattern(self) -> re.Pattern:
        """Finds a special token that is spelled in a text."""
        return re.compile("|".join(map(re.escape, self.special.values())) or "(?!)")

    def token_of(self, i: int) -> str:
        """How a token is written, special tokens too."""
        return self.special[i] if i in self.special else self._continuing.decode([i])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Special tokens are skipped; bytes that are not UTF-8 become U+FFFD.

        Raises:
          UserError: an id outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise UserError(f"token id {wrong}: must be in [0, {self.vocab_size})")
        return self._continuing.decode([i for i in ids if i not in self._specials])

    def save(self, path: epath.PathLike) -> None:
        """Writes the file that `load_tokenizer` reads, atomically."""
        require(
            epath.Path(path).suffix == self._suffix, "path", str(path), f"named *{self._suffix}"
        )
        write_atomically(path, self._content)

    def with_chat(self, template: str | None = None) -> "Tokenizer":
        """The tokenizer with a chat template: jinja text, or None: the published one.

        eos is then the token that ends a turn of the assistant.

        Raises:
          UserError: there is no template, it cannot be used, or no special token ends a turn.
        """
        if self._suffix != ".json":
            raise UserError("a chat template needs a tokenizer.json; a tokenizer.model has no "
                            "special tokens for turns")  # fmt: skip
        template = template or self.config.get("chat_template")
        if template is None:
            raise UserError("the tokenizer has no chat template (chat_template.jinja, or the field "
                            "chat_template of tokenizer_config.json): name a file")  # fmt: skip
        fields = parse_json(self._content)
        kept = fields.get(CHOICE, {})
        chat = ChatTemplate(template, self._names())
        end = self._end_of_turn(chat)
        text_eos = kept.get("text_eos") or self.token_of(self.text_eos_id)
        kept |= {"eos": end, "text_eos": text_eos, "chat": template, "config": dict(self.config)}
        content = json.dumps(fields | {CHOICE: kept}, ensure_ascii=False).encode("utf-8")
        return _from_hugging_face(content, "tokenizer.json", {}, {})

    def _names(self) -> dict[str, str]:
        """The special tokens that a chat template may write, by the names it knows."""
        found = {name: self.config[name] for name in special_tokens.TOKENS if name in self.config}
        own = {
            "bos_token": self.token_of(self.bos_id),
            "eos_token": self.token_of(self.text_eos_id),
        }
        return found or own

    def _end_of_turn(self, chat: ChatTemplate) -> str:
        for i in self.parse(chat.after_turn())[0]:
            if i in self.special:
                return self.special[i]
        raise UserError(f"chat template: expected a special token after a turn of the assistant, "
                        f"got {chat.after_turn()!r:.60}: nothing would end a response")  # fmt: skip


def _checked(
    tokenizer: Tokenizer, specials: dict[str, int], name: str, added: Sequence[str] = ()
) -> Tokenizer:
    others = lambda word: {i for other, i in specials.items() if other != word}
    if any(specials[word] in others(word) for word in ("pad", "unk") if word in specials):
        raise UserError(
            f"{name}: expected pad, bos, eos and unk to be different tokens (only bos may be eos), "
            f"got {specials}"
        )
    tokenizer.loss = try_contract(tokenizer, specials, added, name)
    return tokenizer


def _from_sentencepiece(content: bytes, name: str) -> Tokenizer:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
        size = processor.piece_size()
    except RuntimeError:
        raise UserError(f"{name}: expected a SentencePiece model, got other bytes") from None
    specials = {
        "pad": processor.pad_id(),
        "bos": processor.bos_id(),
        "eos": processor.eos_id(),
        "unk": processor.unk_id(),
    }
    for word, i in specials.items():
        if i < 0:
            raise UserError(f"{name}: expected a {word} piece, got a model without one")
    tokenizer = Tokenizer(content, ".model", _SentencePiece(processor), size, specials)
    return _checked(tokenizer, specials, name)


def _from_hugging_face(
    content: bytes, name: str, given: Mapping[str, str | None], beside: Mapping[str, Any]
) -> Tokenizer:
    """given: names of special tokens by word. beside: `special_tokens.published`."""
    try:
        content, text, kept = _with_choice(content, given, beside)
        model = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name}: expected a tokenizers JSON file, got: {first_line}") from None
    model.no_padding()
    model.no_truncation()
    model.encode_special_tokens = True  # text that spells a special token is text
    first = model.encode("a").ids[:1]
    model.post_processor = None  # it adds special tokens, and takes white space out of offsets
    coder, config = _HuggingFace(model, first), kept.get("config", {})
    size = 1 + max(model.get_vocab(with_added_tokens=True).values())  # ids may have gaps
    makes = lambda: {i for text in (*TEXTS, *CHARACTERS) for i in coder.encode(text)}
    specials, why = special_tokens.special_ids(model, size, kept, config, makes, name)
    if kept.get("text_eos"):
        specials["text_eos"] = model.token_to_id(kept["text_eos"])
    tokenizer = Tokenizer(
        content, ".json", coder, max(size, 1 + max(specials.values())), specials, config
    )
    if kept.get("chat"):
        tokenizer.chat = ChatTemplate(kept["chat"], tokenizer._names())
    tokenizer.told = tuple(f"the {word} token is id {specials[word]}: {reason}"
                           for word, reason in why.items())  # fmt: skip
    tried = [token.content for token in model.get_added_tokens_decoder().values()]
    tried += filter(None, map(tokenizer.token_of, specials.values()))
    return _checked(tokenizer, specials, name, tried)


def _with_choice(
    content: bytes, given: Mapping[str, str | None], beside: Mapping[str, Any]
) -> tuple[bytes, str, dict[str, Any]]:
    """(file content with what it keeps under CHOICE, content without it for the library, what it
    keeps: the names given, else those in the file; and what is published beside it)."""
    if CHOICE.encode() not in content and not any(given.values()) and not beside:
        return content, content.decode("utf-8"), {}
    fields = parse_json(content)
    kept = fields.pop(CHOICE, {})
    text = json.dumps(fields, ensure_ascii=False)
    if any(given.values()) or (beside and "config" not in kept):
        chosen = {word: given.get(word) or kept.get(word) for word in special_tokens.USUAL_NAMES}
        kept = kept | chosen | ({"config": dict(beside)} if beside else {})
        content = json.dumps(fields | {CHOICE: kept}, ensure_ascii=False).encode("utf-8")
    return content, text, kept


def find_tokenizer(directory: epath.PathLike) -> epath.Path:
    """The path of tokenizer.json or tokenizer.model in a directory; of the latter if both are
    missing."""
    files = [epath.Path(directory) / name for name in NAMES]
    return next((file for file in files if file.is_file()), files[-1])


def load_tokenizer(
    path: epath.PathLike,
    *,
    pad_token: str | None = None,
    bos_token: str | None = None,
    eos_token: str | None = None,
) -> Tokenizer:
    """Reads a SentencePiece .model or a Hugging Face `tokenizers` .json file.

    A .json's special tokens are those named here; else those that tokenizer_config.json and
    special_tokens_map.json beside it name; else those with usual names (`special_tokens`).
    bos_token may name the eos token if there is no separate one. `Tokenizer.save` stores the names
    in the file.

    Raises:
      UserError: the file has another suffix or cannot be read, special tokens are missing or equal,
        or the same text has other ids each time.
    """
    suffix = epath.Path(path).suffix
    if suffix not in (".model", ".json"):
        raise UserError(f"{path}: expected a .model or a .json file, got {suffix!r}")
    try:
        content = epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    given = {"pad": pad_token, "bos": bos_token, "eos": eos_token}
    if suffix == ".json":
        beside = special_tokens.published(epath.Path(path).parent)
        return _from_hugging_face(content, str(path), given, beside)
    if any(given.values()):
        raise UserError(f"{path}: a .model names its own pad, bos and eos; leave them out")
    return _from_sentencepiece(content, str(path))
