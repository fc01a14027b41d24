"""A data source, an evaluator, a stage, an advantage and a surrogate that live outside of the
package: words to be spelt out, a grader that likes one letter, GRPO on what a Python function says
of a response, and an estimator for the package's own stage.

Nothing in rlhf_jax knows of them (tests/test_extending.py); docs/extending.md explains them.
"""

import dataclasses
import functools
import random
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.data.pipeline import prompt_batches, supervised_pass
from rlhf_jax.data.records import Demonstration, Prompt, Text
from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Column, Evaluator
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval
from rlhf_jax.generation.ending import final_scores
from rlhf_jax.objectives.advantages import group_normalised, kl_shaped_rewards, paid_at_end
from rlhf_jax.objectives.estimator import Advantage, Surrogate
from rlhf_jax.objectives.kl import k3, kl_loss
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.surrogates import importance_weighted, ppo_clip, ppo_diagnostics
from rlhf_jax.parallel import replicas
from rlhf_jax.sources.source import Source
from rlhf_jax.stages.experience import make_rollout, response_log_probs
from rlhf_jax.stages.stage import (
    KEY,
    Need,
    Program,
    Rows,
    Stage,
    divisor,
    floats,
    policy_shapes,
    prompt_shapes,
    text_shapes,
)
from rlhf_jax.stages.supervised import token_losses
from rlhf_jax.training.gradients import (
    accumulate_gradients,
    all_finite,
    in_pieces,
    keep_if,
    means,
)
from rlhf_jax.training.loop import Task
from rlhf_jax.training.optimizer import (
    OptimizerConfig,
    applied_updates,
    learning_rate_at,
    make_optimizer,
)

LIKED = "e"


class Grade(NamedTuple):
    """What the grader says of a response."""

    score: float  # in [0, 1]


def grade(prompt: str, response: str) -> Grade:
    """The share of the response's letters that are the liked one."""
    del prompt
    return Grade(response.count(LIKED) / max(1, len(response)))


@dataclasses.dataclass(frozen=True)
class Spelling(Source):
    """Words of `letters` letters; a demonstration spells its word out: "bead:" -> " b e a d"."""

    words: int = 40
    letters: int = 4

    def __post_init__(self):
        require(self.words >= 10, "words", self.words, "10 or more")

    def records(self, seed):
        draw = random.Random(seed)
        words = ["".join(draw.choices("abcde", k=self.letters)) for _ in range(self.words)]
        held = self.words // 5
        demonstrations = [Demonstration(f"{w}:", "".join(f" {c}" for c in w)) for w in words]
        splits = {"train": demonstrations[held:], "valid": demonstrations[:held]}
        text = {
            name: [Text(d.prompt + d.response) for d in split] for name, split in splits.items()
        }
        prompts = {"ppo": splits["train"], "test": splits["valid"]}
        prompts = {
            name: [Prompt(d.prompt, {"answer": d.response}) for d in split]
            for name, split in prompts.items()
        }
        return {"text": text, "demonstrations": splits, "prompts": prompts}, {}

    def examples(self, kind):
        return self.words - self.words // 5 if kind == "demonstrations" else None

    def grader(self, seed):
        return grade


@dataclasses.dataclass(frozen=True)
class Liking(Evaluator):
    """The share of the liked letter in each sampled response, as the source's grader counts it."""

    def columns(self):
        return {"liking": Column("liking", f"share of {LIKED} in a response", better="higher")}

    def check(self, facts, grader):
        grader()

    def rows(self, subject):
        sampled, judge = subject.sampled(), subject.grader()
        pairs = zip(sampled.prompts, sampled.responses, strict=True)
        shares = [judge(prompt, response.text).score for prompt, response in pairs]
        return {"id": sampled.ids, "share": np.array(shares)}

    def summary(self, rows, seed):
        return {"liking": bounded_mean(rows["share"], seed)}


