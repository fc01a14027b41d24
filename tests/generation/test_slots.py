"""Few slots and pieces of the cache give the responses of all rows at once."""

import dataclasses
import functools
import heapq

import jax
import numpy as np
import pytest

from rlhf_jax.durable.fingerprint import fingerprint_of
from rlhf_jax.errors import ConfigError
from rlhf_jax.evaluation import policies
from rlhf_jax.evaluation.evaluator import EvaluationConfig
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.generation import slots
from rlhf_jax.generation.decode import DecodingConfig, generate
from rlhf_jax.generation.ending import Ending
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.runner import make_runner
from rlhf_jax.plan import hlo
from rlhf_jax.stages import experience, simulated_feedback
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from rlhf_jax.stages.stage import Build, Rows
from tests.models.test_transformer import LLAMA, forward, noisy
from tests.stages import tiny

LENGTH, ENDING, SAMPLING = 11, Ending(eos=2, pad=0), SamplingConfig()
RNG = np.random.default_rng(0)
PROMPTS = np.where(
    np.arange(6)[None] < np.arange(16)[:, None] % 6, 0, RNG.integers(3, 9, (16, 6))
).astype(np.int32)
SEGMENTS = (PROMPTS > 0).astype(np.int32)
# Of few words, so that responses end soon. A window finds its tokens in the ring and the prompt;
# the second layer has none.
MODEL = dataclasses.replace(LLAMA, window=4, global_every=2, vocab_size=9, layers=2)


def function(**decoding):
    return functools.partial(
        generate, MODEL, sampling=SAMPLING, response_length=LENGTH, ending=ENDING,
        decoding=DecodingConfig(**decoding),
    )  # fmt: skip


@functools.cache
def arguments():
    return noisy(MODEL), PROMPTS, SEGMENTS, jax.random.key(17)


@functools.cache
def together():
    found = jax.device_get(jax.jit(function())(*arguments()))
    lengths = found.mask.sum(axis=1)
    assert lengths.min() == 1 and len(set(lengths)) > 5
    # A response is as long as allowed, and its last token does not end it.
    assert ((lengths == LENGTH) & (found.tokens[:, -1] != ENDING.eos)).any()
    return found


def check_alike(found, expected):
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)


