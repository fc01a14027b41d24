import gzip
import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.human import (
    find_human_data,
    read_hh,
    read_openassistant,
    read_pandalm,
    read_text,
    split_by_prompt,
)
from rlhf_jax.data.records import Demonstration, Prompt, Ranking
from rlhf_jax.errors import ConfigError, RecordError, UserError

HELLO = "\n\nHuman: hello\n\nAssistant:"


def write(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_hh(tmp_path):
    longer = f"{HELLO} hi\n\nHuman: who?\n\nAssistant:"
    path = write(
        tmp_path / "hh.jsonl",
        {"chosen": f"{HELLO} hi", "rejected": HELLO},
        {"chosen": f"{longer} me", "rejected": f"{longer} you"},
        {"chosen": f"{longer} me", "rejected": f"{HELLO} go"},
    )
    rankings, counts = read_hh(path)
    assert rankings == [
        Ranking(HELLO, (" hi", ""), (0, 1)),
        Ranking(longer, (" me", " you"), (0, 1)),
    ]
    assert counts == {"pairs": 3, "kept": 2, "prompts_differ": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"chosen": "hello", "rejected": HELLO}, "field 'chosen': expected '\\n\\nHuman:"),
        ({"chosen": HELLO, "rejected": "\n\nHuman: a"}, "field 'rejected': expected '\\n\\nHuman:"),
        ({"chosen": HELLO}, "field 'rejected' is missing: there are chosen"),
        ({"chosen": HELLO, "rejected": 1}, "field 'rejected': expected str, got 1"),
        ([], "expected a JSON object, got list"),
    ],
)
def test_malformed_hh(line, message, tmp_path):
    path = write(tmp_path / "hh.jsonl", {"chosen": HELLO, "rejected": HELLO}, line)
    with pytest.raises(RecordError) as caught:
        read_hh(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def node(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


def test_openassistant(tmp_path):
    follow_up = node(
        "prompter",
        "why?",
        node("assistant", "so", rank=1),
        node("assistant", "thus", rank=0),
    )
    tree = node(
        "prompter",
        "hello",
        node("assistant", "yo", node("prompter", "end"), rank=2),
        node("assistant", "hi", follow_up, rank=0),
        node("assistant", "hey", rank=1),
    )
    partly = node("prompter", "a", node("assistant", "b", rank=0), node("assistant", "c"))
    single = node("prompter", "a", node("assistant", "b", rank=0))
    path = write(tmp_path / "trees.jsonl", *({"prompt": each} for each in (tree, partly, single)))
    rankings, demonstrations, counts = read_openassistant(path)
    deeper = f"{HELLO} hi\n\nHuman: why?\n\nAssistant:"
    assert rankings == [
        Ranking(HELLO, (" yo", " hi", " hey"), (2, 0, 1)),
        Ranking(deeper, (" so", " thus"), (1, 0)),
    ]
    assert demonstrations == [Demonstration(HELLO, " hi"), Demonstration(deeper, " thus")]
    assert counts == {
        "trees": 3, "prompts": 4, "ranked": 2, "partly_ranked": 1, "unranked": 1, "pairs": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "field 'prompt' is missing"),
        ({"prompt": node("system", "a")}, "field 'role': expected prompter or assistant"),
        ({"prompt": node("prompter", None)}, "field 'text': expected str, got None"),
        (
            {"prompt": node("prompter", "a", *(node("assistant", "b", rank=r) for r in (0, "1")))},
            "field 'ranks[1]': expected a whole number",
        ),
    ],
)
def test_malformed_openassistant(tree, message, tmp_path):
    path = write(tmp_path / "trees.jsonl", tree)
    with pytest.raises(RecordError) as caught:
        read_openassistant(path)
    assert str(caught.value).startswith(f"{path}:1: ")
    assert message in str(caught.value)


