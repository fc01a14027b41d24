"""Fifty updates of each stage at tiny size: losses and gradient norms under any setting.

Weights and batches are NumPy's, so that no initialiser and no shuffle takes part; PPO's responses
are given, so that rounding cannot draw another token.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from rlhf_jax.data.arrays import first_fit, ranking_batch, supervised_batch
from rlhf_jax.generation.decode import Rollout
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.estimator import GAE
from rlhf_jax.objectives.kl import AdaptiveController
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import policy_update, supervised
from rlhf_jax.stages.dpo import DirectPreference
from rlhf_jax.stages.fitting import WHOLE, Fitting
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer
from tests.stages import tiny

STEPS, BATCHES = 50, 5  # the batches come in turns
ROWS, OUTPUTS, PROMPT, RESPONSE, TEXT = 16, 4, 6, 6, 16
EPOCHS, MINIBATCHES = 1, 2
ITERATIONS = STEPS // (EPOCHS * MINIBATCHES)
RATE = OptimizerConfig(
    learning_rate=3e-3, schedule="cosine", warmup_steps=5, epsilon=1e-3, weight_decay=0.01
)
NEVER = OptimizerConfig(learning_rate=3e-3, epsilon=1e-3)
LAYOUTS = {
    "one device": None,
    "data 8": ParallelConfig(),
    "fsdp 2, tensor 2": ParallelConfig(fsdp=2, tensor=2),
    "pmap": ParallelConfig(runner="pmap"),
}
KEY = jax.random.key(0)
Trajectory = dict[str, list[float]]


class Setting(NamedTuple):
    """What must not change a number."""

    layout: str = "one device"
    micro_batches: int = 1
    packed: bool = False  # demonstrations and rankings
    remat: str = "off"
    scan_layers: bool = True
    logit_chunk: int | None = None
    shared_rows: bool = False  # of episodes

    @property
    def model(self) -> TransformerConfig:
        return dataclasses.replace(
            tiny.MODEL,
            remat=self.remat,
            scan_layers=self.scan_layers,
            logit_chunk=self.logit_chunk,
        )

    @property
    def runner(self):
        if self.layout == "one device":
            return tiny.one_device()
        return make_runner(LAYOUTS[self.layout])


@functools.cache
def weights(kind: str, seed: int):
    """Normal numbers of standard deviation 0.3, around 1 where they scale."""

    def initial(key):
        params = transformer.init(tiny.MODEL, key)
        return score.with_score_head(params, key) if kind == "score" else params

    rng = np.random.default_rng(seed)

    def draw(path, x):
        middle = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return (middle + 0.3 * rng.normal(size=x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(initial, KEY))


def text_batch(seed: int, rows: int = ROWS):
    return tiny.text_batch(rows, TEXT, seed)


def demonstration_batch(seed: int, packed: bool):
    """16 demonstrations of 4 to 11 tokens: one a row, or several."""
    rng, pieces = np.random.default_rng(seed), []
    for _ in range(ROWS):
        length = int(rng.integers(4, 12))
        ids = [tiny.BOS, *rng.integers(4, 40, length - 2).tolist(), tiny.EOS]
        targets = slice(int(rng.integers(1, length - 1)), None)
        pieces.append((np.array(ids, np.int32), targets))
    if not packed:
        return supervised_batch([[piece] for piece in pieces], 12, tiny.PAD)
    bins = first_fit([len(ids) for ids, _ in pieces], 32)
    rows = [[pieces[i] for i in members] for members in bins]
    return supervised_batch(rows + [[]] * (8 - len(rows)), 32, tiny.PAD)


def rankings(seed: int, packed: bool):
    """16 rankings of 2 to 4 outputs, ties among them: one an element, or several."""
    rng, ranked = np.random.default_rng(seed), []
    for _ in range(ROWS):
        outputs, prompt = int(rng.integers(2, OUTPUTS + 1)), [tiny.BOS, *rng.integers(4, 40, 2)]
        responses = [rng.integers(4, 40, rng.integers(1, 5)).tolist() for _ in range(outputs)]
        pieces = [
            (np.array([*prompt, *ids, tiny.EOS], np.int32), slice(3, None)) for ids in responses
        ]
        ranked.append((pieces, rng.integers(0, 3, outputs).tolist()))
    if not packed:
        batch = ranking_batch([[each] for each in ranked], 8, OUTPUTS, 1, tiny.PAD)
        return batch | {"ranks": batch["ranks"][:, 0]}
    bins = first_fit([len(ranks) for _, ranks in ranked], 2 * OUTPUTS)
    rows = [[ranked[i] for i in members] for members in bins]
    return ranking_batch(rows + [[]] * (8 - len(rows)), 8, 2 * OUTPUTS, OUTPUTS, tiny.PAD)


def trained(setting, steps, stage, params, batches, prepare=lambda programs, batch: batch):
    """The stage's own programs, on the batches."""
    runner, told = setting.runner, []
    programs = tiny.programs_of(stage, STEPS, runner, setting.model)
    optimizer = make_optimizer(stage.optimizer, STEPS)
    initial = lambda params, key: supervised.initial_state(params, optimizer, key)
    state = runner.create(initial, params, KEY)
    for step in range(steps):
        batch = batches[step % BATCHES]
        batch = prepare(programs, runner.rows(batch, len(batch["tokens"])))
        state, metrics = programs["update"](state, batch, {})
        told.append({name: float(metrics[name]) for name in ("loss", "grad_norm")})
    return {name: [step[name] for step in told] for name in told[0]}