@dataclasses.dataclass(frozen=True)
class Spells(Evaluator):
    """Nats a token of the held-out demonstrations, given their prompts."""

    asks: ClassVar = False  # reads no responses
    length: int

    def columns(self):
        return {"spells": Column("spells", "nats a token of a demonstration", better="lower")}

    def programs(self, build, asked):
        model = build.shapes["subject"]
        arguments = policy_shapes(model), text_shapes(asked.batch_size, self.length)
        return {"losses": Program(functools.partial(token_losses, model), arguments, whole=True)}

    def rows(self, subject):
        batches = supervised_pass(
            subject.records("demonstrations", "valid"),
            subject.tokenizer,
            batch_size=subject.asked.batch_size,
            length=self.length,
        )
        nats, program = [], subject.programs["losses"]
        for batch in batches:
            weights, losses = batch["weights"][:, 1:], program(subject.params, batch)
            real = weights.sum(axis=1) > 0
            nats += [*((losses * weights).sum(axis=1)[real] / weights.sum(axis=1)[real])]
        return {"id": np.arange(len(nats)), "nats": np.array(nats)}

    def summary(self, rows, seed):
        return {"spells": mean_interval(rows["nats"])}


@dataclasses.dataclass(frozen=True)
class OverMedian(Advantage):
    """A = (R - median of its group) / s, s the moving average of |R - median|, 1 at first."""

    grouped: ClassVar = True
    decay: float = 0.5

    def init(self):
        return jnp.ones((), jnp.float32)

    def __call__(self, episodes, carried=None):
        return self._over(episodes)[:, None] / carried * episodes.mask, None

    def carry(self, carried, episodes):
        return self.decay * carried + (1 - self.decay) * jnp.abs(self._over(episodes)).mean()

    def _over(self, episodes):
        returns = paid_at_end(episodes.rewards, episodes.mask).sum(axis=1)
        returns = returns.reshape(-1, episodes.group)
        return (returns - jnp.median(returns, axis=1, keepdims=True)).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Cooling(Surrogate):
    """-c A rho, c = decay^t in iteration t."""

    decay: float = 0.5

    def init(self):
        return jnp.ones((), jnp.float32)

    def __call__(self, log_probs, old_log_probs, advantages, mask, carried=None):
        return carried * importance_weighted(log_probs, old_log_probs, advantages)

    def carry(self, carried, kl):
        return self.decay * carried


class State(NamedTuple):
    """All that moves."""

    step: jax.Array
    policy: Any
    opt_state: Any
    key: jax.Array


class Episodes(NamedTuple):
    """Responses with what is known of them; T = prompt + response columns, the rest are [B, R]."""

    tokens: jax.Array  # [B, T]
    segments: jax.Array  # [B, T]
    mask: jax.Array
    log_probs: jax.Array  # of the policy that sampled them
    reference: jax.Array  # the same of the policy at the start
    advantages: jax.Array


