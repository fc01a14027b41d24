"""Text to ids and back: SentencePiece models and Hugging Face `tokenizers` JSON files.

Files are read as data (protobuf, JSON), never unpickled.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
import tokenizers
from etils import epath

from rlhf_jax.data.tokenizer_contract import SPACE_MARK, try_contract
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import ConfigError, UserError, require
from rlhf_jax.strict_json import parse_json

NAMES = ("tokenizer.json", "tokenizer.model")
CHOICE = "rlhf_jax_special_tokens"  # key of a .json that stores the names of its special tokens
USUAL_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|bos|>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|eos|>", "<|end_of_text|>", "<|endoftext|>"),
}
TRAINING_CHARACTERS = 50_000_000


class _SentencePiece:
    """A SentencePiece processor; U+2581 is encoded as three bytes, so that it is not lost."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self.processor = processor
        self.mark = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]

    def encode(self, text: str) -> list[int]:
        first, *rest = text.split(SPACE_MARK)
        ids = self.processor.encode(first)
        for part in rest:
            ids += self.mark + self.processor.encode(part)
        return ids

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)

    def normalise(self, text: str) -> str:
        parts = [self.processor.normalize(part) for part in text.split(SPACE_MARK)]
        return SPACE_MARK.join(part.replace(SPACE_MARK, " ") for part in parts)


class _HuggingFace:
    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def normalise(self, text: str) -> str:
        normaliser = self.tokenizer.normalizer
        return text if normaliser is None else normaliser.normalize_str(text)


class Tokenizer:
    """decode(encode(text)) is the text without NUL, or the text after the tokenizer's normaliser.

    Attributes: vocab_size, the largest id + 1; pad_id, bos_id, eos_id (pad differs from both; bos
    may equal eos); fingerprint, the sha256 (hex) of the file's bytes; loss, (a text, the decoded
    text) if the normaliser changes text, else None. `train_sentencepiece` and `load_tokenizer` make
    tokenizers.
    """

    def __init__(
        self,
        content: bytes,
        suffix: str,
        model: _SentencePiece | _HuggingFace,
        vocab_size: int,
        specials: dict[str, int],
    ) -> None:
        self._content = content
        self._suffix = suffix
        self._model = model
        self._specials = frozenset(specials.values())
        self.vocab_size = vocab_size
        self.pad_id = specials["pad"]
        self.bos_id = specials["bos"]
        self.eos_id = specials["eos"]
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.loss: tuple[str, str] | None = None

    def encode(self, text: str) -> list[int]:
        """The ids of a text. No special token is added; text that looks like one stays text."""
        return self._model.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Special tokens are skipped; bytes that are not UTF-8 become U+FFFD.

        Raises:
          UserError: an id outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise UserError(f"token id {wrong}: must be in [0, {self.vocab_size})")
        return self._model.decode([i for i in ids if i not in self._specials])

    def save(self, path: epath.PathLike) -> None:
        """Writes the file that `load_tokenizer` reads, atomically."""
        require(
            epath.Path(path).suffix == self._suffix, "path", str(path), f"named *{self._suffix}"
        )
        write_atomically(path, self._content)


def _checked(
    tokenizer: Tokenizer, specials: dict[str, int], name: str, added: Sequence[str] = ()
) -> Tokenizer:
    apart = {word: i for word, i in specials.items() if word != "bos" or i != specials["eos"]}
    if len(set(apart.values())) < len(apart):
        raise UserError(
            f"{name}: expected pad, bos, eos and unk to be different tokens (only bos may be eos), "
            f"got {specials}"
        )
    tokenizer.loss = try_contract(tokenizer, tokenizer._model.normalise, added, name)
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


def _with_choice(content: bytes, given: dict[str, str | None]) -> tuple[bytes, str, dict]:
    """(file content with the names of special tokens, content without them for the library, the
    names: those given, else those in the file)."""
    if CHOICE.encode() not in content and not any(given.values()):
        return content, content.decode("utf-8"), given
    fields = parse_json(content)
    kept = fields.pop(CHOICE, {})
    chosen = {word: name or kept.get(word) for word, name in given.items()}
    text = json.dumps(fields, ensure_ascii=False)
    if any(given.values()):
        content = json.dumps(fields | {CHOICE: chosen}, ensure_ascii=False).encode("utf-8")
    return content, text, chosen


def _special_ids(model: tokenizers.Tokenizer, name: str, given: dict[str, str | None]) -> dict:
    specials = {}
    for word, chosen in given.items():
        names = USUAL_NAMES[word] if chosen is None else (chosen,)
        found = [i for i in map(model.token_to_id, names) if i is not None]
        if not found:
            added = [token.content for token in model.get_added_tokens_decoder().values()]
            shown = ", ".join(added[:12]) or "none"
            raise UserError(
                f"{name}: expected a {word} token, got none of {', '.join(names)}: name one with "
                f"{word}_token (its added tokens: {shown})"
            )
        specials[word] = found[0]
    return specials


def _from_hugging_face(content: bytes, name: str, given: dict[str, str | None]) -> Tokenizer:
    try:
        content, text, given = _with_choice(content, given)
        model = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name}: expected a tokenizers JSON file, got: {first_line}") from None
    model.no_padding()
    model.no_truncation()
    model.encode_special_tokens = True  # text that spells a special token is text
    specials = _special_ids(model, name, given)
    size = 1 + max(model.get_vocab(with_added_tokens=True).values())  # ids may have gaps
    tokenizer = Tokenizer(content, ".json", _HuggingFace(model), size, specials)
    tried = [token.content for token in model.get_added_tokens_decoder().values()]
    tried += [model.decode([i], skip_special_tokens=False) for i in specials.values()]
    return _checked(tokenizer, specials, name, tried)


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

    `pad_token`, `bos_token` and `eos_token` name special tokens of a .json file that do not have
    the usual names. bos_token may name the eos token if there is no separate one. `Tokenizer.save`
    stores the names in the file.

    Raises:
      UserError: the file has another suffix or cannot be read, special tokens are missing or equal,
        or the tokenizer changes text in another way than by its normaliser.
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
        return _from_hugging_face(content, str(path), given)
    if any(given.values()):
        raise UserError(f"{path}: a .model names its own pad, bos and eos; leave them out")
    return _from_sentencepiece(content, str(path))


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
    tokenizer = _from_sentencepiece(content, str(path))
    tokenizer.save(path)
    return tokenizer


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