def test_decoded_log_probabilities_are_those_of_the_sequences():
    found = together()
    tokens = np.concatenate([PROMPTS, found.tokens], axis=1)
    segments = np.concatenate([SEGMENTS, found.mask], axis=1).astype(np.int32)
    logits = forward(MODEL, noisy(MODEL), tokens, segments)[:, PROMPTS.shape[1] - 1 : -1]
    every = np.asarray(jax.nn.log_softmax(logits))
    expected = np.take_along_axis(every, found.tokens[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(found.log_probs, expected * found.mask, atol=1e-4)


def turns_of_a_queue(lengths, slots: int) -> int:
    """The turns until the last response ends: each takes the first slot that is free."""
    free = [0] * slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + int(length) - 1)
    return max(free)


def test_slots_that_are_refilled_change_no_response_and_no_slot_waits(monkeypatch):
    """The cache grows while rows wait, after more turns than it has columns."""
    monkeypatch.setattr(slots, "decode", slots.run)
    state = jax.device_get(jax.jit(function(slots=3, cache_pieces=2))(*arguments()))
    check_alike(state.rollout, together())
    expected = turns_of_a_queue(together().mask.sum(axis=1), 3)
    assert state.turn == expected < DecodingConfig(3).turns(16, LENGTH) == 6 * (LENGTH - 1)


def test_a_cache_that_grows_changes_no_response():
    check_alike(jax.jit(function(cache_pieces=2))(*arguments()), together())


def test_slots_of_eight_devices_keep_each_row_on_its_own():
    """Devices ask each other only whether a response goes on, in the conditions of loops."""
    runner = make_runner(ParallelConfig())
    run = runner.compile(function(slots=8))
    params, *rows, key = arguments()
    placed = runner.state(params), *runner.rows(tuple(rows), len(PROMPTS)), key
    compiled = run.lower(*placed).compile()
    check_alike(jax.device_get(compiled(*placed)), together())
    text = compiled.as_text()
    assert hlo.parse(text).cost().sent == 0 and " all-reduce(" in text


@pytest.mark.slow
def test_replicas_have_their_share_of_the_slots():
    """Two rows and a slot each, of eight."""
    how = {"prompt_length": 6, "response_length": LENGTH, "temperature": 1.0, "batch_size": 16}
    config = tiny.ppo_config(**how, decoding=DecodingConfig(slots=8))
    runner = make_runner(ParallelConfig(runner="pmap"))
    rollout = experience.make_rollout(config, MODEL, ENDING, config.decoding)
    run = runner.compile(rollout, rows=(2,), returns_rows=True)
    params, tokens, segments, key = arguments()
    prompts = runner.place_rows({"tokens": tokens, "segments": segments})
    check_alike(runner.fetch_rows(run(params, key, prompts)), together())


def test_the_cache_grows_to_the_whole_response():
    assert DecodingConfig(cache_pieces=3).sizes(10) == [4, 7, 10]
    assert DecodingConfig(cache_pieces=9).sizes(2) == [1, 2]
    assert DecodingConfig().sizes(10) == [10]


def test_the_most_turns_of_a_loop():
    assert DecodingConfig().turns(64, 10) == 9 == DecodingConfig(slots=64).turns(64, 10)
    assert DecodingConfig(slots=24).turns(64, 10) == 3 * 9
    assert DecodingConfig(cache_pieces=2).turns(64, 10) == 5
    # Responses of every length, in the worst order: the long ones come last.
    for lengths in ([10] * 7, [1, 2, 3, 10, 10, 10, 10], [10, 1, 10, 1, 10, 1, 10]):
        assert turns_of_a_queue(lengths, 3) <= DecodingConfig(slots=3).turns(7, 10)


def test_a_device_has_its_share_of_the_slots():
    assert DecodingConfig(slots=16).share(8, 64).slots == 2
    assert DecodingConfig(slots=2).share(8, 64).slots == 1
    assert DecodingConfig(cache_pieces=3).share(8, 64) == DecodingConfig(cache_pieces=3)


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"cache_pieces": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = 0: must be positive"):
        DecodingConfig(**wrong)


FEW = DecodingConfig(slots=4, cache_pieces=2)
BUILD = Build("stage", tiny.MODEL, {"policy": tiny.MODEL}, tiny.ENDING)
ASKED = EvaluationConfig(prompt_length=6, response_length=7, batch_size=8)
FEEDBACK = SimulatedFeedback(6, 7, batch_size=8, policy="sft")


def evaluated(evaluator):
    build = dataclasses.replace(BUILD, shapes={"subject": tiny.MODEL, "to": tiny.MODEL})
    return lambda decoding: evaluator.programs(
        build, dataclasses.replace(ASKED, decoding=decoding)
    )["sample"]


def with_decoding(stage):
    return lambda decoding: dataclasses.replace(stage, decoding=decoding)


def of_ppo(decoding):
    stage = with_decoding(tiny.ppo_config(response_length=7))(decoding)
    build = dataclasses.replace(BUILD, shapes=dict.fromkeys(stage.needs(), tiny.MODEL))
    return stage.programs(build, stage.iterations)["rollout"]


def of_feedback(decoding):
    return with_decoding(FEEDBACK)(decoding).programs(BUILD, 1)["sample"]


@pytest.mark.parametrize(
    "module, program",
    [
        (experience, of_ppo),
        (simulated_feedback, of_feedback),
        (policies, evaluated(KL("sft"))),
    ],
)
def test_what_samples_decodes_as_its_config_says(module, program, monkeypatch):
    asked = []

    def watched(*arguments, **options):
        asked.append(options["decoding"])
        return generate(*arguments, **options)

    monkeypatch.setattr(module, "generate", watched)
    made = program(FEW)
    jax.eval_shape(made.function, *made.arguments)
    assert set(asked) == {FEW} and made.turns == 2 * 6


def test_the_slots_of_ppo_are_cut_over_the_devices():
    stage = with_decoding(tiny.ppo_config())(FEW)
    assert Rows("decoding.slots", 4, 1) in stage.batches()
    assert all(rows.field != "decoding.slots" for rows in tiny.ppo_config().batches())


@pytest.mark.parametrize("config", [tiny.ppo_config(), FEEDBACK, ASKED])
def test_configs_of_earlier_runs_keep_their_fingerprint(config):
    assert "decoding" not in fingerprint_of(config)
    assert fingerprint_of(with_decoding(config)(FEW))["decoding"]["slots"] == 4
