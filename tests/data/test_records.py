import gzip
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.data import records
from rlhf_jax.data.messages import ROLES, Message, plain
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Prompt,
    Ranking,
    Scored,
    Text,
    read_jsonl,
    write_jsonl,
)
from rlhf_jax.errors import RecordError

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
FILLED = PLAIN.filter(bool)
LABELER = st.none() | FILLED
OUTPUTS = st.lists(st.tuples(PLAIN, st.integers(0, 9), st.booleans()), min_size=2, max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=3,
)  # fmt: skip
FIELDS = st.dictionaries(PLAIN.filter(lambda name: name != "prompt"), JSON, max_size=3)
CONTENT = st.sampled_from(["", "a", "\n\u2581 ", "<s>\u6f22"])
MESSAGES = st.builds(
    lambda before, last: [*before, Message("user", last)],
    st.lists(st.builds(Message, st.sampled_from(ROLES), CONTENT), max_size=1),
    CONTENT,
)
KINDS = {
    Conversation: st.builds(
        lambda before, reply: Conversation((*before, Message("assistant", reply))),
        MESSAGES,
        CONTENT,
    ),
    Text: st.builds(Text, FILLED),
    Prompt: st.builds(Prompt, FILLED, FIELDS),
    Demonstration: st.builds(Demonstration, FILLED | MESSAGES, PLAIN, labeler=LABELER),
    Ranking: st.builds(
        lambda p, o, labeler: Ranking(p, *zip(*o, strict=True), labeler), FILLED, OUTPUTS, LABELER
    ),
    Scored: st.builds(
        Scored, FILLED, PLAIN, st.floats(allow_nan=False, allow_infinity=False), LABELER
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_what_is_written_is_read(kind, name, tmp_path_factory):
    path = tmp_path_factory.mktemp("round") / name

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine
    @given(st.lists(KINDS[kind], max_size=5))
    def check(items):
        write_jsonl(path, items)
        assert read_jsonl(path, kind) == items

    check()


def test_comparison_lines_are_rankings(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(
        '{"prompt": "p", "chosen": "a", "rejected": "b"}\n'
        '{"prompt": "p", "chosen": "a", "rejected": "", "tie": true}\n'
        '{"prompt": "p", "chosen": "a", "rejected": "b", "tie": false, "labeler": "anna"}\n'
    )
    assert read_jsonl(path, Ranking) == [
        Ranking("p", ("a", "b"), (0, 1)),
        Ranking("p", ("a", ""), (0, 0)),
        Ranking("p", ("a", "b"), (0, 1), labeler="anna"),
    ]


def test_messages_are_prompts_and_conversations(tmp_path):
    path = tmp_path / "c.jsonl"
    turns = '[{"role": "system", "content": "s"}, {"role": "user", "content": ""}'
    path.write_text(
        f'{{"prompt": {turns}], "response": "a"}}\n'
        f'{{"messages": {turns}, {{"role": "assistant", "content": "a", "name": null}}]}}\n'
        '{"prompt": "abcd", "response": "e", "trained": [[1, 2], [3, 4]]}\n'
    )
    before = (Message("system", "s"), Message("user", ""))
    one, whole, spans = read_jsonl(path, Demonstration)
    assert one == Demonstration(before, "a")
    assert whole == Conversation((*before, Message("assistant", "a")))
    assert (whole.prompt, whole.response) == (one.prompt, one.response)
    assert spans == Demonstration("abcd", "e", ((1, 2), (3, 4)))
    assert plain(before) == "system: s\n\nuser: "


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "field 'messages': expected at least one message, got []"),
        ("hi", "field 'messages': expected a list of messages, got 'hi'"),
        ([{"role": "tool", "content": "3"}], "field 'messages[0].role': tools are not supported"),
        ([{"role": "user", "tool_calls": []}], "field 'messages[0].tool_calls': tools are not sup"),
        ([{"role": "user"}], "field 'messages[0]': expected a message with a content"),
        ([{"role": "user", "content": [1]}], "field 'messages[0].content': expected a string"),
        ([{"role": "bot", "content": ""}], "field 'messages[0].role': expected one of system, us"),
        ([{"role": "user", "content": "a"}], "expected a last message of the assistant, got 'user"),
        ([{"role": "assistant", "content": "a"}], "expected a message before the assistant's"),
    ],
)
def test_messages_that_are_refused(messages, message):
    with pytest.raises(RecordError) as caught:
        records.from_json({"messages": messages}, Demonstration)
    assert message in str(caught.value)