def pair(votes, response1="one", response2="two", text=""):
    return {
        "instruction": "hello", "input": text, "response1": response1, "response2": response2,
        **{f"annotator{n}": vote for n, vote in enumerate(votes, 1)},
    }  # fmt: skip


def test_pandalm(tmp_path):
    path = tmp_path / "pandalm.json"
    pairs = [
        pair((1, 1, 0)),
        pair((2, 0, 2), text="more"),
        pair((0, 0, 1)),
        pair((2, 1, 0)),
        pair((1, 1, 1), response1=True),
    ]
    path.write_text(json.dumps(pairs))
    rankings, counts = read_pandalm(path)
    assert rankings == [
        Ranking(HELLO, (" one", " two"), (0, 1)),
        Ranking("\n\nHuman: hello\n\nmore\n\nAssistant:", (" one", " two"), (1, 0)),
        Ranking(HELLO, (" one", " two"), (0, 0)),
        Ranking(HELLO, (" one", " two"), (0, 0)),
        Ranking(HELLO, (" True", " two"), (0, 1)),
    ]
    assert counts == {"pairs": 5, "decided": 3, "ties": 2, "no_majority": 1, "not_text": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("{}", "expected a list, got dict"),
        (json.dumps([pair((0, 1, 2)), pair((0, 1, 3))]), r"\[1\]: annotators: expected 0, 1 or 2"),
        (json.dumps([pair((0, 1))]), r"\[0\]: field 'annotator3' is missing"),
        (json.dumps([pair((0, 1, 1), response2=4)]), "field 'response2': expected str/bool, got 4"),
    ],
)
def test_malformed_pandalm(content, message, tmp_path):
    path = tmp_path / "pandalm.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=message):
        read_pandalm(path)


def test_text(tmp_path):
    wiki = tmp_path / "wiki.txt"
    first = " \n = One = \n \n text , a = b \n x = 1 = \n \n = = Part = = \n \n more \n"
    second = " \n = Two @-@ B = \n \n end \n"
    wiki.write_text(first + second)
    assert read_text(wiki) == [first, second]
    plain = tmp_path / "plain.txt.gz"
    plain.write_bytes(gzip.compress(b"A:\none\n\nB:\ntwo\n\n\nC:\nthree"))
    assert read_text(plain, characters=1) == ["A:\none\n\n", "B:\ntwo\n\n\n", "C:\nthree"]
    assert read_text(plain, characters=9) == ["A:\none\n\nB:\ntwo\n\n\n", "C:\nthree"]
    wiki.write_bytes(b"a\xff")
    with pytest.raises(RecordError, match=r"wiki\.txt: expected UTF-8, got byte 0xff at 1"):
        read_text(wiki)


def test_split_keeps_dialogues_and_long_prefixes_together():
    shared = "x" * 100
    prompts = ["ab", "abc", "abcd", "b", "c", "d", shared + "1", shared + "2", "y", "z"]
    for seed in range(30):
        train, held = split_by_prompt(prompts, 0.3, seed)
        assert sorted(train + held) == sorted(prompts)
        for together in (prompts[:3], prompts[6:8]):
            assert len(set(together) & set(held)) in (0, len(together))
    splits = {tuple(split_by_prompt(prompts, 0.3, seed)[1]) for seed in range(30)}
    assert len(splits) > 5


@given(
    st.lists(st.text("ab", min_size=1, max_size=6), min_size=2, max_size=40),
    st.floats(0.05, 0.95),
    st.integers(0, 99),
)
def test_no_prompt_is_on_both_sides(texts, fraction, seed):
    prompts = [Prompt("u" + text) for text in texts] + [Prompt("v")]
    train, held = split_by_prompt(prompts, fraction, seed, characters=4)
    assert Counter(train) + Counter(held) == Counter(prompts)
    assert train and held
    for a in train:
        for b in held:
            assert a.prompt[:4] != b.prompt[:4]
            assert not a.prompt.startswith(b.prompt) and not b.prompt.startswith(a.prompt)


