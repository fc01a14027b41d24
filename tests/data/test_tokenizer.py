import hashlib
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


def byte_level(specials: list[str], prefix_space: bool = False) -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.BPE())
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
        (CORPUS, 100_000, "vocab_size = 100000: .*too high"),
        (["", "\n"], 400, "texts = '': must be some text"),
    ],
)
def test_training_that_cannot_work(texts, size, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        train_sentencepiece(texts, size, tmp_path / "t.model", 0)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_names_of_special_tokens(tmp_path):
    path = tmp_path / "t.json"
    byte_level(["<filler>", "<|begin_of_text|>", "<|end_of_text|>", "stop"]).save(str(path))
    with pytest.raises(UserError, match="expected a pad token, got none of <pad>"):
        load_tokenizer(path)
    with pytest.raises(UserError, match="expected a pad token, got none of <no>: name it"):
        load_tokenizer(path, pad="<no>")
    usual = load_tokenizer(path, pad="<filler>")
    assert (usual.pad_id, usual.bos_id, usual.eos_id) == (0, 1, 2)
    assert load_tokenizer(path, pad="<filler>", eos="stop").eos_id == 3
    with pytest.raises(UserError, match="expected different ids"):
        load_tokenizer(path, pad="<|end_of_text|>")


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    path = tmp_path / "t.json"
    byte_level(["<pad>", "<s>", "</s>"], prefix_space=True).save(str(path))
    with pytest.raises(UserError, match="expected a lossless tokenizer"):
        load_tokenizer(path)
    model = byte_level(["<pad>", "<s>", "</s>"])
    model.normalizer = tokenizers.normalizers.Lowercase()
    model.save(str(path))
    with pytest.raises(UserError, match="expected a lossless tokenizer"):
        load_tokenizer(path)


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
        load_tokenizer(tmp_path / "t.model", pad="<pad>")
