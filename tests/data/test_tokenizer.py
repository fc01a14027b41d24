import hashlib
import json
import pickle

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.data.tokenizer_training import train_sentencepiece
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


def test_bos_begins_a_text_where_its_publisher_has_it_so(trained, hugging_face, tmp_path):
    assert trained.begins_texts and not hugging_face.begins_texts
    model = byte_level(["<pad>", "<s>", "</s>"])
    bos = [("<s>", model.token_to_id("<s>"))]
    model.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=bos)
    model.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path / "tokenizer.json").begins_texts
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert not load_tokenizer(tmp_path / "tokenizer.json").begins_texts


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
    monkeypatch.setattr("rlhf_jax.data.tokenizer_training.TRAINING_CHARACTERS", 4000)
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
    with pytest.raises(UserError, match=r"expected a bos token, got none of <no>: name one with "
                       r"bos_token \(its added tokens: <filler>, <\|begin"):  # fmt: skip
        load_tokenizer(path, bos_token="<no>")
    with pytest.raises(UserError, match="expected a pad token, got none of <no>: name one with"):
        load_tokenizer(path, pad_token="<no>")
    usual = load_tokenizer(path, pad_token="<filler>")
    assert (usual.pad_id, usual.bos_id, usual.eos_id) == (0, 1, 2)
    assert load_tokenizer(path, pad_token="<filler>", eos_token="stop").eos_id == 3
    with pytest.raises(UserError, match="unk to be different tokens"):
        load_tokenizer(path, pad_token="<|end_of_text|>")
    with pytest.raises(UserError, match=r"no text has, got the eos token in 'cafe\u0301'"):
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


def test_what_a_tokenizer_loses_is_said(tmp_path):
    path = tmp_path / "t.json"
    model = byte_level(["<pad>", "<s>", "</s>"])
    model.add_tokens([tokenizers.AddedToken("<mask>", lstrip=True, rstrip=True)])
    model.save(str(path))
    assert load_tokenizer(path).loss == ("a  <mask>  b", "a<mask>b")
    fields = json.loads(byte_level(["<pad>", "<s>", "</s>"]).to_str())
    del fields["model"]["vocab"]["\u00e1"]  # the mark of byte 0xE1
    path.write_text(json.dumps(fields))
    text, back = load_tokenizer(path).loss
    assert text == "\u1000" != back


def test_a_tokenizer_with_other_ids_each_time_is_refused(tmp_path):
    model = byte_level(["<pad>", "<s>", "</s>"])
    model.model.dropout = 0.5
    model.save(str(tmp_path / "t.json"))
    with pytest.raises(UserError, match="expected a text to have the same ids each time"):
        load_tokenizer(tmp_path / "t.json")


def space_before(kind: str) -> tokenizers.Tokenizer:
    """A tokenizer that puts a space before each text, as Llama 2's does."""
    if kind == "bytes":
        return byte_level(["<pad>", "<s>", "</s>"], prefix_space=True)
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *bytes_of, *"\u2581abcdefghijklmnopqrstuvwxyz.,", "\u2581a"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True)
    )
    normalisers = tokenizers.normalizers
    model.normalizer = normalisers.Sequence(
        [normalisers.Prepend("\u2581"), normalisers.Replace(" ", "\u2581")]
    )
    replace, fuse = decoders.Replace("\u2581", " "), decoders.Fuse()
    model.decoder = decoders.Sequence(
        [replace, decoders.ByteFallback(), fuse, decoders.Strip(" ", 1, 0)]
    )
    model.add_special_tokens(["<unk>", "<s>", "</s>"])
    return model


@pytest.mark.parametrize("kind", ["llama", "bytes"])
def test_a_response_continues_its_prompt_where_a_text_begins_with_a_space(kind, tmp_path):
    model = space_before(kind)
    model.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(tmp_path / "t.json")
    whole = lambda text: model.encode(text, add_special_tokens=False).ids
    for prompt, response in (("a", " b c"), ("a b.", " a\n"), ("x\n", "abc"), ("x", "")):
        ids = tokenizer.prompt_ids(prompt)
        assert ids == [tokenizer.bos_id, *whole(prompt)]
        assert ids[1:] + tokenizer.encode(response) == whole(prompt + response)
        assert tokenizer.decode(tokenizer.encode(response)) == response
    assert tokenizer.document_ids("b") == [tokenizer.bos_id, *whole("b"), tokenizer.eos_id]
    assert tokenizer.loss is None or tokenizer.loss[0].count("\u2581")  # which it reads as a space


# What names the special tokens -> what pads, and why it does.
PADS = [
    (["<|endoftext|>"], {}, None, "the file has no unused token"),  # GPT-2
    (["<|endoftext|>", "<|padding|>"], {}, "<|padding|>", ""),  # Pythia
    (["</s>", "<pad>", "<s>"], {"pad_token": "</s>"}, "<pad>", ""),
    (["</s>", "<x>"], {"pad_token": "<x>", "eos_token": {"content": "</s>"}}, "<x>", ""),
    (["</s>", "<s>", "<unk>"], {"bos_token": "<s>"}, "<unk>", "no text has the unknown token"),
    (["<|end_of_text|>", "<|reserved_special_token_7|>"], {"pad_token": "<|end_of_text|>"},
     "<|reserved_special_token_7|>", "is unused"),  # Llama 3
    (["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
     {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "pad_token": "<|im_end|>",
      "unk_token": "<|endoftext|>"}, "<|endoftext|>", "the unknown token"),  # SmolLM2
]  # fmt: skip


@pytest.mark.parametrize(("specials", "config", "pad", "reason"), PADS)
def test_padding_has_a_token_of_its_own(specials, config, pad, reason, tmp_path):
    model = byte_level(specials)
    model.save(str(tmp_path / "tokenizer.json"))
    if config:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    size = model.get_vocab_size()
    assert tokenizer.pad_id == (size if pad is None else model.token_to_id(pad))
    assert tokenizer.vocab_size == size + (pad is None)
    assert tokenizer.pad_id not in (tokenizer.eos_id, tokenizer.bos_id, tokenizer.text_eos_id)
    about = [told for told in tokenizer.told if "pad" in told]
    assert [reason in told for told in about] == ([True] if reason else [])
    words = tokenizer.encode(" rivers")
    assert tokenizer.decode([tokenizer.pad_id, *words, tokenizer.eos_id]) == " rivers"
    tokenizer.save(tmp_path / "kept.json")
    again = load_tokenizer(tmp_path / "kept.json")
    assert (again.pad_id, again.bos_id, again.eos_id, again.fingerprint, again.config) == (
        tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.fingerprint,
        tokenizer.config)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "tokenizer_config.json: expected JSON"),
        ("[]", "tokenizer_config.json: expected a JSON object, got list"),
        ('{"eos_token": 3}', "field 'eos_token': expected a token, got 3"),
        ('{"chat_template": 3}', "field 'chat_template': expected a text, got 3"),
    ],
)
def test_what_is_wrong_beside_a_tokenizer_is_refused(content, message, tmp_path):
    byte_level(["<pad>", "<s>", "</s>"]).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path / "tokenizer.json")
    assert message in str(caught.value)


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
