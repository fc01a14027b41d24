"""The rows of files of every kind."""

import gzip
import json
import sys
import types

import numpy as np
import pytest

from rlhf_jax.data.builder import write_dataset
from rlhf_jax.data.convert import read_file
from rlhf_jax.data.formats import files
from rlhf_jax.data.formats.text import read_text
from rlhf_jax.data.records import Demonstration, Ranking, Text
from rlhf_jax.errors import RecordError, UserError

ROWS = [{"prompt": "a\u00e9", "response": ' "b",\n'}, {"prompt": "c", "response": "d"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TABLE = 'prompt,response\na\u00e9," ""b"",\n"\nc,d\n'.encode()


def rows(path):
    return list(files.rows(str(path), files.located(str(path))))


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", LINES, (":1", ":2")),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0), (":1", ":2")),
        ("a.JSONL", LINES, (":1", ":2")),
        ("a.json", json.dumps(ROWS).encode(), ("[0]", "[1]")),
        ("a.json", json.dumps(ROWS[0]).encode(), ("[0]",)),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0), ("[0]", "[1]")),
        ("a.csv", b"\xef\xbb\xbf" + TABLE, (":3", ":4")),
        ("a.tsv", TABLE.replace(b"prompt,", b"prompt\t").replace(b"\xa9,", b"\xa9\t")
         .replace(b"c,d", b"c\td"), (":3", ":4")),
    ],
)  # fmt: skip
def test_rows_are_read_with_their_places(name, content, places, tmp_path):
    path = write(tmp_path / name, content)
    assert rows(path) == [(f"{path}{place}", row) for place, row in zip(places, ROWS, strict=False)]


def test_lines_under_the_name_json_are_read(tmp_path):
    path = write(tmp_path / "a.json", LINES)
    assert rows(path) == [(f"{path}:1", ROWS[0]), (f"{path}:2", ROWS[1])]


def test_zstandard(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    pack = lambda content: zstandard.ZstdCompressor().compress(content)
    first, second = LINES.splitlines(keepends=True)
    whole = pack(first) + pack(second)  # two frames
    path = write(tmp_path / "a.jsonl.zst", whole)
    assert [row for _, row in rows(path)] == ROWS
    for content in (whole[:-2], b"abcd" + whole, b"xyz"):
        with pytest.raises(RecordError, match=r"a\.jsonl\.zst: expected a whole zst file, got: "):
            rows(write(path, content))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    nested = [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
               "n": i, "rank": None} for i in range(3)]  # fmt: skip
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(nested), path, row_group_size=2)
    assert rows(path) == [(f"{path}[{i}]", row) for i, row in enumerate(nested)]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RecordError, match=r"a\.parquet\[0\]: expected Parquet, got: "):
        rows(path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"[1,", r"a\.json: expected JSON, got"),
        ("a.json", b"3", r"a\.json: expected a list, got int"),
        ("a.json", b'{"a": 1}\n[', r"a\.json:2: expected a whole JSON object on each line"),
        ("a.csv", b"a,a\n1,2\n", r"a\.csv:1: expected a row of different names of columns, got"),
        ("a.csv", b"a,b\n1,2\n3\n", r"a\.csv:3: expected 2 fields, got 1"),
        ("a.csv", b'a,b\n1,"2\n', r"a\.csv:2: expected CSV, got: unexpected end of data"),
        ("a.csv", b"a,b\n1,\xff\n", r"a\.csv: expected UTF-8, got byte 0xff at 6"),
        ("a.xlsx", b"", r"a\.xlsx: expected a file named \.jsonl, \.ndjson, .*tfds:NAME/SPLIT"),
        ("a.pkl", b"", r"a\.pkl: expected a file named"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, told, tmp_path):
    with pytest.raises(UserError, match=told):
        rows(write(tmp_path / name, content))


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl: cannot be read: no such file"):
        read_file(str(tmp_path / "no.jsonl"))
    with pytest.raises(UserError, match=r"a\.jsonl: expected records, got none"):
        read_file(str(write(tmp_path / "a.jsonl", b"")))
    with pytest.raises(UserError, match="is a folder; name its files"):
        read_file(str(tmp_path))


