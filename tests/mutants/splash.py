"""Mutants of attention's kernel on TPUs, and of what a plan counts in kernels."""

from tests.mutants import mutants

TESTS = "models/test_splash.py"
WHOLE = "test_whole_rows_take_the_kernel_on_tpus_and_its_flops_are_counted"
ELSE = "test_all_else_takes_the_products_and_stderr_says_why"
MESH = "test_on_a_mesh_each_device_computes_its_rows_and_heads"
LOOPS = "test_packed_and_padded_rows_are_as_in_loops[None-None]"
MUTANTS = (
    *mutants("models/splash.py", TESTS, [
        ("splash_attention", "* scale", "", LOOPS),
        ("splash_attention", "pallas.SegmentIds(segments, segments)", "None", LOOPS),
        ("refused", "time % BLOCKS[-1]", "False", ELSE, "StopIteration"),
        ("splash_attention", "residual_checkpoint_name=RESULTS,", "", WHOLE),
    ]),
    *mutants("models/transformer.py", TESTS, [
        ("KEPT", "saveable, OF_KERNEL", "saveable, lambda *_, **__: False", WHOLE),
        ("KEPT", '"full": OF_KERNEL', '"full": lambda *_, **__: False', WHOLE),
    ]),
    *mutants("models/attention.py", TESTS, [
        ("by_segments", 'config.attention != "fused" or', "", ELSE),
        ("fused", "and not on_tpu()", "", WHOLE),
    ]),
    *mutants("parallel/layout.py", TESTS, [
        ("Layout.on_parts", 'cuts["time"] is not None', "False", MESH),
    ]),
    *mutants("jaxprs.py", TESTS, [
        ("kernel_flops", "_needed(jaxpr)", "jaxpr", WHOLE),
        ("_turns", 'eqn.params["mesh"].size', "1", MESH),
        ("_turns", 'math.prod(eqn.params["grid_mapping"].grid)', "1", WHOLE),
    ]),
    *mutants("plan/plan.py", "plan/test_plan.py", [
        ("Plan.compute_seconds", "+ self.kernel_seconds(program)", "",
         "test_kernels_take_two_fifths_of_the_peak_in_addition_to_the_cycles"),
    ]),
    *mutants("plan/report.py", "plan/test_plan.py", [
        ("as_table", 'if name == "prefill" else 0.0', "",
         "test_kernels_take_two_fifths_of_the_peak_in_addition_to_the_cycles"),
    ]),
)  # fmt: skip
