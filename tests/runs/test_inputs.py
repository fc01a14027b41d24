"""What a stage is given: results of the host that outlive a kill, models, records, random keys."""

import contextlib
import dataclasses
import json
from types import SimpleNamespace

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.randomness import random_key, shuffle_seed
from rlhf_jax.runs import chain
from rlhf_jax.runs import inputs as module
from rlhf_jax.runs import run as runs
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.runs.run import Run
from tests.fed import inputs_of
from tests.small_run import config

STAGES = config.stages


@pytest.fixture
def inputs(tmp_path) -> StageInputs:
    return inputs_of(STAGES, "feedback", directory=tmp_path, seed=4)


def never(*arguments):
    raise AssertionError("asked again")


def test_a_result_of_the_host_is_made_once_and_read_by_a_step_that_is_done_again(inputs, tmp_path):
    asked = []
    made = lambda: asked.append(1) or [["one", True], ["caf\u00e9", False]]
    found = inputs.on_host("outputs", 3, made)
    assert found == [["one", True], ["caf\u00e9", False]] and asked == [1]
    again = inputs_of(STAGES, "feedback", directory=tmp_path, seed=4)  # another process
    assert again.on_host("outputs", 3, never) == found
    other = inputs.on_host("outputs", 4, lambda: [])  # each step and each name of its own
    assert other == [] and inputs.on_host("scores", 3, lambda: {"a": 1.5}) == {"a": 1.5}
    assert again.on_host("outputs", 3, never) == found


def test_it_is_written_down_before_it_is_used(inputs, tmp_path, monkeypatch):
    file = tmp_path / "feedback" / "host" / "outputs" / "0.json"
    assert inputs.on_host("outputs", 0, lambda: (1, 2)) == [1, 2]  # as the file says it
    assert json.loads(file.read_text())["found"] == [1, 2]
    file.write_text(file.read_text().replace("[1, 2]", "[7]"))
    assert inputs.on_host("outputs", 0, never) == [7]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def killed(path, content):
            raise KeyboardInterrupt

        patch.setattr(module, "write_atomically", killed)
        inputs.on_host("outputs", 1, lambda: [3])
    assert inputs.on_host("outputs", 1, lambda: [4]) == [4]  # nothing was used of the first


def test_a_result_counts_for_equal_arguments_only(inputs):
    """Of a step that is done again and draws other responses, none of the old scores is used."""
    asked = []
    length = lambda *texts: asked.append(texts) or [len(text) for text in texts]
    assert inputs.on_host("scores", 2, length, "one", "seven") == [3, 5]
    assert inputs.on_host("scores", 2, never, "one", "seven") == [3, 5]
    assert inputs.on_host("scores", 2, length, "one", "eleven") == [3, 6]
    assert inputs.on_host("scores", 2, length, ["one"], "eleven") == [1, 6]
    assert inputs.host_results("scores") == [[1, 6]] and len(asked) == 3


def test_what_is_not_finite_is_not_written(inputs, tmp_path):
    with pytest.raises(UserError, match="feedback: scores of step 0: a number that is not finite"):
        inputs.on_host("scores", 0, lambda: [float("nan")])
    assert inputs.on_host("scores", 0, lambda: [1.0]) == [1.0]


def test_in_a_process_that_is_not_the_first_nothing_is_asked(inputs, monkeypatch):
    """It reads what the first has written."""
    inputs.on_host("outputs", 0, lambda: ["first"])
    monkeypatch.setattr(module.processes, "first_alone", lambda function, name: None)
    assert inputs.on_host("outputs", 0, never) == ["first"]


def test_results_of_all_steps_come_in_their_order(inputs, tmp_path):
    assert inputs.host_results("outputs") == []
    for step in (0, 2, 10, 1, 9):
        inputs.on_host("outputs", step, lambda step=step: [step])
    assert inputs.host_results("outputs") == [[0], [1], [2], [9], [10]]
    assert inputs.host_results("scores") == []
    (tmp_path / "feedback/host/outputs/11.json0x4.partial").write_text("[")  # a kill in a write
    assert inputs.host_results("outputs") == [[0], [1], [2], [9], [10]]


def test_rows_of_the_host_are_made_once_and_read_by_a_step_that_is_done_again(inputs, tmp_path):
    asked, scored = [], lambda number, text: number + len(text)
    score = lambda *columns: asked.append(columns) or [*map(scored, *columns)]
    assert inputs.rows_on_host("scores", 2, score, [10, 20], ["a", "bb"]) == [11, 22]
    assert asked == [([10, 20], ["a", "bb"])]
    again = inputs_of(STAGES, "feedback", directory=tmp_path, seed=4)
    assert again.rows_on_host("scores", 2, never, [10, 20], ["a", "bb"]) == [11, 22]
    assert inputs.rows_on_host("scores", 2, score, [10, 20], ["a", "bbb"]) == [11, 23]
    assert inputs.rows_on_host("scores", 3, score, [], []) == []
    assert inputs.host_results("scores") == [[11, 23], []]


def test_each_process_asks_for_its_own_rows_and_has_all(inputs, monkeypatch):
    """The second of three; what the others give is made up here."""
    monkeypatch.setattr(module.processes.jax, "process_count", lambda: 3)
    monkeypatch.setattr(module.processes.jax, "process_index", lambda: 1)
    shares = [(0, 2), (2, 4), (4, 7)]  # of seven rows
    assert module.processes.own_share(7) == slice(*shares[1])
    monkeypatch.setattr(module.processes, "total", lambda number: 0)
    monkeypatch.setattr(module.processes, "gathered", lambda part: [b"[0, 1]", part, b"[4, 5, 6]"])
    monkeypatch.setattr(module.processes, "is_first", lambda: False)
    monkeypatch.setattr(module.processes, "first_alone", lambda function, name: function())
    asked = []
    found = inputs.rows_on_host(
        "scores", 0, lambda rows: asked.extend(rows) or rows, list(range(7))
    )
    assert found == list(range(7)) and asked == [2, 3]


