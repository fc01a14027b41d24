"""Each format: a row as its data set publishes it, and the records that it must become."""

import json

import pytest

from rlhf_jax.data.convert import Reading, read_file
from rlhf_jax.data.formats.known import BY_NAME
from rlhf_jax.data.messages import Message
from rlhf_jax.data.records import Conversation, Demonstration, Prompt, Ranking, Scored, Text
from rlhf_jax.errors import ConfigError, RecordError, UserError

HELLO = "\n\nHuman: hello\n\nAssistant:"


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


ASKED = (user("hello"),)
SAID = {"role": "user", "content": "hello"}
REPLY, OTHER = ({"role": "assistant", "content": text} for text in ("hi", "yo"))
LONGER = (user("hello"), assistant("hi"), user("why?"))


def node(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


def pandalm(votes, response1="one", response2="two", text=""):
    return {
        "instruction": "hello", "input": text, "response1": response1, "response2": response2,
        **{f"annotator{n}": vote for n, vote in enumerate(votes, 1)},
    }  # fmt: skip


TREE = node(
    "prompter",
    "hello",
    node("assistant", "yo", node("prompter", "end"), rank=2),
    node("assistant", "hi", node("prompter", "why?", node("assistant", "so", rank=1),
                                 node("assistant", "thus", rank=0)), rank=0),
    node("assistant", "hey", rank=1),
)  # fmt: skip
REVIEWED = node("prompter", "hello", node("assistant", "yo", rank=2),
                node("assistant", "hi", node("prompter", "why?"), rank=0, review_result=True),
                node("assistant", "ho", node("prompter", "a", *TREE["replies"]), rank=3,
                     deleted=True),
                node("assistant", "hu", review_result=False),
                node("assistant", "hey", rank=1))  # fmt: skip
PARTLY = node("prompter", "a", node("assistant", "b", rank=0), node("assistant", "c"))
SINGLE = node("prompter", "a", node("assistant", "b", rank=0))
TREES = [Ranking(ASKED, ("yo", "hi", "hey"), (2, 0, 1)), Ranking(LONGER, ("so", "thus"), (1, 0))]


def message(name, parent, role, text, rank=None):
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank}


FLAT = [
    message("1", None, "prompter", "hello"),
    message("2", "1", "assistant", "yo", 2.0),
    message("3", "2", "prompter", "end"),
    message("4", "1", "assistant", "hi", 0),
    message("5", "4", "prompter", "why?"),
    message("6", "1", "assistant", "hey", 1),
    message("7", "5", "assistant", "so", 1),
    message("8", "5", "assistant", "thus", 0),
]
POST = {"subreddit": "a", "title": "b", "post": "c"}
TLDR = (user("SUBREDDIT: r/a\n\nTITLE: b\n\nPOST: c\n\nTL;DR:"),)
JUDGE = (
    "###The instruction to evaluate:\nhello\n\n###Response to evaluate:\n{}\n\n###Score Rubrics:"
)
ASPECTS = [{"helpfulness": {"Rating": a}, "honesty": {"Rating": b}} for a, b in
           (("5", "4"), ("1", "2"), ("N/A", "N/A"))]  # fmt: skip
ULTRA = {"instruction": "hello", "completions": [
    {"response": r, "annotations": a, "overall_score": s}
    for r, a, s in zip(("x", "y", "z"), ASPECTS, (1.0, 10.0, 5.0), strict=True)]}  # fmt: skip
STEER = {"prompt": "hello", "response": "hi", "helpfulness": 3, "correctness": 4}
SAFE = {"prompt": "hello", "response_0": "x", "response_1": "y", "better_response_id": 1,
        "safer_response_id": 0}  # fmt: skip
