import hashlib
import json
import pickle

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece
from rlhf_jax.errors import ConfigError, UserError
from tests.data.conftest import CORPUS

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
TRICKY = st.text(st.sampled_from(" \n\t\r\u2581\u2585\u2047\ufeff\u00e9\u6f22\U0001f600<s>/pad0x4"))
SPELLED = "<s></s><pad><unk><0x41>"


def byte_level(specials: list[str], prefix_space: bool = False, normaliser=None):
    model = tokenizers.Tokenizer(models.BPE())
    if normaliser is not None:
        model.normalizer = normaliser
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(CORPUS, trainer)
    return model


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    model = byte_level(["<pad>", "<s>", "</s>"])
    model.enable_truncation(4)
    model.enable_padding(length=8)
    model.save(str(path))
    return load_tokenizer(path)


@pytest.fixture(params=["trained", "hugging_face"], scope="session")
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(request.param)


def test_lossless(tokenizer):
    @given(PLAIN | TRICKY)
    def check(text):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.vocab_size for i in ids)

    check()


def test_text_that_spells_a_special_token_is_text(tokenizer):
    ids = tokenizer.encode(SPELLED)
    assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} & set(ids)
    assert tokenizer.decode(ids) == SPELLED


def test_decode_skips_specials_and_stops_nowhere(tokenizer):
    pad, bos, eos = tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id
    assert len({pad, bos, eos}) == 3
    words = tokenizer.encode(" rivers")
    assert tokenizer.decode([pad, bos, *words, eos, *words, pad]) == " rivers rivers"
    assert tokenizer.decode([]) == ""
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(UserError, match=f"token id {wrong}: must be in"):
            tokenizer.decode([4, wrong])


def test_any_ids_decode(tokenizer):
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    def check(ids):
        assert isinstance(tokenizer.decode(ids), str)

    check()


def test_response_ids_do_not_depend_on_the_prompt(tokenizer):
    """What lets sampler and learner see the same ids: the parts join to the text."""
    prompt, response = "Name two rivers.\n\nAssistant:", " The Danube and the Rhine"
    joined = tokenizer.encode(prompt) + tokenizer.encode(response)
    assert tokenizer.decode(joined) == prompt + response


def test_save_and_load(tokenizer, tmp_path):
    suffix = ".model" if tokenizer.encode("\n\n") == [4, 4] else ".json"
    path = tmp_path / f"copy{suffix}"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert loaded.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.pad_id, loaded.bos_id, loaded.eos_id) == (
        tokenizer.pad_id,
        tokenizer.bos_id,
        tokenizer.eos_id,
    )
    with pytest.raises(ConfigError, match=rf"must be named \*\{suffix}"):
        tokenizer.save(tmp_path / "copy.bin")


def test_training(trained, tmp_path):
    again = train_sentencepiece(CORPUS, 400, tmp_path / "again.model", 0)
    assert again.fingerprint == trained.fingerprint
    assert trained.vocab_size == 400
    model = sentencepiece.SentencePieceProcessor(str(tmp_path / "again.model"))
    assert [model.pad_id(), model.bos_id(), model.eos_id(), model.unk_id()] == [0, 1, 2, 3]
    assert trained.encode("\n\n") == [4, 4]
    assert len(trained.encode(" rivers")) < len(" rivers") / 2
    assert len(trained.encode("42")) == 2


