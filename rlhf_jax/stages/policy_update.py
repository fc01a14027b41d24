"""The update of a policy-gradient stage: its losses, minibatches, averages and controllers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.models import parts, score
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.placement import place
from rlhf_jax.objectives.kl import k2, kl_loss
from rlhf_jax.objectives.reductions import WeightedMean, aggregation_weights
from rlhf_jax.objectives.surrogates import clipped_value_loss, importance_ratio
from rlhf_jax.parallel import replicas
from rlhf_jax.stages.experience import (
    Experience,
    Frozen,
    Moved,
    Shapes,
    State,
    response_states,
)
from rlhf_jax.stages.fitting import WHOLE, Fit
from rlhf_jax.stages.policy_gradient_config import KL_ESTIMATORS, PolicyGradientConfig
from rlhf_jax.stages.supervised import likelihood_loss, log_probs_and_entropy_of, log_probs_of
from rlhf_jax.training.gradients import (
    accumulate_gradients,
    all_finite,
    keep_if,
    means,
    split_each_epoch,
)
from rlhf_jax.training.optimizer import applied_updates, learning_rate_at, make_optimizer

NOTHING_FIXED: dict[str, Any] = {"policy": {}, "value": {}}


def value_at_start(config: PolicyGradientConfig, policy: Any, scorer: Any) -> Any:
    """The value function before the first iteration: the scorer, or its trunk with a head of zeros;
    without a scorer, the policy's trunk with a head of zeros; None without a critic."""
    if not config.advantage.critic:
        return None
    if scorer is None:
        return score.zero_score_head(score.with_score_head(policy, jax.random.key(0)))
    return score.zero_score_head(scorer) if config.zero_value_head else scorer


def initial_state(
    config: PolicyGradientConfig, policy: Any, scorer: Any, key: jax.Array, queue: Any = None
) -> State:
    """The state before the first iteration; for the value function see `value_at_start`. queue: an
    empty queue if responses are stale, else None."""
    value = value_at_start(config, policy, scorer)
    policy = parts.split(policy, config.trained_policy).trained
    policy_optimizer, value_optimizer = optimizers(config)
    copy = lambda tree: jax.tree.map(jnp.copy, tree)  # the update donates its state
    if value is not None:
        value = parts.split(value, config.trained_value).trained
    return State(
        step=jnp.zeros((), jnp.int32),
        policy=copy(policy),
        value=copy(value),
        policy_opt=policy_optimizer.init(policy),
        value_opt=None if value is None else value_optimizer.init(value),
        ema=None if config.ema_decay is None else copy(policy),
        kl_coefficient=config.kl.init(),
        advantage=config.advantage.init(),
        surrogate=config.surrogate.init(),
        queue=copy(queue),
        key=jnp.copy(key),
    )


def frozen_of(
    config: PolicyGradientConfig, policy: Any, reference: Any, scorers: Mapping, scorer: Any
) -> Frozen:
    """The parameters that stay fixed.

    policy: at its start. scorers: of the reward. scorer: from which the value function starts."""
    fixed = {"policy": parts.split(policy, config.trained_policy).fixed, "value": {}}
    if config.advantage.critic:
        value = value_at_start(config, policy, scorer)
        fixed["value"] = parts.split(value, config.trained_value).fixed
    return Frozen(reference, scorers, fixed)


def optimizers(config: PolicyGradientConfig):
    """The optimizers of the policy and of the value function (None without one)."""
    steps, value = config.optimizer_steps, config.value_optimizer
    return (
        make_optimizer(config.policy_optimizer, steps),
        None if value is None else make_optimizer(value, steps),
    )


