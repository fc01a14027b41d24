"""Mutants of plan/, of what it shares with a run, and of the words about a full memory."""

from tests.mutants import mutants

PLAN = (
    *mutants("plan/programs.py", "plan/test_plan.py", [
        ("stages_of", "is None", "is not None", "test_every_program_of_a_run_is_there"),
        ("programs_of", "name, key, program, steps", "name, key, program, None",
         "test_a_stage_has_as_many_calls_as_the_config_tells"),
        ("programs_of", "with inside(name):", "if True:",
         "test_a_warm_up_longer_than_its_stage_names_the_field"),
        ("_keeping_all", 'remat="off", ', "",
         "plan/test_flops.py::"
         "test_the_programs_of_instructgpt_take_what_a_hand_count_says[1b3-1.3]"),
    ]),
    *mutants("plan/hlo.py", "plan/test_hlo.py", [
        ("parse", 'line == "}"', 'line.startswith("}")',
         "test_what_follows_a_kernel_whose_attributes_have_several_lines_is_counted"),
        ("parse", "current[-1] += line", "pass",
         "test_what_follows_a_kernel_whose_attributes_have_several_lines_is_counted"),
    ]),
    *mutants("plan/suggest.py", "plan/test_plan.py", [
        ("_models", "*build.shapes.values(), ", "", "test_meshes_worth_a_try_send_least_first"),
        ("meshes", "rows.count // rows.pieces", "rows.count",
         "test_meshes_worth_a_try_send_least_first"),
        ("with_micro_batches", "return changed if fit else None", "return changed",
         "test_micro_batches_of_a_mesh"),
        ("options", "if value != getattr(old, field.name):", "if True:",
         "test_micro_batches_of_a_mesh"),
    ]),
    *mutants("stages/stage.py", "plan/test_same_programs.py", [
        ("Program.placed", "number in self.rows", "False",
         "test_what_is_lowered_is_what_a_run_calls"),
        ("Program.trace", "if self.whole", "if False",
         "test_what_is_lowered_is_what_a_run_calls"),
    ]),
)  # fmt: skip

MEMORY = (
    *mutants("runs/memory.py", "runs/test_memory.py", [
        ("is_out_of_memory", "(?!hbm)", "(?!smem)", "test_which_errors_say_that_memory_is_full"),
        ("is_out_of_memory", "(allocate|reserve)", "allocate",
         "test_which_errors_say_that_memory_is_full"),
        ("_clear_frames", "error.__cause__ or error.__context__", "None",
         "test_the_error_that_is_told_keeps_no_array_of_the_one_before_it"),
        ("parts_of", "part.size >= ", "part.size > ",
         "test_of_ppo_both_models_their_optimizers_and_the_cache"),
        ("_devices", 'mesh.shape["fsdp"] * mesh.shape["tensor"] if', "mesh.size if",
         "test_what_is_cut_over_devices_counts_by_its_share"),
        ("_held", "named and not rows", "named",
         "test_the_parts_of_a_training_step_counted_by_hand"),
        ("_held", "for tree in runner.layout(program.beside)", "for tree in ()",
         "test_of_dpo_the_reference_that_lies_beside_its_update"),
        ("remedies", "elif cut < devices:", "else:",
         "test_the_fields_that_shrink_a_stage_with_their_values"),
    ]),
    *mutants("runs/run.py", "runs/test_memory.py", [
        ("Run._run", "with memory.explained(self.config, self.build(stage), self.runner):",
         "if True:",
         "test_a_step_that_takes_more_memory_than_there_is_ends_in_a_sentence",
         "JaxRuntimeError"),
    ]),
)  # fmt: skip

JAXPRS = mutants(
    "jaxprs.py",
    "test_jaxprs.py",
    [
        ("_flops", "total += max(inner)", "total += sum(inner)",
         "test_of_a_choice_the_dearest_branch"),
        ("count_flops", "_needed(jax.make_jaxpr(function)(*arguments).jaxpr)",
         "jax.make_jaxpr(function)(*arguments).jaxpr", "test_products_and_all_else"),
        ("_turns", '"while": while_turns', '"while": 1', "test_loops_are_multiplied"),
        ("_find_arrays", "one_turn.aval.shape == all_turns.aval.shape", "False",
         "test_the_largest_arrays_by_name_and_what_loops_keep"),
        ("_find_arrays", 'if eqn.params["reverse"]', "if False",
         "test_the_largest_arrays_by_name_and_what_loops_keep"),
    ],
)  # fmt: skip

MUTANTS = (*PLAN, *MEMORY, *JAXPRS)
