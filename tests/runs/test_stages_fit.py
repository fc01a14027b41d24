"""The stages of an experiment as a graph: their order, and what is refused before anything runs."""

import dataclasses
from typing import ClassVar

import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.objectives.estimator import PPOClip
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs import chain
from rlhf_jax.sources.world import WorldData
from rlhf_jax.stages.elsewhere import FewShot, FromRun
from rlhf_jax.stages.stage import Need
from tests.small_run import RATE, SFT, Pretrain, RewardModel, config, ppo

STAGES = config.stages
NAMES = ", ".join(STAGES)


def changed(name, **fields):
    return {name: dataclasses.replace(STAGES[name], **fields)}


def refusal(stages=None, **parts) -> str:
    """Of the small experiment with other stages, or with other parts."""
    with pytest.raises(ConfigError) as refused:
        dataclasses.replace(config, **parts, **({} if stages is None else {"stages": stages}))
    return str(refused.value)


def test_a_stage_comes_after_all_that_it_builds_on_and_nothing_else_is_run():
    assert chain.builds_on(STAGES, "pretrain") == []
    assert chain.builds_on(STAGES, "ppo") == ["pretrain", "sft", "feedback", "reward"]
    turned = dict(reversed(STAGES.items()))
    assert chain.builds_on(turned, "ppo") == ["pretrain", "sft", "feedback", "reward"]
    both = ["pretrain", "sft", "feedback", "dpo", "reward", "ppo"]
    assert chain.in_order(STAGES, ["dpo", "ppo"]) == both
    assert chain.in_order(STAGES, ["pretrain", "dpo", "ppo"]) == both
    assert chain.in_order(STAGES, []) == []


STAGE_KINDS = {
    "optimizer = 'adam': must be an OptimizerConfig": lambda: SFT("adam", start="pretrain"),
    "optimizer = 0.0001: must be an OptimizerConfig": lambda: Pretrain(1e-4),
    "policy_optimizer = 'adam': must be an OptimizerConfig": lambda: ppo(policy_optimizer="adam"),
    "value_optimizer = 3: must be an OptimizerConfig": lambda: ppo(value_optimizer=3),
    "kl = 0.1: must be a FixedController or AdaptiveController or DoublingController":
        lambda: ppo(kl=0.1),
    "advantage = 'gae': must be an Advantage": lambda: ppo(advantage="gae"),
    "surrogate = <class 'rlhf_jax.objectives.estimator.PPOClip'>: must be a Surrogate":
        lambda: ppo(surrogate=PPOClip),
    "rewards.0 = 'reward': must be a Reward": lambda: ppo(rewards=("reward",)),
    "rewards = LearnedReward(weight=1.0, stage='reward'): must be a tuple of terms, one or more":
        lambda: ppo(rewards=LearnedReward("reward")),
    "objective = 'dpo': must be an objective, such as DPO(beta=0.1)":
        lambda: dataclasses.replace(STAGES["dpo"], objective="dpo"),
}  # fmt: skip


@pytest.mark.parametrize("told", STAGE_KINDS)
def test_a_field_of_a_stage_that_holds_another_kind_of_thing_is_named(told):
    with pytest.raises(ConfigError) as refused:
        STAGE_KINDS[told]()
    assert str(refused.value) == told


PARTS = {
    "stages = <list>: must be a dict of stages by name": {"stages": list(STAGES.values())},
    "stages.x = 'sft': must be a stage, such as SFT(...)": {"stages": {**STAGES, "x": "sft"}},
    "stages.x = <class 'rlhf_jax.stages.sft.SFT'>: must be a stage, such as SFT(...)":
        {"stages": {**STAGES, "x": SFT}},
    "evaluators = <GoldScore>: must be a tuple of evaluators": {"evaluators": GoldScore()},
    "evaluators.0 = <class 'rlhf_jax.evaluation.gold_score.GoldScore'>: must be an evaluator, such "
    "as GoldScore()": {"evaluators": [GoldScore]},
    "model = None: must be a TransformerConfig": {"model": None},
    "evaluation = None: must be an EvaluationConfig": {"evaluation": None},
    "ending = 3: must be an EndingConfig": {"ending": 3},
    "loop = 3: must be a LoopConfig": {"loop": 3},
    "parallel = 'jit': must be a ParallelConfig": {"parallel": "jit"},
    "seed = '3': must be a whole number": {"seed": "3"},
    "data = 'folder': must be a data source, such as FolderData()": {"data": "folder"},
    "data = <class 'rlhf_jax.sources.world.WorldData'>: must be a data source, such as "
    "FolderData()": {"data": WorldData},
}  # fmt: skip


@pytest.mark.parametrize("told", PARTS)
def test_a_part_of_an_experiment_that_is_another_kind_of_thing_is_named(told):
    assert refusal(**PARTS[told]) == told


