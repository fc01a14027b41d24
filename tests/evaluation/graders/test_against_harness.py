"""IFEval's checkers against those of lm-evaluation-harness, on texts put together at random; and
ROUGE-1 against Google's rouge_score.

Two of the harness's tools need downloads and get this package's in their place: sentences and
languages. What is compared is all else.
"""

import importlib.util
import json
import os
import random
import sys
import types
from pathlib import Path

import pytest

from rlhf_jax.evaluation.graders import constraints
from rlhf_jax.evaluation.graders.language import language_of
from rlhf_jax.evaluation.graders.sentences import sentences
from rlhf_jax.evaluation.graders.truthfulness import rouge_1

FILE = Path(os.environ.get("RLHF_JAX_DATA", "")) / "ifeval" / "input_data.jsonl"
PIECES = [
    "Hello World. ", "I am HERE! ", "* one\n", "- two\n", "** bold **", " *hi* ", "**x**", "\n\n",
    "***", "\n***\n", "******", "[name]", "[a b]", "P.S. bye", "P.P.S x", "p. s. y", "SECTION 1 ",
    "Section 2: ", "PARAGRAPH 3", "<<Title>>", "<< >>", '"', '```json\n{"a": 1}\n```', "[1,2]",
    "My answer is yes.", "My answer is no", "COMMA, AND", "U.S.A. GREAT-DAY I'M DON'T", ",",
    "WORD...", "NASA's", "Is there anything else I can help with?", "weekend president ", "!!!",
    "#####", "q", "the quick brown fox jumps over the lazy dog ",
    'A.B. C/D (EF) "GH" 3D 10,000 X,Y',
]  # fmt: skip


class LangDetectException(Exception):
    pass


def detect(text: str) -> str:
    if language_of(text) is None:
        raise LangDetectException
    return language_of(text)


def without_downloads(patch: pytest.MonkeyPatch) -> None:
    """IFEval's tools for sentences and languages need downloads: this package's in their place."""
    import nltk

    stand_in = types.ModuleType("langdetect")
    stand_in.detect, stand_in.LangDetectException = detect, LangDetectException
    patch.setitem(sys.modules, "langdetect", stand_in)
    tokenize = nltk.tokenize.NLTKWordTokenizer().tokenize
    words = lambda text: [word for each in sentences(text) for word in tokenize(each)]
    patch.setattr(nltk, "word_tokenize", words)
    patch.setattr(nltk, "download", lambda *a, **k: True)
    patch.setattr(nltk.data, "find", lambda *a, **k: True)
    tools = importlib.import_module("lm_eval.tasks.ifeval.instructions_util")
    patch.setattr(tools, "count_sentences", lambda text: len(sentences(text)))


@pytest.fixture
def harness(monkeypatch):
    """lm_eval.tasks.ifeval.utils, without the rest of the harness."""
    pytest.importorskip("nltk", reason="lm-evaluation-harness is not installed")
    spec = importlib.util.find_spec("lm_eval")
    if spec is None:
        pytest.skip("lm-evaluation-harness is not installed")
    folder = spec.submodule_search_locations[0]
    for name, path in (("lm_eval", folder), ("lm_eval.tasks", f"{folder}/tasks")):
        package = types.ModuleType(name)
        package.__path__ = [path]
        monkeypatch.setitem(sys.modules, name, package)
    without_downloads(monkeypatch)
    return importlib.import_module("lm_eval.tasks.ifeval.utils")


def a_text(record: dict, rng: random.Random) -> str:
    values = [value for given in record["kwargs"] for value in given.values()]
    own = [word for value in values for word in (value if isinstance(value, list) else [value])
           if isinstance(word, str)]  # fmt: skip
    parts = [rng.choice([*PIECES, *own, *own]) for _ in range(rng.randrange(14))]
    if rng.random() < 0.2:
        parts = [record["prompt"], *parts]
    if rng.random() < 0.2:
        parts = ['"', *parts, '"']
    text = "".join(parts)
    return rng.choice([str, str, str, str.upper, str.lower])(text)


@pytest.mark.slow
@pytest.mark.skipif(not FILE.is_file(), reason="RLHF_JAX_DATA has no ifeval")
def test_each_check_is_that_of_the_harness(harness):
    """But for two items that count "!" and "#": the harness counts a letter drawn at random."""
    records = [json.loads(line) for line in FILE.read_text().splitlines()]
    rng, count = random.Random(0), 0
    for record in records * 4:
        names, given = record["instruction_id_list"], record["kwargs"]
        text = a_text(record, rng)
        asked = harness.InputExample(record["key"], names, record["prompt"], given)
        pairs = ((constraints.strict, harness.test_instruction_following_strict),
                 (constraints.loose, harness.test_instruction_following_loose))  # fmt: skip
        for ours, theirs in pairs:
            found, expected = ours(names, given, text), theirs(asked, text).follow_instruction_list
            for name, options, one, other in zip(names, given, found, expected, strict=True):
                if options.get("letter") not in ("!", "#"):
                    assert one == bool(other), (name, options, text)
                    count += 1
    assert count == 8 * (834 - 2)


@pytest.mark.slow
def test_rouge_1_is_that_of_the_published_package():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge_score is not installed")
    theirs, rng = scorer.RougeScorer(["rouge1"]), random.Random(0)
    for _ in range(300):
        one, other = ("".join(rng.choices(PIECES, k=rng.randrange(6))) for _ in "12")
        assert rouge_1(one, other) == pytest.approx(theirs.score(other, one)["rouge1"].fmeasure)
