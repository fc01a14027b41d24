"""Files of known formats as one folder of records, and what the folder says of their origin."""

import json

import pytest

from rlhf_jax.cli import command, help_of
from rlhf_jax.data import about
from rlhf_jax.data.collect import DataOptions, collect
from rlhf_jax.data.folder import read_folder
from rlhf_jax.data.formats import known
from rlhf_jax.data.messages import Message
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, read_jsonl
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.sources import corpora
from rlhf_jax.sources.folder import FolderData


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(text):
    return [{"role": "user", "content": text}]


def chat(question, answer, **more):
    return {"messages": [*asked(question), {"role": "assistant", "content": answer}], **more}


@pytest.fixture
def chats(tmp_path):
    """20 questions of 4 users, the last 5 with long common beginnings, one with an address."""
    rows = [chat(f"{i} {'?' * 5}", f"answer {i}", who=i % 4) for i in range(14)]
    rows += [chat("mail me@here.org", "no", who=0)]
    rows += [chat(f"a long beginning and {i}", "yes", who=1) for i in range(5)]
    return lines(tmp_path / "chats.jsonl", *rows)


def test_files_become_a_folder_that_a_run_reads(chats, tmp_path, capsys):
    good, bad = ([{"role": "assistant", "content": text}] for text in "ab")
    rows = [{"prompt": asked(f"q{i}"), "chosen": good, "rejected": bad} for i in range(3)]
    pairs = lines(tmp_path / "pairs.jsonl", *rows)
    folder = tmp_path / "records"
    assert command(["data", chats, pairs, "--to", str(folder)]) == 0
    told = capsys.readouterr().out
    assert f"data: {chats}: messages, licence not known: 20 rows, 20 demonstrations\n" in told
    assert f"data: {folder / 'rankings.train.jsonl'}: 3 records\n" in told
    assert sorted(file.name for file in folder.iterdir()) == [
        "about.json", "demonstrations.train.jsonl", "rankings.train.jsonl"]  # fmt: skip
    demonstrations = read_jsonl(folder / "demonstrations.train.jsonl", Demonstration)
    assert demonstrations[0] == Demonstration((Message("user", "0 ?????"),), "answer 0")
    splits, counts = read_folder(str(folder), share=0.2)
    assert len(splits["rankings"]["train"]) + len(splits["rankings"]["valid"]) == 3
    assert counts["origin"] == {
        "licences": dict.fromkeys((chats, pairs), "licence not known"),
        "test_sets": [],
    }


def test_messages_without_template_and_tokenizer_are_refused_before_a_tokenizer_is_trained(
    chats, tmp_path
):
    collect([chats], DataOptions(to=tmp_path / "to"))
    with pytest.raises(UserError, match=r"demonstrations\.train, record 1: .* got messages: name"):
        corpora.prepare(FolderData(path=str(tmp_path / "to")), tmp_path / "run", 300, 0)
    texts = corpora.training_texts(FolderData(path=str(tmp_path / "to")).records(0)[0])
    assert "user: 0 ?????answer 0" in texts


def test_hygiene_is_counted(chats):
    kept = lambda **options: collect([chats], DataOptions(**options))
    assert kept(drop_personal=True) == {"demonstrations.train.jsonl": 19}
    assert kept(prefix_characters=20) == {"demonstrations.train.jsonl": 16}
    assert kept(user="who", per_user=3) == {"demonstrations.train.jsonl": 12}
    assert kept(user="who", per_user=1, drop_personal=True) == {"demonstrations.train.jsonl": 4}


def test_further_fields_of_prompts_are_searched_too(tmp_path):
    rows = [{"prompt": "a", "who": "u", "more": {"from": ["me@here.org"]}},
            {"prompt": "b", "who": "u", "id": 5552345678}]  # fmt: skip
    path, to = lines(tmp_path / "a.jsonl", *rows), tmp_path / "to"
    collect([path], DataOptions(to=to, user="who", drop_personal=True))
    assert read_jsonl(to / "prompts.ppo.jsonl", Prompt) == [Prompt("b", {"id": 5552345678})]
    assert about.read(to)[0]["cleaned"]["with a possible e-mail address"] == 1


