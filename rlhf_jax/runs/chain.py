"""The stages of an experiment as a graph: which stages each needs, and whether they fit."""

import re
from collections.abc import Mapping, Sequence

from rlhf_jax.errors import inside, require
from rlhf_jax.evaluation.evaluator import Evaluator
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.stages.adapters import trunk_at_start
from rlhf_jax.stages.stage import Build, Stage, Trunk

Stages = Mapping[str, Stage]
NAME = re.compile(r"[a-z][a-z0-9_]*")
ENDS = {"policy": "a policy", "score": "a scorer", "rankings": "rankings"}  # in sentences
KINDS = f"one of {', '.join(map(repr, ENDS))}"


def builds_on(stages: Stages, name: str) -> list[str]:
    """All stages that a stage needs, directly or indirectly, each after the stages that it needs.

    Raises ConfigError where a needed stage does not exist, or a stage needs itself.
    """
    found: dict[str, None] = {}

    def visit(stage: str, above: tuple[str, ...]) -> None:
        for role, need in stages[stage].needs().items():
            field, here = f"{stage}.{role}", ", ".join(map(str, stages))
            require(need.stage in stages, field, need.stage, f"a stage of this experiment: {here}")
            circle = " -> ".join((*above, need.stage))
            allowed = f"a stage that does not need {stage} itself ({circle})"
            require(need.stage not in above, field, need.stage, allowed)
            visit(need.stage, (*above, need.stage))
            found[need.stage] = None

    visit(name, (name,))
    return list(found)


def in_order(stages: Stages, names: Sequence[str]) -> list[str]:
    """The named stages and all stages that they need, each after the stages that it needs."""
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys([*builds_on(stages, name), name])
    return list(found)


def named(stages: Stages, names: Sequence[str]) -> tuple[str, ...]:
    """The named stages; if none is named, all stages.

    Raises ConfigError where a stage does not exist.
    """
    for name in names:
        require(name in stages, "stages", name, f"a stage of this experiment: {', '.join(stages)}")
    return tuple(names or stages)


def build_of(stages: Stages, name: str, model: TransformerConfig, ending: Ending) -> Build:
    """The `Build` of a stage, from which its programs are made. model: the experiment's."""
    shapes, trunks = {}, {}
    for role, need in stages[name].needs().items():
        upstream = stages[need.stage]
        if upstream.ends != "rankings":
            build = build_of(stages, need.stage, model, ending)
            shapes[role] = upstream.shape(build)
            under = trunk_at_start(build, "start", upstream.lora) if upstream.lora else need.stage
            trunks[role] = Trunk(under, f"{need.stage}, merged")
    return Build(name, model, shapes, ending, trunks)


def check_name(field: str, name: str) -> None:
    """Raises ConfigError unless the name can be used in paths and options, where "-" is "_"."""
    ok = isinstance(name, str) and NAME.fullmatch(name) is not None
    require(ok, field, name, "named in small letters, digits and _, as in my_name")


def check_chain(
    stages: Stages, model: TransformerConfig, ending: Ending, reserved: Sequence[str]
) -> None:
    """Raises ConfigError, naming stage and field, where a name is invalid or taken; where a stage
    needs a missing stage, itself, or a stage with another kind of result; or where model shapes do
    not fit."""
    require(len(stages) > 0, "stages", {}, "one or more")
    for name, stage in stages.items():
        check_name("stages", name)
        allowed = "another name: a field of the experiment or a command has it"
        require(name not in reserved, "stages", name, allowed)
        require(stage.ends in ENDS, f"{name}.ends", stage.ends, KINDS)
    for name, stage in stages.items():
        builds_on(stages, name)
        for role, need in stage.needs().items():
            require(need.ends in ENDS, f"{name}.needs: {role}: ends", need.ends, KINDS)
            ends, wanted = ENDS[stages[need.stage].ends], ENDS[need.ends]
            allowed = f"a stage that ends with {wanted}, not {ends}"
            require(ends == wanted, f"{name}.{role}", need.stage, allowed)
    for name, stage in stages.items():
        with inside(name):
            stage.check_shapes(build_of(stages, name, model, ending))


def stages_of(
    evaluators: Mapping[str, Evaluator], evaluator: Evaluator, in_training: bool = False
) -> set[str]:
    """The stages that an evaluator and the evaluators whose rows it reads need; in_training: the
    stages that they can do without are left out."""
    spared = evaluator.optional() if in_training else ()
    found = {need.stage for role, need in evaluator.needs().items() if role not in spared}
    for name in evaluator.reads():
        found |= stages_of(evaluators, evaluators[name], in_training)
    return found


def check_evaluators(stages: Stages, evaluators: Sequence[Evaluator], best: str | None) -> None:
    """Raises ConfigError where two evaluators have the same name or column; where an evaluator
    reads a missing evaluator or stage, or cannot measure a stage of `within` during training; or
    where `best` is no metric of an evaluator with `every`.

    best: the metric that ranks checkpoints, with "-" in front if lower is better."""
    by_name: dict[str, Evaluator] = {}
    columns: dict[str, Evaluator] = {}
    for evaluator in evaluators:
        name, taken = evaluator.name, by_name.keys() | stages.keys()
        check_name("evaluators", name)
        require(
            name not in taken, "evaluators", name, "of another name: a stage or evaluator has it"
        )
        for column in evaluator.columns():
            allowed = (
                f"in one evaluator: {columns[column].name} has it too" if column in columns else ""
            )
            require(column not in columns, f"evaluators: {name}: column", column, allowed)
        for field in evaluator.reads():
            allowed = f"an evaluator listed before it: {', '.join(by_name) or 'there is none'}"
            require(field in by_name, f"evaluators: {name}: what it reads", field, allowed)
        for role, need in evaluator.needs().items():
            there = need.stage in stages and stages[need.stage].ends == need.ends
            allowed = f"a stage of this experiment that ends with {ENDS[need.ends]}"
            require(there, f"evaluators: {name}.{role}", need.stage, allowed)
        by_name[name] = evaluator
        columns |= dict.fromkeys(evaluator.columns(), evaluator)
        _check_measured(stages, evaluator)
        for stage in evaluator.within:
            late = stages_of(by_name, evaluator, True) - set(builds_on(stages, stage))
            allowed = f"stages that build on what it reads, {', '.join(sorted(late))}"
            require(not late, f"evaluators: {name}.within", stage, allowed)
    if best is not None:
        known = [
            f"evaluation/{c}" for c, evaluator in columns.items() if evaluator.every is not None
        ]
        allowed = f"a column of an evaluator with `every`: {', '.join(known) or 'there is none'}"
        require(best.removeprefix("-") in known, "loop.best", best, allowed)


def _check_measured(stages: Stages, evaluator: Evaluator) -> None:
    """Raises ConfigError where `only` or `within` names a stage whose model it cannot measure."""
    ends = f"stages that end with {ENDS[evaluator.judges]}"
    for stage in evaluator.only:
        there = stage in stages and stages[stage].ends == evaluator.judges
        require(there, f"evaluators: {evaluator.name}.only", stage, ends)
    for stage in evaluator.within:
        there = stage in stages and evaluator.measures(stage, stages[stage].ends)
        allowed = ", ".join(evaluator.only) or ends
        require(there, f"evaluators: {evaluator.name}.within", stage, allowed)