COMPARED = [Ranking(ASKED, ("hi", "yo"), (0, 1))]
SHARED = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
# (format, rows, how, records, left out)
CASES = [
    ("messages", [{"messages": [SAID, REPLY], "id": 1}], {}, [Demonstration(ASKED, "hi")], {}),
    ("messages", [{"messages": [{"role": "system", "content": "s"}, SAID, REPLY, SAID, OTHER]}], {},
     [Conversation((Message("system", "s"), *ASKED, assistant("hi"), *ASKED, assistant("yo")))],
     {}),
    ("messages", [{"messages": [SAID, REPLY]}, {"messages": [SAID]},
                  {"messages": [REPLY, SAID, OTHER]},
                  {"messages": [SAID, {"role": "tool", "content": "3"}, REPLY]},
                  {"messages": [SAID, {"role": "assistant", "content": ""}]},
                  {"messages": [{"role": "user", "content": [{"type": "image"}]}, REPLY]}], {},
     [Demonstration(ASKED, "hi")],
     {"no assistant's turn at the end": 1, "no user's turn at the beginning": 1,
      "turns of tools": 1, "an empty turn": 1, "images or sound": 1}),
    ("TRL prompts and completions", [{"prompt": "1 +", "completion": " 1"}], {},
     [Demonstration("1 +", " 1")], {}),
    ("TRL prompts and completions", [{"prompt": [SAID], "completion": [REPLY]}], {},
     [Demonstration(ASKED, "hi")], {}),
    ("TRL unpaired preferences", [{"prompt": [SAID], "completion": [REPLY], "label": True},
                                  {"prompt": "a", "completion": "b", "label": False}], {},
     [Scored(ASKED, "hi", 1), Scored("a", "b", 0)], {}),
    ("TRL preferences", [{"prompt": [SAID], "chosen": [REPLY], "rejected": [OTHER]}], {}, COMPARED,
     {}),
    ("TRL preferences", [{"prompt": "a", "chosen": " b", "rejected": " c"}], {},
     [Ranking("a", (" b", " c"), (0, 1))], {}),
    ("TRL preferences", [{"prompt": HELLO, "chosen": " hi", "rejected": " yo"},
                         {"prompt": f"{HELLO} ", "chosen": "hi", "rejected": "yo"}], {},
     COMPARED * 2, {}),
    ("TRL preferences", [{"prompt": f"{HELLO} ", "chosen": "hi", "rejected": "yo"}],
     {"template": "human"}, [Ranking(HELLO, (" hi", " yo"), (0, 1))], {}),
    ("TRL preferences", [{"prompt": "hello", "chosen": [SAID, REPLY], "rejected": [SAID, OTHER]}],
     {}, COMPARED, {}),
    ("TRL preferences with implicit prompts",
     [{"chosen": [SAID, REPLY], "rejected": [SAID, OTHER]},
      {"chosen": "The sky is blue", "rejected": "The sky is black"},
      {"chosen": "same", "rejected": "same"}, {"chosen": "one", "rejected": "two"}], {},
     [*COMPARED, Ranking("The sky is", (" blue", " black"), (0, 1))],
     {"equal responses": 1, "no common prompt": 1}),
    ("prompts", [{"prompt": [SAID], "answer": 42}, {"prompt": "a"}], {},
     [Prompt(ASKED, {"answer": 42}), Prompt("a")], {}),
    ("prompts", [{"prompt": HELLO}], {}, [Prompt(ASKED)], {}),
    ("text", [{"text": "a b"}, {"text": ""}], {}, [Text("a b")], {"an empty text": 1}),
    ("demonstrations", [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": " "},
                        {"prompt": "", "response": "c"}], {},
     [Demonstration("a", "b")], {"an empty response": 1, "an empty prompt": 1}),
    ("scored responses", [{"prompt": "a", "response": "b", "score": 0.5}], {},
     [Scored("a", "b", 0.5)], {}),
    ("rankings", [{"prompt": "a", "responses": ["b", "c"], "ranks": [1, 0]}], {},
     [Ranking("a", ("b", "c"), (1, 0))], {}),
    ("strings", ["hello"], {}, [Prompt(ASKED)], {}),
    ("ShareGPT", [{"conversations": [{"from": "system", "value": ""}, *SHARED]},
                  {"conversations": [SHARED[0], {"from": "bing", "value": "yo"}]},
                  {"conversations": SHARED}], {},
     [Demonstration(ASKED, text) for text in ("hi", "yo", "hi")], {}),
    ("Alpaca", [{"instruction": "hello", "input": "", "output": "hi"},
                {"instruction": "Add.", "input": "1 2", "output": "3"},
                {"instruction": "a", "input": "", "output": ""}], {},
     [Demonstration(ASKED, "hi"), Demonstration((user("Add.\n\n1 2"),), "3")],
     {"an empty turn": 1}),
    ("Dolly", [{"instruction": "hello", "context": "", "response": "hi", "category": "qa"}], {},
     [Demonstration(ASKED, "hi")], {}),
    ("Self-Instruct", [{"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"},
                                                             {"input": "", "output": ""}]}], {},
     [Demonstration((user("Add.\n\n1 2"),), "3")], {"an empty turn": 1}),
    ("Anthropic HH", [{"chosen": f"{HELLO} hi", "rejected": HELLO},
                      {"chosen": f"{HELLO} hi\n\nHuman: why?\n\nAssistant: me",
                       "rejected": f"{HELLO} hi\n\nHuman: why?\n\nAssistant: you"},
                      {"chosen": f"{HELLO} hi\n\nHuman: why?\n\nAssistant: me",
                       "rejected": f"{HELLO} go"}], {},
     [Ranking(ASKED, ("hi", ""), (0, 1)), Ranking(LONGER, ("me", "you"), (0, 1))],
     {"prompts differ": 1}),
    ("Nectar", [{"prompt": "\n\nHuman: hello\n\nAssistant: ", "answers": [
        {"answer": "b", "rank": 2.0, "model": "m"}, {"answer": "a", "rank": 1.0},
        {"answer": "c", "rank": 7.0}]}], {}, [Ranking(ASKED, ("b", "a", "c"), (1, 0, 2))], {}),
    ("OpenAssistant trees", [{"prompt": tree} for tree in (TREE, PARTLY, SINGLE)], {}, TREES,
     {"only some replies ranked": 1, "no ranks, or a single reply": 1}),
    ("OpenAssistant messages", FLAT, {}, TREES, {}),
    ("OpenAssistant trees", [{"prompt": REVIEWED}, {"prompt": TREE | {"deleted": True}}], {},
     TREES[:1], {"a deleted message": 2, "a message that reviewers refused": 1}),
    ("OpenAssistant messages",
     [*FLAT[:3], FLAT[3] | {"review_result": True}, *FLAT[4:6], FLAT[6] | {"deleted": True},
      FLAT[7], message("9", "1", "assistant", "spam") | {"review_result": False}], {}, TREES[:1],
     {"no ranks, or a single reply": 1, "a deleted message": 1,
      "a message that reviewers refused": 1}),
    ("summarize-from-feedback comparisons",
     [{"info": POST, "summaries": [{"text": " x"}, {"text": "y"}], "choice": 1}], {},
     [Ranking(TLDR, ("x", "y"), (1, 0))], {}),
    ("summarize-from-feedback ratings",
     [{"info": {"article": "n"}, "summary": {"text": "x", "axes": {"overall": 5, "accuracy": 7}}},
      {"info": POST, "summary": {"text": "x", "axes": {"overall": None}}}], {},
     [Scored((user("Article: n\n\nTL;DR:"),), "x", 5)], {"no score of overall": 1}),
    ("WebGPT comparisons",
     [{"question": {"full_text": "hello"}, "answer_0": "x", "score_0": a, "answer_1": "y",
       "score_1": b} for a, b in ((-0.5, 0.5), (0, 0))], {},
     [Ranking(ASKED, ("x", "y"), (1, 0)), Ranking(ASKED, ("x", "y"), (0, 0))], {}),
    ("SHP", [{"history": "hello", "human_ref_A": "x", "human_ref_B": "y", "labels": label}
             for label in (1, 0)], {},
     [Ranking(ASKED, ("x", "y"), (0, 1)), Ranking(ASKED, ("x", "y"), (1, 0))], {}),
    ("PKU-SafeRLHF", [SAFE], {}, [Ranking(ASKED, ("x", "y"), (1, 0))], {}),
    ("PKU-SafeRLHF", [SAFE], {"by": "safer"}, [Ranking(ASKED, ("x", "y"), (0, 1))], {}),
    ("HelpSteer", [STEER, STEER | {"prompt": "hello\n<extra_id_1>Assistant\nhi\n<extra_id_1>User\n"
                                             "why?"}], {},
     [Scored(ASKED, "hi", 3), Scored(LONGER, "hi", 3)], {}),
    ("HelpSteer", [STEER], {"by": "correctness"}, [Scored(ASKED, "hi", 4)], {}),
    ("HelpSteer preferences",
     [{"context": [SAID], "response1": "x", "response2": "y", "overall_preference": p}
      for p in (-3, 2, 0)], {},
     [Ranking(ASKED, ("x", "y"), ranks) for ranks in ((0, 1), (1, 0), (0, 0))], {}),
    ("UltraFeedback", [ULTRA], {},
     [Ranking(ASKED, ("x", "y"), (0, 1)), Scored(ASKED, "x", 4.5), Scored(ASKED, "y", 1.5)],
     {"a response without aspects": 1}),
    ("UltraFeedback", [ULTRA | {"completions": [
        ULTRA["completions"][0] | {"annotations": {"helpfulness": {"Rating": "5"},
                                                   "honesty": {"Rating": "\u00b2"}}}]}], {},
     [Scored(ASKED, "x", 5)], {"responses without ranks, of which no rankings are made": 1}),
    ("HelpSteer", [STEER], {"kinds": ("scored", "demonstrations", "text")},
     [Scored(ASKED, "hi", 3)],
     {"scored responses, of which no demonstrations are made": 1,
      "prompts, of which no plain text is made": 1}),
    ("MT-Bench questions", [{"turns": ["hello"]}], {"kinds": ("prompts", "demonstrations")},
     [Prompt(ASKED, {"turns": ["hello"]})],
     {"prompts without a response, of which no demonstrations are made": 1}),
    ("text", [{"text": "a"}], {"kinds": ("prompts", "text")}, [Text("a")],
     {"texts, of which no other records are made": 1}),
    ("UltraFeedback", [ULTRA], {"by": "overall_score", "kinds": ("rankings",)},
     [Ranking(ASKED, ("x", "y", "z"), (2, 0, 1))], {}),
    ("PandaLM", [pandalm((1, 1, 0)), pandalm((2, 0, 2), text="more"), pandalm((0, 0, 1)),
                 pandalm((2, 1, 0)), pandalm((1, 1, 1), response1=True)], {},
     [Ranking(ASKED, ("one", "two"), (0, 1)),
      Ranking((user("hello\n\nmore"),), ("one", "two"), (1, 0)),
      Ranking(ASKED, ("one", "two"), (0, 0)), Ranking(ASKED, ("one", "two"), (0, 0)),
      Ranking(ASKED, ("True", "two"), (0, 1))], {}),
    ("GSM8K", [{"question": "hello", "answer": "It is\n#### 42"}], {},
     [Demonstration(ASKED, "It is\n#### 42"), Prompt(ASKED, {"answer": "It is\n#### 42"})], {}),
    ("TruthfulQA choices", [{"question": "hello", "mc1_targets": {"a": 0, "b": 1, "c": 0}}], {},
     [Ranking(ASKED, ("a", "b", "c"), (1, 0, 1))], {}),
    ("LLMBar", [{"input": "hello", "output_1": "x", "output_2": "y", "label": 2}], {},
     [Ranking(ASKED, ("x", "y"), (1, 0))], {}),
    ("HHH", [{"source": "honest", "chosen_instruction": JUDGE.format("hi"),
              "rejected_instruction": JUDGE.format("yo")}], {}, COMPARED, {}),
    ("MT-Bench questions", [{"turns": ["hello", "why?"]}], {},
     [Prompt(ASKED, {"turns": ["hello", "why?"]})], {}),
    ("HumanEval", [{"prompt": "def f():\n", "canonical_solution": "  pass\n", "test": "t",
                    "entry_point": "f"}], {}, [Demonstration("def f():\n", "  pass\n")], {}),
]  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("name", "rows", "how", "records", "left"), CASES, ids=[case[0] for case in CASES]
)
def test_a_row_becomes_its_records(name, rows, how, records, left, tmp_path):
    found = read_file(write(tmp_path / "a.jsonl", *rows), Reading(**how))
    assert found.format == name
    assert [entry.record for entry in found.entries] == records
    assert found.counts["rows"] == len(rows)
    assert found.left_out == left