def test_split_holds_out_about_the_fraction():
    prompts = [f"{i:04d}" for i in range(1000)]
    assert len(split_by_prompt(prompts, 0.1, 0)[1]) == 100
    assert split_by_prompt(prompts, 0.1, 0) == split_by_prompt(prompts, 0.1, 0)
    demonstrations = [Demonstration(prompt, " r") for prompt in prompts for _ in range(3)]
    train, held = split_by_prompt(demonstrations, 0.25, 1)
    assert len(held) == pytest.approx(750, abs=3)
    assert train == [each for each in demonstrations if each not in set(held)]


def test_what_cannot_be_split():
    with pytest.raises(ConfigError, match="all prompts begin alike"):
        split_by_prompt(["abc1", "abc2"], 0.5, 0, characters=3)
    with pytest.raises(ConfigError, match=r"fraction = 1\.0"):
        split_by_prompt(["a", "b"], 1.0, 0)


def test_where_the_data_is(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_JAX_DATA", str(tmp_path))
    assert find_human_data() == tmp_path
    (tmp_path / "other").mkdir()
    assert find_human_data(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(UserError, match="absent is no folder; set RLHF_JAX_DATA"):
        find_human_data(tmp_path / "absent")
    monkeypatch.delenv("RLHF_JAX_DATA")
    with pytest.raises(UserError, match="no folder named; set RLHF_JAX_DATA"):
        find_human_data()
    assert os.environ.get("RLHF_JAX_DATA") is None


def test_real_hh(human_data):
    rankings, counts = read_hh(human_data / "hh-rlhf/harmless-base/test.jsonl.gz")
    assert counts == {"pairs": 2312, "kept": 2307, "prompts_differ": 5}
    assert len(rankings) == 2307
    assert all(ranking.prompt.endswith("\n\nAssistant:") for ranking in rankings)


def test_real_openassistant(human_data):
    rankings, demonstrations, counts = read_openassistant(
        human_data / "oasst-en100/en_100_tree.jsonl"
    )
    assert counts == {
        "trees": 100, "prompts": 254, "ranked": 211, "partly_ranked": 1, "unranked": 42,
        "pairs": 751,
    }  # fmt: skip
    sizes = Counter(len(ranking.responses) for ranking in rankings)
    assert sizes == {2: 57, 3: 116, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}
    for ranking, demonstration in zip(rankings, demonstrations, strict=True):
        assert sorted(ranking.ranks) == list(range(len(ranking.ranks)))
        assert demonstration.response == ranking.responses[ranking.ranks.index(0)]
    train, held = split_by_prompt(rankings, 0.1, 0)
    assert len(held) == 21
    assert not {r.prompt[:100] for r in train} & {r.prompt[:100] for r in held}


def test_real_pandalm(human_data):
    rankings, counts = read_pandalm(human_data / "pandalm/testset-v1.json")
    assert counts == {"pairs": 999, "decided": 894, "ties": 105, "no_majority": 0, "not_text": 6}
    assert sum(ranking.ranks == (0, 0) for ranking in rankings) == 105


@pytest.mark.parametrize(
    ("name", "count"),
    [("wikitext-2/valid.txt", 60), ("wikitext-2/test.txt", 60), ("tinyshakespeare/input.txt", 498)],
)
def test_real_text(name, count, human_data):
    documents = read_text(human_data / name)
    assert len(documents) == count
    assert "".join(documents) == (human_data / name).read_text(encoding="utf-8")


DIALOGUE = "\n\nHuman: a\n\nAssistant: "


@pytest.mark.parametrize(
    "read, line",
    [
        (read_hh, {"chosen": DIALOGUE + "\0", "rejected": DIALOGUE}),
        (read_openassistant, {"prompt": {"text": "a", "role": "prompter", "replies": [None]}}),
    ],
)
def test_a_wrong_record_is_named_with_its_line(tmp_path, read, line):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(RecordError, match=r"a.jsonl:1: .*expected"):
        read(path)
