"""Which policy sampled what an iteration learns from, and which groups it keeps."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rlhf_jax.generation.decode import Rollout
from rlhf_jax.generation.ending import Ending
from rlhf_jax.objectives.estimator import GAE, GroupNormalised, PPOClip
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.parallel.runner import PmapRunner
from rlhf_jax.rewards.graded import GradedReward
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import feeds
from rlhf_jax.stages.experience import Frozen
from rlhf_jax.stages.iteration import Host, Iteration
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.policy_update import frozen_of, initial_state
from rlhf_jax.stages.stage import Build
from rlhf_jax.training.optimizer import OptimizerConfig
from tests.stages import tiny

RATE = OptimizerConfig(learning_rate=1e-2, epsilon=0.1)
PLAIN = PolicyGradient(
    RATE, RATE, iterations=5, rewards=(LearnedReward("reward"),), batch_size=8, minibatches=2,
    prompt_length=6, response_length=tiny.RESPONSE, ema_decay=None, advantage=GAE(),
    surrogate=PPOClip(), start="sft",
)  # fmt: skip
STALE = dataclasses.replace(PLAIN, stale=2)
GROUPED = dataclasses.replace(
    PLAIN, value_optimizer=None, advantage=GroupNormalised(), group=2, minibatches=1,
    rewards=(GradedReward(),), kl=FixedController(0.0), whiten_advantages=False, max_draws=3,
)  # fmt: skip


def copied(tree):
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: None if is_key(x) else np.array(x), tree)


ONE_DEVICE = tiny.one_device()
ENDING = Ending(tiny.EOS, tiny.PAD)  # a response that was cut keeps its score


class Prompts:
    """Batches of prompts whose number stands in `index`."""

    def __init__(self, group):
        self.group, self.count = group, 0

    def __next__(self):
        kept = 8 // self.group
        rows = np.roll(np.arange(8), -self.count)[:kept]
        batch = {name: x[rows] for name, x in tiny.prompt_batch().items()}
        batch["index"] = 8 * self.count + np.arange(kept)
        self.count += 1
        return jax.tree.map(lambda x: np.repeat(x, self.group, axis=0), batch)


@functools.cache
def programs_of(config, runner):
    build = Build("stage", tiny.MODEL, dict.fromkeys(config.needs(), tiny.MODEL), ENDING)
    planned = config.programs(build, config.iterations)
    return planned, {name: made.compile(runner) for name, made in planned.items()}


class Recorded:
    """An iteration on tiny models, with what its programs were given and gave."""

    def __init__(self, config, ask=None, runner=None):
        runner = runner or ONE_DEVICE
        policy, other, reward = (
            tiny.policy_params(1), tiny.policy_params(3), tiny.score_params(2),
        )  # fmt: skip
        scorers = {"reward": reward} if config.scorers else {}
        scorer = reward if config.advantage.critic else None
        self.config, self.calls = config, {}
        self.frozen = frozen_of(config, policy, other, scorers, scorer)
        planned, compiled = programs_of(config, runner)
        programs = {name: self._recorded(name, made) for name, made in compiled.items()}
        queue = planned["push"].arguments[0] if config.stale else None
        queue = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), queue)
        self.batches = feeds.Prompted(runner, {"prompts": Prompts(config.group)}, {"prompts": 8})
        place = lambda tree: jax.tree.map(np.asarray, runner.place_rows(tree))
        host = Host(ask or (lambda *_: {}), runner.fetch_rows, place)
        self.step = Iteration(config, programs, self.frozen, self.batches, host, "float32")
        self.state = initial_state(config, policy, scorer, jax.random.key(0), queue)

    def _recorded(self, name, program):
        def call(*arguments):
            given = copied(arguments)  # the call may take their memory
            found = program(*arguments)
            self.calls.setdefault(name, []).append((given, copied(found)))
            return found

        return call

    def run(self, steps):
        found = []
        for _ in range(steps):
            batch = next(self.batches)
            self.state, metrics = self.step(self.state, batch)
            found.append((batch, {name: np.asarray(x) for name, x in metrics.items()}))
        return found


def log_probs_by_sequence(policy, experience):
    """Of the response's tokens of each row, from its own ids alone."""
    rows = zip(experience.tokens, experience.segments, experience.mask, strict=True)
    sequences, counts = [], []
    for tokens, segments, mask in rows:
        sequences.append([int(t) for t in tokens[segments > 0]])
        counts.append(int(mask.sum()))
    found = tiny.sequence_log_probs(policy, sequences)
    return [row[-count:] for row, count in zip(found, counts, strict=True)]