def test_the_seed_chooses_what_a_large_corpus_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_jax.data.tokenizer.TRAINING_CHARACTERS", 4000)
    texts = ["".join(chr(97 + i * k % 26) for k in range(1, 60)) + " and" * 8 for i in range(400)]

    def prints(seed):
        return train_sentencepiece(texts, 320, tmp_path / "t.model", seed).fingerprint

    assert prints(0) == prints(0) != prints(1)


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        (CORPUS, 100, "vocab_size = 100: .*smaller than required"),
        (["", "\n"], 400, "texts = '': must be some text"),
    ],
)
def test_training_that_cannot_work(texts, size, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        train_sentencepiece(texts, size, tmp_path / "t.model", 0)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_few_texts_give_as_many_tokens_as_they_allow(tmp_path):
    texts = [f"Which is first, {i}? {i * 7}." for i in range(40)]
    made = train_sentencepiece(texts, 100_000, tmp_path / "t.model", 0)
    assert 280 < made.vocab_size < 400
    again = train_sentencepiece(texts, made.vocab_size, tmp_path / "u.model", 0)
    assert again.fingerprint == made.fingerprint


def test_names_of_special_tokens(tmp_path):
    path = tmp_path / "t.json"
    byte_level(["<filler>", "<|begin_of_text|>", "<|end_of_text|>", "stop"]).save(str(path))
    with pytest.raises(UserError, match=r"expected a pad token, got none of <pad>, .*: name one "
                       r"with pad_token \(its added tokens: <filler>, <\|begin"):  # fmt: skip
        load_tokenizer(path)
    with pytest.raises(UserError, match="expected a pad token, got none of <no>: name one with"):
        load_tokenizer(path, pad_token="<no>")
    usual = load_tokenizer(path, pad_token="<filler>")
    assert (usual.pad_id, usual.bos_id, usual.eos_id) == (0, 1, 2)
    assert load_tokenizer(path, pad_token="<filler>", eos_token="stop").eos_id == 3
    with pytest.raises(UserError, match="unk to be different tokens"):
        load_tokenizer(path, pad_token="<|end_of_text|>")
    with pytest.raises(UserError, match=r"expected a lossless tokenizer, got 'caf\u0301'"):
        load_tokenizer(path, pad_token="<filler>", eos_token="e")  # a letter of the texts


def test_the_names_are_kept_with_the_file_and_are_part_of_its_fingerprint(tmp_path):
    path, kept = tmp_path / "t.json", tmp_path / "kept.json"
    byte_level(["<filler>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]).save(str(path))
    names = {"pad_token": "<filler>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    named = load_tokenizer(path, **names)
    named.save(kept)
    again = load_tokenizer(kept)
    assert (again.pad_id, again.bos_id, again.eos_id) == (0, 2, 3)
    assert again.encode(CORPUS[0]) == named.encode(CORPUS[0])
    other = load_tokenizer(path, **names | {"eos_token": "<|endoftext|>"})
    assert again.fingerprint == named.fingerprint != other.fingerprint
    assert load_tokenizer(kept, eos_token="<|endoftext|>").eos_id == 1


# Layouts of published tokenizers: what normalises, what is added, what names the special tokens.
QWEN = (
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    [],
    {"pad_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
)
PYTHIA = (["<|endoftext|>", "<|padding|>"], [" " * n for n in range(24, 1, -1)],
          {"bos_token": "<|endoftext|>"})  # fmt: skip


@pytest.mark.parametrize("layout", [QWEN, PYTHIA])
def test_a_tokenizer_that_normalises_loads_and_says_what_it_changes(layout, tmp_path):
    specials, added, names = layout
    path = tmp_path / "t.json"
    model = byte_level(specials, normaliser=tokenizers.normalizers.NFC())
    model.add_tokens([tokenizers.AddedToken(token, normalized=True) for token in added])
    model.save(str(path))
    tokenizer = load_tokenizer(path, **names)
    assert tokenizer.loss == ("cafe\u0301", "caf\u00e9")
    assert tokenizer.decode(tokenizer.encode("a   b\n\n  it\u2019s")) == "a   b\n\n  it\u2019s"
    assert tokenizer.pad_id not in (tokenizer.bos_id, tokenizer.eos_id)


@pytest.mark.parametrize(
    ("normaliser", "loss"),
    [
        (tokenizers.normalizers.NFKC(), ("cafe\u0301", "caf\u00e9")),
        (tokenizers.normalizers.Replace("\u2019", "'"), ("it\u2019s", "it's")),
        (tokenizers.normalizers.Replace("\ufb01", "fi"), ("\ufb01n", "fin")),
    ],
)
def test_what_a_normaliser_changes_is_said(normaliser, loss, tmp_path):
    byte_level(["<pad>", "<s>", "</s>"], normaliser=normaliser).save(str(tmp_path / "t.json"))
    assert load_tokenizer(tmp_path / "t.json").loss == loss


def test_vocab_size_is_the_largest_id_and_one(tmp_path):
    """Ids may have gaps: 259 tokens of which the last is 300."""
    fields = json.loads(byte_level(["<pad>", "<s>", "</s>"]).to_str())
    letters = [token for token in fields["model"]["vocab"] if len(token) == 1]
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 300} | {t: i for i, t in enumerate(letters, 2)}
    fields["model"] |= {"vocab": vocabulary, "merges": []}
    fields["added_tokens"][2]["id"] = 300
    (tmp_path / "t.json").write_text(json.dumps(fields))
    tokenizer = load_tokenizer(tmp_path / "t.json")
    assert len(vocabulary) == 259
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (300, 301)
    assert tokenizer.decode([300, *tokenizer.encode("ab")]) == "ab"


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    path = tmp_path / "t.json"
    byte_level(["<pad>", "<s>", "</s>"], prefix_space=True).save(str(path))
    with pytest.raises(UserError, match="expected a lossless tokenizer"):
        load_tokenizer(path)
    model = byte_level(["<pad>", "<s>", "</s>"], prefix_space=True)
    model.normalizer = tokenizers.normalizers.NFC()  # which is not what changes the text
    model.save(str(path))
    with pytest.raises(UserError, match="expected a lossless tokenizer"):
        load_tokenizer(path)
    model = byte_level(["<pad>", "<s>", "</s>"])
    model.add_tokens([tokenizers.AddedToken("<mask>", lstrip=True, rstrip=True)])
    model.save(str(path))
    with pytest.raises(UserError, match="expected a lossless tokenizer, got 'a<mask>b' for"):
        load_tokenizer(path)
    model = byte_level(["<pad>", "<s>", "</s>"])
    model.model.dropout = 0.5
    model.save(str(path))
    with pytest.raises(UserError, match="expected a text to have the same ids each time"):
        load_tokenizer(path)
    model = byte_level(["<pad>", "<s>", "</s>"])
    model.normalizer = tokenizers.normalizers.Prepend("_")
    model.decoder = tokenizers.decoders.Sequence(
        [decoders.ByteLevel(), decoders.Fuse(), decoders.Strip("_", 1, 0)]
    )
    model.save(str(path))  # as where a space is put before each text: prompt and response part
    with pytest.raises(UserError, match="coded one after the other"):
        load_tokenizer(path)


def test_a_tokenizer_without_some_bytes_is_refused(tmp_path):
    model = byte_level(["<pad>", "<s>", "</s>"])
    fields = json.loads(model.to_str())
    (tmp_path / "t.json").write_text(json.dumps(fields))
    load_tokenizer(tmp_path / "t.json")
    del fields["model"]["vocab"]["\u00e1"]  # the mark of byte 0xE1
    (tmp_path / "t.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"expected a lossless tokenizer, got '.*' for '\u1000'"):
        load_tokenizer(tmp_path / "t.json")


def test_a_model_without_specials_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(CORPUS[:3]),
        model_prefix=str(tmp_path / "t"),
        vocab_size=60,
        model_type="char",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="expected a pad piece, got a model without one"):
        load_tokenizer(tmp_path / "t.model")


def test_files_that_are_no_tokenizers(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a tokenizer file was unpickled",))

    for suffix, expected in ((".model", "a SentencePiece model"), (".json", "a tokenizers JSON")):
        path = tmp_path / f"t{suffix}"
        for content in (b"", b"{}", b"junk", pickle.dumps(Bomb())):
            path.write_bytes(content)
            with pytest.raises(UserError, match=f"expected {expected}") as caught:
                load_tokenizer(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"expected a \.model or a \.json file, got '\.pkl'"):
        load_tokenizer(tmp_path / "t.pkl")
    with pytest.raises(UserError, match=r"a \.model names its own"):
        load_tokenizer(tmp_path / "t.model", pad_token="<pad>")