def test_every_format_has_a_case_or_a_test_of_its_own():
    own = {"SQuALITY", "SQuALITY ratings", "TruthfulQA"}
    assert {case[0] for case in CASES} | own == set(BY_NAME)


def test_notes_of_a_reader_are_counted(tmp_path):
    rows = [{"info": POST, "summaries": [{"text": "x"}, {"text": "y"}], "choice": 1, "split": split}
            for split in ("train", "valid1")]  # fmt: skip
    counts = read_file(write(tmp_path / "a.jsonl", *rows)).counts
    assert counts == {"rows": 2, "rows of the split valid1": 1, "rankings": 2}
    path = write(tmp_path / "a.jsonl", pandalm((2, 1, 0)), pandalm((1, 1, 1), response1=True))
    counts = read_file(path).counts
    assert counts["three opinions, read as a tie"] == 1
    assert counts["responses that are true or false, read as that word"] == 1
    silent = {"role": "system", "content": ""}
    path = write(tmp_path / "a.jsonl", {"messages": [silent, SAID, REPLY]})
    assert read_file(path).counts["dialogues without their empty turn of the system"] == 1


def test_anthropics_template_is_kept_as_it_is_written(tmp_path):
    """Also of the formats that have none: their responses then begin with a space."""
    how, last = Reading(template="human"), f"{HELLO}hi\n\nHuman: why?\n\nAssistant:"
    path = write(tmp_path / "hh.jsonl", {"chosen": f"{last} me ", "rejected": last})
    assert read_file(path, how).records("rankings") == [Ranking(last, (" me ", ""), (0, 1))]
    path = write(tmp_path / "a.jsonl", {"messages": [{"role": "system", "content": "Be brief."},
                                                     SAID, REPLY, SAID, OTHER]})  # fmt: skip
    prompt = f"Be brief.{HELLO} hi\n\nHuman: hello\n\nAssistant:"
    assert read_file(path, how).records("demonstrations") == [Demonstration(prompt, " yo")]
    answers = [{"answer": text, "rank": rank} for rank, text in enumerate("ab")]
    path = write(tmp_path / "n.jsonl", {"prompt": f"{HELLO} ", "answers": answers})
    assert read_file(path, how).records("rankings") == [Ranking(HELLO, (" a", " b"), (0, 1))]
    path = write(tmp_path / "b.jsonl", {"prompt": "a", "completion": "b"})
    assert read_file(path, how).records("demonstrations") == [Demonstration("a", "b")]