def policy_loss(config: PolicyGradientConfig, model: TransformerConfig) -> Callable:
    """loss(params, minibatch, state): the surrogate, plus the KL and the entropy bonus if they are
    part of the loss, per token, then aggregated.

    state: gives the KL coefficient and the surrogate's carried state.
    """
    length, temperature = config.response_length, config.temperature
    by = config.aggregation
    aggregated = (by, length) if by == "length" else (by,)

    def loss(params, batch: Experience, state: State):
        columns = batch.mask.shape[1]
        states = response_states(model, params, batch.tokens, batch.segments, columns, batch.fit)
        targets = batch.tokens[:, -columns:]
        arguments = model, params, states, targets, temperature
        entropy = None
        if config.entropy_coefficient > 0:
            log_probs, entropy = log_probs_and_entropy_of(*arguments)
        else:
            log_probs = log_probs_of(*arguments)
        compared = log_probs, batch.log_probs, batch.advantages, batch.mask
        losses = config.surrogate(*compared, state.surrogate)
        mean = lambda values: WeightedMean.of(values, batch.mask)
        told = {
            "approximate_kl": mean(k2(log_probs, batch.log_probs)),
            "clip_fraction": mean(config.surrogate.clipped(*compared)),
        }
        if entropy is not None:
            losses = losses - config.entropy_coefficient * entropy
            told["token_entropy"] = mean(entropy)
        if config.kl_in == "loss":
            penalty = kl_penalty(config, log_probs, batch)
            losses = losses + state.kl_coefficient * penalty
            told["token_kl"] = mean(penalty)
        return WeightedMean.of(losses, *aggregation_weights(batch.mask, *aggregated)), told

    return loss


def kl_penalty(config: PolicyGradientConfig, log_probs: jax.Array, batch: Experience) -> jax.Array:
    """The KL of each token to the reference, as a term of the loss: [B, R]."""
    estimator = KL_ESTIMATORS[config.kl_estimator]
    if config.kl_gradient == "own":
        return estimator(log_probs, batch.ref_log_probs)
    ratio = jax.lax.stop_gradient(importance_ratio(log_probs, batch.log_probs))
    return ratio * kl_loss(log_probs, batch.ref_log_probs, estimator)


def value_loss(config: PolicyGradientConfig, model: TransformerConfig) -> Callable:
    """loss(params, minibatch): squared error to the returns, clipped around the old values."""

    def loss(params, batch: Experience):
        rows = batch.tokens, batch.segments, batch.mask.shape[1], batch.fit
        states = response_states(model, params, *rows)
        values = score.scores(params, states)
        errors = clipped_value_loss(values, batch.values, batch.returns, config.value_clip)
        mean = WeightedMean.of(errors, batch.mask)
        return mean, {}

    return loss


def make_minibatch_update(config: PolicyGradientConfig, shapes: Shapes) -> Callable:
    """minibatch_update(state, experience, text, fixed): one step of the policy, and one of the
    value function if there is one. fixed: the parts of both that are not trained.

    The gradients of policy loss and ptx loss are computed one after the other and added: policy +
    ptx_coefficient x ptx (Ouyang et al. 2022, eq. 2 and appendix C.4). If a loss or gradient is not
    finite, or the minibatch has no weight, neither network changes; skipped_steps or empty_steps
    counts it.
    """
    policy_optimizer, value_optimizer = optimizers(config)
    # Dropout stays off here, ptx included (Huang et al. 2023, detail 13).
    ptx_loss = likelihood_loss(dataclasses.replace(shapes.policy, dropout=0.0))
    of_policy, of_values = policy_loss(config, shapes.policy), value_loss(config, shapes.value)

    def gradients(loss, fixed, params, batch, name, pieces=config.micro_batches):
        of_trained = lambda trained, micro: loss(parts.merge(fixed, trained), micro)
        grads, metrics = accumulate_gradients(of_trained, params, batch, pieces)
        named = {f"{name}_{key}": metrics.pop(key) for key in ("loss", "grad_norm")}
        return grads, metrics | named

    def policy_gradients(state: State, experience: Experience, text, fixed):
        """(gradient of policy loss and ptx, metrics, weight of both losses, of the policy's)."""
        loss = lambda params, batch: of_policy(params, batch, state)
        grads, metrics = gradients(loss, fixed["policy"], state.policy, experience, "policy")
        weight = of_episodes = metrics["policy_loss"].weight
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
            weight = weight + of_text
        return grads, metrics, weight, of_episodes

    def minibatch_update(state: State, experience: Experience, text, fixed=NOTHING_FIXED):
        grads, metrics, weight, of_episodes = policy_gradients(state, experience, text, fixed)
        updates, policy_opt = policy_optimizer.update(grads, state.policy_opt, state.policy)
        new = {"policy": optax.apply_updates(state.policy, updates), "policy_opt": policy_opt}
        critic = {}
        if state.value is not None:
            value_grads, value_metrics = gradients(
                of_values, fixed["value"], state.value, experience, "value"
            )
            metrics |= value_metrics
            updates, value_opt = value_optimizer.update(value_grads, state.value_opt, state.value)
            critic = {"value": optax.apply_updates(state.value, updates), "value_opt": value_opt}
        # If one term is not finite, the minibatch changes neither network.
        terms = [term for name, term in metrics.items() if name.endswith(("_loss", "_norm"))]
        ok, empty = all_finite(*(term.mean for term in terms)), weight == 0
        old = state._asdict()
        new = keep_if(ok & ~empty, new, {name: old[name] for name in new})
        critic = keep_if(ok & (of_episodes != 0), critic, {name: old[name] for name in critic})
        steps = {"skipped_steps": ~ok, "empty_steps": ok & empty}
        state = state._replace(**new, **critic)
        return state, (metrics, jax.tree.map(lambda x: x.astype(jnp.int32), steps))

    return minibatch_update