def test_shapes_of_a_stage_are_those_of_what_it_reads():
    small = dataclasses.replace(config.model, layers=1)
    stages = {**STAGES, "other": FromRun("elsewhere", "sft", ends="policy", model=small)}
    stages["sft"] = SFT(RATE, length=80, start="other")
    build = lambda name: chain.build_of(stages, name, config.model, config.ending)
    assert build("pretrain").shapes == {} and build("pretrain").model == config.model
    assert build("sft").shapes == {"start": small}
    assert build("reward").shapes == {"start": small}  # rankings have no shape
    assert build("ppo").shapes == {
        role: small for role in ("start", "reference", "rewards reward", "value")
    }
    stages["reward"] = FromRun("elsewhere", "reward")
    assert build("ppo").shapes["rewards reward"] == config.model


THERE = f"a stage of this experiment: {NAMES}"
MISSING = {
    f"sft.start = 'base': must be {THERE}": changed("sft", start="base"),
    f"dpo.rankings = 'people': must be {THERE}": changed("dpo", rankings="people"),
    "sft.start = 'sft': must be a stage that does not need sft itself (sft -> sft)":
        changed("sft", start="sft"),
    "dpo.start = 'sft': must be a stage that does not need dpo itself (sft -> dpo -> sft)":
        changed("sft", start="dpo"),
}  # fmt: skip


@pytest.mark.parametrize("told", MISSING)
def test_a_stage_needs_one_that_is_there_and_not_itself(told):
    assert refusal(STAGES | MISSING[told]) == told


def test_a_circle_is_told_from_the_stage_at_which_it_is_met():
    a, b, c = (SFT(RATE, length=80, start=start) for start in "bca")
    expected = "c.start = 'a': must be a stage that does not need c itself (a -> b -> c -> a)"
    assert refusal({"a": a, "b": b, "c": c}) == expected
    for name in "abc":  # no endless loop from wherever it is looked at
        with pytest.raises(ConfigError, match="does not need"):
            chain.builds_on({"a": a, "b": b, "c": c}, name)


ENDS_OTHERWISE = {
    "sft.start = 'reward': must be a stage that ends with a policy, not a scorer":
        changed("sft", start="reward") | {"reward": FromRun("there", "reward")},
    "dpo.start = 'feedback': must be a stage that ends with a policy, not rankings":
        changed("dpo", start="feedback"),
    "ppo.rewards sft = 'sft': must be a stage that ends with a scorer, not a policy":
        changed("ppo", rewards=(LearnedReward("sft"),)),
    "ppo.reference = 'reward': must be a stage that ends with a policy, not a scorer":
        changed("ppo", reference="reward"),
    "reward.rankings = 'sft': must be a stage that ends with rankings, not a policy":
        changed("reward", rankings="sft"),
    "feedback.policy = 'dpo': must be a stage that ends with a policy, not a scorer":
        changed("feedback", policy="dpo") | {"dpo": FromRun("there", "reward")},
}  # fmt: skip


@pytest.mark.parametrize("told", ENDS_OTHERWISE)
def test_a_stage_needs_one_that_ends_as_it_reads(told):
    assert refusal(STAGES | ENDS_OTHERWISE[told]) == told


@pytest.mark.parametrize("ends", ["scorer", None])
def test_what_a_stage_ends_with_is_one_of_three(monkeypatch, ends):
    told = "must be one of 'policy', 'score', 'rankings'"
    stages = {"pretrain": STAGES["pretrain"], "sft": changed("sft")["sft"]}
    monkeypatch.setattr(SFT, "needs", lambda self: {"start": Need("pretrain", ends)})
    assert refusal(stages) == f"sft.needs: start: ends = {ends!r}: {told}"
    monkeypatch.setattr(Pretrain, "ends", ends)
    assert refusal(stages) == f"pretrain.ends = {ends!r}: {told}"


NAME = "named in small letters, digits and _, as in my_name"
TAKEN = "another name: a field of the experiment or a command has it"


@pytest.mark.parametrize(
    "name, allowed",
    [("SFT", NAME), ("my-stage", NAME), ("2nd", NAME), ("", NAME), ("_x", NAME), ("a.b", NAME),
     ("a b", NAME), (3, NAME), ("caf\u00e9", NAME), ("seed", TAKEN), ("data", TAKEN),
     ("model", TAKEN), ("stages", TAKEN), ("out", TAKEN), ("run", TAKEN), ("plan", TAKEN),
     ("report", TAKEN), ("generate", TAKEN), ("doctor", TAKEN), ("replay", TAKEN),
     ("estimators", TAKEN)],
)  # fmt: skip
def test_a_name_that_is_none_or_is_taken_is_refused(name, allowed):
    more = SFT(RATE, length=80, start="pretrain")
    assert refusal(STAGES | {name: more}) == f"stages = {name!r}: must be {allowed}"


def test_names_of_letters_digits_and_lines_are_taken():
    more = SFT(RATE, length=80, start="pretrain")
    for name in ("a", "sft2", "ppo_b_3", "x_"):
        assert config.with_stages(**{name: more}).stages[name] is more


def test_an_experiment_has_a_stage():
    assert refusal({}) == "stages = {}: must be one or more"