def pretrain(setting: Setting, steps: int) -> Trajectory:
    stage = Pretrain(RATE, batch_size=ROWS, length=TEXT, micro_batches=setting.micro_batches)
    batches = [text_batch(seed) for seed in range(BATCHES)]
    return trained(setting, steps, stage, weights("policy", 1), batches)


def sft(setting: Setting, steps: int) -> Trajectory:
    batches = [demonstration_batch(seed, setting.packed) for seed in range(BATCHES)]
    rows, length = batches[0]["tokens"].shape
    stage = SFT(
        RATE, batch_size=rows, length=length, micro_batches=setting.micro_batches, start="base"
    )
    return trained(setting, steps, stage, weights("policy", 1), batches)


def ranking_stage(kind, setting: Setting):
    """The stage and its batches."""
    batches = [rankings(seed, setting.packed) for seed in range(BATCHES)]
    rows, outputs, length = batches[0]["tokens"].shape
    packed = OUTPUTS if setting.packed else 1
    stage = kind(
        RATE, batch_size=rows, outputs=outputs, length=length, packed=packed,
        micro_batches=setting.micro_batches, start="base",
    )  # fmt: skip
    assert stage.batch_shapes()["ranks"].shape == batches[0]["ranks"].shape
    return stage, batches


def reward(setting: Setting, steps: int) -> Trajectory:
    stage, batches = ranking_stage(RewardModel, setting)
    return trained(setting, steps, stage, weights("score", 2), batches)


def preference(setting: Setting, steps: int) -> Trajectory:
    stage, batches = ranking_stage(DirectPreference, setting)
    reference = setting.runner.state(weights("policy", 3))

    def refer(programs, batch):
        sequences = {name: batch[name] for name in ("tokens", "segments", "weights")}
        return batch | {"ref_log_probs": programs["reference"](reference, sequences)}

    return trained(setting, steps, stage, weights("policy", 1), batches, refer)


def ppo_config(setting: Setting) -> PolicyGradient:
    return PolicyGradient(
        NEVER, RATE, iterations=ITERATIONS, batch_size=ROWS, minibatches=MINIBATCHES,
        epochs=EPOCHS, micro_batches=setting.micro_batches, prompt_length=PROMPT,
        response_length=RESPONSE, temperature=0.7, advantage=GAE(0.95, 0.9),
        kl=AdaptiveController(0.1, target=2.0, horizon=400), whiten_rewards=True, ema_decay=0.9,
        ptx_coefficient=2.0, ptx_ratio=2, ptx_length=TEXT, start="base",
        rewards=(LearnedReward("reward"),),
    )  # fmt: skip