def test_a_user_is_on_one_side_if_other_rows_have_none(tmp_path):
    users = [None, *(f"u{i % 3}" for i in range(60))]
    rows = [{"prompt": f"{i} asks", "who": user} for i, user in enumerate(users)]
    options = DataOptions(to=tmp_path / "to", user="who", held_out=0.3)
    collect([lines(tmp_path / "a.jsonl", *rows)], options)
    sides = [{prompt.fields["who"] for prompt in read_jsonl(tmp_path / "to" / name, Prompt)}
             for name in ("prompts.ppo.jsonl", "prompts.test.jsonl")]  # fmt: skip
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(users)


def test_the_counts_of_hygiene_are_told_and_kept(chats, tmp_path, capsys):
    options = {"drop_personal": True, "prefix_characters": 20, "user": "who", "per_user": 3}
    collect([chats], DataOptions(to=tmp_path / "to", **options))
    told = capsys.readouterr().out
    (source,) = about.read(tmp_path / "to")
    expected = {"with a possible e-mail address": 1, "with a possible card number": 0,
                "with a possible telephone number": 0, "with the beginning of an earlier prompt": 4,
                "beyond the first 3 prompts of a user": 3}  # fmt: skip
    assert source["cleaned"] == expected
    assert source["counts"] == {"rows": 20, "demonstrations": 20}
    assert source["source"] == "https://huggingface.co/docs/trl/dataset_formats"
    for what, count in expected.items():
        assert f"data: left out: {count} records {what}\n" in told


def test_a_systems_turn_is_no_beginning_of_a_prompt(tmp_path):
    row = lambda text: {
        "messages": [{"role": "system", "content": "s" * 50}, *chat(text, "a")["messages"]]
    }
    path = lines(tmp_path / "a.jsonl", row("one"), row("two"), row("one"))
    assert collect([path], DataOptions(prefix_characters=12)) == {"demonstrations.train.jsonl": 2}


def test_users_or_prompts_are_held_out_as_wholes(chats, tmp_path):
    for number, options in enumerate(({"user": "who"}, {"prefix_characters": None})):
        folder = tmp_path / str(number)
        options = DataOptions(
            to=folder, held_out=0.25, kinds=("demonstrations", "prompts"), **options
        )
        counts = collect([chats], options)
        assert counts["prompts.test.jsonl"] == counts["demonstrations.valid.jsonl"] > 2
        assert counts["prompts.ppo.jsonl"] + counts["prompts.test.jsonl"] == 20
        sides = [{record.prompt for record in read_jsonl(folder / f"prompts.{split}.jsonl", Prompt)}
                 for split in ("ppo", "test")]  # fmt: skip
        assert not sides[0] & sides[1]
        if number == 0:  # by user: a user's questions are numbered alike modulo 4
            users = [{int(p[0].content.split()[0]) % 4 for p in side if p[0].content[0].isdigit()}
                     for side in sides]  # fmt: skip
            assert not users[0] & users[1]


def test_a_test_set_is_trained_on_only_if_that_is_allowed(tmp_path, capsys):
    row = {"question": "1 + 1?", "answer": "#### 2"}
    (tmp_path / "gsm8k").mkdir()
    path = lines(
        tmp_path / "gsm8k" / "test.jsonl", row, row | {"question": "2?"}, row | {"question": "3?"}
    )
    folder = tmp_path / "records"
    collect([path], DataOptions(to=folder, kinds=("demonstrations",)))
    assert f"training on {folder} needs data.allow_test" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"data\.allow_test = False: must be True to train on "):
        FolderData(path=str(folder)).records(0)
    _, counts = FolderData(path=str(folder), allow_test=True).records(0)
    assert counts["origin"] == {"licences": {path: "MIT"}, "test_sets": [path]}
    assert about.sentences(counts) == [
        f"Trained on {path} (MIT).",
        f"Trained on public test sets: {path}. Scores on them say nothing about these models.",
    ]
    assert about.sentences({}) == []
    other = tmp_path / "other"  # a test set that is held out needs no permission
    collect([path], DataOptions(to=other, kinds=("demonstrations",), split="valid"))
    collect([lines(tmp_path / "a.jsonl", {"prompt": "p", "response": "r"})], DataOptions(to=other))
    _, counts = FolderData(path=str(other)).records(0)
    assert counts["origin"] == {"licences": {str(tmp_path / "a.jsonl"): "licence not known"},
                                "test_sets": []}  # fmt: skip
    assert FolderData(path=str(other)).files()[1][-1] == "about.json"


