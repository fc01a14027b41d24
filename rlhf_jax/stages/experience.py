"""The experience of a policy-gradient stage: sampled responses, their scores and advantages."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.generation.decode import TOGETHER, DecodingConfig, Rollout, generate
from rlhf_jax.generation.ending import Ending, final_scores
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import parts, score
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.placement import place
from rlhf_jax.objectives.advantages import kl_shaped_rewards
from rlhf_jax.objectives.estimator import Episodes
from rlhf_jax.objectives.kl import k2
from rlhf_jax.objectives.reductions import masked_mean, whiten
from rlhf_jax.objectives.surrogates import explained_variance
from rlhf_jax.parallel import replicas
from rlhf_jax.rewards.reward import Judged, total
from rlhf_jax.stages.fitting import WHOLE, Fit, last_states
from rlhf_jax.stages.policy_gradient_config import KL_ESTIMATORS, PolicyGradientConfig
from rlhf_jax.stages.supervised import log_probs_of
from rlhf_jax.training.gradients import in_pieces


class Shapes(NamedTuple):
    """The shapes of the models that a stage reads."""

    policy: TransformerConfig
    reference: TransformerConfig
    value: TransformerConfig
    scorers: Mapping[str, TransformerConfig]  # by stage


class State(NamedTuple):
    """Everything that changes from iteration to iteration."""

    step: jax.Array  # iterations done
    policy: Any  # trained parameters only, as in value and ema
    value: Any  # None without a value network
    policy_opt: Any
    value_opt: Any  # None without a value network
    ema: Any  # moving average of the policy; None without one
    kl_coefficient: jax.Array
    advantage: Any  # the state that the advantage carries; None: no state
    surrogate: Any  # the state that the surrogate carries; None: no state
    queue: Any  # `Sampled` of `stale` + 1 iterations; None where responses are never stale
    key: jax.Array


class Frozen(NamedTuple):
    """Parameters that are read and never change."""

    reference: Any
    scorers: Mapping[str, Any]  # the reward terms' models, by stage
    fixed: Mapping[str, Any]  # untrained parts of "policy" and "value" (models/parts.py)


class Sampled(NamedTuple):
    """A batch of responses with log-probabilities and scores. T = prompt + response columns, R =
    response columns; float32."""

    tokens: jax.Array  # [B, T]
    segments: jax.Array  # [B, T]
    mask: jax.Array  # [B, R]
    log_probs: jax.Array  # [B, R], of the policy that sampled; all NaN if a row was drawn from NaN
    ref_log_probs: jax.Array  # [B, R]
    scores: jax.Array  # [B]
    about: Mapping[str, jax.Array]  # [B] each: numbers about the responses, for metrics


class Experience(NamedTuple):
    """The arrays that an update reads. Tokens and segments are [B, T], the others [B, R]."""

    tokens: jax.Array
    segments: jax.Array
    mask: jax.Array
    log_probs: jax.Array  # of the policy that sampled
    ref_log_probs: jax.Array | None  # None where the KL is in the reward
    values: jax.Array | None  # None without a value network
    advantages: jax.Array
    returns: jax.Array | None  # None without a value network
    fit: Fit = WHOLE


class Moved(NamedTuple):
    """What a batch changes besides the networks."""

    kl: jax.Array  # mean over responses in nats; it moves the KL coefficient
    advantage: Any  # the advantage's carried state after this batch


def whole(state: State, fixed: Mapping[str, Any]) -> State:
    """The state with all parameters of policy and value function."""
    value = None if state.value is None else parts.merge(fixed["value"], state.value)
    return state._replace(policy=parts.merge(fixed["policy"], state.policy), value=value)


def response_states(
    model: TransformerConfig, params, tokens, segments, length: int, fit: Fit = WHOLE
) -> jax.Array:
    """Hidden states [B, R, D] from which each of the last `length` tokens is predicted."""
    states = last_states(model, params, tokens, segments, length + 1, fit)
    return states[:, :-1]


def response_log_probs(
    model: TransformerConfig,
    params,
    tokens,
    segments,
    length: int,
    temperature: float,
    fit: Fit = WHOLE,
) -> jax.Array:
    """log p [B, R] of the last `length` tokens of each sequence [B, T], at the temperature."""
    states = response_states(model, params, tokens, segments, length, fit)
    return log_probs_of(model, params, states, tokens[:, -length:], temperature)


def make_rollout(
    config: PolicyGradientConfig,
    model: TransformerConfig,
    ending: Ending,
    decoding: DecodingConfig = TOGETHER,
) -> Callable:
    """rollout(policy, key, prompts) -> Rollout: one response to each row."""

    def sample(policy, key, own, tokens, segments, rows):
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
            decoding=own,
        )

    def rollout(policy, key, batch):
        size = len(batch["tokens"])
        rows = jnp.arange(size) + replicas.index() * size
        own = decoding.share(size, config.batch_size)
        return in_pieces(
            lambda *piece: sample(policy, key, own, *piece),
            config.rollout_micro_batches,
            (batch["tokens"], batch["segments"], rows),
        )

    return rollout


def joined(prompts: Mapping, rollout: Rollout) -> tuple[jax.Array, jax.Array]:
    """Tokens and segments [B, T] of prompts with their responses."""
    tokens = jnp.concatenate([prompts["tokens"], rollout.tokens], axis=1)
    return tokens, jnp.concatenate([prompts["segments"], rollout.mask.astype(jnp.int32)], axis=1)


class Experiences:
    """The pure functions from a rollout to experience.

    ending: the rules of generation/ending.py, when a response ends and how a cut one scores.
    """

    def __init__(self, config: PolicyGradientConfig, shapes: Shapes, ending: Ending):
        self.config, self.shapes, self.ending = config, shapes, ending
        self.chunks = config.minibatches * config.micro_batches

    def fresh(
        self,
        state: State,
        frozen: Frozen,
        prompts,
        rollout: Rollout,
        found: Mapping,
        fit: Fit = WHOLE,
    ):
        """experience(...) -> (Experience, Moved, metrics), of responses that the current policy
        sampled.

        found: results of the reward's Python functions, {number of the term: [B]}.
        """
        rollout = fit.cut(rollout)
        sampled, values = self._one(state, frozen, prompts, rollout, found, fit, valued=True)
        return self._experience(state, sampled, values, sampled.log_probs, fit)

    def push(self, queue: Sampled, state: State, frozen: Frozen, number, prompts, rollout, found):
        """The queue, with the responses for iteration `number` written to their slot.

        state: without its queue, whose memory is reused for the new queue.
        """
        sampled, _ = self._one(state, frozen, prompts, rollout, found)
        slot = number % (self.config.stale + 1)
        return (jax.tree.map(lambda all_, one: all_.at[slot].set(one), queue, sampled),)

    def queue(self, *arguments) -> Sampled:
        """The shapes of a queue. arguments: those of `fresh`, as shapes."""
        places, (sampled, _) = self.config.stale + 1, jax.eval_shape(self._one, *arguments)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((places, *x.shape), x.dtype), sampled)

    def _one(
        self,
        state: State,
        frozen: Frozen,
        prompts,
        rollout: Rollout,
        found,
        fit: Fit = WHOLE,
        valued: bool = False,
    ) -> tuple[Sampled, jax.Array | None]:
        """A batch of responses, and (if `valued`) the values of their tokens."""
        tokens, segments = joined(prompts, rollout)
        params = whole(state, frozen.fixed)

        def evaluate(tokens, segments, mask, fit):
            rows = tokens, segments, mask.shape[1], fit
            values = self._values(params, *rows) if valued else None
            return self._evaluate(params, frozen, rows, mask), values

        rows = tokens, segments, rollout.mask, fit
        evaluated, values = in_pieces(evaluate, self.chunks, rows)
        # From here on every device has all episodes, for whitening, groups, metrics, minibatches.
        *gathered, values = replicas.gather((tokens, segments, rollout, evaluated, found, values))
        return self._sampled(*gathered), values

    def stale(self, state: State, frozen: Frozen):
        """experience(...) -> (Experience, Moved, metrics), of the responses that the queue holds
        for this iteration."""
        slot = state.step % (self.config.stale + 1)
        sampled = jax.tree.map(lambda x: x[slot], state.queue)
        params = whole(state, frozen.fixed)

        def evaluate(tokens, segments):
            rows = tokens, segments, self.config.response_length, WHOLE
            log_probs = self._log_probs(self.shapes.policy, params.policy, *rows)
            return log_probs, self._values(params, *rows)

        own = replicas.share((sampled.tokens, sampled.segments))
        own = jax.tree.map(lambda x: place(x, ("rows", "time")), own)
        log_probs, values = replicas.gather(in_pieces(evaluate, self.chunks, own))
        experience, moved, metrics = self._experience(state, sampled, values, log_probs)
        gap = k2(log_probs, sampled.log_probs)
        return experience, moved, metrics | {"stale_kl": masked_mean(gap, sampled.mask)}

    def scores(self, frozen: Frozen, prompts, rollout: Rollout, found: Mapping) -> jax.Array:
        """The score of each response, [B] as rows, by which groups are selected (max_draws)."""
        tokens, segments = joined(prompts, rollout)
        length = rollout.mask.shape[1]

        def evaluate(tokens, segments, mask):
            return self._read(frozen, (tokens, segments, length, WHOLE), mask)

        read = in_pieces(evaluate, self.chunks, (tokens, segments, rollout.mask))
        return self._scores(rollout, read, found)[0]

    # rows: (tokens, segments, R, the rows in which they are computed)
    def _evaluate(self, params: State, frozen: Frozen, rows: tuple, mask):
        """log p of the policy and of the reference [B, R], and each scorer's score [B]."""
        log_probs = lambda shape, params: self._log_probs(shape, params, *rows)
        read = self._read(frozen, rows, mask)
        learner = log_probs(self.shapes.policy, params.policy)
        return learner, log_probs(self.shapes.reference, frozen.reference), read

    def _log_probs(
        self, shape: TransformerConfig, params, tokens, segments, length: int, fit: Fit
    ) -> jax.Array:
        temperature = self.config.temperature
        return response_log_probs(shape, params, tokens, segments, length, temperature, fit)

    def _read(self, frozen: Frozen, rows: tuple, mask) -> dict[str, jax.Array]:
        tokens, segments, length, fit = rows
        # The prompt's last token counts too: an empty response is scored there.
        read = jnp.pad(
            self.ending.read(tokens[:, -length:], mask), ((0, 0), (1, 0)), constant_values=1
        )

        def of(shape, params):
            last = last_states(shape, params, tokens, segments, length + 1, fit)
            return score.at_last_token(score.scores(params, last), read)

        shapes = self.shapes.scorers
        return {stage: of(shapes[stage], params) for stage, params in frozen.scorers.items()}

    def _values(self, params: State, tokens, segments, length: int, fit: Fit) -> jax.Array | None:
        if params.value is None:
            return None
        states = response_states(self.shapes.value, params.value, tokens, segments, length, fit)
        return score.scores(params.value, states)

    def _scores(self, rollout: Rollout, read: Mapping, found: Mapping):
        """(score of each response [B], whether it ended [B], each reward term's values)."""
        ended = self.ending.ended(rollout.tokens, rollout.mask)
        terms = []
        for number, term in enumerate(self.config.rewards):
            scores = {stage: read[stage] for stage in term.scorers()}
            terms.append(term.of(Judged(scores, found.get(str(number)), rollout.mask, ended)))
        scores = total(self.config.rewards, terms)
        return final_scores(scores, ended, self.ending.missing), ended, terms

    def _sampled(self, tokens, segments, rollout: Rollout, evaluated, found: Mapping) -> Sampled:
        log_probs, ref_log_probs, read = evaluated
        mask = rollout.mask
        # Tokens drawn from NaN are not samples of the policy. NaN makes the update skip the batch.
        log_probs = jnp.where(rollout.sick.any(), jnp.nan, log_probs)
        scores, ended, terms = self._scores(rollout, read, found)
        about = {
            "ended": ended,
            "sick_rows": rollout.sick,
            "sampler_gap": jnp.max(jnp.abs(log_probs - rollout.log_probs) * mask, axis=1),
        }
        if found:
            failed = [jnp.isnan(values) for values in found.values()]
            about["reward_errors"] = sum(failed[1:], start=failed[0].astype(jnp.int32))
        if len(terms) > 1:
            about |= {f"reward_{number}": term for number, term in enumerate(terms)}
        return Sampled(tokens, segments, mask, log_probs, ref_log_probs, scores, about)

    def _experience(self, state: State, sampled: Sampled, values, log_probs, fit: Fit = WHOLE):
        """log_probs: of the policy that is trained, before its update."""
        config, mask, chunks = self.config, sampled.mask, self.chunks
        in_reward = config.kl_in == "reward"
        rewards = kl_shaped_rewards(
            sampled.scores,
            sampled.log_probs,
            sampled.ref_log_probs,
            mask,
            state.kl_coefficient if in_reward else 0.0,
            KL_ESTIMATORS[config.kl_estimator],
        )
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        episodes = Episodes(mask, rewards, log_probs, sampled.log_probs, values, config.group)
        advantages, returns = config.advantage(episodes, state.advantage)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        log_ratio = (sampled.log_probs - sampled.ref_log_probs) * mask
        kl = log_ratio.sum(axis=1).mean()
        moved = Moved(kl, config.advantage.carry(state.advantage, episodes))
        experience = Experience(
            sampled.tokens,
            sampled.segments,
            mask,
            sampled.log_probs,
            None if in_reward else sampled.ref_log_probs,
            values,
            advantages,
            returns,
        )
        critic = {}
        if values is not None:
            critic["explained_variance"] = explained_variance(values, returns, mask)
        summed = ("sick_rows", "reward_errors")
        metrics = {
            name: values.sum() if name in summed else values.mean()
            for name, values in sampled.about.items()
        }
        return (
            experience,
            moved,
            metrics
            | critic
            | {
                "score": sampled.scores.mean(),
                "kl": kl,
                "kl_coefficient": state.kl_coefficient,
                "entropy": -masked_mean(sampled.log_probs, mask),
                "response_tokens": mask.sum(axis=1).mean(),
                "sampler_gap": sampled.about["sampler_gap"].max(),
                "padding": 1 - (sampled.segments > 0).sum() / fit.places(sampled.segments, chunks),
            },
        )