@pytest.mark.parametrize("trained", [3, [1], [[2, 1]], [[0, 9]], [[0, 2], [1, 3]], [[0, "1"]]])
def test_spans_that_are_refused(trained):
    with pytest.raises(RecordError, match="field 'trained': expected"):
        Demonstration("abc", "", trained)


GOOD = {
    Conversation: '{"messages": [{"role": "user", "content": "a"}, '
    '{"role": "assistant", "content": "b"}]}',
    Text: '{"text": "a"}',
    Prompt: '{"prompt": "a"}',
    Demonstration: '{"prompt": "a", "response": "b"}',
    Ranking: '{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 1]}',
    Scored: '{"prompt": "a", "response": "b", "score": 3}',
}
CUT = b'{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 1], "ended": '
BAD = [
    (Text, b"\xff\xfe", "expected UTF-8, got byte 0xff"),
    (Text, b"   ", "expected a JSON object, got an empty line"),
    (Text, b'{"text": "a"', "expected JSON, got"),
    (Text, b"[" * 100_000, "nested too deep"),
    (Text, b'["a"]', "field '(line)': expected a JSON object, got ['a']"),
    (Text, b"[", "expected a whole JSON object on each line (JSONL), got the first line of a lon"),
    (Text, b" {", "expected a whole JSON object on each line (JSONL)"),
    (Text, b"{}", "field 'text': each line needs the field text; this line has: no field"),
    (Text, b'{"id": 1, "body": ""}', "the field text; this line has: id, body"),
    (Text, b'{"text": "a", "id": 1}', "field 'id': expected text only, got this field too"),
    (Text, b'{"text": "a", "text": "b"}', "field 'text': expected once, got 2 times"),
    (Text, b'{"text": 3}', "field 'text': expected a string, got 3"),
    (Text, b'{"text": null}', "field 'text': expected a string, got None"),
    (Text, b'{"text": ""}', "field 'text': expected a string that is not empty, got ''"),
    (Text, b'{"text": "a\\u0000"}', "field 'text': expected text without NUL"),
    (Text, b'{"text": "\\ud800"}', "field 'text': expected text that UTF-8 can hold"),
    (
        Prompt,
        b'{"prompt": ["a"]}',
        'field \'prompt[0]\': expected a message {"role", "content"}, g',
    ),
    (Prompt, b'{"answer": "a"}', "field 'prompt': each line needs the field prompt; "),
    (Prompt, b'{"prompt": "a", "answer": NaN}', "field 'answer': expected a JSON value of fini"),
    (Prompt, b'{"prompt": "a", "b": [1, {"c": 1e999}]}', "field 'b': expected a JSON value of f"),
    (Prompt, b'{"prompt": "a", "b": ' + b"7" * 5000 + b"}", "got a number of 5000 digits"),
    (Prompt, b'{"prompt": "a", "b": "\\ud800"}', "field 'b': expected a JSON value of finite"),
    (Prompt, b'{"prompt": "a", "\\ud800": 1}', r"field '\ud800': expected a JSON value of fini"),
    (Scored, b'{"prompt": "a", "response": "b"}', "field 'score': each line needs the fields pro"),
    (
        Scored,
        b'{"prompt": "a", "response": "b", "score": "3"}',
        "expected a finite number, got '3'",
    ),
    (Scored, b'{"prompt": "a", "response": "b", "score": true}', "expected a finite number, got T"),
    (
        Scored,
        b'{"prompt": "a", "response": "b", "score": NaN}',
        "expected a finite number, got nan",
    ),
    (Demonstration, b'{"prompt": "a"}', "field 'response': each line needs the fields prompt and"),
    (Demonstration, b'{"prompt": "", "response": "b"}', "field 'prompt': expected a string that"),
    (Demonstration, b'{"prompt": "a", "response": 1}', "field 'response': expected a string"),
    (Ranking, b'{"prompt": "a", "responses": "bc", "ranks": [0, 1]}', "'responses': expected a l"),
    (Ranking, b'{"prompt": "a", "responses": ["b"], "ranks": [0]}', "at least 2 responses"),
    (Ranking, b'{"prompt": "a", "responses": ["b", 2], "ranks": [0, 1]}', "'responses[1]': exp"),
    (Ranking, b'{"prompt": "a", "responses": ["b", "c"], "ranks": [0]}', "expected 2 ranks, one"),
    (Ranking, b'{"prompt": "a", "responses": ["b", "c"], "ranks": [0, -1]}', "'ranks[1]': expec"),
    (Ranking, b'{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 1.0]}', "'ranks[1]': exp"),
    (Ranking, b'{"prompt": "a", "responses": ["b", "c"], "ranks": [0, true]}', "'ranks[1]': ex"),
    (Ranking, b'{"prompt": "a", "responses": ["b", "c"], "ranks": [0, 2147483648]}', "'ranks[1]':"),
    (
        Prompt,
        b'{"prompt": ' + b"7" * 5000 + b"}",
        "'prompt': expected a string, got a number of 5000",
    ),
    (
        Ranking,
        b'{"prompt": "a", "responses": ["b", "c"], "ranks": [0, ' + b"7" * 5000 + b"]}",
        "'ranks[1]': expected a whole number in [0, 2147483648), got a number of 5000 digits",
    ),
    (Ranking, CUT + b"null}", "a list"),
    (Ranking, CUT + b"[true]}", "2 va"),
    (Ranking, CUT + b'[true, true], "labeler": null}', "'labeler': expected a string, got None"),
    (Demonstration, b'{"prompt": "a", "response": "b", "labeler": 3}', "'labeler': expected a s"),
    (Scored, b'{"prompt": "a", "response": "b", "score": 3, "labeler": ""}', "'labeler': expec"),
    (Ranking, CUT + b"[true, 1]}", "[1]"),
    (Ranking, b'{"prompt": "a", "chosen": "b", "rejected": "c", "ended": [true, true]}', "'ended'"),
    (Ranking, b'{"prompt": "a", "chosen": "b"}', "field 'rejected': each line needs the fields p"),
    (Ranking, b'{"prompt": "a", "chosen": 1, "rejected": "b"}', "field 'chosen': expected a str"),
    (Ranking, b'{"prompt": "a", "chosen": "b", "rejected": "c", "tie": 1}', "'tie': expected tr"),
    (Ranking, b'{"prompt": "a", "chosen": "b", "rejected": "c", "ranks": []}', "field 'ranks'"),
]


