"""The programs of an experiment as shapes: the stages' own functions and their arguments."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.experiment import Experiment
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.stages import dpo, ppo, reward_model, supervised

ENDING = Ending(eos=2, pad=0)  # which ids these are changes no shape
KEY = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
STAGES = ("pretrain", "sft", "reward", "ppo", "ppo_ptx", "dpo")


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled call of a stage.

    arguments   pytrees of shapes; `state` of them, the first, is donated where it is returned
    beside      pytrees that lie in memory while it runs, though it does not read them
    runs        calls in the whole run; None where that depends on data not at hand
    turns       of the decode loop, at most
    """

    stage: str
    name: str
    function: Callable
    arguments: tuple
    beside: tuple = ()
    donates: bool = False
    runs: int | None = None
    turns: int = 1


def stages_of(config: Experiment) -> tuple[str, ...]:
    """The stages that a run of the experiment has: its own reward model, DPO where it is set."""
    absent = {"reward"} if config.reward_from is not None else set()
    absent |= {"dpo"} if config.dpo is None else set()
    return tuple(stage for stage in STAGES if stage not in absent)


def programs_of(config: Experiment, stages: Sequence[str]) -> list[Program]:
    """Every program that a run of the experiment compiles for its training, stage by stage."""
    make = {"ppo": _ppo, "ppo_ptx": _ppo, "dpo": _dpo}
    return [program for stage in stages for program in make.get(stage, _trainer)(config, stage)]


def as_written(function: Callable, **how: Any) -> Callable:
    """`Compile` that leaves the function as it is: the runner compiles it later."""
    del how
    return function


def policy_shapes(model: TransformerConfig) -> Any:
    return jax.eval_shape(lambda key: transformer.init(model, key), KEY)


def score_shapes(model: TransformerConfig) -> Any:
    make = lambda key: score.with_score_head(transformer.init(model, key), key)
    return jax.eval_shape(make, KEY)


def ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def text_shapes(*shape: int) -> dict:
    return {"tokens": ints(*shape), "segments": ints(*shape), "weights": floats(*shape)}


def ranking_shapes(rows: int, outputs: int, length: int) -> dict:
    return text_shapes(rows, outputs, length) | {"ranks": ints(rows, 1, outputs)}


def steps_of(config: Experiment, stage: str) -> int | None:
    """Optimizer steps of a stage that trains one model, where the config tells them."""
    settings = getattr(config, stage)
    if stage == "pretrain" or settings.packed:
        return None
    rows = config.examples("demonstrations" if stage == "sft" else "rankings")
    if rows is None:
        return None
    if stage == "sft":
        rows = rows / (1 - settings.pretraining_fraction)
    return max(1, round(settings.epochs * math.ceil(rows / settings.batch_size)))


def _trainer(config: Experiment, stage: str) -> list[Program]:
    settings = getattr(config, stage)
    rows, length = settings.batch_size, settings.length
    if stage == "reward":
        loss = reward_model.reward_loss(config.scorer, settings.divide_by)
        params = score_shapes(config.scorer)
        batch = ranking_shapes(rows, settings.outputs, length)
    else:
        loss, params = supervised.likelihood_loss(config.model), policy_shapes(config.model)
        batch = text_shapes(rows, length)
    return [_update(config, stage, loss, params, batch)]


def _update(config: Experiment, stage: str, loss: Callable, params: Any, batch: dict) -> Program:
    settings, steps = getattr(config, stage), steps_of(config, stage)
    total = steps or settings.optimizer.warmup_steps + 1
    update, optimizer = supervised.make_update(loss, settings, total, as_written)
    initial = lambda params, key: supervised.initial_state(params, optimizer, key)
    state = jax.eval_shape(initial, params, KEY)
    return Program(stage, "update", update, (state, batch), donates=True, runs=steps)


def _dpo(config: Experiment, stage: str) -> list[Program]:
    settings, reference = config.dpo, policy_shapes(config.model)
    batch = ranking_shapes(settings.batch_size, settings.outputs, settings.length)
    refer = dpo.make_reference(config.model, settings.micro_batches, as_written)
    loss = dpo.preference_loss(settings.objective, config.model, settings.divide_by)
    referred = jax.eval_shape(refer, reference, batch)
    update = _update(config, stage, loss, reference, referred)
    state = update.arguments[0]
    return [
        Program(stage, "reference", refer, (reference, batch), beside=(state,), runs=update.runs),
        dataclasses.replace(update, beside=(reference,)),
    ]


def _ppo(config: Experiment, stage: str) -> list[Program]:
    settings, model, scorer = getattr(config, stage), config.model, config.scorer
    policy, reward = policy_shapes(model), score_shapes(scorer)
    initial = lambda policy, reward, key: ppo.initial_state(settings, policy, reward, key)
    state = jax.eval_shape(initial, policy, reward, KEY)
    frozen = ppo.Frozen(policy, reward)
    prompts = {name: ints(settings.batch_size, settings.prompt_length)
               for name in ("tokens", "segments")}  # fmt: skip
    rollout = ppo.make_rollout(settings, model, ENDING)
    experience = ppo.make_experience(settings, model, ENDING, scorer)
    sampled = jax.eval_shape(rollout, policy, KEY, prompts)
    episodes, metrics = jax.eval_shape(experience, state, frozen, prompts, sampled)
    text = None
    if settings.ptx_coefficient > 0:
        text = text_shapes(settings.batch_size * settings.ptx_ratio, settings.ptx_length)
    call = lambda name, function, arguments, **more: Program(
        stage, name, function, arguments, runs=settings.iterations, **more
    )
    others = state._replace(policy=None)
    turns = settings.response_length - 1
    return [
        call("rollout", rollout, (policy, KEY, prompts), beside=(others, frozen), turns=turns),
        call("experience", experience, (state, frozen, prompts, sampled)),
        call("update", ppo.make_update(settings, model, scorer),
             (state, episodes, metrics["kl"], text), beside=(frozen,), donates=True),
    ]  # fmt: skip