@pytest.mark.parametrize(
    ("name", "test"),
    [("test.jsonl", True), ("my-test-set.jsonl", True), ("testset-v1.jsonl", True),
     ("eval_1.jsonl", True), ("latest.jsonl", False), ("medieval.jsonl", False),
     ("train.jsonl", False), ("attestation.jsonl", False), ("test/0000.jsonl", True),
     ("test/en/0000.jsonl", True), ("test/train.jsonl", False), ("test/data/train/0.jsonl", False),
     ("train/test-set/0.jsonl", True), ("testimony/0.jsonl", False)],
)  # fmt: skip
def test_a_files_name_says_whether_it_is_a_test_set(name, test, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    path = lines(tmp_path / name, {"prompt": "p", "response": "r"})
    collect([path], DataOptions(to=tmp_path / "to"))
    assert about.read(tmp_path / "to")[0]["test"] is test


def test_a_test_set_is_known_under_another_name(human_data, tmp_path):
    copy = tmp_path / "a.jsonl.gz"
    copy.write_bytes((human_data / "hh-rlhf/harmless-base/test.jsonl.gz").read_bytes())
    collect([str(copy)], DataOptions(to=tmp_path / "to"))
    assert about.read(tmp_path / "to")[0]["test"]
    assert len(read_jsonl(tmp_path / "to" / "rankings.train.jsonl", Ranking)) == 2307


def test_records_that_are_there_stay(chats, tmp_path):
    collect([chats], DataOptions(to=tmp_path / "to"))
    before = {file: file.read_bytes() for file in (tmp_path / "to").iterdir()}
    with pytest.raises(UserError, match=r"demonstrations\.train\.jsonl: is there already; remove"):
        collect([chats], DataOptions(to=tmp_path / "to"))
    assert {file: file.read_bytes() for file in (tmp_path / "to").iterdir()} == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "data needs FILE..."),
        (("a.jsonl", "--per-user", "3"), "per_user = 3: must be None if no field is named as user"),
        (("a.jsonl", "--kinds", "songs"), "kinds = 'songs': must be some of text, demonstrations"),
        (("a.jsonl", "--held-out", "1"), r"held_out = 1\.0: must be in \[0, 1\)"),
        (("a.jsonl", "--held-out", ".1", "--split", "valid"), "must be 0 if split is valid"),
        (("a.jsonl", "--template", "tape"), "--template tape: expected"),
        (("a.jsonl",), r"a\.jsonl: cannot be read: no such file"),
    ],
)
def test_a_mistake_is_one_line(options, told):
    with pytest.raises(UserError, match=told):
        command(["data", *options])


def test_a_user_must_be_named_in_every_row(tmp_path):
    path = lines(tmp_path / "a.jsonl", chat("a", "b", who="u"), chat("c", "d"))
    with pytest.raises(UserError, match=r"a\.jsonl:2: field 'who' is missing \(user\)"):
        collect([path], DataOptions(user="who"))


@pytest.mark.parametrize("content", ["{}", '{"format": 0}', "[]", '{"format": 9, "sources": []}',
                                     '{"format": 0, "sources": [{"name": "a"}]}', "{"])  # fmt: skip
def test_a_damaged_origin_is_refused(content, tmp_path):
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(UserError, match=r"about\.json"):
        about.read(tmp_path)


def test_the_help_names_all_formats():
    told = " ".join(help_of("data").split())
    assert f" Names: {', '.join(known.BY_NAME)} (default" in told
