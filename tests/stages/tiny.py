"""A tiny model far from its initial values, hand-made batches, and a forward pass by sequence."""

import dataclasses
import functools

import jax
import numpy as np

from rlhf_jax.generation.ending import Ending
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.parallel.runner import JitRunner, layout_of
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import policy_update
from rlhf_jax.stages.experience import Frozen, Shapes, State
from rlhf_jax.stages.feeds import Prompted
from rlhf_jax.stages.iteration import Host, Iteration
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.stage import Build, Stage
from rlhf_jax.training.optimizer import OptimizerConfig

MODEL = TransformerConfig(
    vocab_size=40, layers=2, width=16, heads=2, context=32, compute_dtype="float32"
)
PAD, BOS, EOS = 0, 1, 2
ENDING = Ending(EOS, PAD, missing=-1.0)
PROMPTS = ([1, 7, 9], [1, 30, 31, 32, 33, 34], [1], [1, 5, 5, 5], [1, 8], [1, 39, 4],
           [1, 12, 13, 14, 15], [1, 6])  # fmt: skip
RESPONSES = ([11, 12, EOS], [5, 6, 7, 8, 9, 10], [EOS], [20, 21, 22, 23, 24, EOS],
             [30, EOS], [7, 7, 7, 7], [9, 3, EOS], [38, 37, 36, 35, EOS])  # fmt: skip
RESPONSE = 6
SHAPES = Shapes(MODEL, MODEL, MODEL, {"reward": MODEL})


def noisy(params, seed):
    """Every leaf far from its initial value, so that each takes part."""
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return tree.unflatten([x + 0.3 * rng.normal(size=x.shape).astype(np.float32) for x in leaves])


@functools.cache
def _initial(model, scores: bool):
    def init(key):
        params = transformer.init(model, key)
        return score.with_score_head(params, key) if scores else params

    return jax.jit(init)(jax.random.key(0))


def policy_params(seed=0, model=MODEL):
    return noisy(_initial(model, False), seed)


def score_params(seed=0, model=MODEL):
    return noisy(_initial(model, True), seed)


def ppo_config(**changes) -> PolicyGradient:
    """Batches of 8 episodes, at a temperature that shows wherever it is forgotten."""
    rate = OptimizerConfig(learning_rate=1e-2, epsilon=0.1)  # smooth where gradients are tiny
    config = PolicyGradient(
        rate, rate, iterations=4, batch_size=8, minibatches=2, epochs=2, prompt_length=6,
        response_length=RESPONSE, temperature=0.7, ema_decay=0.9, ptx_ratio=1, ptx_length=8,
        start="sft", rewards=(LearnedReward("reward"),),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def one_device() -> JitRunner:
    return JitRunner(layout_of(jax.devices()[:1], MeshShape(1, 1, 1)))


def programs_of(stage: Stage, steps: int, runner=None, model=MODEL, **shapes) -> dict:
    """A stage's, compiled as a run compiles them. shapes: of models of another shape, by role."""
    build = Build("stage", model, dict.fromkeys(stage.needs(), model) | shapes, ENDING)
    runner = runner or one_device()
    return {name: made.compile(runner) for name, made in stage.programs(build, steps).items()}


def ppo_programs(config: PolicyGradient, runner=None, model=MODEL, **shapes) -> dict:
    return programs_of(config, config.iterations, runner, model, **shapes)


def frozen_of(config: PolicyGradient, policy, reference, reward) -> Frozen:
    """The reward model is the scorer that the value function starts from."""
    return policy_update.frozen_of(config, policy, reference, {"reward": reward}, reward)


def state_of(config: PolicyGradient, policy=None, value=None, **parts) -> State:
    """Before the first iteration, without optimizers and average."""
    carried = {part: getattr(config, part).init() for part in ("advantage", "surrogate")}
    state = State(np.int32(0), policy, value, None, None, None, config.kl.init(), **carried,
                  queue=None, key=None)  # fmt: skip
    return state._replace(**parts)


def iteration(config: PolicyGradient, programs: dict, frozen: Frozen) -> Iteration:
    """On one device, of a reward without functions on the host."""
    rows = {"prompts": config.batch_size, "text": config.batch_size * config.ptx_ratio}
    batches, host = Prompted(one_device(), {}, rows), Host(lambda *_: {}, None, None)
    return Iteration(config, programs, frozen, batches, host, MODEL.compute_dtype)


def left_padded(rows, length):
    """Tokens and segments [B, length] of lists of ids."""
    tokens = np.full((len(rows), length), PAD, np.int32)
    segments = np.zeros((len(rows), length), np.int32)
    for b, row in enumerate(rows):
        tokens[b, length - len(row) :], segments[b, length - len(row) :] = row, 1
    return tokens, segments


def right_padded(rows, length):
    tokens, segments = left_padded([row[::-1] for row in rows], length)
    return tokens[:, ::-1].copy(), segments[:, ::-1].copy()


def prompt_batch(length=6):
    tokens, segments = left_padded(PROMPTS, length)
    return {"tokens": tokens, "segments": segments}


def asked_batch():
    """As a step gets them: prompts with their places."""
    return {"prompts": prompt_batch() | {"index": np.arange(len(PROMPTS), dtype=np.int32)}}


def text_batch(rows=8, length=8, seed=0):
    """Rows of two documents each, of uneven lengths, the last part padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 40, (rows, length)).astype(np.int32)
    cut, end = rng.integers(1, 4, (rows, 1)), rng.integers(4, length + 1, (rows, 1))
    column = np.arange(length)[None]
    segments = np.where(column < end, 1 + (column >= cut), 0).astype(np.int32)
    weights = (segments > 0) & (column > 0) & (column != cut)
    return {"tokens": tokens * (segments > 0), "segments": segments,
            "weights": weights.astype(np.float32)}  # fmt: skip


_states = jax.jit(transformer.hidden, static_argnums=0)


def sequence_states(params, sequences, model=MODEL) -> list[np.ndarray]:
    """Hidden states [T, D], float64, of each list of ids; right padded, where PPO pads left."""
    tokens, segments = right_padded(sequences, model.context)
    states = np.asarray(_states(model, params, tokens, segments), np.float64)
    return [states[b, : len(ids)] for b, ids in enumerate(sequences)]


def sequence_log_probs(params, sequences, temperature=1.0, model=MODEL) -> list[np.ndarray]:
    """log p(token t | tokens before it) of each list of ids, t = 1...; float64."""
    matrix = np.asarray(params["tokens"], np.float64)
    found = []
    for ids, states in zip(sequences, sequence_states(params, sequences, model), strict=True):
        row = []
        for t in range(1, len(ids)):
            scaled = matrix @ states[t - 1] / temperature
            row.append(scaled[ids[t]] - np.log(np.exp(scaled - scaled.max()).sum()) - scaled.max())
        found.append(np.array(row))
    return found


def sequence_scores(params, sequences, model=MODEL) -> list[np.ndarray]:
    """The scalar head at each token of each list of ids; float64."""
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["score"])
    return [
        np.array([float(state @ head["weights"] + head["bias"]) for state in states])
        for states in sequence_states(params, sequences, model)
    ]