def test_iteration_t_learns_from_the_policy_of_t_minus_stale():
    run = Recorded(STALE)
    batches = run.run(5)
    policies = [arguments[0].policy for arguments, _ in run.calls["update"]]
    for t, (arguments, _) in enumerate(run.calls["update"]):
        experience = arguments[1]
        expected = log_probs_by_sequence(policies[max(0, t - 2)], experience)
        for row, mask, wanted in zip(experience.log_probs, experience.mask, expected, strict=True):
            np.testing.assert_allclose(row[mask > 0], wanted, rtol=1e-4, atol=1e-4)
    # Each from prompts of its own, in their order: of the first step three batches, of the last
    # two none.
    asked = [arguments[2]["tokens"] for arguments, _ in run.calls["rollout"]]
    assert len(asked) == 5 and [len(b.get("more", {})) for b, _ in batches] == [2, 0, 0, 0, 0]
    for t, (arguments, _) in enumerate(run.calls["update"]):
        np.testing.assert_array_equal(arguments[1].tokens[:, :6], asked[t])
    told = [metrics["stale_kl"] for _, metrics in batches]
    assert told[0] == pytest.approx(0, abs=1e-9) and min(told[1:]) > 1e-8


def test_a_queue_changes_no_number_of_the_first_iteration():
    """The first iteration's responses are its own policy's, with a queue or without."""
    plain, queued = Recorded(PLAIN), Recorded(STALE)
    first = plain.run(1)[0][1]
    same = queued.run(1)[0][1]
    for name, value in first.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def asks(scores, given=None):
    """What a function says: of draw d, scores[d]. given: which it was asked."""

    def ask(number, draw, index, rollout):
        if given is not None:
            given.append((int(number), draw))
        return {"0": np.array(scores[draw], np.float32)}

    return ask


FIRST, LAST = [0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 3, 1, 5, 1]


def test_groups_whose_scores_are_alike_give_way_to_those_of_more_draws():
    given = []
    ask = asks([FIRST, LAST, [0, 1] * 4], given)
    run = Recorded(GROUPED, ask)
    ((batch, metrics),) = run.run(1)
    # Of the first draw one group, of the second two, of the third the first.
    assert (metrics["draws"], metrics["groups_alike"]) == (3, 0)
    kept = [(0, 0), (0, 1), (1, 4), (1, 5), (1, 6), (1, 7), (2, 0), (2, 1)]
    rollouts = [found for _, found in run.calls["rollout"]]
    experience = run.calls["update"][0][0][1]
    for row, (draw, place) in enumerate(kept):
        expected = rollouts[draw].tokens[place]
        np.testing.assert_array_equal(experience.tokens[row, 6:], expected)
    advantages = experience.advantages[:, 0]
    np.testing.assert_allclose(advantages[::2], [-1, 1, 1, -1], rtol=1e-4)
    assert given == [(0, 0), (0, 1), (0, 2)]
    assert len(batch["more"]) == 2
    first, second = rollouts[0].tokens, rollouts[1].tokens
    assert (first != second).any()


def test_what_stays_empty_after_the_last_draw_is_filled_with_the_first_groups_alike():
    run = Recorded(GROUPED, asks([FIRST, LAST, [2] * 8]))
    ((_, metrics),) = run.run(1)
    assert (metrics["draws"], metrics["groups_alike"]) == (3, 1)
    rollouts = [found for _, found in run.calls["rollout"]]
    experience = run.calls["update"][0][0][1]
    np.testing.assert_array_equal(experience.tokens[6:, 6:], rollouts[0].tokens[2:4])
    np.testing.assert_array_equal(experience.advantages[6:], 0)


def test_one_draw_that_differs_everywhere_is_enough():
    run = Recorded(GROUPED, asks([[0, 1] * 4]))
    ((batch, metrics),) = run.run(1)
    assert (metrics["draws"], metrics["groups_alike"]) == (1, 0) and not batch.get("more")


