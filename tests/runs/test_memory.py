"""A device's memory that is full: when it is, what lies in it by hand, what the run says."""

import dataclasses
import weakref

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.models.lora import LoRA
from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.layout import MeshShape, layout_of
from rlhf_jax.parallel.runner import JitRunner, make_runner
from rlhf_jax.plan.programs import build_for
from rlhf_jax.runs import memory
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.runs.run import Run
from tests.small_run import config

ALONE = JitRunner(layout_of(jax.devices()[:1], MeshShape(1, 1, 1)))


@pytest.mark.parametrize(
    "message, full",
    [
        # GPUs, when a program runs
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.\n"
         "BufferAssignment OOM Debugging.\nBufferAssignment stats:\n"
         "             parameter allocation:  372.76MiB", True),
        ("RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB (3206250496B) on device "
         "ordinal 0", True),
        ("INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
        # TPUs: a program is compiled, then run
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
         "hbm. Used 63.80G of 30.75G hbm. Exceeded hbm capacity by 33.05G.\n\n"
         "Total hbm usage >= 65.05G:\n    reserved          1.25G", True),
        ("RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 15.65G. That "
         "was not possible. There are 11.08G free.; (0x0x0_HBM0)", True),
        ("RESOURCE_EXHAUSTED: Attempting to reserve 10.51G at the bottom of memory. That was not "
         "possible. There are 8.97G free, 0B reserved, and 8.97G reservable.", True),
        # CPUs
        ("RESOURCE_EXHAUSTED: Out of memory allocating 4503599627370496 bytes.", True),
        # other memory, other resources
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
         "smem. Used 1.00M of 1.00M smem. Exceeded smem capacity by 1.7K.", False),
        ("RESOURCE_EXHAUSTED: Received message larger than max (5373952 vs. 4194304)", False),
        ("INTERNAL: Failed to execute XLA runtime executable: run time error: custom call", False),
    ],
)  # fmt: skip
def test_which_errors_say_that_memory_is_full(message, full):
    assert memory.is_out_of_memory(message) == full


def parts(stage: str, runner=ALONE, config=config) -> dict[str, memory.Part]:
    build = build_for(config, stage)
    return memory.parts_of(config.stages[stage].programs(build, 100), runner)


LAYER = 12 * 32 * 32 + 9 * 32 + 4 * 32  # matrices, their biases, two norms
PARAMETERS = 4 * (400 * 32 + 160 * 32 + 2 * LAYER + 2 * 32)  # bytes


def test_the_parts_of_a_training_step_counted_by_hand():
    assert parts("sft") == {
        "parameters": (PARAMETERS, ("params",), None),
        "optimizer": (2 * PARAMETERS + 2 * 4, ("opt_state",), None),  # and two counts
        "batch": (8 * 80 * 3 * 4 + 4 + 8, (), None),  # and the step and the key
        "logits": (8 * 79 * 400 * 4, (), "update"),
        "attention scores": (2 * 8 * 2 * 80 * 80 * 4, (), "update"),  # of both layers
        "gradients": (2 * LAYER * 4, (), "update"),  # of the layers
        "kept activations": parts("sft")["kept activations"],
    }
    assert parts("sft")["kept activations"].size > 10 * 2 * 8 * 80 * 32 * 4


def test_less_is_kept_with_more_micro_batches_chunks_and_recomputation():
    stage = dataclasses.replace(config.stages["sft"], micro_batches=4)
    model = dataclasses.replace(config.model, remat="full", logit_chunk=16)
    less = dataclasses.replace(config.with_stages(sft=stage), model=model)
    found = parts("sft", config=less)
    assert found["logits"].size == 2 * 16 * 400 * 4
    assert found["attention scores"].size == 2 * 2 * 80 * 80 * 4  # of one layer at a time
    # Of a layer what it starts from; of all what they read: places and visible pairs.
    assert found["kept activations"].size == 2 * 2 * 80 * 32 * 4
    assert found["parameters"] == parts("sft")["parameters"]


def test_of_ppo_both_models_their_optimizers_and_the_cache():
    """The value function and the reward model have a score head: 33 numbers more."""
    found, scorer = parts("ppo"), PARAMETERS + 33 * 4
    fields = ("policy", "value", "ema", "reference", "scorers")
    assert found["parameters"] == (3 * PARAMETERS + 2 * scorer, fields, None)
    optimizers = 2 * (PARAMETERS + scorer) + 4 * 4
    assert found["optimizer"] == (optimizers, ("policy_opt", "value_opt"), None)
    cache = 2 * 2 * 8 * 64 * 32 * 4  # keys and values of both layers, 64 columns
    drawn = 3 * 8 * 8 * 4 + 8 * 4 + 8 + 4
    assert found["KV cache"] == (cache + drawn, (), "rollout")


