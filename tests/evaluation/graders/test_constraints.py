"""IFEval's checkers on texts made by hand: one that follows, and texts that miss by one thing."""

import json
import os
from pathlib import Path

import pytest

from rlhf_jax.errors import RecordError
from rlhf_jax.evaluation.graders.constraints import CHECKERS, checked, followed, loose, strict

FILE = Path(os.environ.get("RLHF_JAX_DATA", "")) / "ifeval" / "input_data.jsonl"
MORE, LESS = "at least", "less than"
# instruction, arguments, texts that follow it, texts that do not
CASES = (
    ("keywords:existence", {"keywords": ["mom", "tea"]},
     ["MOMENT, steam"], ["mom", "", "m om tea"]),
    ("keywords:frequency", {"keyword": " War ", "frequency": 2, "relation": MORE},
     ["war and towards"], ["war"]),
    ("keywords:frequency", {"keyword": "war", "frequency": 2, "relation": LESS},
     ["war", "peace"], ["war War"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "c++"]},
     ["rocks and c"], ["a Rock.", "ROCK"]),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": MORE},
     ["qQ"], ["q"]),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": LESS},
     ["Oh!"], ["Oh!!"]),
    ("language:response_language", {"language": "de"},
     ["Das ist ein Haus und die Katze ist nicht da.", "1 + 1"], ["This is the house."]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": MORE},
     ["One. Two", "Is it? Yes."], ["One, e.g. this", "Dr. J. Smith"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS},
     ["One."], ["One! Two!"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["a\n***\nb", "***\na\n***\nb\n***"], ["a", "a\n***\n***\nb", "a***b***c"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3},
     ["a***b***c"], ["a\n***\n***\nb", "***a***b***"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": MORE},
     ["a b-c", "don't go"], ["a b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, ["a b"], ["a b c"]),
    ("length_constraints:nth_paragraph_first_word",
     {"first_word": "Well", "num_paragraphs": 2, "nth_paragraph": 2},
     ["a\n\nwell, yes", "a\n\n'\"WELL' no"],
     ["well\n\na", "a\n\nwell\n\nb", "well", "a\n\n\n\nwell"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2},
     ["[a] and [b c]", "[a][b][c]"], ["[a]", "[a\nb] [c]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."},
     ["Bye.\nP.S. me", "p. s. me"], ["PS me", "P.P.S me"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["p.p.s me"], ["P.S. me"]),
    ("detectable_content:postscript", {"postscript_marker": "Note:"}, ["a\nnote: b"], ["notes"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2},
     ["* a\n* b", "a\n - b\n* c"], ["* a", "* a\n** b\n", "- a\n- b\n- c"]),
    ("detectable_format:constrained_response", {},
     ["My answer is maybe.", "Hm. My answer is no. Bye"], ["My answer is no", "my answer is no."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
     ["*a* and *b*", "**a** **b**"], ["*a*", "* *  *b*", "*a\nb*"]),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2},
     ["Part 1 a Part 2 b", "Part1 Part2 Part3"], ["Part 1", "part 1 part 2", "Part A Part B"]),
    ("detectable_format:json_format", {},
     ['{"a": [1, null]}', '```json\n[1]\n```', "3", "9" * 5000],
     ["{a: 1}", "Sure: {}", "```x\n1```"]),
    ("detectable_format:title", {}, ["<<A title>>\nText"], ["<<>>", "<< >>", "<a>", "<<a\nb>>"]),
    ("combination:two_responses", {},
     ["a******b", "******a\n******\nb******"],
     ["a", "a******a", "a******b******c", "a************b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it. "},
     [" say IT. It."], ["It. Say it."]),
    ("startend:end_checker", {"end_phrase": " The End. "},
     ['All. "the end."', "the end. "], ["The end", "The end. Yes."]),
    ("startend:quotation", {}, [' "a" ', '""'], ['"', '"a', "'a'", "“a”"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": MORE},
     ["A NASA man", "GREAT-DAY (U.S.A.)", "I'M"], ["NASA", "Nasa IsA", "A1b C", "3D 10"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": LESS},
     ["none at all"], ["ONE"]),
    ("change_case:english_capital", {},
     ["THIS IS THE END OF IT, 1."], ["THIS IS the END", "DAS IST NICHT DAS HAUS", "1"]),
    ("change_case:english_lowercase", {},
     ["this is the end of it, 1."], ["this is The end", "das ist nicht das haus", "1"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b", ","]),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_a_checker_knows_what_follows_and_what_misses(case):
    name, arguments, good, bad = case
    assert [text for text in good if not followed(name, arguments, text)] == []
    assert [text for text in bad if followed(name, arguments, text)] == []
    assert not followed(name, arguments, " \n")  # an empty response follows nothing


def test_each_checker_has_a_case():
    assert {case[0] for case in CASES} == set(CHECKERS)


def test_strict_and_loose():
    names = ["startend:quotation", "punctuation:no_comma", "change_case:english_lowercase"]
    none = [{}, {"unused": None}, {}]
    assert strict(names, none, 'Sure, here:\n"it is the end"') == [False, False, False]
    assert loose(names, none, 'Sure, here:\n"it is the end"') == [True, True, True]
    assert loose(names, none, '"it is the end"\nSo, I hope') == [True, True, True]
    assert loose(names, none, 'So, I:\n*"it is the end"*\nI, you') == [True, True, True]
    assert loose(names, none, 'So, I:\nA, B\n"it is the end"\nI, you') == [False, False, False]
    exact = ["detectable_format:number_bullet_lists"]
    assert loose(exact, [{"num_bullets": 1}], "- a\n- b\n- c") == [True]  # without both ends
    assert loose(exact, [{"num_bullets": 5}], "- a\n- b\n- c") == [False]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("keywords:nothing", {}, "no checker is named 'keywords:nothing'"),
        ("punctuation:no_comma", {"a": 1}, "no_comma: expected none, got a"),
        ("keywords:existence", {"keywords": None}, "existence: expected keywords, got none"),
    ],
)
def test_unknown_instructions_and_arguments_are_named(name, arguments, message):
    with pytest.raises(RecordError, match=message):
        checked(name, arguments)
    with pytest.raises(RecordError, match=message):
        followed(name, arguments, "")


def test_an_unknown_relation_is_named():
    with pytest.raises(RecordError, match="'at least' or 'less than', got 'exactly'"):
        followed("length_constraints:number_words", {"num_words": 1, "relation": "exactly"}, "a")


@pytest.mark.skipif(not FILE.is_file(), reason="RLHF_JAX_DATA has no ifeval")
def test_all_instructions_of_the_data_set_are_known():
    records = [json.loads(line) for line in FILE.read_text().splitlines()]
    used = [
        pair for r in records for pair in zip(r["instruction_id_list"], r["kwargs"], strict=True)
    ]
    assert len(records) == 541 and len(used) == 834
    assert {name for name, _ in used} == set(CHECKERS)
    for name, arguments in used:
        checked(name, arguments)
