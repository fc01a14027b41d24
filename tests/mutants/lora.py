"""Mutants of adapters: in the model, in stages, and in the files of finished models."""

from tests.mutants import mutants

FLOAT64 = "test_the_products_are_those_of_the_merged_matrices_in_float64"
DECODES = "test_what_is_merged_and_what_decodes_are_these_matrices"
BEGINS = "test_a_begins_as_in_peft_and_does_not_depend_on_the_other_matrices"
OTHER = "test_an_adapter_of_another_form_is_merged_and_a_new_one_changes_nothing"
FIRST = "test_the_kl_at_ppo_s_first_step_is_0_and_adapters_alone_move[other]"
PLAN = "test_the_plan_counts_a_shared_trunk_once"
FOUND = "test_an_adapter_is_found_with_its_trunk[runner]"
ONCE = "test_models_on_one_trunk_hold_its_arrays_once"
# A model without its trunk, or with a part too many, has other names or shapes.
NO_PART = "AssertionError|KeyError|ValueError|TypeError"

MODELS = (
    *mutants("models/lora.py", "models/test_lora.py", [
        ("LoRA.scale", "self.alpha / self.rank", "self.alpha", f"{FLOAT64}[some]"),
        ("LoRA.adapts", "self.matrices or MATRICES", "MATRICES", f"{FLOAT64}[some]"),
        ("init", "jax.random.fold_in(key, number)", "jax.random.fold_in(key, len(adapter))",
         BEGINS),
        ("init", "given**-0.5", "lora.rank**-0.5", BEGINS),
        ("init", "jnp.zeros((layers, lora.rank, *out))", "jnp.ones((layers, lora.rank, *out))",
         "test_a_new_adapter_changes_no_bit_and_nor_does_leaving_it_out"),
        ("merged_matrices", "lora.scale * change", "change", f"{DECODES}[some]"),
    ]),
    *mutants("models/block.py", "models/test_lora.py", [
        ("Block._dense", "c.lora.scale * einsum", "einsum", f"{FLOAT64}[gpt]"),
    ]),
    *mutants("models/transformer.py", "models/test_lora.py", [
        ("for_decoding", "lora.merged(config.lora, params)", "lora.trunk_of(params)",
         f"{DECODES}[gpt]"),
    ]),
    *mutants("durable/model_files.py", "runs/test_models.py", [
        ("save_model", "trunk, IDENTITY)", "trunk, (CONFIG,))",
         "test_a_run_may_be_moved_as_a_whole"),
    ]),
    *mutants("models/config.py", "runs/test_models.py", [
        ("from_json", 'tuple(lora["matrices"])', "()", f"{ONCE}", NO_PART),
    ]),
)  # fmt: skip

STAGES = (
    *mutants("stages/adapters.py", "stages/test_adapters.py", [
        ("model_at_start", "shapes[role].lora == lora", "shapes[role].lora is not None",
         f"{OTHER}[other-sft]", NO_PART),
        ("model_at_start", "if lora is None", "if lora is not None", f"{OTHER}[none-sft]",
         NO_PART + "|AttributeError"),
        ("trunk_at_start", "in (None, lora)", "is None", PLAN),
        ("repeated", "again(tree, (name,))", "again(tree, ())",
         "test_what_two_models_share_is_found_once"),
    ]),
    *mutants("stages/one_model.py", "stages/test_adapters.py", [
        ("OneModelStage.trained", "self.lora is None", "True",
         "test_sft_trains_the_adapter_alone_and_keeps_the_arrays_of_the_trunk"),
        ("OneModelStage.shape", "lora=self.lora", "lora=None", f"{OTHER}[other-plain]"),
    ]),
    *mutants("stages/policy_gradient_config.py", "stages/test_adapters.py", [
        ("PolicyGradientConfig.trained_value", 'TRAINED["score"]', 'TRAINED["policy"]', FIRST),
    ]),
    *mutants("stages/policy_gradient.py", "stages/test_adapters.py", [
        ("PolicyGradient.task", "policy if self._refers_to_start", "policy if False", FIRST,
         NO_PART),
        ("PolicyGradient.task", '(inputs, "value", self.lora)', '(inputs, "value", None)', FIRST,
         NO_PART + "|ConfigError"),
        ("PolicyGradient.programs", '(*shared, frozen.fixed["policy"])', "shared", PLAN),
    ]),
    *mutants("runs/chain.py", "stages/test_adapters.py", [
        ("build_of", 'trunk_at_start(build, "start", upstream.lora) if upstream.lora',
         "need.stage if upstream.lora", PLAN),
    ]),
)  # fmt: skip

FILES = (
    *mutants("durable/model_files.py", "runs/test_models.py", [
        ("save_model", "params = parts.split(params, TRAINED[kind]).trained", "pass",
         "test_a_file_holds_the_adapter_alone", ".*"),
    ]),
    *mutants("durable/taken.py", "runs/test_models.py", [
        ("located", 'digest(place, found["holds"]) == found["sha256"]', "True",
         "test_a_run_may_be_moved_as_a_whole", ".*DID NOT RAISE"),
    ]),
    *mutants("runs/models.py", "runs/test_models.py", [
        ("Models._load", 'name != "head"', "True", FOUND),
        ("Models.trunk", "there in (None, lora)", "True", FOUND),
        ("Models.trunk", "there in (None, lora)", "there is None", FOUND),
        ("Models._once", "if not processes.total(gone)", "if False", ONCE),
        ("Models._once", "tree, [weakref.ref(leaf) for leaf in leaves]",
         "tree, [lambda leaf=leaf: leaf for leaf in leaves]", ONCE),
    ]),
)  # fmt: skip

MEMORY = mutants("runs/memory.py", "runs/test_memory.py", [
    ("_held", "bytes_a_device(runner.layout(program.shared))", "0",
     "test_of_ppo_with_adapters_the_trunk_that_all_models_share_counts_once"),
])  # fmt: skip

MUTANTS = MODELS + STAGES + FILES + MEMORY