def prompts(number: int):
    rng = np.random.default_rng(number)
    ids = [[tiny.BOS, *rng.integers(4, 40, rng.integers(0, PROMPT))] for _ in range(ROWS)]
    tokens, segments = tiny.left_padded(ids, PROMPT)
    return {"tokens": tokens, "segments": segments}


PPO_METRICS = ("score", "kl", "policy_loss", "value_loss", "ptx_loss", "policy_grad_norm",
               "value_grad_norm", "ptx_grad_norm", "explained_variance")  # fmt: skip


def ppo_ptx(
    setting: Setting, steps: int, responses: list | None, drawn: Callable = lambda tokens: None
) -> Trajectory:
    """A figure an iteration, the mean of its minibatches. responses: the tokens [B, R] of each
    iteration; None: they are sampled. drawn is called with them."""
    config, runner, told = ppo_config(setting), setting.runner, []
    programs = tiny.ppo_programs(config, runner, setting.model)
    initial = functools.partial(policy_update.initial_state, config)
    state = runner.create(initial, weights("policy", 1), weights("score", 2), KEY)
    laid = map(runner.state, (weights("policy", 3), weights("score", 4)))
    frozen = tiny.frozen_of(config, state.policy, *laid)
    for number in range(-(-steps // (EPOCHS * MINIBATCHES))):
        asked = runner.rows(prompts(number % BATCHES), ROWS)
        if responses is None:
            key = jax.random.fold_in(KEY, number)
            rollout = programs["rollout"](state.policy, key, asked)
            drawn(np.asarray(rollout.tokens).tolist())
        else:
            rollout = Rollout(*runner.rows(tuple(forced(responses[number])), ROWS))
        scoring, update = fits(setting, config, state, asked, rollout)
        given = state, frozen, asked, rollout, {}, scoring
        experience, moved, metrics = programs["experience"](*given)
        text = runner.rows(text_batch(number % BATCHES, 2 * ROWS), 2 * ROWS)
        state, more = programs["update"](state, experience, moved, text, frozen.fixed, update)
        told.append({name: float((metrics | more)[name]) for name in PPO_METRICS})
    return {name: [step[name] for step in told] for name in PPO_METRICS}


def fits(setting: Setting, config: PolicyGradient, state, asked, rollout):
    """How the responses to the prompts are computed."""
    if not setting.shared_rows:
        return WHOLE, WHOLE
    orders = functools.partial(policy_update.minibatch_rows, config)
    fitting = Fitting(config, orders, 8, tiny.MODEL.context)
    looked = setting.runner.fetch_rows((asked["segments"], rollout.mask))
    found = fitting(state.key, state.step, *looked)
    assert found[0].rows == 3  # of 32 tokens, for 8 episodes of 12 at most
    return found


def forced(responses) -> Rollout:
    """A rollout of given tokens; what the sampler thought of them is read nowhere but in a check
    of the sampler itself."""
    tokens = np.array(responses, np.int32)
    ended = np.cumsum(tokens == tiny.EOS, axis=1) - (tokens == tiny.EOS) > 0
    return Rollout(tokens, (~ended).astype(np.float32), np.zeros(tokens.shape, np.float32))


SUPERVISED = {"pretrain": pretrain, "sft": sft, "reward": reward, "dpo": preference}
STAGES = (*SUPERVISED, "ppo_ptx")


def trajectory(stage: str, setting: Setting, steps: int, responses: list) -> Trajectory:
    """Losses and gradient norms of the first `steps` updates of a stage."""
    if stage == "ppo_ptx":
        return ppo_ptx(setting, steps, responses)
    return SUPERVISED[stage](setting, steps)
