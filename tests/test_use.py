"""`rlhf-jax generate`, `score` and `label` on a finished run: files in, files out, figures by
float64."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlhf_jax.cli import command
from rlhf_jax.data.records import to_json
from rlhf_jax.errors import ConfigError, RecordError, UserError
from rlhf_jax.evaluation.policies import Sampler
from rlhf_jax.evaluation.statistics import mean_interval, ratio_interval
from rlhf_jax.generation.ending import Ending, Response
from rlhf_jax.labelling import command as command_of_labels
from rlhf_jax.labelling.item import Item, Output, with_equal_joined
from rlhf_jax.labelling.store import read_item
from rlhf_jax.randomness import random_key
from rlhf_jax.runs import generate, reading
from tests import oracles

EXPERIMENT = "tests/small_run.py"
COUNT = 5  # responses to a prompt


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def call(chain, capsys):
    """call(command, *arguments) -> what is printed to standard output and error."""

    def called(name, *arguments, of=(EXPERIMENT, "--out", str(chain.directory))):
        assert command([name, of[0], *arguments, *of[1:]]) == 0
        return capsys.readouterr()

    return called


@pytest.fixture(scope="module")
def prompts(chain):
    return chain.world.prompts("test")[:4]


@pytest.fixture(scope="module")
def sampled(chain, prompts):
    """(ids, response) of COUNT responses to each prompt, [4][COUNT], as seed 7 draws them."""
    asked, ending = chain.config.evaluation, Ending.of(chain.tokenizer, chain.config.ending)
    model, tokenizer = chain.config.model, chain.tokenizer
    sampler = Sampler(model, tokenizer, asked.sampling, ending, **asked.shape)
    params = jax.tree.map(jax.numpy.asarray, chain.model("ppo_ptx"))
    repeated = [prompt for prompt in prompts for _ in range(COUNT)]
    key = random_key(chain.config.seed, "generate/responses/7")
    found = [(ids, ending.response(ids, tokenizer)) for _, ids, _ in
             sampler.each(params, repeated, key)]  # fmt: skip
    return [found[i : i + COUNT] for i in range(0, len(found), COUNT)]


ASKED = ("--stage", "ppo_ptx", "--seed", "7")


def test_several_responses_to_each_prompt_of_a_file(chain, call, prompts, sampled, tmp_path):
    records = [{"prompt": prompt, "answer": i, "tags": ["x"]} for i, prompt in enumerate(prompts)]
    given, to = write(tmp_path / "prompts.jsonl", records), tmp_path / "new" / "out.jsonl"
    arguments = ("--prompts", given, "--n", str(COUNT), *ASKED)
    out, err = call("generate", *arguments, "--to", str(to))
    assert (out, err) == ("", f"generate: the model of ppo_ptx in {chain.directory}\n")
    found = lines(to)
    assert [{k: v for k, v in line.items() if k in records[0]} for line in found] == records
    for line, prompt, rows in zip(found, prompts, sampled, strict=True):
        assert line["responses"] == [response.text for _, response in rows]
        assert line["ended"] == [response.ended for _, response in rows]
        sequences = [[*chain.ids(prompt, end=False), *ids] for ids, _ in rows]
        params, temperature = chain.model("ppo_ptx"), chain.config.evaluation.sampling.temperature
        log_probs = oracles.log_probs(chain.config.model, params, sequences, temperature)
        expected = [row[-len(ids) :].sum() for row, (ids, _) in zip(log_probs, rows, strict=True)]
        np.testing.assert_allclose(line["log_probs"], expected, rtol=1e-4, atol=1e-3)
    texts = [text.replace("\n", "\\n") for line in found for text in line["responses"]]
    assert call("generate", *arguments, of=[str(chain.directory)]).out.splitlines() == texts
    assert not list(to.parent.glob("*.partial"))


def final(chain, prompt, rows):
    """What PPO scores each response, and what the reward model reads of it."""
    sequences = [[*chain.ids(prompt, end=False), *response.ids] for _, response in rows]
    found = oracles.scores(chain.config.model, chain.model("reward"), sequences)
    read = np.array([row[-1] for row in found])
    return np.where([response.ended for _, response in rows], read, -0.5), read


def test_the_best_of_several_has_the_highest_score_of_ppo(chain, call, prompts, sampled, tmp_path):
    text, to = tmp_path / "prompts.txt", tmp_path / "best.jsonl"
    text.write_text("".join(p.replace("\n", "\\n") + "\n" for p in prompts), encoding="utf-8")
    best_of = ("--prompts", str(text), "--best-of", str(COUNT), *ASKED)
    call("generate", *best_of, "--scorer", "reward", "--to", str(to))
    scores = [final(chain, *one) for one in zip(prompts, sampled, strict=True)]
    best = [ppo.argmax() for ppo, _ in scores]
    assert any(best) and best != [read.argmax() for _, read in scores]
    for line, prompt, rows, place, (ppo, _) in zip(
        lines(to), prompts, sampled, best, scores, strict=True
    ):
        assert line.keys() == {"prompt", "response", "ended", "log_prob", "reward_score"}
        response = rows[place][1]
        assert (line["prompt"], line["response"], line["ended"]) == (prompt, *response[::2])
        assert line["reward_score"] == pytest.approx(ppo.max(), abs=1e-4)
    printed = call("generate", *best_of).out  # by the only reward model
    assert printed == "".join(line["response"].replace("\n", "\\n") + "\n" for line in lines(to))


def test_scores_of_responses_rankings_and_comparisons(chain, call, tmp_path):
    """Each as float64 reads it, the ending's where it was cut; their mean, and the share of pairs
    that they order right."""
    rankings = chain.rankings("train", "feedback")
    first = rankings[0]
    records = [
        {"prompt": "User: hi\nAssistant:", "response": " a cat", "id": 3},
        {"prompt": "User: hi\nAssistant:", "response": " a cat", "ended": False, "reward_score": 9},
        {"prompt": first.prompt, "responses": list(first.responses), "ended": [False, True, True][
            : len(first.responses)]},
        {"prompt": "User: two\nAssistant:", "chosen": " one", "rejected": " two words"},
        *map(to_json, rankings),
    ]  # fmt: skip
    given, to = write(tmp_path / "records.jsonl", records), tmp_path / "out.jsonl"
    out, err = call("score", given, "--stage", "reward", "--to", str(to))
    assert out == ""
    found = lines(to)
    new = {"reward_score", "reward_scores", "chosen_reward_score", "rejected_reward_score"}
    read = [json.loads(json.dumps(record)) for record in records]
    others = lambda lines: [{k: v for k, v in line.items() if k not in new} for line in lines]
    assert others(found) == others(read)
    hi = "User: hi\nAssistant:", " a cat"
    two = [("User: two\nAssistant:", text) for text in (" one", " two words")]
    texts = [(hi, True), (hi, False), *((pair, True) for pair in two)]
    texts += [((r.prompt, text), ended) for r in rankings
              for text, ended in zip(r.responses, r.ended, strict=True)]  # fmt: skip
    sequences = [chain.ids(*pair, end=ended) for pair, ended in texts]
    read = oracles.scores(chain.config.model, chain.model("reward"), sequences)
    ended = [end for _, end in texts]
    expected = np.where(ended, [row[-1] for row in read], -0.5)
    assert found[1]["reward_score"] == -0.5 and not all(ended[4:])
    values = [found[0]["reward_score"], found[1]["reward_score"]]
    values += [found[3]["chosen_reward_score"], found[3]["rejected_reward_score"]]
    values += [score for line in found[4:] for score in line["reward_scores"]]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    assert len(found[2]["reward_scores"]) == len(first.responses)
    assert found[2]["reward_scores"][0] == -0.5

    counts = {}  # by prompt: right, the longer one is better, pairs
    one = values[2] > values[3]
    counts["User: two\nAssistant:"] = np.array([one, len(sequences[2]) > len(sequences[3]), 1.0])
    rest = iter(zip(values[4:], sequences[4:], strict=True))
    for ranking in rankings:
        rows = [(*next(rest), rank) for rank in ranking.ranks]
        own = counts.setdefault(ranking.prompt, np.zeros(3))
        for a, ids, rank in rows:
            for b, others, other in rows:
                if rank < other and ids != others:
                    by_length = (len(ids) > len(others)) + (len(ids) == len(others)) / 2
                    own += [(a > b) + (a == b) / 2, by_length, 1]
    right, longer, pairs = np.array([counts[prompt] for prompt in sorted(counts)]).T
    assert 0 < right.sum() < pairs.sum() and not np.array_equal(right, longer)
    told = [ratio_interval(share, pairs, chain.config.seed).text() for share in (right, longer)]
    prompts = [pair[0] for pair, _ in texts] + [first.prompt] * len(first.responses)
    every, names = [*values, *found[2]["reward_scores"]], sorted(set(prompts))
    own = [[v for v, p in zip(every, prompts, strict=True) if p == name] for name in names]
    mean = mean_interval([sum(each) for each in own], [len(each) for each in own])
    cut = ended.count(False) + records[2]["ended"].count(False)
    assert err.splitlines() == [
        f"score: reward in {chain.directory}: {len(records)} records, {len(every)} responses",
        f'score: {cut} of {len(every)} responses were cut ("ended": false): their score is -0.5 '
        "(ending.missing_eos_score)",
        f"score: 1 of {len(records)} records had scores of this stage already: "
        "they are overwritten",
        f"score: the mean score is {mean.text()} (95 % interval over {len(names)} prompts)",
        f"score: reward orders {told[0]} of {pairs.sum():.0f} pairs of {(pairs > 0).sum()} prompts "
        f"as the file does; the longer response is the better one in {told[1]} "
        "(95 % intervals over prompts)",
    ]


def test_what_generate_wrote_is_scored_and_what_is_too_long_is_null(call, tmp_path):
    records = [
        {"prompt": "a", "responses": ["b", "c" * 400], "ended": [True, False], "log_probs": [0, 0]},
        {"prompt": "a", "response": "b", "ended": True, "log_prob": -1.5, "other_score": 2},
        {"prompt": "a", "chosen": "c" * 400, "rejected": "b"},
        {"prompt": "a", "responses": ["b", "d"]},  # ranks nothing, so that no share is told
    ]
    out, err = call("score", write(tmp_path / "x.jsonl", records))
    many, one, comparison, last = map(json.loads, out.splitlines())
    assert many["reward_scores"] == [one["reward_score"], None]
    assert comparison["chosen_reward_score"] is None
    assert comparison["rejected_reward_score"] == one["reward_score"] and one["other_score"] == 2
    scores = [one["reward_score"], comparison["rejected_reward_score"], *many["reward_scores"][:1]]
    mean = np.mean([*scores, *last["reward_scores"]])
    assert err.splitlines()[1:] == [
        "score: 2 of 7 responses are longer than 160 tokens with their prompt, the model's "
        "context: their score is null",
        f"score: the mean score is {mean:.3f} (no interval) (95 % interval over 1 prompts)",
    ]


BAD = {
    "no JSON": ('{"prompt": "a"', "expected JSON"),
    "a list": ('["a"]', "field '(line)': expected a JSON object"),
    "no prompt": ('{"response": "b"}', "field 'prompt': each line needs"),
    "no response": ('{"prompt": "a"}', "expected prompt and one of: response, responses, or chosen "
                    "and rejected, got the fields prompt"),
    "two forms": ('{"prompt": "a", "response": "b", "responses": []}', "the fields prompt, res"),
    "a number": ('{"prompt": "a", "response": 3}', "field 'response': expected a string, got 3"),
    "one": ('{"prompt": "a", "responses": ["b"]}', "field 'responses': expected at least 2"),
    "no list": ('{"prompt": "a", "responses": "bc"}', "field 'responses': expected a list"),
    "ranks": ('{"prompt": "a", "responses": ["b", "c"], "ranks": [0]}', "field 'ranks': expected"),
    "half": ('{"prompt": "a", "chosen": "b"}', "field 'rejected': each line needs the fields pr"),
    "ended": ('{"prompt": "a", "response": "b", "ended": 1}', "field 'ended': expected true or"),
    "huge": ('{"prompt": "a", "response": "b", "x": 1' + "0" * 400 + "}", "field 'x': expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_is_malformed_is_named_before_anything_is_scored(call, tmp_path, name):
    line, told = BAD[name]
    file, to = tmp_path / "x.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n' + line + "\n", encoding="utf-8")
    to.write_text("kept")
    with pytest.raises(RecordError) as refused:
        call("score", str(file), "--to", str(to))
    assert str(refused.value).startswith(f"{file}:2: ") and told in str(refused.value)
    assert to.read_text() == "kept" and len(list(tmp_path.iterdir())) == 2


def test_score_says_what_it_needs(call, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for arguments, told in (
        ((), r"score needs FILE.jsonl"),
        ((str(empty),), "empty.jsonl: holds no record"),
        ((str(tmp_path / "none.jsonl"),), "none.jsonl: cannot be read"),
        ((str(empty), "--stage", "sft"), "stage = 'sft': must be one that ends with a reward mo"),
        ((str(empty), "--to", str(tmp_path / "x.txt")), r"must be a file named \*\.jsonl"),
        ((str(empty), "--parallel.coordinator", "auto"), "score runs in one process"),
    ):
        with pytest.raises(UserError, match=told):
            call("score", *arguments)


def test_prompts_of_a_file_are_refused_by_line_and_field(call, tmp_path):
    to = ("--to", str(tmp_path / "out.jsonl"))
    for name, content, arguments, told in (
        ("a.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', (), "a.jsonl:2: field 'prompt': each l"),
        ("a.jsonl", "", (), "a.jsonl: there was none"),
        ("a.json", "[]", (), r"prompts = '.*a.json': must be named \*.jsonl, \*.jsonl.gz or"),
        ("a.jsonl.gz", "{}", (), "a.jsonl.gz: expected a whole gzip file"),
        ("a.txt", b"a\n\xff\n", (), r"a\.txt:2: byte 0xff at 1 is not UTF-8"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "' + "b" * 300 + '"}\n', (), "jsonl:2: .* 56 at"),
        ("a.jsonl", '{"prompt": "a", "ended": 1}\n', to, "a.jsonl:1: field 'ended': generate wri"),
        ("a.jsonl", '{"prompt": "a", "log_probs": 1}\n', (*to, "--n", "2"), "field 'log_probs'"),
        ("a.jsonl", '{"prompt": "a", "reward_score": 1}\n', (*to, "--best-of", "2"),
         "a.jsonl:1: field 'reward_score': generate writes a field of this name"),
    ):  # fmt: skip
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=told):
            call("generate", "--prompts", str(file), *arguments)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 0}, "n = 0: must be 1 or more"),
        ({"best_of": 1}, "best_of = 1: must be 2 or more"),
        ({"best_of": 4, "n": 2}, "n = 2: must be 1 beside --best-of"),
        ({"scorer": "reward"}, "scorer = 'reward': must be left out without --best-of N"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        generate.GenerateOptions(**options)


def test_what_is_told_of_a_run_that_is_read_is_not_among_the_responses(chain, monkeypatch, capsys):
    monkeypatch.setattr(reading, "Run", lambda *_, **__: print("data: told"))
    reading.reading_run(chain.config, "generate", False)
    assert capsys.readouterr() == ("", "data: told\n")


def test_a_scorer_that_has_not_finished_is_named(call):
    with pytest.raises(ConfigError, match=r"^scorer = 'sft': must be one that ends with a reward"):
        call("generate", "--best-of", "2", "--scorer", "sft")


def test_a_file_is_replaced_when_all_its_lines_are_there(tmp_path):
    file = tmp_path / "out.jsonl"
    file.write_text("kept")
    with pytest.raises(KeyError), reading.lines_to(file) as write_line:
        write_line("new")
        raise KeyError
    assert file.read_text() == "kept"
    with reading.lines_to(file) as write_line:
        write_line("\u6f22")
        write_line("b")
    assert file.read_text(encoding="utf-8") == "\u6f22\nb\n"


def test_items_come_in_parts():
    assert list(reading.chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_a_log_probability_that_is_not_known_is_left_out():
    asked = generate.Asked("x:1", "a", {})
    answers = [generate.Answer(Response(text, (), True), log_prob, 1.5)
               for text, log_prob in (("b", -1.0), ("c", None))]  # fmt: skip
    line = lambda answers, several: json.loads(generate.as_json(asked, answers, several, "judge"))
    assert line(answers, True) == {"prompt": "a", "responses": ["b", "c"], "ended": [True, True]}
    told = {"prompt": "a", "ended": True, "judge_score": 1.5}
    assert line(answers[:1], False) == told | {"response": "b", "log_prob": -1.0}
    assert line(answers[1:], False) == told | {"response": "c"}


@pytest.fixture
def labeled(monkeypatch):
    """What the labelling page would serve: (store, folder) of each call."""
    found = []

    def served(store, folder, options):
        found.append((store, folder))
        return 0

    monkeypatch.setattr(command_of_labels, "_serving", lambda options: served)
    return found


def items_of(store) -> list:
    count = store.count()
    with store.database.reading() as connection:
        return [read_item(connection, 1 + number) for number in range(count)]


def test_the_outputs_to_label_are_those_of_the_stages(
    chain, call, prompts, labeled, tmp_path, monkeypatch
):
    given = write(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in prompts])
    options = ("--prompts", given, "--rank", "3", "--demonstrate", "1", "--k", "2", "--seed", "7",
               "--stages", "ppo_ptx", "sft", "--to", str(tmp_path / "labels"))  # fmt: skip
    assert call("label", *options).out.startswith("label: ")
    config = dataclasses.replace(chain.config, out=str(chain.directory))
    run = reading.reading_run(config, "label", False)
    asked = [generate.Asked("", prompt, {}, prompt) for prompt in prompts[:3]]
    expected = [[] for _ in asked]
    for stage in ("ppo_ptx", "sft"):
        key = random_key(chain.config.seed, f"label/{stage}/7")
        for place, (_, answers) in enumerate(generate.answered(run, stage, asked, 2, key)):
            expected[place] += [
                Output(a.response.text, a.response.ended, (stage,)) for a in answers
            ]
    joined = [with_equal_joined(outputs) for outputs in expected]
    kept = [Item("rank", prompt, outputs) for prompt, outputs in zip(prompts, joined, strict=False)
            if len(outputs) > 1]  # fmt: skip
    assert items_of(labeled[0][0]) == [*kept, Item("demonstrate", prompts[3])]
    # The same command once more samples nothing.
    monkeypatch.setattr("rlhf_jax.labelling.sampling.reading_run", None)
    assert call("label", *options, of=[str(chain.directory)]).out == ""
    assert labeled[1][0].count() == len(kept) + 1


def test_prompts_to_label_are_drawn_from_the_experiment(chain, call, labeled, tmp_path):
    options = ("--rank", "0", "--demonstrate", "5", "--to", str(tmp_path / "labels"))
    call("label", *options)
    asked = [item.prompt for item in items_of(labeled[0][0])]
    assert len(set(asked)) == 5 and set(asked) < set(chain.world.prompts("feedback"))
    call("label", *options, "--seed", "8")
    others = [item.prompt for item in items_of(labeled[1][0])][5:]
    assert others and set(others) < set(chain.world.prompts("feedback"))
    call("label", *options, "--split", "test")
    others = [item.prompt for item in items_of(labeled[2][0])][5 + len(others) :]
    assert len(others) == 5 and set(others) < set(chain.world.prompts("test"))
    with pytest.raises(UserError, match="prompts that can be asked; --rank and --demonstrate ask"):
        call("label", "--rank", "9999", "--to", str(tmp_path / "labels"))
    with pytest.raises(ConfigError, match="k = 13: must be 2 to 25 outputs"):
        call("label", "--k", "13", "--stages", "sft", "ppo", "--to", str(tmp_path / "labels"))
