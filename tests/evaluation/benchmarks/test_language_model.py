"""A model of this package answers a benchmark: values against one sequence at a time."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.evaluation import evaluator
from rlhf_jax.evaluation.benchmarks import language_model, packing, programs
from rlhf_jax.evaluation.benchmarks.benchmark import Benchmark, Item
from rlhf_jax.evaluation.benchmarks.language_model import Policy, RewardModel, Texts
from rlhf_jax.evaluation.benchmarks.model import Answer
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.stages.reward_model import score_sequences
from rlhf_jax.stages.stage import Build
from tests.data.conftest import Characters
from tests.stages import tiny

LETTERS = Characters()
PARAMS = tiny.policy_params()


MADE: dict = {}  # programs of all tests, each compiled once


def compile(name, program):
    return MADE.setdefault(program.function, jax.jit(program.function))


def policy(begins=True, batch_size=3, model=tiny.MODEL, params=PARAMS):
    texts = Texts(LETTERS, None, begins)
    return Policy(model, params, texts, tiny.ENDING, compile, batch_size)


@functools.cache
def logits_of(model):
    def run(params, tokens):
        return transformer.logits(
            model, params, transformer.hidden(model, params, tokens, jnp.ones_like(tokens))
        )

    return jax.jit(run)


def alone(ids, model=tiny.MODEL, params=PARAMS):
    """log p of each token but the first, [T - 1], and the likeliest tokens [T - 1]: one sequence,
    softmax in float64. The last token is predicted, and does not count for the context."""
    longer = dataclasses.replace(model, context=40)
    if "positions" in params:
        more = np.zeros((8, model.width), np.float32)
        params = {**params, "positions": np.concatenate([params["positions"], more])}
    tokens = np.zeros((1, 40), np.int32)
    tokens[0, : len(ids)] = ids
    logits = np.asarray(logits_of(longer)(params, tokens), np.float64)[0, : len(ids) - 1]
    logits -= logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logs[np.arange(len(ids) - 1), ids[1:]], logits.argmax(-1)


REQUESTS = [("ab", "cde"), ("ab", "f"), ("", "gh"), ("zyx", "cde"), ("ab", "mnopq"), ("ab", "r")]


@pytest.mark.parametrize("window", [None, 3])
def test_log_probabilities_are_those_of_one_sequence_at_a_time(window):
    """Texts of one prompt share its tokens in a row, also where layers have a window."""
    model = dataclasses.replace(tiny.MODEL, window=window, positions="rotary")
    params = tiny.policy_params(1, model)
    found = policy(model=model, params=params).likelihoods(REQUESTS)
    for (prompt, text), each in zip(REQUESTS, found, strict=True):
        ids = [*LETTERS.prompt_ids(prompt), *LETTERS.encode(text)]
        values, best = alone(ids, model, params)
        assert each.log_prob == pytest.approx(values[-len(text) :].sum(), rel=1e-5)
        assert each.tokens == len(text)
        assert each.greedy == (best[-len(text) :] == ids[-len(text) :]).all()


def test_the_likeliest_text_is_greedy():
    ids = LETTERS.prompt_ids("ab")
    for _ in range(2):
        ids.append(int(alone([*ids, 0])[1][-1]))
    text = LETTERS.decode(ids[-2:])
    (found,) = policy().likelihoods([("ab", text)])
    assert found.greedy and found.tokens == 2


def test_without_bos_the_text_begins_with_its_first_token():
    (found,) = policy(begins=False).likelihoods([("ab", "cd")])
    assert found.log_prob == pytest.approx(alone(LETTERS.encode("abcd"))[0][-2:].sum(), rel=1e-5)
    (found,) = policy(begins=False).likelihoods([("", "cd")])  # nothing else stands before it
    assert found.log_prob == pytest.approx(alone(LETTERS.prompt_ids("cd"))[0].sum(), rel=1e-5)


def test_a_long_prompt_loses_its_first_tokens_and_is_counted():
    model, long = policy(), "abcdefghijklmnopqrstuvwxyzabcdefghijkl"
    found = model.likelihoods([(long, "xyz"), ("a", "b")])
    ids = LETTERS.prompt_ids(long)[-(tiny.MODEL.context - 2) :] + LETTERS.encode("xyz")
    assert len(ids) == tiny.MODEL.context + 1 and model.cut == 1
    assert found[0].log_prob == pytest.approx(alone(ids)[0][-3:].sum(), rel=1e-5)
    with pytest.raises(UserError, match=r"has 38 tokens: must be 1 to 32"):
        model.likelihoods([("a", long)])


def test_a_document_is_read_in_windows_that_predict_each_token_once():
    text = "thequickbrownfoxjumpsoverthelazydogagainandagainandoncemore"
    short = "ab"
    found = policy().documents([text, short])
    size, ids = tiny.MODEL.context, LETTERS.prompt_ids(text)
    expected = alone(ids[: size + 1])[0].sum() + alone(ids[size:])[0].sum()
    assert found[0].log_prob == pytest.approx(expected, rel=1e-5)
    assert [each.tokens for each in found] == [len(text), 2]
    assert found[1].log_prob == pytest.approx(alone(LETTERS.prompt_ids(short))[0].sum(), rel=1e-5)


def test_an_answer_depends_on_its_name_alone():
    how = {"most_tokens": 6, "sampling": SamplingConfig(1.0)}
    prompts, names = ["ab", "c", "defgh", "ab"], ["p", "q", "r", "s"]
    all_of = policy().answers(prompts, **how, ids=names)
    again = policy(batch_size=1).answers(prompts[::-1], **how, ids=names[::-1])
    assert all_of == again[::-1]
    others = [policy().answers(["ab"], **how, ids=[name])[0] for name in "pqrstuvw"]
    assert others[0] == all_of[0] and others[3] == all_of[3] and len(set(others)) > 3


def test_a_batch_has_room_for_its_answers(monkeypatch):
    """40 tokens are two prompts of at most 16, but one of them with 6 of an answer."""
    prompts, of = ["ab", "c", "defgh", "ab"], {"most_tokens": 6, "ids": list("pqrs")}
    expected = policy(batch_size=1).answers(prompts, **of)
    monkeypatch.setattr(programs, "TOKENS", 40)
    assert policy(batch_size=4).answers(prompts, **of) == expected


def test_greedy_answers_are_the_likeliest_tokens():
    (answer,) = policy().answers(["ab"], most_tokens=6)
    ids = LETTERS.prompt_ids("ab")
    while len(ids) < 9 and ids[-1] != tiny.EOS:
        ids.append(int(alone([*ids, 0])[1][-1]))
    sampled = ids[3:]
    text = LETTERS.decode([i for i in sampled if i < LETTERS.vocab_size])
    assert answer == Answer(text, len(sampled), sampled[-1] == tiny.EOS)


def test_an_answer_ends_before_the_first_stop():
    answer = Answer("one\n\ntwo\nQ: three", 9, False)
    cut = language_model.cut_before(["Q:", "\n\n", "four"], answer)
    assert cut == Answer("one", 9, True)
    assert language_model.cut_before(["four"], answer) == answer


def test_a_reward_model_scores_each_response_at_its_end_token():
    params = tiny.score_params()
    model = RewardModel(tiny.MODEL, params, Texts(LETTERS, None, True), tiny.ENDING, compile, 2)
    pairs = [("ab", "cd"), ("c", ""), ("abcdefghijklmnopqrst", "xyz"), ("a", "b")]
    found = model.scores(*zip(*pairs, strict=True))
    score = jax.jit(functools.partial(score_sequences, tiny.MODEL))
    for (prompt, response), value in zip(pairs, found, strict=True):
        ids = [*LETTERS.prompt_ids(prompt), *LETTERS.encode(response), tiny.EOS]
        padded, columns = np.array([[*ids, *[0] * (32 - len(ids))]]), np.arange(32)[None]
        expected = score(params, padded, (columns < len(ids)).astype(np.int32))[0]
        assert value == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(Benchmark):
    """The log-probability of each text of REQUESTS."""

    called = "pairs"

    def paths(self):
        return []

    def items(self):
        return [Item(f"{i}", {"asked": asked}, asked[0]) for i, asked in enumerate(REQUESTS)]

    def answered(self, items, model, beside):
        found = model.likelihoods([item.fields["asked"] for item in items])
        return [{"id": item.id, "score": each.log_prob}
                for item, each in zip(items, found, strict=True)]  # fmt: skip

    def columns(self):
        return {"pairs": Column("pairs")}

    def means(self):
        return {"pairs": "score"}


def test_a_benchmark_measures_the_model_of_a_stage_as_an_evaluator():
    """In an experiment: its programs are those that plan sees, its rows those of the command."""
    benchmark = Pairs(batch_size=3)
    build = Build("sft", tiny.MODEL, {"subject": tiny.MODEL}, tiny.ENDING)
    programs = benchmark.programs(build, None)
    assert list(programs) == ["likelihoods"]
    tokenizer = Characters()
    tokenizer.chat = None
    subject = types.SimpleNamespace(
        build=build,
        params=PARAMS,
        tokenizer=tokenizer,
        programs={name: compile(name, program) for name, program in programs.items()},
    )
    rows = evaluator.checked("pairs", benchmark.rows(subject))
    expected = [each.log_prob for each in policy().likelihoods(REQUESTS)]
    assert rows["score"].tolist() == expected
    assert benchmark.summary(rows, 0)["pairs"].mean == pytest.approx(np.mean(expected))


def test_a_damaged_model_is_named():
    sick = jax.tree.map(lambda x: x * np.nan, PARAMS)
    with pytest.raises(UserError, match="log-probabilities are not finite"):
        policy(params=sick).likelihoods([("a", "b")])
    with pytest.raises(UserError, match="logits that are not finite"):
        policy(params=sick).answers(["a"], most_tokens=6)


def test_rows_hold_texts_of_one_prompt_as_far_as_there_is_room():
    piece = lambda number, prompt, size: packing.Piece(number, prompt, tuple(range(size)))
    one, other = (1, 2, 3), (1, 4)
    rows = packing.packed([piece(0, one, 3), piece(1, other, 3), piece(2, one, 5),
                           piece(3, one, 2)], 8)  # fmt: skip
    assert [[number for number, _ in row.spans] for row in rows] == [[1], [0], [2, 3]]
    assert [len(row.tokens) for row in rows] == [4, 5, 8]
    last = rows[-1]
    assert last.branches == [0, 0, 0, 1, 1, 1, 1, 2]
    assert last.positions == [0, 1, 2, 3, 4, 5, 6, 3]
    assert last.places == [2, 3, 4, 5, 6, 2, 7] and last.targets == [0, 1, 2, 3, 4, 0, 1]


def test_batches_have_one_rounded_length_and_few_tokens():
    sized = [language_model._Sized(i, n) for i, n in enumerate([16, 17, 30, 31, 400, 5000, 5100])]
    found = [[each.place for each in rows] for rows in language_model.batches(sized, 2)]
    assert found == [[0], [1, 2], [3], [4], [5], [6]]
    found = [[each.place for each in rows] for rows in language_model.batches(sized, 2, 4090)]
    assert found == [[0], [1], [2], [3], [4], [5], [6]]