OTHER_WORDS = dataclasses.replace(config.model, vocab_size=300)
SHORT = dataclasses.replace(config.model, context=60)
SHAPES = {
    "pretrain.length = 161: must be <= model.context = 160": changed("pretrain", length=161),
    "sft.length = 161: must be <= the context of pretrain = 160": changed("sft", length=161),
    "reward.length = 161: must be <= the context of sft = 160": changed("reward", length=161),
    "dpo.length = 61: must be <= the context of other = 60":
        changed("dpo", length=61, start="other"),
    "prompted.prompt_length = 160: must be below the context of pretrain = 160":
        changed("prompted", prompt_length=160),
    "feedback.prompt_length + response_length = 161: must be <= the context of sft = 160":
        changed("feedback", response_length=105),
    "ppo.prompt_length + response_length = 64: must be <= 60, the shortest context of the models":
        changed("ppo", rewards=(LearnedReward("grader"),)),
    "ppo.ptx_length = 161: must be <= the context of sft = 160":
        changed("ppo", ptx_length=161, ptx_coefficient=1.0),
    "ppo.rewards words = 'words': must be a stage whose model has 400 tokens, as sft; it has 300":
        changed("ppo", rewards=(LearnedReward("words"),)),
    "ppo.reference = 'spoken': must be a stage whose model has 400 tokens, as sft; it has 300":
        changed("ppo", reference="spoken"),
}  # fmt: skip
OTHERS = {
    "other": FromRun("there", "sft", ends="policy", model=SHORT),
    "grader": FromRun("there", "reward", model=SHORT),
    "words": FromRun("there", "reward", model=OTHER_WORDS),
    "spoken": FromRun("there", "sft", ends="policy", model=OTHER_WORDS),
}


@pytest.mark.parametrize("told", SHAPES)
def test_lengths_and_words_fit_the_models(told):
    assert refusal({**STAGES, **OTHERS, **SHAPES[told]}) == told


def test_a_stage_says_so_where_it_saves_an_average():
    told = {name for name, stage in STAGES.items() if stage.saved() is not None}
    assert told == {"ppo", "ppo_ptx"} and ppo(ema_decay=None).saved() is None
    assert ppo(ema_decay=0.5, iterations=4).saved() == (
        "the moving average of its weights over 4 iterations, ema_decay = 0.5; 6.2% of it is the "
        "policy at the start. Its KL in training is of the weights that sampled, not of the average"
    )


def test_a_scorer_of_another_size_serves():
    narrow = FromRun("there", "reward", model=dataclasses.replace(config.model, width=16))
    more = config.with_stages(reward=narrow).stages["ppo"]
    assert more == STAGES["ppo"]


def test_responses_may_stop_before_they_are_over():
    ending = EndingConfig(stop_token=".", stop_after=8)
    told = "feedback.response_length = 8: must be above ending.stop_after = 8"
    assert refusal(ending=ending) == told
    assert refusal({k: v for k, v in STAGES.items() if k in ("pretrain", "sft")} |
                   {"reward": FromRun("there", "reward"), "ppo": ppo()}, ending=ending) == (
        "ppo.response_length = 8: must be above ending.stop_after = 8")  # fmt: skip
    dataclasses.replace(config, ending=EndingConfig(stop_token=".", stop_after=7))


def test_what_is_evaluated_fits_the_model():
    evaluation = dataclasses.replace(config.evaluation, prompt_length=153)
    told = "evaluation.prompt_length + response_length = 161: must be <= model.context = 160"
    assert refusal(evaluation=evaluation) == told


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: FromRun("there", "x", ends="rankings"),
         "ends = 'rankings': must be 'policy' or 'score'"),
        (lambda: FewShot(examples=0, start="x"), "examples = 0: must be positive"),
        (lambda: FewShot(prompt_length=0, start="x"), "prompt_length = 0: must be positive"),
        (lambda: RewardModel(RATE, outputs=3, packed=2, start="x"),
         "packed = 2: must be 1 to outputs / 2 = 1"),
        (lambda: RewardModel(RATE, outputs=4, packed=True, start="x"),
         "packed = True: must be 1 to outputs / 2 = 2"),
        (lambda: Pretrain(RATE, batch_size=6, micro_batches=4),
         "micro_batches = 4: must be a divisor of batch_size = 6"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_refused_where_the_stage_is_made(make, told):
    with pytest.raises(ConfigError) as refused:
        make()
    assert str(refused.value) == told


@dataclasses.dataclass(frozen=True)
class Against(Evaluator):
    stage: str = "sft"
    judges: ClassVar = "policy"

    def needs(self):
        return {"against": Need(self.stage, "policy")}


@pytest.mark.parametrize("stage", ["nobody", "reward", "feedback"])
def test_an_evaluator_needs_a_stage_that_ends_as_it_reads(stage):
    expected = f"evaluators: against.against = {stage!r}: must be a stage of this experiment " \
               "that ends with a policy"  # fmt: skip
    assert refusal(evaluators=(Against(stage),)) == expected
    dataclasses.replace(config, evaluators=(Against("dpo"),))


def test_evaluators_have_names_of_their_own():
    told = "evaluators = 'against': must be of another name: a stage or evaluator has it"
    assert refusal(evaluators=(Against(), Against("dpo"))) == told
