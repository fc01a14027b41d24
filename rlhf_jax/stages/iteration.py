"""One iteration of a policy-gradient stage: sample, call the reward's functions, score, update."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.models import parts
from rlhf_jax.models.matmul import resolve_dtype
from rlhf_jax.objectives.reductions import only_rounding
from rlhf_jax.stages.experience import Frozen, State
from rlhf_jax.stages.feeds import Prompted
from rlhf_jax.stages.fitting import WHOLE, Fitting
from rlhf_jax.stages.policy_gradient_config import PolicyGradientConfig


class Drawn(NamedTuple):
    """Rows on the devices: prompts, responses, and results of the reward's Python functions."""

    prompts: Any
    rollout: Any
    found: Mapping[str, Any]


class Host(NamedTuple):
    """Functions that an iteration calls on the host.

    ask    (iteration, draw, indices of the prompts, rollout) -> {number of a term: [B]}: calls the
           reward's Python functions
    fetch  rows that a program returned -> whole NumPy arrays
    place  whole NumPy arrays -> rows on the devices
    """

    ask: Callable
    fetch: Callable
    place: Callable


class Iteration:
    """step(state, batch) -> (state, metrics); the state is donated.

    programs  compiled programs, by name (PolicyGradient.programs)
    batches   batches of prompts and text; further prompts that an iteration draws are added to its
              batch
    fitting   chooses the rows in which episodes are computed; None: an episode a row, all columns

    Raises UserError where sampler and learner disagree; this is checked in the first iteration
    whose samples are finite.
    """

    def __init__(
        self,
        config: PolicyGradientConfig,
        programs: Mapping[str, Callable],
        frozen: Frozen,
        batches: Prompted,
        host: Host,
        compute_dtype: str,
        fitting: Fitting | None = None,
    ):
        self.config, self.programs, self.frozen = config, programs, frozen
        self.batches, self.host, self.fitting = batches, host, fitting
        self.size = WHOLE.size  # for which the last step's programs were compiled
        self.tolerance = 1e-3 if resolve_dtype(compute_dtype) == jnp.float32 else 0.5
        self.checked = False

    def __call__(self, state: State, batch: dict) -> tuple[State, dict]:
        draws = self.batches.draws(batch)
        scoring = update = WHOLE
        if self.config.stale:
            state, about = self._fill_queue(state, draws), {}
            experience, moved, metrics = self.programs["experience"](state, self.frozen)
        else:
            drawn, about = self._draw(state, state.step, draws)
            if self.fitting is not None:
                looked = self.host.fetch((drawn.prompts["segments"], drawn.rollout.mask))
                scoring, update = self.fitting(state.key, state.step, *looked)
            given = (state, self.frozen, *drawn, scoring)
            experience, moved, metrics = self.programs["experience"](*given)
        self.size = scoring.size
        if not self.checked and not metrics["sick_rows"]:
            check_sampler(float(metrics["sampler_gap"]), self.tolerance)
            self.checked = True
        text = self.batches.text(batch)
        state, told = self.programs["update"](
            state, experience, moved, text, self.frozen.fixed, update
        )
        return state, metrics | about | told

    def _fill_queue(self, state: State, draws) -> State:
        """The state, its queue filled with responses for the iterations up to `stale` later."""
        now, ahead = int(state.step), self.config.stale
        wanted = range(ahead + 1) if now == 0 else (now + ahead,)
        for number in wanted:
            if number < self.config.iterations:
                drawn, _ = self._draw(state, number, draws)
                rest = state._replace(queue=None)
                number = np.int32(number)
                (queue,) = self.programs["push"](state.queue, rest, self.frozen, number, *drawn)
                state = state._replace(queue=queue)
        return state

    def _draw(self, state: State, number, draws) -> tuple[Drawn, dict]:
        """The responses for iteration `number`, and metrics about how they were drawn."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, number), 0)
        policy = parts.merge(self.frozen.fixed["policy"], state.policy)
        if self.config.max_draws == 1:
            return self._sample(policy, key, next(draws), number, 0), {}
        return self._differing(policy, key, draws, int(number))

    def _sample(self, policy, key, prompts: dict, number, draw: int) -> Drawn:
        index = prompts["index"]
        prompts = {name: prompts[name] for name in ("tokens", "segments")}
        rollout = self.programs["rollout"](policy, key, prompts)
        return Drawn(prompts, rollout, self.host.ask(number, draw, index, rollout))

    def _differing(self, policy, key, draws, number: int) -> tuple[Drawn, dict]:
        """Draws prompts until batch_size responses are in groups whose scores differ, at most
        max_draws times. If rows are missing then, the first groups with equal scores fill them.

        Source: dynamic sampling, Yu et al. 2025 (arXiv 2503.14476), section 3.2.
        """
        size, group = self.config.batch_size, self.config.group
        kept, alike, draw = [], [], 0
        while draw < self.config.max_draws and sum(map(_rows, kept)) < size:
            of_draw = key if draw == 0 else jax.random.fold_in(key, draw)
            drawn = self._sample(policy, of_draw, next(draws), number, draw)
            scores = self.programs["scores"](self.frozen, *drawn)
            scores, rows = self.host.fetch((scores, drawn))
            scores = scores.reshape(-1, group)
            same = np.asarray(only_rounding(scores.min(axis=1), scores.max(axis=1)))
            same = np.repeat(same, group)
            kept.append(jax.tree.map(lambda x: x[~same], rows))  # noqa: B023
            alike.append(jax.tree.map(lambda x: x[same], rows))  # noqa: B023
            draw += 1
        filled = max(0, size - sum(map(_rows, kept)))
        found = jax.tree.map(lambda *x: np.concatenate(x)[:size], *kept, *alike)
        about = {"draws": draw, "groups_alike": filled // group}
        return Drawn(*self.host.place(found)), about


def _rows(drawn: Drawn) -> int:
    return len(drawn.rollout.tokens)


def check_sampler(gap: float, tolerance: float) -> None:
    """Raises UserError where decode loop and learner differ in a token's log-probability."""
    if not gap <= tolerance:
        raise UserError(
            f"sampler and learner disagree: the largest difference between their "
            f"log-probabilities of a token is {gap:.3g}, allowed is {tolerance:g}"
        )