@dataclasses.dataclass(frozen=True)
class GRPO(Stage):
    """Group relative policy optimisation with a reward from a Python function, the grader of the
    data source: G responses to each prompt, a response's advantage is its score among its group.

    L = mean over responses of 1/|o| sum_t [clipped surrogate + kl_coefficient KL(p_t || start_t)]

    Source: Shao et al. 2024 (arXiv 2402.03300), equation 3; the KL has the gradient of
    `objectives.kl.kl_loss`.
    """

    ends: ClassVar = "policy"
    optimizer: OptimizerConfig
    iterations: int
    prompts_a_step: int = 8
    group: int = 4  # G
    updates: int = 2  # optimizer steps on the responses of an iteration
    micro_batches: int = 1
    rollout_micro_batches: int = 1
    prompt_length: int = 8
    response_length: int = 8
    temperature: float = 1.0
    clip: float = 0.2
    kl_coefficient: float = 0.04
    prompts: str = "ppo"  # the data source's split
    start: str = dataclasses.field(kw_only=True)

    def __post_init__(self):
        for field in ("iterations", "prompts_a_step", "updates", "micro_batches", "clip"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")
        require(self.group > 1, "group", self.group, "2 responses or more")

    @property
    def batch_size(self) -> int:
        return self.prompts_a_step * self.group

    def needs(self):
        return {"start": Need(self.start, "policy")}

    def check_shapes(self, build):
        total, context = self.prompt_length + self.response_length, build.shapes["start"].context
        require(total <= context, "prompt_length + response_length", total, f"<= {context}")
        build.ending.check(self.response_length)

    def batches(self):
        return (
            Rows("prompts_a_step", self.prompts_a_step, 1),
            Rows("prompts_a_step x group", self.batch_size, self.rollout_micro_batches),
            Rows("prompts_a_step x group", self.batch_size, self.micro_batches),
        )

    def check(self, facts):
        facts.some("prompts", self.prompts, "prompt_length", self.prompt_length)

    def steps(self, examples):
        return self.iterations

    def initial_state(self, policy, key) -> State:
        return State(jnp.zeros((), jnp.int32), policy, self._optimizer().init(policy), key)

    def programs(self, build, steps):
        model = build.shapes["start"]
        policy, prompts = (
            policy_shapes(model),
            prompt_shapes(self.prompts_a_step, self.prompt_length),
        )
        state = jax.eval_shape(self.initial_state, policy, KEY)
        sample, update = self._sampling(model, build.ending), self._update(model, build.ending)
        sampled, scores = jax.eval_shape(sample, policy, KEY, prompts), floats(self.batch_size)
        return {
            "sample": Program(
                sample,
                (policy, KEY, prompts),
                rows=(2,),
                returns_rows=True,
                beside=(state.opt_state, policy),
                turns=self.response_length - 1,
            ),
            "update": Program(
                update, (state, policy, prompts, sampled, scores), rows=(2, 3, 4), donates=True
            ),
        }

    def task(self, inputs):
        start, ending, tokenizer = inputs.model("start"), inputs.build.ending, inputs.tokenizer
        batches = prompt_batches(  # of all processes: each asks its grader about all responses
            inputs.records("prompts", self.prompts),
            tokenizer,
            batch_size=self.prompts_a_step,
            length=self.prompt_length,
            seed=inputs.shuffle("prompts"),
        )
        programs = inputs.compile(self.programs(inputs.build, self.iterations))
        texts = [record.prompt for record in inputs.records("prompts", self.prompts)]
        judge = inputs.grader()

        def score(prompts, responses):
            return [judge(*pair).score for pair in zip(prompts, responses, strict=True)]

        def step(state, batch):
            prompts = inputs.place_rows({name: batch[name] for name in ("tokens", "segments")})
            key = jax.random.fold_in(state.key, state.step)
            rollout = programs["sample"](state.policy, key, prompts)
            tokens, mask = inputs.fetch_rows((rollout.tokens, rollout.mask))
            asked = [texts[index] for index in np.repeat(batch["index"], self.group)]
            answers = [answer.text for answer in ending.responses(tokens, mask, tokenizer)]
            scores = inputs.on_host("scores", int(state.step), score, asked, answers)
            scores = inputs.place_rows(np.array(scores, np.float32))
            return programs["update"](state, start, prompts, rollout, scores)

        return Task(
            name=inputs.build.name,
            state=inputs.runner.create(self.initial_state, start, inputs.key("training")),
            step=step,
            batches=batches,
            total_steps=self.iterations,
            tokens_per_step=self.batch_size * self.response_length,
            show=("score", "kl", "response_tokens"),
            updates=self.updates,
            best="score",
            model=lambda state: state.policy,
        )

    def finish(self, params, inputs):
        scores = [float(np.mean(step)) for step in inputs.host_results("scores")]
        inputs.tell(first_score=scores[0], last_score=scores[-1])
        return params

    def with_micro_batches(self, times, groups):
        pieces = lambda now: divisor(max(1, self.batch_size // groups), now * times)
        return dataclasses.replace(
            self,
            micro_batches=pieces(self.micro_batches),
            rollout_micro_batches=pieces(self.rollout_micro_batches),
        )

    def _optimizer(self):
        return make_optimizer(self.optimizer, self._optimizer_steps)

    @property
    def _optimizer_steps(self) -> int:
        return self.iterations * self.updates

    def _grouped(self, prompts):
        """A row for each response: the rows of a group lie side by side."""
        return jax.tree.map(lambda x: jnp.repeat(x, self.group, axis=0), prompts)

    def _sampling(self, model, ending):
        """sample(policy, key, prompts [P, T]) -> Rollout of [P G, R]."""
        rollout = make_rollout(self, model, ending)
        return lambda policy, key, prompts: rollout(policy, key, self._grouped(prompts))

    def _episodes(self, model, start, policy, prompts, rollout, scores) -> Episodes:
        mask, prompts = rollout.mask, self._grouped(prompts)
        tokens = jnp.concatenate([prompts["tokens"], rollout.tokens], axis=1)
        segments = jnp.concatenate([prompts["segments"], mask.astype(jnp.int32)], axis=1)

        def evaluate(*rows):
            return tuple(self._log_probs(model, params, *rows) for params in (policy, start))

        pieces = self.micro_batches
        log_probs, reference = in_pieces(evaluate, pieces, (tokens, segments))
        rewards = kl_shaped_rewards(scores, log_probs, reference, mask, 0.0)
        advantages = group_normalised(rewards, mask, self.group)
        return Episodes(tokens, segments, mask, log_probs, reference, advantages)

    def _log_probs(self, model, params, tokens, segments):
        length, temperature = self.response_length, self.temperature
        return response_log_probs(model, params, tokens, segments, length, temperature)

    def _loss(self, model):
        def loss(params, batch: Episodes):
            log_probs = self._log_probs(model, params, batch.tokens, batch.segments)
            old, reference = batch.log_probs, batch.reference
            surrogate = ppo_clip(log_probs, old, batch.advantages, self.clip)
            kl = kl_loss(log_probs, reference)
            a_response = batch.mask / batch.mask.sum(axis=1, keepdims=True)
            clipped = ppo_diagnostics(log_probs, old, batch.advantages, self.clip)["clip_fraction"]
            mean = WeightedMean.of(surrogate + self.kl_coefficient * kl, a_response)
            return mean, {"clip_fraction": WeightedMean.of(clipped, batch.mask)}

        return loss

    def _update(self, model, ending):
        """update(state, start, prompts, rollout, scores) -> (state, metrics)."""
        loss, optimizer = self._loss(model), self._optimizer()

        def one(state, episodes, sick):
            grads, sums = accumulate_gradients(loss, state.policy, episodes, self.micro_batches)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.policy)
            policy = optax.apply_updates(state.policy, updates)
            ok = all_finite(sums["loss"].mean, sums["grad_norm"].mean) & ~sick
            old = state.policy, state.opt_state
            policy, opt_state = keep_if(ok, (policy, opt_state), old)
            skipped = (~ok).astype(jnp.int32)
            return state._replace(policy=policy, opt_state=opt_state), (sums, skipped)

        def update(state, start, prompts, rollout, scores):
            ended = ending.ended(rollout.tokens, rollout.mask)
            scores = final_scores(scores, ended, ending.missing)
            episodes = self._episodes(model, start, state.policy, prompts, rollout, scores)
            a_response = lambda tokens: WeightedMean.of((tokens * rollout.mask).sum(axis=1))
            gap = jnp.abs(episodes.log_probs - rollout.log_probs)
            told = {
                "score": WeightedMean.of(scores),
                "ended": WeightedMean.of(ended),
                "kl": a_response(k3(episodes.log_probs, episodes.reference)),
                "response_tokens": a_response(rollout.mask),
                "sampler_gap": WeightedMean.of(gap, rollout.mask),
                "sick_rows": WeightedMean.of(rollout.sick),
            }
            told = replicas.total(told)
            sick, before = told["sick_rows"].total > 0, state.opt_state
            again = lambda state, _: one(state, episodes, sick)
            state, (sums, skipped) = jax.lax.scan(again, state, length=self.updates)
            sums = jax.tree.map(lambda x: x.sum(axis=0), sums)
            applied = applied_updates(before)
            rate = learning_rate_at(self.optimizer, applied, self._optimizer_steps)
            metrics = means(told | sums) | {"skipped_steps": skipped.sum(), "learning_rate": rate}
            return state._replace(step=state.step + 1), metrics

        return update
