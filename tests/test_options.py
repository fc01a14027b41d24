"""Fields as options: types and groups come from the config's own instances, in what they change,
in what they refuse, and in what --help says of them."""

import collections.abc
import dataclasses
import re
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

from rlhf_jax.errors import ConfigError, UserError, require
from rlhf_jax.evaluation.benchmarks.hhh import HHH
from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.objectives.estimator import GAE, PPOClip
from rlhf_jax.objectives.kl import AdaptiveController, FixedController
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.runs import field_texts, options
from rlhf_jax.runs.benchmarking import EvalOptions
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.stages.dpo import IPO
from rlhf_jax.stages.elsewhere import FromRun
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.small_run import config


class Reward(Protocol):
    """What a field may be typed by: nothing of it says which fields there are."""

    def score(self, text: str) -> float: ...


@dataclasses.dataclass(frozen=True)
class Base:
    """Nothing."""


@dataclasses.dataclass(frozen=True)
class Length(Base):
    """Scores the length.

    weight  of the score, in
            points a token

    Nothing else.
    """

    weight: float = 1.0
    most: int | None = None  # tokens that count
    # Longer ones
    # count nothing.
    strict: bool = False

    def __post_init__(self):
        require(self.weight > 0, "weight", self.weight, "positive")


@dataclasses.dataclass(frozen=True)
class Words(Base):
    """Scores words: only some of them."""

    words: tuple[str, ...] = ("yes",)
    how: Literal["any", "all"] = "any"
    place: Path = Path("here")
    call: collections.abc.Callable = len  # no text can stand for it
    anything: Any = None


@dataclasses.dataclass(frozen=True)
class Config:
    """One of each kind of field."""

    protocol: Reward = Length()
    base: Base = Length()
    union: Length | Words = Words()
    absent: Length | None = None
    present: Length | None = Length()
    several: tuple[Base, ...] = (Length(), Words())
    named: collections.abc.Mapping[str, Base] = dataclasses.field(
        default_factory=lambda: {"my_first": Length()}
    )
    bare: Base = Base()
    lam: float = 1.0
    switch: bool = True


def parsed(*arguments, roots=(Config(),), **how):
    return options.parse(roots, arguments, "program", **how)[0]


def helped(capsys, roots, **how) -> str:
    with pytest.raises(SystemExit) as ended:
        options.parse(roots, ["--help"], "program", **how)
    assert ended.value.code == 0
    return " ".join(re.sub("[│╭╮╰╯─|+]|-{3,}", " ", capsys.readouterr().out).split())


def test_without_options_the_config_is_the_file_s_own():
    found = Config()
    assert parsed(roots=[found]) is found


