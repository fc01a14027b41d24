"""The programs of an experiment as shapes: the stages' own functions and their arguments."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.experiment import Experiment
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.stages import ppo, reward_model, supervised

IDS = ppo.TokenIds(eos=2, pad=0)  # which ids these are changes no shape
KEY = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
STAGES = ("pretrain", "sft", "reward", "ppo", "ppo_ptx")


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


def programs_of(config: Experiment, stages: tuple[str, ...] = STAGES) -> list[Program]:
    """Every program that a run of the experiment compiles for its training, stage by stage."""
    made = []
    for stage in stages:
        if stage == "reward" and config.reward_from is not None:
            continue  # another run's
        made += _ppo(config, stage) if stage.startswith("ppo") else [_trainer(config, stage)]
    return made


def policy_shapes(model: TransformerConfig) -> Any:
    return jax.eval_shape(lambda key: transformer.init(model, key), KEY)


def score_shapes(model: TransformerConfig) -> Any:
    make = lambda key: score.with_score_head(transformer.init(model, key), key)
    return jax.eval_shape(make, KEY)


def ints(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def text_shapes(rows: int, length: int) -> dict:
    return {
        "tokens": ints(rows, length),
        "segments": ints(rows, length),
        "weights": floats(rows, length),
    }


def steps_of(config: Experiment, stage: str) -> int | None:
    """Optimizer steps of a stage that trains one model, where the config tells them."""
    stage_config = getattr(config, stage)
    if stage == "pretrain" or stage_config.packed:
        return None
    kind = {"sft": "demonstrations", "reward": "rankings"}[stage]
    examples = config.examples(kind)
    if examples is None:
        return None
    per_epoch = -(-examples // stage_config.batch_size)
    return max(1, round(stage_config.epochs * per_epoch))


def _trainer(config: Experiment, stage: str) -> Program:
    stage_config = getattr(config, stage)
    rows, length = stage_config.batch_size, stage_config.length
    if stage == "reward":
        outputs, model = stage_config.outputs, config.scorer
        loss, params = reward_model.reward_loss(model), score_shapes(model)
        batch = {
            "tokens": ints(rows, outputs, length),
            "segments": ints(rows, outputs, length),
            "ranks": ints(rows, outputs),
        }
    else:
        loss, params = supervised.likelihood_loss(config.model), policy_shapes(config.model)
        batch = text_shapes(rows, length)
    steps = steps_of(config, stage)
    total = steps or stage_config.optimizer.warmup_steps + 1
    update, optimizer = supervised.make_update(loss, stage_config, total)
    initial = lambda params, key: supervised.initial_state(params, optimizer, key)
    state = jax.eval_shape(initial, params, KEY)
    return Program(stage, "update", update, (state, batch), donates=True, runs=steps)


def _ppo(config: Experiment, stage: str) -> list[Program]:
    settings, model, scorer = getattr(config, stage), config.model, config.scorer
    policy, reward = policy_shapes(model), score_shapes(scorer)
    initial = lambda policy, reward, key: ppo.initial_state(settings, policy, reward, key)
    state = jax.eval_shape(initial, policy, reward, KEY)
    frozen = ppo.Frozen(policy, reward)
    prompts = {name: ints(settings.batch_size, settings.prompt_length)
               for name in ("tokens", "segments")}  # fmt: skip
    rollout = ppo.make_rollout(settings, model, IDS)
    experience = ppo.make_experience(settings, model, IDS, scorer)
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
