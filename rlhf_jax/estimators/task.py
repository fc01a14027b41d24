"""A task small enough to enumerate: every response, the exact objective, its exact gradient.

N: responses. S: states, which are the beginnings of responses. V: tokens; 0 is EOS. T: the greatest
length. A policy is a table of logits [S, V]; any other function that gives log-probabilities [N, T]
of the N responses works too. A response is identified by its row number, its id.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.errors import require
from rlhf_jax.objectives.kl import k1
from rlhf_jax.objectives.likelihood import sequence_log_prob, token_log_probs

Array = jax.Array
EOS = 0
MOST_RESPONSES = 10_000


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Sizes of the task, and how far the policy is from the old policy, which samples stale
    responses.

    Raises ConfigError where the responses are too many to enumerate.
    """

    vocabulary: int = 4  # EOS included
    length: int = 3  # tokens of the longest response
    kl_coefficient: float = 0.3  # beta of the KL penalty in the reward
    stale_steps: int = 2  # exact gradient steps from the old policy to the policy
    stale_rate: float = 1.0  # learning rate of these steps
    seed: int = 1  # of the scores and of the policies

    def __post_init__(self):
        require(self.vocabulary >= 2, "vocabulary", self.vocabulary, "at least 2")
        require(self.length >= 1, "length", self.length, "at least 1")
        require(
            (self.vocabulary - 1) ** (self.length - 1) * self.vocabulary <= MOST_RESPONSES,
            "vocabulary, length",
            (self.vocabulary, self.length),
            f"such that at most about {MOST_RESPONSES} responses exist",
        )
        require(self.kl_coefficient >= 0, "kl_coefficient", self.kl_coefficient, ">= 0")
        require(self.stale_steps >= 1, "stale_steps", self.stale_steps, "at least 1")
        require(self.stale_rate > 0, "stale_rate", self.stale_rate, "positive")


class TabularTask(NamedTuple):
    """All responses, their scores, and three policies."""

    tokens: Array  # int32[N, T]; 0 and masked after EOS
    mask: Array  # float32[N, T], 1 up to and including EOS
    states: Array  # int32[N, T], the state in which each token was drawn
    scores: Array  # float32[N], mean 1, standard deviation 1 over the N responses
    kl_coefficient: Array  # beta, a scalar
    reference: Array  # float32[S, V], logits
    old: Array  # float32[S, V], samples the stale responses
    policy: Array  # float32[S, V], logits of the policy whose gradient is estimated


def make_task(config: TaskConfig) -> TabularTask:
    """The task of a seed: normal scores and logits; the policy is some steps after the old one."""
    tokens, mask, states, count = enumerate_responses(config.vocabulary, config.length)
    random = np.random.default_rng(config.seed)
    scores = random.normal(size=len(tokens))
    # The mean is 1, not 0: a reward model's scores are not centred, and a baseline must matter.
    scores = (scores - scores.mean()) / scores.std() + 1
    reference = random.normal(size=(count, config.vocabulary))
    old = reference + random.normal(size=reference.shape)
    task = TabularTask(
        *(jnp.asarray(x) for x in (tokens, mask, states)),
        *(jnp.asarray(x, float) for x in (scores, config.kl_coefficient, reference, old, old)),
    )
    policy, step = task.old, jax.jit(exact_gradient)
    for _ in range(config.stale_steps):
        policy = policy + config.stale_rate * step(task, policy)
    return task._replace(policy=policy)


def enumerate_responses(
    vocabulary: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """(tokens[N, T], mask[N, T], states[N, T], S): every response; EOS or `length` ends it.

    State 0 is the empty beginning. Masked positions have token 0 and state 0.
    """
    responses, number = [], {(): 0}
    open_ends = [()]
    for t in range(length):
        longer = [(*start, v) for start in open_ends for v in range(vocabulary)]
        responses += [r for r in longer if r[-1] == EOS or t == length - 1]
        open_ends = [r for r in longer if r[-1] != EOS]
        if t < length - 1:
            number |= {r: len(number) + i for i, r in enumerate(open_ends)}
    tokens = np.zeros((len(responses), length), np.int32)
    mask = np.zeros((len(responses), length), np.float32)
    states = np.zeros((len(responses), length), np.int32)
    for row, response in enumerate(responses):
        tokens[row, : len(response)] = response
        mask[row, : len(response)] = 1
        states[row, : len(response)] = [number[response[:t]] for t in range(len(response))]
    return tokens, mask, states, len(number)


def table_log_probs(task: TabularTask, logits_SxV: Array, ids: Array) -> Array:
    """[K, T] log-probabilities of the tokens of responses `ids`, 0 outside their masks."""
    log_probs = token_log_probs(logits_SxV[task.states[ids]], task.tokens[ids])
    return jnp.where(task.mask[ids] != 0, log_probs, 0)


def all_log_probs(task: TabularTask, logits_SxV: Array) -> Array:
    """[N, T] log-probabilities of all responses."""
    return table_log_probs(task, logits_SxV, jnp.arange(len(task.scores)))


def objective(task: TabularTask, log_probs_NxT: Array) -> Array:
    """J = E_p[score - beta log(p / ref)] over whole responses y ~ p: Ouyang et al. 2022, eq. 2."""
    log_p_N = sequence_log_prob(log_probs_NxT, task.mask)
    log_ref_N = sequence_log_prob(all_log_probs(task, task.reference), task.mask)
    return jnp.sum(jnp.exp(log_p_N) * (task.scores - task.kl_coefficient * k1(log_p_N, log_ref_N)))


def divergence(task: TabularTask, log_p_NxT: Array, log_q_NxT: Array) -> Array:
    """KL(p || q) of whole responses, in nats."""
    log_p_N, log_q_N = (sequence_log_prob(x, task.mask) for x in (log_p_NxT, log_q_NxT))
    return jnp.sum(jnp.exp(log_p_N) * k1(log_p_N, log_q_N))


def exact_gradient(task: TabularTask, logits_SxV: Array) -> Array:
    """dJ / d logits, [S, V]."""
    return jax.grad(lambda logits: objective(task, all_log_probs(task, logits)))(logits_SxV)


def sample(task: TabularTask, log_probs_NxT: Array, key: Array, shape: tuple[int, ...]) -> Array:
    """Ids of independent responses, sampled from the policy with these log-probabilities."""
    return jax.random.categorical(key, sequence_log_prob(log_probs_NxT, task.mask), shape=shape)