CHANGES = {
    "a protocol's instance": ("--protocol.weight 2", {"protocol": Length(2.0)}),
    "a base class's instance": ("--base.most 3", {"base": Length(most=3)}),
    "the member of a union that is there": (
        "--union.how all --union.words no maybe --union.place there",
        {"union": Words(("no", "maybe"), "all", Path("there"))},
    ),
    "an optional group": ("--present.strict", {"present": Length(strict=True)}),
    "a member of a tuple": ("--several.1.words", {"several": (Length(), Words(()))}),
    "a member of a mapping, - for _": (
        "--named.my-first.weight=3", {"named": {"my_first": Length(3.0)}},
    ),
    "_ as it is": ("--named.my_first.weight 3", {"named": {"my_first": Length(3.0)}}),
    "a flag back": ("--base.strict --base.no-strict --lam 2", {"lam": 2.0}),
    "a flag at the top": ("--no-switch", {"switch": False}),
    "several at once": (
        "--base.weight 2 --base.most 1 --lam 0", {"base": Length(2.0, 1), "lam": 0.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_changes_its_field_alone(name):
    arguments, changes = CHANGES[name]
    assert parsed(*arguments.split()) == dataclasses.replace(Config(), **changes)


def test_a_stage_s_name_may_begin_as_a_flag_back_does():
    stages = {"no_kl": config.stages["ppo"]}
    found = parsed("--no-kl.iterations", "7", roots=[config.with_stages(**stages)])
    assert found.stages["no_kl"] == dataclasses.replace(stages["no_kl"], iterations=7)


def test_an_optional_number_may_be_none():
    roots = [Config(base=Length(most=3))]
    assert parsed("--base.most", "None", roots=roots) == Config()


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """Its types are for a type checker; it has no __dict__."""

    count: "OnlyThere" = 3  # noqa: F821
    inner: "OnlyThere" = Length()  # noqa: F821


def test_where_a_type_cannot_be_found_the_value_s_own_counts():
    found = parsed("--count", "5", "--inner.weight", "2", roots=[Checked()])
    assert found == Checked(5, Length(2.0))
    assert field_texts.field_texts(Checked) == {}


def test_several_roots_change_each_their_own():
    found = options.parse([Length(), Words()], ["--weight", "2", "--how", "all"], "program")
    assert found == [Length(2.0), Words(how="all")]


def test_a_refused_value_is_named_by_its_option():
    for option in ("protocol", "base", "present", "several.0", "named.my_first"):
        with pytest.raises(ConfigError, match=rf"^{option}\.weight = -1\.0: must be positive"):
            parsed(f"--{option}.weight", "-1")
    with pytest.raises(ConfigError, match=r"^weight = -1\.0: must be positive"):
        parsed("--weight", "-1", roots=[Length()])


UNKNOWN = {
    "--fly": "no such option$",
    "--la": r"no such option; did you mean --lam\?$",
    "--base.wieght": r"base is of the class Length, which has no field wieght; did you mean "
    r"--base.weight\?$",
    "--how": r"no such option; did you mean --several.1.how or --union.how\?$",
    "--bsae.most": r"no such option; did you mean --base.most\?$",
    "--union.weight": "union is of the class Words, which has no field weight; Length has it: the "
    "experiment file sets the class$",
    "--base.how": "base is of the class Length, which has no field how; Words has it: .*file sets",
    "--base": "it names a group of options, not one$",
    "--base.weight.x": "no such option",
    "--absent.weight": "absent is None in the experiment file$",
    "--union.call": "union.call is not text: the experiment file sets it$",
    "--union.anything": "union.anything is not text",
    "--several.7.weight": "no such option",
    "--named.other.weight": "no such option",
    "--bare.x": "bare is of the class Base, which has no field x$",
    "--no-lam": "no such option$",
}


@pytest.mark.parametrize("option", UNKNOWN)
def test_an_option_that_is_none_is_told_with_its_reason(option):
    for arguments in ((option, "1"), (f"{option}=1",)):
        with pytest.raises(UserError, match=rf"^{re.escape(option)}: {UNKNOWN[option]}"):
            parsed(*arguments)


WRONG = {
    "--lam many": "--lam many: expected FLOAT",
    "--base.most=1.5 --lam 1": "--base.most 1.5: expected {None}|INT",
    "--union.how some": "--union.how some: expected one of ('any', 'all')",
    "--lam": "--lam: expected 1 values",
    "--lam 1 x y": "'x' belongs to no option: expected --field value",
    "x": "'x' belongs to no option: expected --field value",
    "--switch no": "'no' belongs to no option: expected --field value",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_a_value_of_another_type_and_a_stray_word_are_one_line(capsys, arguments):
    with pytest.raises(UserError, match=f"^{re.escape(WRONG[arguments])}$"):
        parsed(*arguments.split())
    assert capsys.readouterr() == ("", "")


@dataclasses.dataclass(frozen=True)
class OfFile:
    """With a word that is no option's value."""

    file: Path | None = dataclasses.field(default=None, metadata=options.POSITIONAL)
    words: tuple[str, ...] = ()


def test_a_positional_field_is_a_word_before_or_behind_the_options():
    for arguments in ("x.jsonl --lam 2", "--lam 2 x.jsonl", "--no-switch --lam 2 x.jsonl"):
        found = options.parse([Config(), OfFile()], arguments.split(), "program")
        assert (found[0].lam, found[1].file) == (2.0, Path("x.jsonl"))
    assert options.parse([Config(), OfFile()], [], "program")[1].file is None


def test_a_field_s_text_is_its_own():
    assert field_texts.field_texts(Length) == {
        "weight": "of the score, in points a token",
        "most": "tokens that count",
        "strict": "Longer ones count nothing.",
    }
    assert field_texts.described(Words) == "Scores words: only some of them."
    assert field_texts.first_sentence(Words) == "Scores words"
    bare = dataclasses.make_dataclass("Bare", [("x", int)])
    assert (field_texts.described(bare), field_texts.field_texts(bare)) == ("", {})
    bare.__doc__ = "Bare(x) is a formula."  # and not what dataclasses write
    assert field_texts.described(bare) == "Bare(x) is a formula."


def test_help_gives_each_group_and_field_its_own_text(capsys):
    told = helped(capsys, [Config()], about="What it does.")
    assert told.startswith("usage: program [-h] [OPTIONS] What it does.")
    assert "base options Scores the length. --base.weight FLOAT of the score, in points a" in told
    assert "--base.most {None} INT tokens that count (default: None)" in told
    assert "union options Scores words: only some of them. --union.words" in told
    for absent in ("absent", "call", "anything", "bare", "One of each kind", "fixed"):
        assert absent not in told, absent


class Gold(Evaluator):
    """Outside of the package."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted(Evaluator):
    """Counts.

    limit  of what is counted
    """

    limit: Base = Length()


def in_experiment(**changes) -> Experiment:
    return dataclasses.replace(config, evaluators=(Gold(), Counted()), **changes)


def changed(*arguments, **changes) -> Experiment:
    return parsed(*arguments, roots=(in_experiment(**changes), options.RunOptions()))


def test_every_stage_source_and_evaluator_has_its_options_behind_its_name():
    ipo = dataclasses.replace(config.stages["dpo"], objective=IPO(0.1))
    found = changed(
        "--ppo.kl.coefficient", "0.3", "--dpo.objective.beta", "0.2",
        "--ppo-ptx.surrogate.clip", "0.7", "--ppo-ptx.advantage.lam", "0.5",
        "--sft.optimizer.learning-rate", "1e-4", "--data.world.sft", "61", "--model.layers", "1",
        "--evaluation.sampling.top-k", "5", "--loop.keep", "7", "--parallel.fsdp", "2",
        "--ending.missing-eos-score", "None", "--evaluators.counted.limit.weight", "4",
        "--evaluators.gold.every", "9", "--feedback.outputs", "2", "4", "--seed", "8",
        "--reward.outputs", "4", "--dpo.outputs", "4", "--out", "there", "--data.world.seed", "3",
        stages={**config.stages, "dpo": ipo},
    )  # fmt: skip
    stages = found.stages
    assert list(stages) == list(config.stages)
    assert stages["ppo"].kl == AdaptiveController(0.3, target=0.1, horizon=40)
    assert stages["ppo_ptx"] == dataclasses.replace(
        config.stages["ppo_ptx"], surrogate=PPOClip(0.7), advantage=GAE(0.95, 0.5)
    )
    assert stages["dpo"].objective == IPO(0.2)
    assert stages["sft"].optimizer.learning_rate == 1e-4
    assert stages["feedback"].outputs == (2, 4)
    assert stages["pretrain"] is config.stages["pretrain"]
    assert (found.data.world.sft, found.data.world.seed, found.model.layers) == (61, 3, 1)
    assert (found.evaluation.sampling.top_k, found.loop.keep, found.parallel.fsdp) == (5, 7, 2)
    assert (found.ending.missing_eos_score, found.seed, found.out) == (None, 8, "there")
    assert found.evaluators == (Gold(every=9), Counted(limit=Length(4.0)))
    assert changed("--evaluators.gold.every", "9").evaluators == (Gold(every=9), Counted())


def test_a_controller_s_class_is_the_file_s():
    fixed = {
        **config.stages,
        "ppo": dataclasses.replace(config.stages["ppo"], kl=FixedController(0.1)),
    }
    told = (
        "--ppo.kl.target: ppo.kl is of the class FixedController, which has no field target; "
        "AdaptiveController and DoublingController have it: the experiment file sets the class"
    )
    with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
        changed("--ppo.kl.target", "6", stages=fixed)
    assert changed("--ppo.kl.target", "6").stages["ppo"].kl.target == 6.0


def test_another_run_s_shape_that_is_none_is_told():
    stages = {**config.stages, "reward": FromRun("elsewhere", "reward")}
    with pytest.raises(UserError, match=r"reward.model is None in the experiment file$"):
        changed("--reward.model.layers", "3", stages=stages)
    shaped = {**config.stages, "reward": FromRun("elsewhere", "reward", model=config.model)}
    found = changed("--reward.model.layers", "3", "--reward.run", "there", stages=shaped)
    assert (found.stages["reward"].run, found.stages["reward"].model.layers) == ("there", 3)


@pytest.mark.parametrize("name", ["my-x", "seed", "data", "run", "eval", "X"])
def test_a_stage_whose_name_would_hide_an_option_is_refused(name):
    with pytest.raises(ConfigError, match=rf"^stages = '{name}': must be "):
        in_experiment(stages={**config.stages, name: config.stages["pretrain"]})


def test_a_stage_named_as_an_option_is_refused_by_the_commands_that_have_it():
    named = in_experiment(stages={**config.stages, "judge": config.stages["pretrain"]})
    given = ["--judge.epochs", "3", "--stages", "judge"]
    found, how = options.parse([named, options.ChainOptions()], given, "rlhf-jax run x.py")
    assert (found.stages["judge"].epochs, how.stages) == (3, ("judge",))
    told = (
        r"^--judge: a stage .* and an option of this command \(rlhf-jax eval x.py\) have this name"
    )
    for given in ([], ["--judge", "http://x#m"], ["--help"]):
        with pytest.raises(UserError, match=told):
            options.parse([named, EvalOptions()], given, "rlhf-jax eval x.py")
    both = in_experiment(stages={**config.stages, "hhh": config.stages["pretrain"]})
    with pytest.raises(UserError, match=r"^--hhh: a stage of the experiment and an option"):
        options.parse([both, EvalOptions(), {"hhh": HHH()}], [], "rlhf-jax eval x.py")


@pytest.mark.parametrize("name", ["my-x", "a/b", ""])
def test_an_evaluator_s_name_stands_in_paths_and_options(name):
    class Named(Counted):
        @property
        def name(self):
            return name

    with pytest.raises(ConfigError, match=r"^evaluators = .*: must be named in small letters"):
        dataclasses.replace(config, evaluators=(Named(),))


def test_an_empty_default_is_called_none(capsys):
    told = helped(capsys, [options.ChainOptions(stages=())])
    assert "none named: all (default: none)" in told and "(default: )" not in told


def test_help_of_a_stage_lists_its_own_options_and_the_shared_ones(capsys):
    hidden = set(config.stages) - {"ppo"}
    told = helped(capsys, [in_experiment(), options.RunOptions()], hidden=hidden)
    for option in ("--ppo.iterations", "--data.world.sft", "--stop-after-steps", "--seed",
                   "--evaluators.counted.limit.weight", "--evaluation.batch-size"):  # fmt: skip
        assert f"{option} " in told, option
    assert "--sft." not in told and "--ppo-ptx." not in told
    assert f"ppo options {field_texts.described(PolicyGradient)}" in told
    assert f"evaluators.counted options {field_texts.described(Counted)}" in told
    assert "--ppo.stream {None} STR names its randomness; None: the stage's name. Two" in told
    assert "evaluation options How every policy is sampled when policies are compared" in told
    assert "loop options What is written and how often, in steps" in told
    assert "parallel options The mesh, the runner and the processes of a run" in told
    assert "ppo.policy-optimizer options A method and its schedule; the defaults are" in told
    told = helped(capsys, [in_experiment(), options.RunOptions()])
    assert "--sft.epochs " in told and "--dpo.objective.beta " in told


def test_entries_of_a_docstring_part_ways():
    texts = field_texts.field_texts(LoopConfig)
    assert texts["keep"] == "the number of newest checkpoints that are kept"
    told = "the Weights & Biases project to which metrics are sent, besides the files"
    assert texts["wandb"] == told
    texts = field_texts.field_texts(ParallelConfig)
    assert texts["process"] == 'the number of this process, from 0; only with "host:port"'
    texts = field_texts.field_texts(OptimizerConfig)
    assert texts["b1"] == texts["b2"]
