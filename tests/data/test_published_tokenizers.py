"""tokenizer.json in the layouts of the published families, with single letters or bytes as tokens:
special tokens, and the ids of a response behind its prompt."""

import json

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)

from rlhf_jax.data.tokenizer import load_tokenizer

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # of Llama 3 and Qwen
LLAMA = ("<unk>", "<s>", "</s>")
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
S = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _special(model: Tokenizer, tokens: tuple[str, ...]) -> Tokenizer:
    model.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in tokens]
    )
    return model


def of_bytes(tokens, *, nfc=False, before=()):
    """GPT-2's kind."""
    pieces = [*tokens, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    if nfc:
        model.normalizer = normalizers.NFC()
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not before)
    model.pre_tokenizer = pre_tokenizers.Sequence([*before, last])
    model.decoder = decoders.ByteLevel()
    return _special(model, tokens)


def of_pieces(tokens, space=None):
    """SentencePiece's kind. space: what puts a space before each text."""
    letters = "\u2581abcdefghijklmnopqrstuvwxyzHINST.,[]/"
    pieces = [*tokens, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    spaces = normalizers.Replace(" ", "\u2581")
    if space == "metaspace":
        model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        first = [normalizers.Prepend("\u2581")] if space else []
        model.normalizer = normalizers.Sequence([*first, spaces])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    model.decoder = decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if space else [])])
    return _special(model, tokens)


WORD = (pre_tokenizers.Split(Regex(WORDS), "isolated"),)
DIGITS = (pre_tokenizers.Digits(individual_digits=True),)
LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>")
# Family: the tokenizer, what its tokenizer_config.json names, and then (pad, bos, eos, loses text).
FAMILIES = {
    "gpt2": (of_bytes(("<|endoftext|>",)), END, (257, 0, 0, False)),
    "pythia": (of_bytes(("<|endoftext|>", "<|padding|>"), nfc=True), END, (1, 0, 0, True)),
    "llama2": (of_pieces(LLAMA, "prepended"), S, (0, 1, 2, True)),
    "mistral": (of_pieces(LLAMA, "metaspace"), S, (0, 1, 2, True)),
    "llama3": (
        of_bytes(LLAMA3, before=WORD),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        (2, 0, 3, False),
    ),
    "qwen2.5": (
        of_bytes(CHATML, nfc=True, before=WORD),
        {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        (0, 2, 2, True),
    ),
    "qwen2.5 base": (
        of_bytes(CHATML, nfc=True, before=WORD),
        {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        (259, 0, 0, True),
    ),
    "smollm2": (
        of_bytes(CHATML, before=DIGITS),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
         "unk_token": "<|endoftext|>"},
        (0, 1, 2, False),
    ),
    "gemma": (
        of_pieces(GEMMA),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        (0, 2, 1, True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_loads_as_it_is_published(family, tmp_path):
    model, config, (pad, bos, eos, loses) = FAMILIES[family]
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (pad, bos, eos)
    assert tokenizer.vocab_size == max(model.get_vocab_size(), pad + 1)
    assert (tokenizer.loss is not None) == loses
    whole = lambda text: model.encode(text, add_special_tokens=False).ids
    for prompt, response in (
        ("Hi there.", " yes\n\n no"),
        ("[INST] a [/INST]", " b"),
        ("x\n", "y"),
    ):
        assert tokenizer.prompt_ids(prompt) == [bos, *whole(prompt)]
        assert tokenizer.encode(response) == whole(prompt + response)[len(whole(prompt)) :]
        assert tokenizer.decode(tokenizer.encode(response)) == response
