"""The run's side of evaluators: who is measured on which prompts, at the end and in training."""

import dataclasses
import json
from collections import Counter

import jax
import numpy as np
import pytest

from rlhf_jax.data.records import Ranking
from rlhf_jax.durable.model_files import save_model
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.evaluation.evaluator import EvaluationConfig
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.policies import Sampler
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.generation.ending import EndingConfig, Response
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.randomness import random_key
from rlhf_jax.runs import evaluation
from rlhf_jax.runs.evaluation import OneSubject, StageModel, report_programs
from rlhf_jax.runs.report import measure, report_finished
from rlhf_jax.runs.run import Run, Stopped
from rlhf_jax.stages.elsewhere import FewShot
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.stage import Prompting, policy_shapes, score_shapes
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.metrics import METRICS, SPEED, read_metrics
from rlhf_jax.worlds.instruction import InstructionWorld
from tests import oracles, small_run
from tests.evaluation.subject import as_run_compiles

MODEL = dataclasses.replace(small_run.config.model, layers=1, width=16, heads=2, scan_layers=False)
ASKED = EvaluationConfig(
    prompt_length=44, response_length=8, sampling=SamplingConfig(0.9), batch_size=4
)
SHOWN = 88  # of the eight test prompts that fit, five do behind the example
CONFIG = dataclasses.replace(
    small_run.config,
    model=MODEL,
    evaluation=ASKED,
    evaluators=(
        GoldScore(above=(("ppo", "sft"), ("dpo", "sft"))),
        WinRate("sft"),
        KL("sft", temperature=0.8),
        RewardScore("reward"),
        PretrainingLoss(length=32, batch_size=4, against="sft"),
        RewardAccuracy(length=60, outputs=3, batch_size=2, rankings="feedback"),
        Samples(3),
    ),
).with_stages(prompted=FewShot(examples=1, prompt_length=SHOWN, start="pretrain"))

FINISHED = ("pretrain", "prompted", "sft", "ppo")


def noise(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(x.dtype), shapes)


def finish(run: Run, **seeds: int) -> None:
    """Stages that end with noise; rankings of the first test prompts."""
    for stage, seed in seeds.items():
        kind = run.config.stages[stage].ends
        params = noise((policy_shapes if kind == "policy" else score_shapes)(MODEL), seed)
        place = run.stage_directory(stage) / "model"
        save_model(place, MODEL, params, kind, run.tokenizer.fingerprint)


