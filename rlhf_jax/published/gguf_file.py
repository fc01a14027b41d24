"""GGUF files (llama.cpp): shape, tokenizer and tensors.

Reads with the package `gguf`, an extra. The names and layouts of tensors are the family's.
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from rlhf_jax.errors import UserError
from rlhf_jax.models import families
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.families import Family, Published

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _words(digits: str) -> list[dict[str, Any]]:
    """The cut of cl100k (tiktoken), with the pattern of digits that stay together."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits +
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    return [split, {**_BYTES, "trim_offsets": False, "use_regex": False}]


class Cut(NamedTuple):
    """How a published tokenizer.json treats text before merges.

    parts          its pre-tokenizers
    normalizer     its Unicode normal form; None: text stays as it is
    ignore_merges  whether a word that is a token is taken whole, whatever its merges
    """

    parts: list[dict[str, Any]]
    normalizer: str | None = None
    ignore_merges: bool = False


CUTS = {  # by tokenizer.ggml.pre
    "gpt-2": Cut([_BYTES]),
    "smollm": Cut([_DIGITS, _BYTES]),
    "qwen2": Cut(_words(r"\p{N}"), "NFC"),  # Qwen2, 2.5 and 3
    "llama-bpe": Cut(_words(r"\p{N}{1,3}"), ignore_merges=True),  # Llama 3
}


class Quantized(NamedTuple):
    """A tensor of a GGUF file."""

    file: epath.Path
    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(side) for side in reversed(self.tensor.shape))

    def read(self) -> np.ndarray:
        """In float32, whatever format it is stored in."""
        from gguf.quants import dequantize

        try:
            return dequantize(self.tensor.data, self.tensor.tensor_type).reshape(self.shape)
        except NotImplementedError:
            kind = self.tensor.tensor_type.name
            raise UserError(f"{self.file}: tensor {self.tensor.name!r}: expected a number format "
                            f"that gguf reads, got {kind}") from None  # fmt: skip


class GGUF:
    """A GGUF file. Raises UserError where it cannot be read, or `gguf` is not installed."""

    def __init__(self, path: epath.PathLike):
        self.path = epath.Path(path)
        try:
            import gguf

            reader = gguf.GGUFReader(str(path))
            self._fields = {name: field.contents() for name, field in reader.fields.items()}
        except ModuleNotFoundError:
            raise UserError(f"{path}: a GGUF file needs pip install 'rlhf-jax[gguf]'") from None
        except Exception as error:  # of a damaged file the library raises errors of many kinds
            what = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path}: cannot be read as GGUF: {what}") from None
        self.tensors = {each.name: Quantized(self.path, each) for each in reader.tensors}

    def field(self, name: str) -> Any:
        if name not in self._fields:
            raise UserError(f"{self.path}: expected the field {name}, it is not there")
        return self._fields[name]

    @property
    def name(self) -> str:
        return str(self._fields.get("general.name", self.path.stem))

    @property
    def license(self) -> str | None:
        return self._fields.get("general.license")

    @functools.cached_property
    def _family(self) -> Family:
        with self._naming_the_file():
            return families.of_gguf(self.field("general.architecture"))

    def shape(self) -> TransformerConfig:
        with self._naming_the_file():
            return self._family.from_gguf(self._fields, self.tensors)

    def places(self) -> list[Published]:
        """Where each tensor lies in our parameters."""
        return self._family.gguf(self.shape())

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def special_ids(self) -> dict[str, int]:
        """The ids of bos, eos, unk and pad, of those that the file names."""
        names = {word: f"tokenizer.ggml.{name}_token_id" for word, name in SPECIAL.items()}
        return {word: self._fields[name] for word, name in names.items() if name in self._fields}

    def tokenizer(self) -> dict[str, bytes]:
        """tokenizer.json and tokenizer_config.json, which has the chat template.

        Raises UserError where the tokenizer is none of byte-level BPE, or cuts text in a way that
        is not known.
        """
        kind, cut = self.field("tokenizer.ggml.model"), self.field("tokenizer.ggml.pre")
        for field, value, known in (("model", kind, ("gpt2",)), ("pre", cut, tuple(CUTS))):
            if value not in known:
                raise UserError(f"{self.path}: tokenizer.ggml.{field}: expected "
                                f"{' or '.join(known)}, got {value!r}")  # fmt: skip
        tokens, kinds = self.field("tokenizer.ggml.tokens"), self.field("tokenizer.ggml.token_type")
        merges = [merge.split(" ") for merge in self.field("tokenizer.ggml.merges")]
        parts, normalizer, ignore_merges = CUTS[cut]
        model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                 "ignore_merges": ignore_merges, "byte_fallback": False,
                 "continuing_subword_prefix": None, "end_of_word_suffix": None,
                 "vocab": {token: i for i, token in enumerate(tokens)},
                 "merges": merges}  # fmt: skip
        found = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                _added(i, tokens[i], kind == CONTROL)
                for i, kind in enumerate(kinds)
                if kind in (CONTROL, USER_DEFINED)
            ],
            "normalizer": None if normalizer is None else {"type": normalizer},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts},
            "post_processor": None,
            "decoder": _BYTES,
            "model": model,
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.shape().context,
            **{f"{word}_token": tokens[i] for word, i in self.special_ids().items()},
        }
        if template := self._fields.get("tokenizer.chat_template"):
            config["chat_template"] = template
        return {
            "tokenizer.json": json.dumps(found, ensure_ascii=False).encode(),
            "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2).encode(),
        }


def _added(i: int, content: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": i, "content": content, **flags, "special": special}
