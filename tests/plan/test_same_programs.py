"""What a run calls is what plan compiles: shapes, dtypes, places, program by program. A plan has
the largest size of batches that are cut to few sizes.

The run is the small one on eight simulated devices with its programs left out: each call is written
down and answered with arrays of the right shapes, so that nothing of them is compiled.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from rlhf_jax.parallel.config import ParallelConfig
from rlhf_jax.parallel.layout import MeshShape, layout_of
from rlhf_jax.parallel.runner import JitRunner
from rlhf_jax.plan.programs import programs_of, stages_of
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.runs.run import Run
from rlhf_jax.stages.stage import Program
from rlhf_jax.training.loop import LoopConfig
from tests.small_run import config, ppo

STAGES = config.stages
CHANGED = dataclasses.replace(
    config.with_stages(
        sft=dataclasses.replace(STAGES["sft"], buckets=1),
        # 8 rows for 4 groups of devices, some of them fewer.
        reward=dataclasses.replace(
            STAGES["reward"], normalise="none", batch_size=8, micro_batches=4
        ),
        ppo=ppo(train_policy=("final_norm", "blocks"), rollout_micro_batches=2),
        ppo_ptx=ppo(batch_size=16, ptx_coefficient=2.5, ema_decay=None),
        dpo=dataclasses.replace(STAGES["dpo"], batch_size=4, outputs=6, packed=2),
    ),
    parallel=ParallelConfig(fsdp=2, tensor=2),
    loop=LoopConfig(checkpoint_every=100),
)


def answer(program, arguments, random):
    """What a program might return: the state a step on, zeros for numbers, else arrays."""
    found = jax.eval_shape(program.function, *arguments)

    def filled(x):
        if not x.shape:
            return np.zeros((), x.dtype)
        values = random.integers(4, 300, x.shape) if x.dtype == jnp.int32 else np.ones(x.shape)
        return values.astype(x.dtype)

    result = jax.tree.map(filled, found[1:] if program.donates else found)
    state = arguments[0]._replace(step=arguments[0].step + 1) if program.donates else None
    return (state, *result) if program.donates else result


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """{(stage, program): the arguments of each of its calls}."""
    found, random = {}, np.random.default_rng(0)

    def compile(inputs, programs):
        def recorded(name, program):
            def call(*arguments):
                found.setdefault((inputs.build.name, name), []).append(arguments)
                return answer(program, arguments, random)

            return call

        return {name: recorded(name, program) for name, program in programs.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageInputs, "compile", compile)
        run = Run(dataclasses.replace(CHANGED, out=str(tmp_path_factory.mktemp("run"))))
        for stage in stages_of(CHANGED):
            run.finish(stage)
    return found, run.runner


PLANNED = {(p.stage, p.name): p for p in programs_of(CHANGED, stages_of(CHANGED))}


def test_a_run_calls_every_program_that_is_planned_and_no_other(calls):
    assert calls[0].keys() == PLANNED.keys()


@pytest.mark.parametrize("name", PLANNED, ids=" ".join)
def test_a_program_is_called_with_what_it_is_planned_for(calls, name):
    (found, runner), planned = calls, PLANNED[name].program
    traced = lambda arguments: jax.eval_shape(lambda *same: same, *arguments)
    kinds = lambda arguments: [(x.shape, x.dtype) for x in jax.tree.leaves(traced(arguments))]
    for arguments in found[name]:
        assert jax.tree.structure(arguments) == jax.tree.structure(planned.arguments)
        assert kinds(arguments) == kinds(planned.arguments)
    # What the run has laid on the devices lies where the plan has it.
    pairs = zip(*map(jax.tree.leaves, (found[name][0], planned.placed(runner))), strict=True)
    laid = [(x, to) for x, to in pairs if isinstance(x, jax.Array) and len(x.devices()) > 1]
    assert laid and all(x.sharding.is_equivalent_to(to.sharding, x.ndim) for x, to in laid)


@pytest.mark.parametrize("stage", [s for s in stages_of(CHANGED) if PLANNED.get((s, "update"))])
def test_a_stage_has_as_many_steps_as_planned(calls, stage):
    runs = PLANNED[stage, "update"].runs
    assert runs is None or len(calls[0][stage, "update"]) == runs


def test_what_is_lowered_is_what_a_run_calls():
    runner = JitRunner(layout_of(jax.devices(), MeshShape(2, 4, 1)))
    shape = jax.ShapeDtypeStruct((8, 4), np.float32)
    values = np.arange(32, dtype=np.float32).reshape(8, 4)
    step = Program(lambda s, x: (s + x, x.sum()), (shape, shape), rows=(1,), donates=True)
    whole = Program(lambda s, x: s + x, (shape, shape), whole=True)
    for program, donated in ((step, [True, False]), (whole, [False, False])):
        lowered = program.lower(runner)
        assert [x.donated for x in jax.tree.leaves(lowered.args_info)] == donated
        places = [x.sharding for x in program.placed(runner)]
        twice = [[jax.device_put(values, place) for place in places] for _ in range(2)]
        found = lowered.compile()(*twice[0]), program.compile(runner)(*twice[1])
        jax.tree.map(np.testing.assert_array_equal, *found)
    assert lowered.compile().output_shardings.is_fully_replicated
    assert step.placed(runner)[1].sharding.spec == P(("data", "fsdp"))
    fewer = dataclasses.replace(step, arguments=(shape, jax.ShapeDtypeStruct((4, 8), np.float32)))
    assert fewer.placed(runner)[1].sharding.is_fully_replicated  # as JitRunner.rows has it