RANKED = [Ranking("name a pet", (" a cat", " stones"), (0, 1)),
          Ranking("name a fish", (" cod", " eel", " eel eel"), (1, 0, 2))]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All but two stages have ended; each program that the report runs is called as listed."""
    run = Run(dataclasses.replace(CONFIG, out=str(tmp_path_factory.mktemp("run"))))
    finish(run, pretrain=1, sft=2, ppo=3, reward=4)
    run.collected("feedback").write("rankings", {"train": RANKED, "valid": RANKED})
    (run.directory / "ppo" / METRICS).write_text('{"step": 3, "kl": 0.5, "score": 0.25}\n')
    speed = '{"step": 2, "seconds": 7.5}\n{"step": 3, "seconds": 12.04}\n'
    (run.directory / "ppo" / SPEED).write_text(speed)
    return run


@pytest.fixture(scope="module")
def report(run):
    compiled, loaded, patch = [], [], pytest.MonkeyPatch()
    model = run.model

    def compile(program, runner):
        assert program.whole
        compiled.append(program)
        return as_run_compiles(program)

    patch.setattr("rlhf_jax.stages.stage.Program.compile", compile)
    patch.setattr(run, "model", lambda stage: loaded.append(stage) or model(stage))
    found = report_finished(run)
    patch.undo()
    assert found["records"] == run.corpora.counts  # now: later tests read more of the records
    return found, compiled, loaded


def world_of(run) -> InstructionWorld:
    return InstructionWorld(run.config.data.world, run.config.seed)


def asked_by_hand(run) -> list[str]:
    """The test prompts that leave room, behind the example of the prompted policy too."""
    world, encode = world_of(run), run.tokenizer.encode
    before = world.few_shot(1)
    fits = lambda p: len(encode(p)) < 44 and len(encode(before + p)) < SHOWN
    return [prompt for prompt in world.prompts("test") if fits(prompt)]


SAMPLERS: dict[int, Sampler] = {}  # by prompt length, each compiled once


def answers_by_hand(run, stage, before="", length=44) -> list[Response]:
    if length not in SAMPLERS:
        SAMPLERS[length] = Sampler(
            MODEL, run.tokenizer, SamplingConfig(0.9), run.ending,
            prompt_length=length, response_length=8, batch_size=4,
        )  # fmt: skip
    prompts = [before + prompt for prompt in asked_by_hand(run)]
    key = random_key(1, "report/responses")
    return SAMPLERS[length].responses(run.model(stage), prompts, key)


def test_the_rows_are_the_finished_stages_in_order(report, run):
    found, _, _ = report
    assert tuple(found["policies"]) == FINISHED and tuple(found["scorers"]) == ("reward",)
    assert json.loads((run.directory / "report.json").read_text()) == found
    for name in ("report.html", "report.png"):
        assert len((run.directory / name).read_bytes()) > 1000
    assert "Not measured, so not judged: dpo." in found["findings"]
    assert found["seconds"].keys() == {"ppo", "report"} and found["seconds"]["ppo"] == 12.0
    assert found["seed"] == 1
    assert [of.get("kl_to_sft_in_training") for of in found["policies"].values()] == [None] * 3 + [
        0.5
    ]


def test_what_is_compared_with_a_stage_that_has_not_finished_is_left_out(report, run):
    del report
    found = {evaluator.name: list(of) for evaluator, of in measure(run, ["pretrain"])}
    measured = {name for name, stages in found.items() if stages == ["pretrain"]}
    assert measured == {"gold_score", "samples"}
    assert not any(found[name] for name in found.keys() - measured)


def test_prompts_without_room_are_left_out_of_all_figures_and_counted(report, run):
    found, _, _ = report
    asked = asked_by_hand(run)
    assert found["prompts"] == {"all": 10, "asked": len(asked)} and len(asked) == 5
    ids = [world_of(run).prompts("test").index(prompt) for prompt in asked]
    for stage in FINISHED:
        rows = run.evaluation.finished(stage).rows("samples")
        assert rows["id"].tolist() == ids and rows["prompt"].tolist() == asked
        assert set(rows["trained_to_end"].tolist()) == {stage != "pretrain"}
        assert (rows["missing"] == run.ending.missing).all()  # a stage has a reward model


def test_the_report_can_read_fewer_prompts(run, capsys):
    asked = dataclasses.replace(ASKED, most_prompts=3)
    fewer = Run(dataclasses.replace(run.config, evaluation=asked))
    found, whole = fewer.evaluation.test_prompts, run.evaluation.test_prompts
    assert found.ids.tolist() == whole.ids[:3].tolist() and found.texts == whole.texts[:3]
    assert found[2:] == (5, 10) == whole[2:]
    fewer.check((), report=True)
    told = capsys.readouterr().out
    assert "evaluation: data set prompts.test: the first 3 of 5 prompts are used" in told
    assert "3 are too long together with the worked examples" in told
    with pytest.raises(ConfigError, match="most_prompts = 0: must be positive, or None for all"):
        dataclasses.replace(ASKED, most_prompts=0)


@pytest.mark.parametrize("stage", FINISHED)
def test_every_policy_is_asked_with_the_same_noise_and_graded_by_the_world(report, run, stage):
    found, _, _ = report
    world = world_of(run)
    if stage == "prompted":
        answers = answers_by_hand(run, stage, world.few_shot(1), SHOWN)
        texts = [answer.text.split("\n")[0] for answer in answers]
    else:
        answers = answers_by_hand(run, stage)
        texts = [answer.text for answer in answers]
    assert run.evaluation.finished(stage).rows("samples")["response"].tolist() == texts
    asked = asked_by_hand(run)
    scores = [world.grade(p, text).score for p, text in zip(asked, texts, strict=True)]
    policy = found["policies"][stage]
    assert policy["gold_score"] == bounded_mean(scores, 1).as_json()
    if stage != "prompted":
        tokens = [len(answer.ids) for answer in answers]
        assert policy["response_tokens"] == mean_interval(tokens).as_json()


def test_loss_and_scores_are_those_of_the_saved_models(report, run):
    found, _, _ = report
    texts = [record.text for record in run.corpora.read("text", "valid")]
    tokenizer = run.tokenizer
    ids = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    short = [i for i, document in enumerate(ids) if len(document) <= 160]
    rows = run.evaluation.finished("ppo").rows("pretraining_loss")
    assert rows["tokens"].tolist() == [len(document) - 1 for document in ids] and len(short) > 2
    assert found["policies"]["ppo"]["pretraining_loss_vs_sft"] is not None
    scores = run.evaluation.finished("sft").rows("reward_score")["score"]
    answers = answers_by_hand(run, "sft")
    sequences = [[tokenizer.bos_id, *tokenizer.encode(prompt), *answer.ids]
                 for prompt, answer in zip(asked_by_hand(run), answers, strict=True)]  # fmt: skip
    read = [row[-1] for row in oracles.scores(MODEL, run.model("reward"), sequences)]
    expected = [s if a.ended else -0.5 for s, a in zip(read, answers, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_the_pairs_are_of_the_rankings_that_the_stage_holds_out(report, run):
    found, _, _ = report
    reward = found["scorers"]["reward"]
    assert reward["accuracy_on_feedback_pairs"] == 4 and "groups" not in reward
    tokens = lambda ranking: [len(run.tokenizer.encode(text)) for text in ranking.responses]
    pairs = [(a, b) for ranking in RANKED
             for a, i in zip(tokens(ranking), ranking.ranks, strict=True)
             for b, j in zip(tokens(ranking), ranking.ranks, strict=True) if i < j]  # fmt: skip
    longer = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
    assert reward["accuracy_on_feedback_longer_is_better"]["mean"] == longer / 4


def test_each_model_is_loaded_once(report):
    _, _, loaded = report
    assert Counter(loaded) == Counter([*FINISHED, "reward"])


def test_only_models_that_others_are_measured_by_stay_in_memory(report, run):
    del report
    held = [stage for stage in (*FINISHED, "reward") if run.evaluation.finished(stage)._params]
    assert held == ["sft", "reward"]


def described(program):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), program.arguments), program.turns


def test_plan_is_told_every_program_that_the_report_compiles(report, run):
    _, compiled, _ = report
    listed = {}
    for stage in (*FINISHED, "reward"):
        listed[stage] = report_programs(run.config, run.ending, stage)
    for name in ("sample", "kl"):  # behind examples it is not measured
        del listed["prompted"][f"kl_to_sft {name}"]
    told = [described(program) for programs in listed.values() for program in programs.values()]
    found = [described(program) for program in compiled]
    assert all(each in told for each in found) and all(each in found for each in told)
    narrow = dataclasses.replace(run.config, evaluators=(GoldScore(only=("sft",)),))
    programs = {stage: report_programs(narrow, run.ending, stage) for stage in FINISHED}
    assert [stage for stage, of in programs.items() if of] == ["sft"]
    assert set(listed["ppo"]) == {
        "responses", "kl_to_sft sample", "kl_to_sft kl", "reward_score score",
        "pretraining_loss losses",
    }  # fmt: skip
    assert set(listed["reward"]) == {"accuracy_on_feedback measure"}


def test_fewer_prompts_than_a_batch_have_a_batch_of_their_own_with_the_same_responses(
    run, monkeypatch
):
    sizes, made = [], evaluation.responses_program
    recorded = lambda model, asked, ending: sizes.append(asked) or made(model, asked, ending)
    monkeypatch.setattr(evaluation, "responses_program", recorded)
    prompts, key = asked_by_hand(run)[:3], random_key(1, "report/responses")
    found = run.evaluation.answers("sft", run.model("sft"), prompts, key)
    assert found == answers_by_hand(run, "sft")[:3]
    assert [asked.batch_size for asked in sizes] == [3]


def test_an_answer_ends_where_the_stage_says(run, monkeypatch):
    """The log-probability of an answer that it cuts off is not known."""
    evaluation, encode, end = run.evaluation, run.tokenizer.encode, run.tokenizer.eos_id
    texts = [" a cat", " a\n dog", "\n"]
    found = [(place, encode(text), np.float32([-1, -0.5])) for place, text in enumerate(texts)]
    monkeypatch.setattr(Sampler, "each", lambda self, params, asked, key: iter(found))
    monkeypatch.setattr(evaluation, "prompting", lambda stage: Prompting("", "\n"))
    expected = [
        Response(" a cat", tuple(encode(" a cat")), False),
        Response(" a", (*encode(" a"), end), True),
        Response("", (end,), True),
    ]
    asked = ("sft", None, ["p"] * 4, None)
    assert evaluation.answers(*asked) == [*expected, None]
    answering = list(evaluation.answering(*asked))
    assert answering == [(0, expected[0], -1.5), (1, expected[1], None), (2, expected[2], None)]


def changed(run, **changes) -> Run:
    return Run(dataclasses.replace(run.config, **changes))


def test_what_the_report_cannot_ask_is_refused_before_any_step(run):
    none = dataclasses.replace(ASKED, prompt_length=2)
    words = r"nothing is left for evaluation: 10 too long \(evaluation.prompt_length = 2; those"
    with pytest.raises(UserError, match=words):
        changed(run, evaluation=none).check([], report=True)
    shown = dataclasses.replace(run.config.stages["prompted"], prompt_length=20)
    words = (
        "data set prompts.test: every prompt is too long together with the worked examples of a "
        "policy"
    )
    with pytest.raises(UserError, match=words):
        Run(run.config.with_stages(prompted=shown)).check([], report=True)
    wide = dataclasses.replace(run.config.stages["prompted"], prompt_length=153)
    words = r"evaluation.prompt_length \+ response_length = 161: must be <= the context of prompted"
    with pytest.raises(ConfigError, match=words):
        Run(run.config.with_stages(prompted=wide)).check([], report=True)
    short, late = dataclasses.replace(ASKED, response_length=4), EndingConfig("e", stop_after=5)
    with pytest.raises(ConfigError, match=r"evaluation.response_length = 4: must be above ending"):
        changed(run, evaluation=short, ending=late).check([], report=True)
    long = PretrainingLoss(length=161)
    with pytest.raises(ConfigError, match=r"pretraining_loss.length = 161: must be <= a context"):
        changed(run, evaluators=(long,)).check([], report=True)
    few = RewardAccuracy(length=60, outputs=2, rankings="feedback")
    with pytest.raises(ConfigError, match=r"accuracy_on_feedback.outputs = 2: must be at least 3"):
        changed(run, evaluators=(few,)).check([], report=True)


# In training.

STEPS = 4
EVERY = (
    GoldScore(every=2),
    WinRate("pretrain", every=2),
    PretrainingLoss(length=32, batch_size=4, against="pretrain", every=3),
    KL("ppo", every=1),  # sft does not build on ppo
    Samples(every=2, within=("ppo",)),
    RewardAccuracy(length=60, outputs=3, rankings="feedback", every=1),
)


def training(folder, **changes) -> Run:
    """Of an SFT stage of four steps, from a pretrained model."""
    sft = SFT(small_run.RATE, batch_size=8, epochs=0.5, length=80, start="pretrain")
    config = dataclasses.replace(
        CONFIG, evaluators=EVERY, out=str(folder), loop=LoopConfig(checkpoint_every=3), **changes
    ).with_stages(sft=sft)
    run = Run(config)
    finish(run, pretrain=1)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = training(tmp_path_factory.mktemp("trained"))
    run.finish("sft")
    return run


def test_the_model_is_measured_every_so_many_steps_of_its_training(trained):
    lines = read_metrics(trained.directory / "sft")
    assert len(lines) == STEPS
    own = [{name for name in line if name.startswith("evaluation/")} for line in lines]
    gold = {"evaluation/gold_score", "evaluation/gold_score_wins_vs_pretrain"}
    loss = {"evaluation/pretraining_loss", "evaluation/pretraining_loss_vs_pretrain"}
    assert own == [set(), gold, loss, gold]
    scores = bounded_mean(trained.evaluation.finished("sft").rows("gold_score")["score"])
    assert lines[3]["evaluation/gold_score"] == scores.mean  # the last step's is the finished one's
    wins = lines[3]["evaluation/gold_score_wins_vs_pretrain"]
    pair = [trained.evaluation.finished(s).rows("gold_score")["score"] for s in ("sft", "pretrain")]
    assert wins == ((pair[0] > pair[1]) + 0.5 * (pair[0] == pair[1])).mean()
    first = trained.evaluation.finished("pretrain").rows("pretraining_loss")
    loss, moved = (lines[2][f"evaluation/{name}"] for name in sorted(
        ("pretraining_loss", "pretraining_loss_vs_pretrain")))  # fmt: skip
    before = first["nats"].sum() / first["tokens"].sum()
    assert loss == pytest.approx(before + moved) and abs(moved) > 1e-3


def test_a_resume_measures_the_same(trained, tmp_path):
    run = training(tmp_path)
    run.stop_after_steps = 3
    with pytest.raises(Stopped):
        run.finish("sft")
    again = training(tmp_path)
    again.finish("sft")
    lines = [(r.directory / "sft" / METRICS).read_bytes() for r in (trained, again)]
    assert lines[0] == lines[1]


def test_under_pmap_it_measures_the_same(trained, tmp_path):
    run = training(tmp_path, parallel=ParallelConfig(runner="pmap"))
    run.finish("sft")
    for one, other in zip(
        *(read_metrics(r.directory / "sft") for r in (trained, run)), strict=True
    ):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith("evaluation/"):
                assert one[name] == pytest.approx(other[name], abs=1e-4)


def test_it_runs_where_what_it_reads_comes_before(trained):
    measured = {stage: [e.name for e in trained.evaluation.in_training(stage)]
                for stage in trained.config.stages}  # fmt: skip
    named = ["gold_score", "gold_score_wins_vs_pretrain", "pretraining_loss"]
    assert measured == {
        "pretrain": ["gold_score", "pretraining_loss"],
        "prompted": named, "sft": named, "feedback": [],
        "reward": ["accuracy_on_feedback"], "ppo": [*named, "samples"],
        "ppo_ptx": named, "dpo": named,
    }  # fmt: skip


def test_in_training_a_stage_that_comes_later_is_not_there(trained):
    """Which is no matter to an evaluator that can do without it."""
    evaluation, loss = trained.evaluation, EVERY[2]
    has = lambda *model: OneSubject(StageModel(evaluation, *model), loss).has("against")
    assert loss.needs()["against"].stage == "pretrain"
    assert (has("pretrain", {}), has("sft", {}), has("pretrain")) == (False, True, True)


def test_what_training_measures_is_checked_before_it(tmp_path):
    run = training(tmp_path, evaluation=dataclasses.replace(ASKED, prompt_length=2))
    with pytest.raises(UserError, match="nothing is left for evaluation"):
        run.finish("sft")
    assert not (run.directory / "sft" / METRICS).exists()


def test_what_it_reads_is_checked_too(tmp_path):
    """The scores behind the wins are not measured in training themselves."""
    evaluators = (GoldScore(), WinRate("pretrain", every=2))
    run = Run(dataclasses.replace(CONFIG, evaluators=evaluators, out=str(tmp_path)))
    checked, wins = [], run.evaluation.in_training("sft")
    assert wins == [evaluators[1]]
    run.evaluation.check(wins, lambda name, *_: checked.append(name))
    assert checked == ["evaluation", "gold_score", "gold_score_wins_vs_pretrain"]


GOLD = GoldScore()


@pytest.mark.parametrize(
    ("evaluators", "best", "words"),
    [
        ((GOLD, GOLD), None, "evaluators = 'gold_score': must be of another name"),
        ((KL("reward"),), None, "evaluators: kl_to_reward.to = 'reward': must be a stage of this "
         "experiment that ends with a policy"),
        ((KL("nobody"),), None, "evaluators: kl_to_nobody.to = 'nobody': must be a stage of this"),
        ((WinRate("sft"),), None, "gold_score_wins_vs_sft: what it reads = 'gold_score': must be "
         "an evaluator listed before it: there is none"),
        ((WinRate("sft"), GOLD), None, "an evaluator listed before it: there is none"),
        ((RewardScore("reward", every=1, within=("sft",)),), None,
         "reward_score.within = 'sft': must be stages that build on what it reads, reward"),
        ((GoldScore(every=1, within=("reward",)),), None,
         "gold_score.within = 'reward': must be stages that end with a policy"),
        ((GoldScore(only=("reward",)),), None,
         "gold_score.only = 'reward': must be stages that end with a policy"),
        ((GoldScore(only=("sft", "dpo"), within=("ppo",)),), None,
         "gold_score.within = 'ppo': must be sft, dpo"),
        ((GOLD,), "evaluation/gold_score", "loop.best = 'evaluation/gold_score': must be a column "
         "of an evaluator with `every`: there is none"),
        ((GoldScore(every=2),), "-evaluation/gold", "loop.best = '-evaluation/gold': must be a "
         "column of an evaluator with `every`: evaluation/gold_score"),
    ],
)  # fmt: skip
def test_evaluators_that_do_not_fit_the_stages_are_refused(evaluators, best, words):
    with pytest.raises(ConfigError) as told:
        dataclasses.replace(CONFIG, evaluators=evaluators, loop=LoopConfig(best=best))
    assert words in str(told.value)


def test_best_may_be_a_column_with_less_is_better():
    loop = LoopConfig(best="-evaluation/gold_score")
    found = dataclasses.replace(CONFIG, evaluators=(GoldScore(every=2),), loop=loop)
    assert found.loop.best == "-evaluation/gold_score"