def test_a_step_done_again_reads_the_prompts_that_it_drew():
    run = Recorded(GROUPED, asks([FIRST, LAST, [0, 1] * 4]))
    start = copied(run.state)
    ((batch, metrics),) = run.run(1)
    drawn = run.batches.parts["prompts"].count
    again = jax.tree.map(jax.numpy.asarray, start)._replace(key=jax.random.key(0))
    _, same = run.step(again, batch)
    assert run.batches.parts["prompts"].count == drawn == 3
    for name, value in metrics.items():
        np.testing.assert_array_equal(np.asarray(same[name]), value, err_msg=name)


def test_under_pmap_the_same_groups_are_kept():
    scores = [FIRST, LAST, [0, 1] * 4]
    pmap = PmapRunner(jax.devices()[:4])
    place = lambda number, draw, *_: pmap.place_rows({"0": np.array(scores[draw], np.float32)})
    one, four = Recorded(GROUPED, asks(scores)), Recorded(GROUPED, place, pmap)
    ((_, ours),), ((_, theirs),) = four.run(1), one.run(1)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def told_of(config, scores, step):
    """What programs without models and the function on the host were given in a step that is the
    `step`th: keys of rollouts, (iteration, draw, places), places of the responses learnt from."""
    keys, asked, learnt, pushed = [], [], [], []

    def rollout(policy, key, prompts):
        keys.append(jax.random.key_data(key).tolist())
        places = prompts["tokens"][:, :1]
        return Rollout(places, places, places)

    def ask(number, draw, index, rollout):
        asked.append((int(number), draw, index.tolist()))
        return {"0": np.array(scores[draw], np.float32)}

    def push(queue, state, frozen, number, *drawn):
        pushed.append(int(number))
        return ([*queue, number],)

    def experience(state, frozen, *drawn):
        learnt.extend(drawn[1].tokens[:, 0].tolist() if drawn else state.queue)
        return None, None, {"sick_rows": 1}

    programs = {
        "rollout": rollout, "push": push, "experience": experience,
        "scores": lambda frozen, prompts, rollout, found: found["0"],
        "update": lambda state, *_: (state._replace(step=state.step + 1), {}),
    }  # fmt: skip
    batches = feeds.Prompted(ONE_DEVICE, {"prompts": Prompts(config.group)}, {"prompts": 8})
    same = lambda tree: tree
    frozen, host = Frozen({}, {}, {"policy": {}}), Host(ask, same, same)
    run = Iteration(config, programs, frozen, batches, host, "float32")
    key = jax.random.key(3)
    state = tiny.state_of(config, {}, step=np.int32(step), key=key, queue=[])
    _, metrics = run(state, next(batches))
    of = lambda number, draw: functools.reduce(
        jax.random.fold_in, (number, 0, draw) if draw else (number, 0), key
    )
    expected = lambda *pairs: [jax.random.key_data(of(*pair)).tolist() for pair in pairs]
    return keys, expected, asked, learnt, pushed, metrics


def test_each_draw_of_an_iteration_has_a_key_and_prompts_of_its_own():
    """Scores that differ by rounding are alike."""
    near = float(np.nextafter(np.float32(1), np.float32(2)))
    scores = [[0, 1, 1, near, 1, 1, near, 1], [1, 1, 1, 1, 3, 1, 5, 1], [0, 1] * 4]
    keys, expected, asked, learnt, _, metrics = told_of(GROUPED, scores, step=4)
    assert keys == expected((4, 0), (4, 1), (4, 2))
    places = [[8 * draw + place // 2 for place in range(8)] for draw in range(3)]
    assert asked == [(4, draw, places[draw]) for draw in range(3)]
    assert len(learnt) == 8 and metrics == {"sick_rows": 1, "draws": 3, "groups_alike": 0}


def test_responses_of_an_iteration_to_come_have_its_key_and_its_place():
    """Of five, the first draws for three, the second for the fourth, the last for none."""
    index = lambda count: list(range(8 * count, 8 * count + 8))
    for step, numbers in ((0, [0, 1, 2]), (1, [3]), (2, [4]), (3, []), (4, [])):
        keys, expected, asked, learnt, pushed, _ = told_of(STALE, [[0] * 8], step)
        assert keys == expected(*((number, 0) for number in numbers))
        assert asked == [(number, 0, index(i)) for i, number in enumerate(numbers)]
        assert pushed == learnt == numbers