def test_of_ppo_with_adapters_the_trunk_that_all_models_share_counts_once():
    """Policy, average, reference, reward model and value network are an adapter each."""
    form, stages = LoRA(4, 8.0), config.stages
    names = ("sft", "reward", "ppo")
    adapted = {name: dataclasses.replace(stages[name], lora=form) for name in names}
    found = parts("ppo", config=config.with_stages(**adapted))
    adapter = 2 * 4 * (32 + 96 + 32 + 32 + 32 + 128 + 128 + 32) * 4
    assert found["parameters"].size == PARAMETERS + 5 * adapter + 2 * 33 * 4
    assert found["optimizer"].size == 2 * (2 * adapter + 33 * 4) + 4 * 4


def test_of_dpo_the_reference_that_lies_beside_its_update():
    assert parts("dpo")["parameters"] == (2 * PARAMETERS, ("params",), None)


def test_what_is_cut_over_devices_counts_by_its_share():
    whole, cut = parts("sft"), parts("sft", make_runner(ParallelConfig(fsdp=8)))
    assert cut["logits"].size == whole["logits"].size // 8
    assert cut["gradients"].size == whole["gradients"].size // 8
    assert PARAMETERS / 8 < cut["parameters"].size < PARAMETERS / 6  # norms and biases are whole
    replicas = parts("sft", make_runner(ParallelConfig(runner="pmap")))
    assert replicas["parameters"].size == PARAMETERS
    assert replicas["gradients"] == whole["gradients"]
    assert replicas["batch"].size == 80 * 3 * 4 + 4 + 8


def test_the_fields_that_shrink_a_stage_with_their_values():
    told = lambda runner, **changes: memory.remedies(
        dataclasses.replace(config, **changes), "sft", runner
    )
    less = "less of sft.batch_size = 8, sft.length = 80, model.logit_chunk = {}"
    assert told(ALONE) == [
        "more of sft.micro_batches = 1", less.format("None, all tokens"),
        "model.remat = 'full' instead of 'off'",
    ]  # fmt: skip
    model = dataclasses.replace(config.model, remat="full", logit_chunk=16)
    parallel = ParallelConfig(fsdp=2, tensor=2)
    assert told(make_runner(parallel), model=model, parallel=parallel) == [
        "more of sft.micro_batches = 1, parallel.fsdp = 2, of 8 devices", less.format(16)
    ]  # fmt: skip
    parallel = ParallelConfig(fsdp=8)
    assert "fsdp" not in " ".join(told(make_runner(parallel), parallel=parallel))
    parallel = ParallelConfig(runner="pmap")
    assert told(make_runner(parallel), parallel=parallel)[-2].startswith("parallel.runner = 'jit'")
    own = config.stages["ppo"].memory_fields()
    assert own["rollout_micro_batches"] == "more" and own["response_length"] == "less"


def test_a_step_that_takes_more_memory_than_there_is_ends_in_a_sentence(tmp_path, monkeypatch):
    """A true error: no machine has 2^52 bytes."""
    full = lambda: jnp.zeros((2**25, 2**25)) + 1
    steps = {"full": lambda *_: jax.jit(full)(), "broken": lambda *_: jnp.zeros(2) + jnp.zeros(3)}
    run = Run(dataclasses.replace(config, out=str(tmp_path)))
    failing = lambda how: lambda inputs, programs: dict.fromkeys(programs, steps[how])
    monkeypatch.setattr(StageInputs, "compile", failing("full"))
    with pytest.raises(UserError) as caught:
        run.finish("pretrain")
    first, held, fields = str(caught.value).splitlines()
    assert first == ("pretrain: a device's memory is full: "
                     "Out of memory allocating 4503599627370496 bytes.")  # fmt: skip
    assert held.startswith("GiB that a device holds, about: ")
    assert f"optimizer {(2 * PARAMETERS + 8) / 2**30 / 8:.3g}"[:9] in held
    assert "logits" in held and "(update)" in held and "parameters" in held
    assert fields.startswith("Less memory is needed with more of pretrain.micro_batches = 1")
    assert isinstance(caught.value.__cause__, jax.errors.JaxRuntimeError)
    monkeypatch.setattr(StageInputs, "compile", failing("broken"))
    with pytest.raises(TypeError, match="shapes"):
        run.finish("pretrain")


def test_another_error_of_a_device_stays_as_it_is():
    for error in (jax.errors.JaxRuntimeError("INTERNAL: broken"), ValueError("not that")):
        with (
            pytest.raises(type(error), match=str(error)),
            memory.explained(config, build_for(config, "sft"), ALONE),
        ):
            raise error


def test_the_error_that_is_told_keeps_no_array_of_the_one_before_it():
    class Array:
        """Stands for one: it can be seen to go."""

    gone = []

    def holds():
        array = Array()
        gone.append(weakref.ref(array))
        raise ValueError("below")

    def fails():
        array = Array()
        gone.append(weakref.ref(array))
        try:
            holds()
        except ValueError as below:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory") from below

    with (
        pytest.raises(UserError, match="is full: Out of memory") as caught,
        memory.explained(config, build_for(config, "sft"), ALONE),
    ):
        fails()
    assert str(caught.value.__cause__) == "RESOURCE_EXHAUSTED: Out of memory"
    assert [array() for array in gone] == [None, None]