def minibatch_rows(config: PolicyGradientConfig, key: jax.Array, step: jax.Array) -> jax.Array:
    """The episodes of each minibatch of an iteration: [epochs x minibatches, B / minibatches]."""
    key = _update_key(key, step)
    shuffle = lambda k: jax.random.permutation(k, config.batch_size)
    orders = jax.vmap(shuffle)(jax.random.split(key, config.epochs))
    return orders.reshape(config.epochs * config.minibatches, -1)


def _update_key(key, step):
    return jax.random.fold_in(jax.random.fold_in(key, step), 1)


def make_update(config: PolicyGradientConfig, shapes: Shapes) -> Callable:
    """update(state, experience, moved, text, fixed, fit): epochs x minibatches, then the moving
    average, the KL coefficient and the carried states.

    Metrics are means over all minibatches, weighted by the tokens of responses or of text.
    """
    minibatch_update = make_minibatch_update(config, shapes)

    def update(
        state: State,
        experience: Experience,
        moved: Moved,
        text,
        fixed=NOTHING_FIXED,
        fit: Fit = WHOLE,
    ):
        rows = minibatch_rows(config, state.key, state.step)
        key = _update_key(state.key, state.step)
        text_key = jax.random.fold_in(key, config.epochs)
        text = (
            split_each_epoch(text, config.minibatches, config.epochs, text_key)
            if config.ptx_coefficient > 0
            else None
        )
        applied = applied_updates(state.policy_opt)
        rate = learning_rate_at(config.policy_optimizer, applied, config.optimizer_steps)
        kl_coefficient = config.kl.update(state.kl_coefficient, moved.kl, config.batch_size)
        carried = {"kl_coefficient": kl_coefficient, "advantage": moved.advantage}
        before = {"kl_coefficient": state.kl_coefficient, "advantage": state.advantage}
        carried = keep_if(jnp.isfinite(moved.kl), carried, before)

        def one(state, step):
            rows, part, fit = step
            of_minibatch = lambda x: place(x[rows], ("rows", "time"))
            picked = replicas.share(jax.tree.map(of_minibatch, experience))
            return minibatch_update(state, picked._replace(fit=fit), part, fixed)

        state, told = jax.lax.scan(one, state, (rows, text, fit))
        sums, steps = jax.tree.map(lambda x: x.sum(axis=0), told)  # over the minibatches
        metrics = means(sums) | steps
        metrics["learning_rate"] = rate  # of the first minibatch
        ema = state.ema
        if ema is not None:
            decay = config.ema_decay
            ema = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, state.policy)
        kl, surrogate = sums["approximate_kl"].mean, state.surrogate
        surrogate = keep_if(jnp.isfinite(kl), config.surrogate.carry(surrogate, kl), surrogate)
        step = state.step + 1
        return state._replace(ema=ema, surrogate=surrogate, step=step, **carried), metrics

    return update