def test_the_kinds_that_are_asked_for_are_made(tmp_path):
    rows = [{"prompt": "a", "responses": ["b", "c", "d"], "ranks": ranks}
            for ranks in ((1, 0, 2), (0, 0, 1))]  # fmt: skip
    path = write(tmp_path / "a.jsonl", *rows)
    found = read_file(path, Reading(kinds=("demonstrations", "prompts")))
    assert found.records("demonstrations") == [Demonstration("a", "c")]
    assert found.records("prompts") == [Prompt("a")] * 2
    assert found.left_out == {"rankings with several best responses": 1}
    with pytest.raises(
        UserError,
        match=r"licence not known: 2 rows; left out: 2 responses without scores, of "
        "which no scored records are made: no scored",
    ):
        read_file(path, Reading(kinds=("scored",)))


def test_older_turns_are_cut_as_wholes_and_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", {"messages": [
        {"role": "system", "content": "s"}, SAID, REPLY, SAID, OTHER, SAID, REPLY]})  # fmt: skip
    (short,) = read_file(path, Reading(prompt_characters=13)).records("demonstrations")
    system = Message("system", "s")
    assert short.messages == (system, *ASKED, assistant("yo"), *ASKED, assistant("hi"))
    found = read_file(path, Reading(prompt_characters=1))
    assert found.records("demonstrations") == [Demonstration((system, *ASKED), "hi")]
    assert found.counts["prompts without their oldest turns"] == 1
    longer = f"{HELLO} hi{HELLO}"
    path = write(tmp_path / "hh.jsonl", {"chosen": f"{longer} me", "rejected": f"{longer} you"})
    for template, prompt in (("human", HELLO), ("messages", ASKED)):
        how = Reading(template=template, prompt_characters=len(longer) - 1)
        assert [r.prompt for r in read_file(path, how).records("rankings")] == [prompt]