def test_a_data_set_of_tfds(tmp_path):
    items = {
        "train": [Ranking("p", ("a", "\u00e9"), (1, 0))],
        "test": [Ranking("q", ("a", "b"), (0, 1))],
    }
    folder = write_dataset(tmp_path, "rankings", items)
    found = read_file(f"tfds:{folder}/train")
    assert found.records("rankings") == items["train"] and not found.test and found.sha256 is None
    assert read_file(f"tfds:{folder}/test").test
    for name in (f"tfds:{folder}/none", "tfds:no_such_data_set/train", "tfds:x"):
        with pytest.raises(UserError, match="cannot be read as tfds:NAME/SPLIT: "):
            read_file(name)


def test_values_of_tfds_are_plain():
    value = {
        "a": np.array([b"x", b"y"], object),
        "b": [{"c": np.int64(3)}],
        "d": (np.float32(0.5),),
    }
    assert files._plain(value) == {"a": ["x", "y"], "b": [{"c": 3}], "d": [0.5]}


def test_a_file_of_the_hub(tmp_path, monkeypatch):
    path, asked = write(tmp_path / "train.jsonl", LINES), []

    def fetch(repo_id, repo_type, filename):
        asked.append((repo_id, repo_type, filename))
        if filename != "data/train.jsonl":
            raise ValueError("404 Client Error\nmore")
        return str(path)

    listing = lambda self, repo_id, repo_type: ["b.parquet", "a.jsonl"]
    hub = types.SimpleNamespace(
        hf_hub_download=fetch, HfApi=type("HfApi", (), {"list_repo_files": listing})
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    found = read_file("hub:someone/set/data/train.jsonl")
    assert asked == [("someone/set", "dataset", "data/train.jsonl")]
    assert len(found.records("demonstrations")) == 2 and found.name.startswith("hub:")
    with pytest.raises(UserError, match=r"with one of a\.jsonl, b\.parquet"):
        read_file("hub:someone/set")
    with pytest.raises(UserError, match=r"hub:someone/set/x: cannot be fetched: 404 Client Error$"):
        read_file("hub:someone/set/x")
    with pytest.raises(UserError, match="hub:someone: expected hub:OWNER/NAME/FILE"):
        read_file("hub:someone")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub: pip install 'rlhf-jax\[hub\]'"):
        read_file("hub:someone/set/data/train.jsonl")


def test_extras_that_are_not_installed_are_named(tmp_path, monkeypatch):
    for module, name in (("pyarrow", "a.parquet"), ("zstandard", "a.jsonl.zst")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=rf"needs {module}: pip install 'rlhf-jax\[data\]'"):
            read_file(str(write(tmp_path / name, b"x")))


def test_text(tmp_path):
    wiki = tmp_path / "wiki.txt"
    first = " \n = One = \n \n text , a = b \n x = 1 = \n \n = = Part = = \n \n more \n"
    second = " \n = Two @-@ B = \n \n end \n"
    wiki.write_text(first + second)
    assert read_text(wiki) == [first, second]
    assert read_file(str(wiki)).records("text") == [Text(first), Text(second)]
    plain = tmp_path / "plain.txt.gz"
    plain.write_bytes(gzip.compress(b"A:\none\n\nB:\ntwo\n\n\nC:\nthree"))
    assert read_text(plain, characters=1) == ["A:\none\n\n", "B:\ntwo\n\n\n", "C:\nthree"]
    assert read_text(plain, characters=9) == ["A:\none\n\nB:\ntwo\n\n\n", "C:\nthree"]
    wiki.write_bytes(b"a\xff")
    with pytest.raises(RecordError, match=r"wiki\.txt: expected UTF-8, got byte 0xff at 1"):
        read_text(wiki)


@pytest.mark.parametrize(
    ("name", "count"),
    [("wikitext-2/valid.txt", 60), ("wikitext-2/test.txt", 60), ("tinyshakespeare/input.txt", 498)],
)
def test_real_text(name, count, human_data):
    documents = read_text(human_data / name)
    assert len(documents) == count
    assert "".join(documents) == (human_data / name).read_text(encoding="utf-8")


def test_a_table_gives_records(tmp_path):
    table = b"Question,Best Answer,Best Incorrect Answer\nhello,hi,yo\n"
    (ranking,) = read_file(str(write(tmp_path / "a.csv", table))).records("rankings")
    assert ranking.responses == ("hi", "yo")
    assert read_file(str(write(tmp_path / "b.csv", TABLE))).records("demonstrations") == [
        Demonstration("a\u00e9", ' "b",\n'), Demonstration("c", "d")]  # fmt: skip