@pytest.mark.parametrize(("kind", "line", "message"), BAD)
def test_a_malformed_line_is_named_in_one_line(kind, line, message, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD[kind].encode() + b"\n" + line + b"\n")
    with pytest.raises(RecordError) as caught:
        read_jsonl(path, kind)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_unreadable_files(tmp_path):
    with pytest.raises(RecordError, match=r"no\.jsonl: cannot be read: No such file"):
        read_jsonl(tmp_path / "no.jsonl", Text)
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text('{"text": "a"}\n')
    with pytest.raises(RecordError, match="expected a whole gzip file"):
        read_jsonl(plain, Text)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-12])
    with pytest.raises(RecordError, match="expected a whole gzip file"):
        read_jsonl(cut, Text)


def test_records_hold_plain_tuples_of_ints():
    ranking = Ranking("p", ["a", "b"], [np.int64(1), np.int64(0)])
    assert ranking == Ranking("p", ("a", "b"), (1, 0))
    assert json.dumps(records.to_json(ranking)) == (
        '{"prompt": "p", "responses": ["a", "b"], "ranks": [1, 0]}'
    )


def test_a_prompt_keeps_its_further_fields(tmp_path):
    line = {"prompt": "p", "answer": "42", "tests": [{"in": 1.5}, None], "fields": {"a": True}}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read_jsonl(tmp_path / "a.jsonl", Prompt)
    fields = {name: value for name, value in line.items() if name != "prompt"}
    assert found == Prompt("p", fields) != Prompt("p") and found.fields == fields
    assert records.to_json(found) == line and records.to_json(Prompt("p")) == {"prompt": "p"}
    assert len({found, Prompt("p"), Prompt("p", {"answer": "42"})}) == 3
    made = Prompt("p", fields)
    fields["tests"].append("later")  # what it was made from is its own no more
    assert made == found