MALFORMED = [
    ("Anthropic HH", {"chosen": "hello", "rejected": HELLO}, "field 'chosen': expected '\\n\\nHum"),
    ("Anthropic HH", {"chosen": HELLO}, "field 'rejected' is missing: there are chosen"),
    ("Anthropic HH", {"chosen": HELLO, "rejected": 1}, "field 'rejected': expected str, got 1"),
    ("Anthropic HH", [], "expected a JSON object, got list"),
    ("OpenAssistant trees", {"prompt": node("system", "a")}, "field 'role': expected prompter or"),
    ("OpenAssistant trees", {"prompt": node("prompter", "a", None)}, "expected a JSON object, got"),
    ("OpenAssistant trees",
     {"prompt": node("prompter", "a", *(node("assistant", "b", rank=r) for r in (0, 0.5)))},
     "field 'ranks[1]': expected a whole number"),
    ("OpenAssistant messages", message("1", "0", "prompter", "a"),
     "field 'parent_id': expected a message before this one, got '0'"),
    ("PandaLM", pandalm((0, 1, 3)), "annotators: expected 0, 1 or 2"),
    ("PandaLM", pandalm((0, 1)), "field 'annotator3' is missing"),
    ("messages", {"messages": [{"role": "bot", "content": "a"}]},
     "field 'messages[0]': field 'role': expected system, developer, user, human, assistant"),
    ("GSM8K", {"question": "a", "answer": "\0"}, "field 'response': expected text without NUL"),
    ("GSM8K", {"question": 1, "answer": "a"}, "field 'question': expected str, got 1"),
    ("SHP", {"history": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": 2},
     "field 'labels': expected one of 1, 0, got 2"),
    ("HelpSteer", STEER | {"helpfulness": True}, "field 'helpfulness': expected int/float, got T"),
    ("HHH", {"chosen_instruction": "a", "rejected_instruction": "b"},
     "expected an instruction and a response to evaluate"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "message"), MALFORMED)
def test_a_malformed_row_is_named_with_its_line(name, row, message, tmp_path):
    with pytest.raises(RecordError) as caught:
        read_file(write(tmp_path / "a.jsonl", row), Reading(format=name))
    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}:1: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", STEER | {"helpfulness": float("inf")})
    with pytest.raises(RecordError, match="field 'helpfulness': expected a finite number, got inf"):
        read_file(path)


