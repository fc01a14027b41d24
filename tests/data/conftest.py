"""Two tokenizers: letters that can be read off an array, and a trained SentencePiece."""

import pytest

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.data.tokenizer_training import train_sentencepiece

CORPUS = [
    "Name two rivers.\nThe Danube and the Rhine are rivers in Europe.\n\nHuman: thanks",
    "Add 12 and 30.\n\nAssistant: 12 + 30 = 42. Is there anything else?",
    "  indented text\twith tabs and caf\u00e9s, na\u00efve r\u00f4les",
] * 20


class Letters:
    """a, b, c, ... are 4, 5, 6, ...; pad 0, bos 1, eos 2."""

    pad_id, bos_id, eos_id, vocab_size, fingerprint = 0, 1, 2, 30, "letters"

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 4 for letter in text]

    def prompt_ids(self, prompt: str) -> list[int]:
        return [self.bos_id, *self.encode(prompt)]

    def document_ids(self, text: str) -> list[int]:
        return [self.bos_id, *self.encode(text), self.eos_id]


class Characters(Letters):
    """Letters that can be read back; the ids beyond z are the characters beyond it."""

    def decode(self, ids):
        return "".join(chr(ord("a") + i - 4) for i in ids if i > 2)


@pytest.fixture(scope="session")
def letters() -> Letters:
    return Letters()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Tokenizer:
    return train_sentencepiece(CORPUS, 400, tmp_path_factory.mktemp("tokenizer") / "t.model", 0)