@pytest.mark.parametrize(
    "fields", [{"prompt": "q"}, {1: 2}, {"a": np.float32(1)}, "ab", {"a": b""}]
)
def test_what_no_further_field_can_be(fields):
    with pytest.raises(RecordError):
        Prompt("p", fields)


def test_all_broken_lines_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    good, cut = '{"text": "a"}\n', '{"text": "a\n'
    path.write_text(good + cut)
    with pytest.raises(RecordError, match=r"a.jsonl:2: [^:]*: Unterminated .* \(column 10\)$"):
        read_jsonl(path, Text)
    path.write_text(good + cut + good + 4 * cut)
    with pytest.raises(RecordError, match=r"jsonl:2: .*; 4 more broken: lines 4, 5, 6, ...$"):
        read_jsonl(path, Text)
    path.write_text(good + '{"text": 1}\n' + cut)  # what can be parsed is read first
    with pytest.raises(RecordError, match=r"jsonl:2: field 'text'"):
        read_jsonl(path, Text)


def test_a_line_says_which_responses_ended_only_where_one_was_cut(tmp_path):
    whole, cut = Ranking("p", ("a", "b"), (0, 1)), Ranking("p", ("a", "b"), (0, 1), [True, False])
    assert whole.ended == (True, True) and "ended" not in records.to_json(whole)
    assert json.dumps(records.to_json(cut)).endswith('"ranks": [0, 1], "ended": [true, false]}')
    write_jsonl(tmp_path / "a.jsonl", [whole, cut])
    assert [r.ended for r in read_jsonl(tmp_path / "a.jsonl", Ranking)] == [whole.ended, cut.ended]


def test_ranks_are_kept_dense_and_the_best_is_0():
    """So that a file that counts from 1, or with gaps, says what it means."""
    same = {
        (1, 2, 2): (0, 1, 1),
        (5, 3, 9): (1, 0, 2),
        (4, 4, 4): (0, 0, 0),
        (0, 2**31 - 1): (0, 1),
    }
    for ranks, kept in same.items():
        ranking = Ranking("p", ("a", "b", "c")[: len(ranks)], ranks)
        assert ranking.ranks == kept
        assert ranking.tied == (set(kept) == {0})


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [Text("old")])

    def failing():
        yield Text("new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, failing())
    assert read_jsonl(path, Text) == [Text("old")]
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_interrupted_rename_leaves_no_debris(tmp_path, monkeypatch):
    def interrupted(*_):
        raise OSError("disk full")

    monkeypatch.setattr(records.os, "replace", interrupted)
    with pytest.raises(OSError, match="disk full"):
        write_jsonl(tmp_path / "a.jsonl", [Text("a")])
    assert list(tmp_path.iterdir()) == []