def test_a_format_that_is_not_known_is_refused_with_what_was_seen(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "a", "choices": ["b"], "key": 3, "more": None})
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert str(caught.value).startswith(
        f"{path}:1: no known format has the fields question (text), choices (list), key (number), "
        "more (null); known formats: OpenAssistant trees, "
    )
    with pytest.raises(UserError, match=r":1: no known format has rows like \[1\]"):
        read_file(write(tmp_path / "a.jsonl", [1]))
    with pytest.raises(ConfigError, match="by = 'taste': must be one of helpfulness, correctness"):
        read_file(write(tmp_path / "a.jsonl", STEER), Reading(by="taste"))
    with pytest.raises(ConfigError, match="by = 'taste': must be left out for text"):
        read_file(write(tmp_path / "a.jsonl", {"text": "a"}), Reading(by="taste"))
    with pytest.raises(ConfigError, match=r"format = 'tape': must be one of OpenAssistant trees"):
        Reading(format="tape")


@pytest.mark.parametrize(
    ("name", "known"),
    [("gsm8k/main/train.jsonl", True), ("GSM-8K.jsonl", True), ("mine.jsonl", False)],
)
def test_a_licence_is_known_by_name_or_content_only(name, known, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    row = {"question": "hello", "answer": "It is\n#### 42"}
    found = read_file(write(tmp_path / name, row))
    assert found.licence == ("MIT" if known else "licence not known (if this is GSM8K: MIT)")
    assert f": GSM8K, {'licence MIT' if known else found.licence}: 1 rows" in found.told()
    assert read_file(found.name, Reading(licence="mine")).licence == "mine"
    with pytest.raises(UserError, match=r"no known format has the fields question .* answer"):
        read_file(write(tmp_path / name, {"question": "hello", "answer": "42"}))


def test_squality_takes_story_and_question_from_the_file_beside_it(tmp_path):
    mean = lambda rating, rank: {"overall-rating": rating, "overall-ranking": rank}
    systems = {"bart": {"response": "x", "overall": mean(20.0, 2)},
               "human": {"response": "y", "overall": mean(90.5, 1)}}  # fmt: skip
    ratings = tmp_path / "human-eval" / "all.jsonl"
    stories = tmp_path / "v1-3" / "txt" / "test.jsonl"
    for path in (ratings, stories):
        path.parent.mkdir(parents=True)
    name = write(ratings, {"passage-id": "7", "questions": {"1": systems}})
    with pytest.raises(RecordError, match=r"expected the stories in .*txt, got no \.jsonl there"):
        read_file(name)
    questions = [{"question_text": text, "responses": [{"response_text": "r"}]} for text in "pq"]
    story = {"metadata": {"passage_id": "7"}, "document": "\nonce\n", "questions": questions}
    write(stories, story)
    prompt = (user("once\n\nq"),)
    found = read_file(name)
    assert found.test and [entry.record for entry in found.entries] == [
        Ranking(prompt, ("x", "y"), (1, 0)), Scored(prompt, "x", 20), Scored(prompt, "y", 90.5)
    ]  # fmt: skip
    assert read_file(str(stories)).records("demonstrations")[1] == Demonstration(prompt, "r")


# Every file of the human data that is demonstrations, comparisons, rankings or prompts:
# (format, rows, records by kind, left out).
FILES = {
    "gsm8k/test.jsonl": ("GSM8K", 1319, {"demonstrations": 1319, "prompts": 1319}, 0),
    "hh-rlhf/harmless-base/test.jsonl.gz": ("Anthropic HH", 2312, {"rankings": 2307}, 5),
    "hhh_alignment/hhh_alignment_eval.json": ("HHH", 221, {"rankings": 221}, 0),
    "humaneval/HumanEval.jsonl.gz": ("HumanEval", 164, {"demonstrations": 164}, 0),
    "ifeval/input_data.jsonl": ("prompts", 541, {"prompts": 541}, 0),
    "llmbar/LLMBar/Adversarial/GPTInst/dataset.json": ("LLMBar", 92, {"rankings": 92}, 0),
    "llmbar/LLMBar/Adversarial/GPTOut/dataset.json": ("LLMBar", 47, {"rankings": 47}, 0),
    "llmbar/LLMBar/Adversarial/Manual/dataset.json": ("LLMBar", 46, {"rankings": 46}, 0),
    "llmbar/LLMBar/Adversarial/Neighbor/dataset.json": ("LLMBar", 134, {"rankings": 134}, 0),
    "llmbar/LLMBar/Natural/dataset.json": ("LLMBar", 100, {"rankings": 100}, 0),
    "llmbar/Processed/FairEval/dataset.json": ("LLMBar", 66, {"rankings": 66}, 0),
    "llmbar/Processed/LLMEval2/dataset.json": ("LLMBar", 200, {"rankings": 200}, 0),
    "llmbar/Processed/MT-Bench/dataset.json": ("LLMBar", 200, {"rankings": 200}, 0),
    "mt_bench/question.jsonl": ("MT-Bench questions", 80, {"prompts": 80}, 0),
    "oasst-en100/en_100_text.jsonl": ("strings", 100, {"prompts": 100}, 0),
    "oasst-en100/en_100_tree.jsonl": ("OpenAssistant trees", 100, {"rankings": 211}, 43),
    "oasst-en100/prompt_lottery_en_250_text.jsonl": ("strings", 250, {"prompts": 250}, 0),
    "pandalm/testset-v1.json": ("PandaLM", 999, {"rankings": 999}, 0),
    "self-instruct/seed_tasks.jsonl": ("Self-Instruct", 175, {"demonstrations": 175}, 0),
    "self-instruct/user_oriented_instructions.jsonl":
        ("Self-Instruct", 252, {"demonstrations": 252}, 0),
    "squality/human-eval/all-responses.jsonl":
        ("SQuALITY ratings", 20, {"rankings": 100, "scored": 300}, 0),
    "squality/v1-3/txt/test.jsonl": ("SQuALITY", 52, {"demonstrations": 1040}, 0),
    "truthfulqa/TruthfulQA.csv": ("TruthfulQA", 790, {"rankings": 790}, 0),
    "truthfulqa/data/finetune_truth.jsonl":
        ("TRL prompts and completions", 22434, {"demonstrations": 22434}, 0),
    "truthfulqa/data/mc_task.json": ("TruthfulQA choices", 790, {"rankings": 790}, 0),
    "xstest/xstest_prompts.csv": ("prompts", 450, {"prompts": 450}, 0),
}  # fmt: skip
TRAINING = {"oasst-en100/en_100_tree.jsonl", "self-instruct/seed_tasks.jsonl",
            "oasst-en100/en_100_text.jsonl",
            "oasst-en100/prompt_lottery_en_250_text.jsonl",
            "llmbar/Processed/FairEval/dataset.json"}  # fmt: skip
KINDS = {"demonstrations", "rankings", "scored", "prompts"}


def test_every_file_of_the_human_data_is_read(human_data):
    for name, (form, rows, kinds, left) in FILES.items():
        if not (human_data / name).is_file():
            pytest.skip(f"{human_data} lacks {name}")
        found = read_file(str(human_data / name))
        assert (found.format, found.counts["rows"]) == (form, rows), name
        assert {k: n for k, n in found.counts.items() if k in KINDS} == kinds, name
        assert sum(found.left_out.values()) == left, name
        if name not in TRAINING:
            assert found.test, name
    trees = read_file(str(human_data / "oasst-en100/en_100_tree.jsonl"))
    sizes = [len(ranking.responses) for ranking in trees.records("rankings")]
    assert {size: sizes.count(size) for size in set(sizes)} == {
        2: 57, 3: 116, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1
    }  # fmt: skip
    assert not trees.test and trees.licence == "Apache-2.0"


@pytest.mark.parametrize(
    "name",
    [
        "bbq/Religion.jsonl",
        "crows-pairs/crows_pairs_anonymized.csv",
        "winogender/templates.tsv",
        "poem-sentiment/train.tsv",
    ],
)
def test_files_that_are_none_of_these_are_refused(name, human_data):
    if not (human_data / name).is_file():
        pytest.skip(f"{human_data} lacks {name}")
    with pytest.raises(UserError, match="no known format has the fields"):
        read_file(str(human_data / name))