def test_rows_without_a_result_each_are_refused(inputs):
    with pytest.raises(UserError, match="feedback: scores of step 0: expected 2 results, got 1"):
        inputs.rows_on_host("scores", 0, lambda rows: rows[1:], [1, 2])
    with pytest.raises(UserError, match="feedback: scores of step 0: a number that is not finite"):
        inputs.rows_on_host("scores", 0, lambda rows: [1.0, float("inf")], [1, 2])


@pytest.mark.parametrize("ends", [None, UserError("sick"), KeyboardInterrupt()])
def test_what_a_stage_opens_is_closed_when_it_ends_however_it_ends(ends, monkeypatch):
    closed = []
    given = inputs_of(STAGES, "pretrain")
    given.at_end(lambda: closed.append("first"))
    given.at_end(lambda: closed.append("second"))

    def train(stage, task):
        assert not closed
        if ends:
            raise ends
        return {}

    finish = lambda params, inputs: closed.append("finish")
    loaded = lambda inputs: None
    stage = SimpleNamespace(finish=finish, ends="rankings", check=None, loaded=loaded)
    run = SimpleNamespace(
        config=SimpleNamespace(stages=STAGES | {"pretrain": stage}),
        build=lambda stage: given.build,
        stage_directory=lambda stage: given.directory,
        runner=None,
        task=lambda stage: (SimpleNamespace(model=lambda state: state), given),
        collected=lambda stage: SimpleNamespace(write=lambda *found: None),
        _check_records=lambda *asked: None,
        _train=train,
    )
    monkeypatch.setattr(chain, "builds_on", lambda stages, stage: [])
    monkeypatch.setattr(runs, "StageInputs", lambda run, stage: given)
    with contextlib.nullcontext() if ends is None else pytest.raises(type(ends)):
        Run._run(run, "pretrain")
    assert closed == (["finish"] if ends is None else []) + ["second", "first"]


def test_what_a_stage_tells_lies_beside_it(inputs, tmp_path):
    inputs.tell(tied=3, noise=0.25)
    about = tmp_path / "feedback" / "about.json"
    assert json.loads(about.read_text()) == {"tied": 3, "noise": 0.25}


def test_records_come_from_the_stage_that_is_named_or_from_the_data():
    asked = lambda kind, split, stage: [(kind, split, stage)]
    read = lambda stages, name, *of: inputs_of(stages, name, asked).records(*of)[0]
    assert read(STAGES, "reward", "rankings", "train") == ("rankings", "train", "feedback")
    assert read(STAGES, "reward", "demonstrations", "train") == ("demonstrations", "train", None)
    assert read(STAGES, "ppo", "prompts", "ppo") == ("prompts", "ppo", None)
    human = STAGES | {"reward": dataclasses.replace(STAGES["reward"], rankings=None)}
    assert read(human, "reward", "rankings", "train") == ("rankings", "train", None)


def test_a_role_that_a_stage_does_not_have_is_named(inputs):
    told = r"^feedback: model\('sft'\): its `needs` has no such role: it has policy$"
    with pytest.raises(UserError, match=told):
        inputs.model("sft")


def test_a_role_s_model_is_that_of_the_stage_that_it_names_loaded_once():
    loaded = []

    def model(stage):
        loaded.append(stage)
        return {"of": stage}

    given = inputs_of(STAGES, "ppo", model=model)
    roles = ("start", "reference", "rewards reward", "value")
    assert [given.model(role)["of"] for role in roles] == ["sft", "sft", "reward", "reward"]
    assert loaded == ["sft", "reward"] and given.model("reference") is given.model("start")
    apart = STAGES | {"ppo": dataclasses.replace(STAGES["ppo"], reference="dpo")}
    given = inputs_of(apart, "ppo", model=model)
    assert given.model("reference") == {"of": "dpo"} and given.model("start") == {"of": "sft"}
    other = STAGES | {
        "reward_2": STAGES["reward"],
        "ppo": dataclasses.replace(STAGES["ppo"], value="reward_2"),
    }
    given = inputs_of(other, "ppo", model=model)
    assert given.model("value") == {"of": "reward_2"}
    assert given.model("rewards reward") == {"of": "reward"}


def test_keys_and_seeds_are_of_the_stage_s_stream(inputs):
    assert inputs.key("outputs") == random_key(4, "feedback/outputs")
    assert inputs.shuffle("counts") == shuffle_seed(4, "feedback/counts")
    stages = STAGES | {"feedback": dataclasses.replace(STAGES["feedback"], stream="first")}
    other = inputs_of(stages, "feedback", seed=4)
    assert other.key("outputs") == random_key(4, "first/outputs")
    assert other.shuffle("counts") == shuffle_seed(4, "first/counts")


def test_the_grader_is_the_data_source_s_of_the_run_s_seed():
    given = inputs_of(STAGES, "feedback", seed=1, data=config.data)
    grade = config.data.grader(1)
    right = config.data.records(1)[0]["demonstrations"]["valid"][0]
    for text in (right.response, "", "Nonsense."):
        assert given.grader()(right.prompt, text) == grade(right.prompt, text)
    assert len({grade(right.prompt, text).score for text in (right.response, "")}) == 2
