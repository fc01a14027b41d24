"""One program, six ways to lie on eight devices: the same update, the same tokens."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlhf_jax.errors import ConfigError
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.layout import MeshShape
from rlhf_jax.parallel.runner import JitRunner, layout_of, make_runner
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.stages import policy_update, presets, supervised
from rlhf_jax.stages.dpo import DirectPreference
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.stage import Build
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer
from tests.objectives.harness import assert_close
from tests.stages import tiny

MODEL = TransformerConfig(
    vocab_size=40, layers=2, width=32, heads=8, context=16, compute_dtype="float32"
)
RATE = OptimizerConfig(learning_rate=1e-2, epsilon=0.1)  # smooth where gradients are tiny
ROWS, LENGTH, OUTPUTS = 32, 8, 3
LAYOUTS = {
    "8x1x1": ParallelConfig(),
    "2x4x1": ParallelConfig(fsdp=4),
    "2x2x2": ParallelConfig(fsdp=2, tensor=2),
    "1x1x8": ParallelConfig(tensor=8),
    "pmap": ParallelConfig(runner="pmap"),
}
ALONE = JitRunner(layout_of(jax.devices()[:1], MeshShape(1, 1, 1)))
KEY = jax.random.key(0)


@functools.cache
def policy(seed=1):
    return tiny.noisy(transformer.init(MODEL, KEY), seed)


@functools.cache
def scorer():
    return tiny.noisy(score.with_score_head(transformer.init(MODEL, KEY), KEY), 2)


def rankings():
    """Outputs of 2 to 8 tokens; a prompt without pairs, and one with two outputs."""
    rng = np.random.default_rng(0)
    shape = (ROWS, OUTPUTS, LENGTH)
    tokens = rng.integers(4, 40, shape).astype(np.int32)
    segments = (np.arange(LENGTH) < rng.integers(2, 9, (ROWS, OUTPUTS, 1))).astype(np.int32)
    weights = (segments * (np.arange(LENGTH) >= 1)).astype(np.float32)
    ranks = rng.integers(0, 3, shape[:2]).astype(np.int32)
    ranks[0], ranks[1] = (0, 0, 0), (0, 1, -1)
    return {"tokens": tokens, "segments": segments, "weights": weights, "ranks": ranks}


def programs(runner, stage) -> dict:
    """What a run compiles of a stage of 10 steps."""
    build = Build("stage", MODEL, dict.fromkeys(stage.needs(), MODEL), tiny.ENDING)
    made = stage.programs(build, 10)
    return {name: program.compile(runner) for name, program in made.items()}


def sft(runner, micro_batches):
    stage = SFT(RATE, batch_size=ROWS, length=LENGTH, micro_batches=micro_batches, start="base")
    return trained(runner, stage, policy(), tiny.text_batch(ROWS))


def reward(runner, micro_batches):
    stage = RewardModel(RATE, batch_size=ROWS, outputs=OUTPUTS, length=LENGTH,
                        micro_batches=micro_batches, start="sft")  # fmt: skip
    return trained(runner, stage, scorer(), rankings())


def preference(runner, micro_batches):
    stage = DirectPreference(RATE, batch_size=ROWS, outputs=OUTPUTS, length=LENGTH,
                             micro_batches=micro_batches, start="sft")  # fmt: skip
    reference = runner.state(policy(5))
    refer = programs(runner, stage)["reference"]

    def referred(batch):
        sequences = {name: batch[name] for name in ("tokens", "segments", "weights")}
        return batch | {"ref_log_probs": refer(reference, sequences)}

    return trained(runner, stage, policy(), rankings(), referred)


def started(runner, stage, params):
    """The state before the first step."""
    optimizer = make_optimizer(stage.optimizer, 10)
    initial = lambda params, key: supervised.initial_state(params, optimizer, key)
    return runner.create(initial, params, KEY)


def trained(runner, stage, params, batch, prepare=lambda batch: batch):
    update, state, metrics = programs(runner, stage)["update"], started(runner, stage, params), []
    for _ in range(2):
        state, told = update(state, prepare(runner.rows(batch, ROWS)), {})
        metrics.append(told)
    return state.params, metrics


def ppo_ptx(runner, micro_batches):
    """An iteration of two minibatches; the tokens that were sampled, too."""
    stage = PolicyGradient(
        RATE, RATE, iterations=4, batch_size=2 * ROWS, minibatches=2, prompt_length=6,
        response_length=6, temperature=0.7, ema_decay=0.9, whiten_rewards=True, ptx_ratio=1,
        ptx_coefficient=2.0, ptx_length=LENGTH, micro_batches=micro_batches,
        rollout_micro_batches=micro_batches, start="sft", rewards=(LearnedReward("reward"),),
    )  # fmt: skip
    compiled = programs(runner, stage)
    initial = lambda policy, value, key: policy_update.initial_state(stage, policy, value, key)
    state = runner.create(initial, policy(), scorer(), KEY)
    reference, reward = runner.state(policy(3)), runner.state(scorer())
    frozen = tiny.frozen_of(stage, state.policy, reference, reward)
    prompts = [list(ids) for ids in (tiny.PROMPTS * 8)]
    tokens, segments = tiny.left_padded(prompts, 6)
    prompts = runner.rows({"tokens": tokens, "segments": segments}, 2 * ROWS)
    text = runner.rows(tiny.text_batch(2 * ROWS), 2 * ROWS)
    rollout = compiled["rollout"](state.policy, KEY, prompts)
    sampled = np.asarray(rollout.tokens).reshape(2 * ROWS, -1)
    experience, moved, metrics = compiled["experience"](state, frozen, prompts, rollout, {})
    state, told = compiled["update"](state, experience, moved, text, frozen.fixed)
    return (state.policy, state.value, state.ema), metrics | told, sampled


def grouped(runner, micro_batches):
    """An iteration without a value network, of groups that lie on several devices."""
    stage = presets.grpo(
        policy_optimizer=RATE, iterations=4, batch_size=2 * ROWS, group=ROWS, minibatches=2,
        prompt_length=6, response_length=6, temperature=0.7, micro_batches=micro_batches,
        entropy_coefficient=0.1, start="sft", rewards=(LearnedReward("reward"),),
    )  # fmt: skip
    compiled = programs(runner, stage)
    initial = lambda policy, key: policy_update.initial_state(stage, policy, None, key)
    state = runner.create(initial, policy(), KEY)
    scorers = {"reward": runner.state(scorer())}
    frozen = policy_update.frozen_of(stage, state.policy, runner.state(policy(3)), scorers, None)
    tokens, segments = tiny.left_padded([list(ids) for ids in tiny.PROMPTS * 8], 6)
    prompts = runner.rows({"tokens": tokens, "segments": segments}, 2 * ROWS)
    rollout = compiled["rollout"](state.policy, KEY, prompts)
    sampled = np.asarray(rollout.tokens).reshape(2 * ROWS, -1)
    found, moved, metrics = compiled["experience"](state, frozen, prompts, rollout, {})
    advantages = np.asarray(found.advantages).reshape(2, -1)
    assert np.abs(advantages).max() > 0.1  # each group beside its own mean
    state, told = compiled["update"](state, found, moved, None, frozen.fixed)
    return (state.policy, found.advantages, state.ema), metrics | told, sampled


STAGES = {"sft": sft, "reward": reward, "dpo": preference, "ppo_ptx": ppo_ptx, "grouped": grouped}
alone = functools.cache(lambda stage: STAGES[stage](ALONE, 1))
# Every layout and every stage once here; all pairs, and all micro-batches, where there is time.
QUICK = [("sft", "2x2x2", 2), ("reward", "pmap", 2), ("dpo", "8x1x1", 4), ("reward", "1x1x8", 1),
         ("ppo_ptx", "pmap", 1), ("ppo_ptx", "2x2x2", 2), ("grouped", "pmap", 2)]  # fmt: skip
ALL = [(stage, layout, n) for stage in STAGES for layout in LAYOUTS for n in (1, 2, 4)]
CASES = QUICK + [pytest.param(*c, marks=pytest.mark.slow) for c in ALL if c not in QUICK]


@pytest.mark.parametrize("stage, layout, micro_batches", CASES)
def test_an_update_is_that_of_one_device(stage, layout, micro_batches):
    runner = make_runner(LAYOUTS[layout])
    assert runner.layout.mesh.size == 8
    params, metrics, *sampled = STAGES[stage](runner, micro_batches)
    expected, expected_metrics, *expected_sampled = alone(stage)
    assert_close(params, expected, rtol=1e-5, atol=1e-5)
    assert_close(metrics, expected_metrics, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(sampled, expected_sampled)
    first = jax.tree.leaves(expected)[0]
    start = jax.tree.leaves((policy(), scorer(), policy()) if sampled else STARTS[stage]())[0]
    assert np.abs(np.asarray(first) - np.asarray(start)).max() > 1e-4


STARTS = {"sft": policy, "reward": scorer, "dpo": policy}


def test_state_is_cut_as_the_layout_says():
    runner = make_runner(LAYOUTS["2x2x2"])
    stage = SFT(RATE, batch_size=ROWS, length=LENGTH, start="base")
    state = started(runner, stage, policy())
    update = programs(runner, stage)["update"]
    after, _ = update(state, runner.rows(tiny.text_batch(ROWS), ROWS), {})
    shards = lambda x: {shard.data.shape for shard in x.addressable_shards}
    for params in (after.params, after.opt_state[1].mu, after.opt_state[1].nu):
        assert shards(params["blocks"]["up"]) == {(2, 16, 64)}
        assert shards(params["blocks"]["qkv"]) == {(2, 16, 4, 3, 4)}
        assert shards(params["tokens"]) == {(40, 8)}
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(state.params["tokens"])


def test_adafactor_on_a_mesh_steps_as_on_one_device():
    """Its state has fewer axes than the parameters that it belongs to, or more than their names."""
    rate = OptimizerConfig(learning_rate=1e-2, method="adafactor")
    stage = SFT(rate, batch_size=ROWS, length=LENGTH, start="base")

    def loss(params, batch, key=None):
        total = sum((x * x).sum() for x in jax.tree.leaves(params))
        mean = WeightedMean(total * batch["weights"].sum(), batch["weights"].sum())
        return mean, {"loss": mean}

    blocks = {name: policy()["blocks"][name] for name in ("qkv", "qkv_bias", "down")}
    params = {"tokens": policy()["tokens"], "blocks": blocks}

    def stepped(runner):
        update, _ = supervised.make_update(loss, stage, 10, runner.compile)
        state, batch = started(runner, stage, params), tiny.text_batch(ROWS)
        for _ in range(2):
            state, _ = update(state, runner.rows(batch, ROWS))
        return state.params

    expected, found = stepped(ALONE), stepped(make_runner(LAYOUTS["2x2x2"]))
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(expected["tokens"]) - params["tokens"]).max() > 1e-3


def test_creating_leaves_what_it_is_made_of():
    runner = make_runner(LAYOUTS["2x4x1"])
    params = runner.state(policy())
    state = runner.create(lambda p, key: {"p": p, "key": key}, params, KEY)
    jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)(state)
    assert_close(params, policy(), rtol=0, atol=0)


def test_evaluation_gives_all_rows_on_the_host():
    tokens = np.arange(16 * 4, dtype=np.int32).reshape(16, 4)
    for layout in ("2x2x2", "pmap"):
        runner = make_runner(LAYOUTS[layout])
        double = runner.evaluate(lambda params, x, key: (params["w"] * x, jax.random.bits(key)))
        found, bits = double(runner.state({"w": np.float32(2)}), tokens, KEY)
        np.testing.assert_array_equal(found, 2 * tokens)
        assert isinstance(found, np.ndarray) and bits == jax.random.bits(KEY)


@pytest.mark.parametrize("layout", ["8x1x1", "2x2x2", "pmap"])
def test_rows_go_to_the_devices_and_come_back_in_order(layout):
    runner, whole = make_runner(LAYOUTS[layout]), np.arange(16 * 3, dtype=np.int32).reshape(16, 3)
    double = runner.compile(lambda rows: {"sums": rows.sum(axis=1), "twice": 2 * rows},
                            rows=(0,), returns_rows=True)  # fmt: skip
    found = runner.fetch_rows(double(runner.place_rows(whole)))
    assert_close(found, {"sums": whole.sum(axis=1), "twice": 2 * whole}, rtol=0, atol=0)
    assert all(isinstance(x, np.ndarray) for x in found.values())


@pytest.mark.parametrize("layout", ["8x1x1", "pmap"])
def test_a_donated_state_gives_its_memory_and_nothing_else_does(layout):
    runner = make_runner(LAYOUTS[layout])
    add = lambda state, kept, rows: ({"w": state["w"] + kept["w"]}, rows.sum())
    run = runner.compile(add, rows=(2,), donate=True)
    state, kept = (runner.state({"w": np.full(4, x, np.float32)}) for x in (1, 2))
    rows = runner.rows(np.ones((16, 3), np.float32), 16)
    after, _ = run(state, kept, rows)
    assert state["w"].is_deleted() and not kept["w"].is_deleted()
    np.testing.assert_array_equal(after["w"], np.full(4, 3))


def test_rows_that_fit_no_layout_are_refused_by_number():
    with pytest.raises(ConfigError, match=r"sft.batch_size = 12: must be .* the 8 groups"):
        make_runner(LAYOUTS["8x1x1"]).check_rows("sft.batch_size", 12)
    with pytest.raises(ConfigError, match=r"size in 2 micro-batches = 24: must be .* 8 groups"):
        make_runner(LAYOUTS["8x1x1"]).check_rows("sft.batch_size", 24, 2)
    with pytest.raises(ConfigError, match=r"sft.batch_size = 12: must be a multiple of the 8 dev"):
        make_runner(LAYOUTS["pmap"]).check_rows("sft.batch_size", 12)
    make_runner(LAYOUTS["8x1x1"]).check_rows("sft.batch_size", 4)
    with pytest.raises(
        ConfigError, match=r"parallel\.tensor = 3: must be a divisor of the 8 devices"
    ):
        make_runner(ParallelConfig(fsdp=3))


@pytest.mark.parametrize(
    "layout, rows, cut",
    [
        ("8x1x1", 2, P("fsdp", ("data",))),
        ("2x4x1", 4, P("fsdp", ("data",))),
        ("2x4x1", 2, P("data", ("fsdp",))),
        ("2x2x2", 2, P("fsdp", ("data",))),
    ],
)
def test_fewer_rows_than_devices_are_cut_along_time(layout, rows, cut):
    runner = make_runner(LAYOUTS[layout])
    stage = SFT(RATE, batch_size=rows, length=LENGTH, start="base")
    batch = tiny.text_batch(rows)
    assert runner.layout(batch)["tokens"].sharding.spec == cut

    def updated(runner):
        update, state = programs(runner, stage)["update"], started(runner, stage, policy())
        return update(state, runner.rows(batch, rows), {})[0].params

    assert_close(updated(runner), updated(ALONE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"runner": "xmap"}, "runner = 'xmap'"),
        ({"runner": "pmap", "fsdp": 2}, r"\(fsdp, tensor\) = \(2, 1\)"),
        ({"tensor": 0}, "tensor = 0"),
        ({"coordinator": "host"}, "coordinator = 'host'"),
        ({"coordinator": "host:1"}, r"\(processes, process\)"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "process = 2"),
        ({"processes": 2, "process": 0}, r"\(processes, process\)"),
    ],
)
def test_impossible_settings_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(ParallelConfig(), **wrong)
