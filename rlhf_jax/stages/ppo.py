"""PPO-ptx: roll out, score, shape rewards by the KL to the reference, and update by minibatch."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.errors import UserError
from rlhf_jax.generation.decode import Rollout, generate
from rlhf_jax.generation.ending import Ending, final_scores
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import parts, score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.matmul import resolve_dtype
from rlhf_jax.models.placement import place
from rlhf_jax.objectives.advantages import gae, kl_shaped_rewards
from rlhf_jax.objectives.reductions import WeightedMean, masked_mean, whiten
from rlhf_jax.objectives.surrogates import clipped_value_loss, ppo_clip, ppo_diagnostics
from rlhf_jax.parallel import replicas
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.stages.supervised import likelihood_loss, log_probs_of
from rlhf_jax.training.gradients import (
    accumulate_gradients,
    all_finite,
    in_pieces,
    keep_if,
    means,
    split_each_epoch,
)
from rlhf_jax.training.optimizer import applied_updates, learning_rate_at, make_optimizer

NOTHING_FIXED: dict[str, Any] = {"policy": {}, "value": {}}


class PPOState(NamedTuple):
    """All that moves."""

    step: jax.Array  # iterations done
    policy: Any  # the trained part, as of the value function and of the average
    value: Any
    policy_opt: Any
    value_opt: Any
    ema: Any  # of the policy; None without an average
    kl_coefficient: jax.Array
    key: jax.Array


class Frozen(NamedTuple):
    """What PPO reads and never changes."""

    reference: Any
    reward: Any
    fixed: dict[str, Any]  # parts of "policy" and "value" that are not trained (models/parts.py)


class Experience(NamedTuple):
    """One batch of episodes. T = prompt + response columns; the rest are [B, R] and float32."""

    tokens: jax.Array  # [B, T]
    segments: jax.Array  # [B, T]
    mask: jax.Array
    log_probs: jax.Array
    values: jax.Array
    advantages: jax.Array
    returns: jax.Array


class Programs(NamedTuple):
    """The pieces of one iteration, in the order in which they run."""

    rollout: Callable  # (policy, key, prompts) -> Rollout
    experience: Callable  # (state, frozen, prompts, rollout) -> (Experience, metrics)
    update: Callable  # (state, experience, kl, text, fixed) -> (state, metrics)


def value_at_start(config: PPOConfig, reward: Any) -> Any:
    """The value function before the first iteration: the reward model, or its trunk."""
    return score.zero_score_head(reward) if config.zero_value_head else reward


def initial_state(config: PPOConfig, policy: Any, reward: Any, key: jax.Array) -> PPOState:
    """Policy from SFT, value function from the reward model, averages and controllers at start."""
    policy = parts.split(policy, config.train_policy).trained
    value = parts.split(value_at_start(config, reward), config.train_value).trained
    policy_optimizer, value_optimizer = optimizers(config)
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # the update donates its state
    return PPOState(
        step=jnp.zeros((), jnp.int32),
        policy=copy(policy),
        value=copy(value),
        policy_opt=policy_optimizer.init(policy),
        value_opt=value_optimizer.init(value),
        ema=None if config.ema_decay is None else copy(policy),
        kl_coefficient=config.kl.init(),
        key=jnp.copy(key),
    )


def frozen_of(config: PPOConfig, policy: Any, reference: Any, reward: Any) -> Frozen:
    """What stays as it is of a policy at its start, its reference and the reward model, from which
    the value function starts."""
    fixed = {
        "policy": parts.split(policy, config.train_policy).fixed,
        "value": parts.split(value_at_start(config, reward), config.train_value).fixed,
    }
    return Frozen(reference, reward, fixed)


def whole(state: PPOState, fixed: dict[str, Any]) -> PPOState:
    """The state with the whole of policy and value function."""
    return state._replace(
        policy=parts.merge(fixed["policy"], state.policy),
        value=parts.merge(fixed["value"], state.value),
    )


def optimizers(config: PPOConfig):
    """Of the policy and of the value function."""
    steps = config.optimizer_steps
    return (
        make_optimizer(config.policy_optimizer, steps),
        make_optimizer(config.value_optimizer, steps),
    )


def response_states(model: TransformerConfig, params, tokens, segments, length: int) -> jax.Array:
    """Hidden states [B, R, D] from which each of the last `length` tokens is predicted."""
    return transformer.hidden(model, params, tokens, segments, last=length + 1)[:, :-1]


def response_log_probs(
    model: TransformerConfig, params, tokens, segments, length: int, temperature: float
) -> jax.Array:
    """log p [B, R] of the last `length` tokens of each sequence [B, T], at the temperature."""
    states = response_states(model, params, tokens, segments, length)
    return log_probs_of(model, params, states, tokens[:, -length:], temperature)


def make_rollout(config: PPOConfig, model: TransformerConfig, ending: Ending) -> Callable:
    """rollout(policy, key, batch): a response to each prompt."""

    def sample(policy, key, tokens, segments, rows):
        return generate(
            model,
            policy,
            tokens,
            segments,
            key,
            sampling=SamplingConfig(config.temperature),
            response_length=config.response_length,
            ending=ending,
            rows=rows,
        )

    def rollout(policy, key, batch):
        size = len(batch["tokens"])
        rows = jnp.arange(size) + replicas.index() * size
        return in_pieces(
            lambda *piece: sample(policy, key, *piece),
            config.rollout_micro_batches,
            (batch["tokens"], batch["segments"], rows),
        )

    return rollout


def make_experience(
    config: PPOConfig,
    model: TransformerConfig,
    ending: Ending,
    reward_model: TransformerConfig | None = None,
    reference: TransformerConfig | None = None,
) -> Callable:
    """experience(state, frozen, batch, rollout): scores, shaped rewards and advantages.

    reward_model: the shape of reward model and value function; reference: the reference's; None:
    the policy's.
    """
    length, reward_model = config.response_length, reward_model or model
    reference = reference or model
    chunks = config.minibatches * config.micro_batches

    def evaluate(state, frozen, tokens, segments, mask):
        """One forward pass of each of the four models over a chunk of sequences."""
        log_probs = lambda shape, params: response_log_probs(
            shape, params, tokens, segments, length, config.temperature
        )
        state = whole(state, frozen.fixed)
        states = response_states(reward_model, state.value, tokens, segments, length)
        # From the prompt's last token on: a reward model may read no token of a response.
        last = transformer.hidden(reward_model, frozen.reward, tokens, segments, last=length + 1)
        read = jnp.pad(ending.read(tokens[:, -length:], mask), ((0, 0), (1, 0)), constant_values=1)
        scores = score.at_last_token(score.scores(frozen.reward, last), read)
        values = score.scores(state.value, states)
        learner, frozen_one = log_probs(model, state.policy), log_probs(reference, frozen.reference)
        return learner, frozen_one, values, scores

    def experience(state: PPOState, frozen: Frozen, batch, rollout: Rollout):
        mask = rollout.mask
        tokens = jnp.concatenate([batch["tokens"], rollout.tokens], axis=1)
        segments = jnp.concatenate([batch["segments"], mask.astype(jnp.int32)], axis=1)
        evaluated = in_pieces(
            lambda *piece: evaluate(state, frozen, *piece), chunks, (tokens, segments, mask)
        )
        # From here on all episodes: whitening, metrics and minibatches are of the whole batch.
        tokens, segments, rollout, evaluated = replicas.gather(
            (tokens, segments, rollout, evaluated)
        )
        mask = rollout.mask
        log_probs, ref_log_probs, values, scores = evaluated
        # Not drawn from the policy, so no experience of it: NaN, and the update skips all of it.
        log_probs = jnp.where(rollout.sick.any(), jnp.nan, log_probs)

        ended = ending.ended(rollout.tokens, mask)
        scores = final_scores(scores, ended, ending.missing)
        rewards = kl_shaped_rewards(scores, log_probs, ref_log_probs, mask, state.kl_coefficient)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, config.discount, config.gae_lambda)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)

        log_ratio = (log_probs - ref_log_probs) * mask
        metrics = {
            "score": scores.mean(),
            "kl": log_ratio.sum(axis=1).mean(),
            "kl_coefficient": state.kl_coefficient,
            "entropy": -masked_mean(log_probs, mask),
            "response_tokens": mask.sum(axis=1).mean(),
            "ended": ended.mean(),
            "sick_rows": rollout.sick.sum(),
            "sampler_gap": jnp.max(jnp.abs(log_probs - rollout.log_probs) * mask),
        }
        return Experience(tokens, segments, mask, log_probs, values, advantages, returns), metrics

    return experience


def policy_loss(config: PPOConfig, model: TransformerConfig) -> Callable:
    """loss(params, minibatch): the clipped surrogate (Schulman et al. 2017, eq. 7)."""

    def loss(params, batch: Experience):
        log_probs = response_log_probs(
            model, params, batch.tokens, batch.segments, config.response_length, config.temperature
        )
        surrogate = ppo_clip(log_probs, batch.log_probs, batch.advantages, config.clip)
        diagnostics = ppo_diagnostics(log_probs, batch.log_probs, batch.advantages, config.clip)
        mean = lambda values: WeightedMean.of(values, batch.mask)
        return mean(surrogate), {
            "approximate_kl": mean(diagnostics["approximate_kl"]),
            "clip_fraction": mean(diagnostics["clip_fraction"]),
        }

    return loss


def value_loss(config: PPOConfig, model: TransformerConfig) -> Callable:
    """loss(params, minibatch): squared error to the returns, clipped around the old values."""

    def loss(params, batch: Experience):
        states = response_states(
            model, params, batch.tokens, batch.segments, config.response_length
        )
        values = score.scores(params, states)
        errors = clipped_value_loss(values, batch.values, batch.returns, config.value_clip)
        mean = WeightedMean.of(errors, batch.mask)
        return mean, {}

    return loss


def make_minibatch_update(
    config: PPOConfig, model: TransformerConfig, value_model: TransformerConfig
) -> Callable:
    """minibatch_update(state, experience, text, fixed): a step of the policy, one of the value
    function. fixed: the parts of both that are not trained.

    The policy's gradient and ptx's are taken one after the other and added, ptx times its
    coefficient (Ouyang et al. 2022, eq. 2 and appendix C.4). A loss or gradient that is not finite
    leaves both networks as they were, and so does a minibatch without weight; skipped_steps and
    empty_steps say so.
    """
    policy_optimizer, value_optimizer = optimizers(config)
    # Dropout stays off in PPO, ptx included (Huang et al. 2023, detail 13).
    ptx_loss = likelihood_loss(dataclasses.replace(model, dropout=0.0))
    losses = policy_loss(config, model), value_loss(config, value_model)

    def gradients(loss, fixed, params, batch, name, pieces=config.micro_batches):
        of_trained = lambda trained, micro: loss(parts.merge(fixed, trained), micro)
        grads, metrics = accumulate_gradients(of_trained, params, batch, pieces)
        named = {f"{name}_{key}": metrics.pop(key) for key in ("loss", "grad_norm")}
        return grads, metrics | named

    def minibatch_update(state: PPOState, experience: Experience, text, fixed=NOTHING_FIXED):
        grads, metrics = gradients(losses[0], fixed["policy"], state.policy, experience, "policy")
        value_grads, value_metrics = gradients(
            losses[1], fixed["value"], state.value, experience, "value"
        )
        metrics |= value_metrics
        of_episodes = of_policy = metrics["policy_loss"].weight
        if text is not None:
            ptx_grads, ptx_metrics = gradients(
                ptx_loss, fixed["policy"], state.policy, text, "ptx", config.text_pieces
            )
            metrics |= ptx_metrics
            of_text, coefficient = metrics["ptx_loss"].weight, config.ptx_coefficient
            if config.ptx_per == "sequence":
                episodes_a_row = len(experience.mask) / len(text["weights"])
                coefficient *= episodes_a_row * of_text / jnp.maximum(of_episodes, 1)
            grads = jax.tree.map(lambda g, p: g + coefficient * p, grads, ptx_grads)
            of_policy = of_policy + of_text
        updates, policy_opt = policy_optimizer.update(grads, state.policy_opt, state.policy)
        policy = optax.apply_updates(state.policy, updates)
        updates, value_opt = value_optimizer.update(value_grads, state.value_opt, state.value)
        value = optax.apply_updates(state.value, updates)
        # One sick term, and the minibatch changes neither network.
        terms = [term for name, term in metrics.items() if name.endswith(("_loss", "_norm"))]
        ok = all_finite(*(term.mean for term in terms))
        empty = of_policy == 0, of_episodes == 0
        policy, policy_opt = keep_if(
            ok & ~empty[0], (policy, policy_opt), (state.policy, state.policy_opt)
        )
        value, value_opt = keep_if(
            ok & ~empty[1], (value, value_opt), (state.value, state.value_opt)
        )
        steps = {"skipped_steps": ~ok, "empty_steps": ok & empty[0]}
        state = state._replace(
            policy=policy, value=value, policy_opt=policy_opt, value_opt=value_opt
        )
        return state, (metrics, jax.tree.map(lambda x: x.astype(jnp.int32), steps))

    return minibatch_update


def make_update(
    config: PPOConfig, model: TransformerConfig, value_model: TransformerConfig | None = None
) -> Callable:
    """update(state, experience, kl, text, fixed): epochs x minibatches, then the averages.

    value_model: the shape of the value function; None: the policy's.

    Metrics are means over all minibatches, each by its own weight: tokens of responses or of text.
    """
    minibatch_update = make_minibatch_update(config, model, value_model or model)

    def update(state: PPOState, experience: Experience, kl, text, fixed=NOTHING_FIXED):
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
        shuffle = lambda k: jax.random.permutation(k, config.batch_size)
        orders = jax.vmap(shuffle)(jax.random.split(key, config.epochs))
        rows = orders.reshape(config.epochs * config.minibatches, -1)
        text_key = jax.random.fold_in(key, config.epochs)
        text = (
            split_each_epoch(text, config.minibatches, config.epochs, text_key)
            if config.ptx_coefficient > 0
            else None
        )
        applied = applied_updates(state.policy_opt)
        rate = learning_rate_at(config.policy_optimizer, applied, config.optimizer_steps)
        kl_coefficient = config.kl.update(state.kl_coefficient, kl, config.batch_size)
        kl_coefficient = keep_if(jnp.isfinite(kl), kl_coefficient, state.kl_coefficient)

        def one(state, step):
            rows, part = step
            of_minibatch = lambda x: place(x[rows], ("rows", "time"))
            picked = replicas.share(jax.tree.map(of_minibatch, experience))
            return minibatch_update(state, picked, part, fixed)

        state, told = jax.lax.scan(one, state, (rows, text))
        sums, steps = jax.tree.map(lambda x: x.sum(axis=0), told)  # over the minibatches
        metrics = means(sums) | steps
        metrics["learning_rate"] = rate  # of the first minibatch
        ema = state.ema
        if ema is not None:
            decay = config.ema_decay
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, state.policy)
        step = state.step + 1
        return state._replace(ema=ema, kl_coefficient=kl_coefficient, step=step), metrics

    return update


def functions(
    config: PPOConfig,
    model: TransformerConfig,
    ending: Ending,
    reward_model: TransformerConfig | None = None,
    reference: TransformerConfig | None = None,
) -> Programs:
    """The pieces of one iteration, not compiled.

    reward_model: the shape of reward model and value function; reference: the reference's; None:
    the policy's.
    """
    return Programs(
        rollout=make_rollout(config, model, ending),
        experience=make_experience(config, model, ending, reward_model, reference),
        update=make_update(config, model, reward_model),
    )


def make_iteration(programs: Programs, frozen: Frozen, compute_dtype: str) -> Callable:
    """step(state, batch) -> (state, metrics): one iteration; the state is donated.

    programs: compiled; compute_dtype: the policy's.
    batch: {"prompts": prompt batch, "text": ptx batch, absent where ptx_coefficient is 0}.
    Raises UserError in the first iteration of finite samples where sampler and learner disagree.
    """
    tolerance = 1e-3 if resolve_dtype(compute_dtype) == jnp.float32 else 0.1
    checked = False

    def step(state: PPOState, batch):
        nonlocal checked
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
        prompts = {name: batch["prompts"][name] for name in ("tokens", "segments")}
        policy = parts.merge(frozen.fixed["policy"], state.policy)
        rollout = programs.rollout(policy, key, prompts)
        experience, metrics = programs.experience(state, frozen, prompts, rollout)
        if not checked and not metrics["sick_rows"]:
            check_sampler(float(metrics["sampler_gap"]), tolerance)
            checked = True
        text, kl = batch.get("text"), metrics["kl"]
        state, update_metrics = programs.update(state, experience, kl, text, frozen.fixed)
        return state, metrics | update_metrics

    return step


def check_sampler(gap: float, tolerance: float) -> None:
    """Raises UserError where the decode loop and the learner give a token other probabilities."""
    if not gap <= tolerance:
        raise UserError(
            f"sampler and learner disagree: the largest difference between their "
            f"log-probabilities of a token is {gap:.3g}, allowed is {tolerance:g}"
        )
