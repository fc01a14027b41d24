"""Gradients, optimizer, metrics and the loop."""

from tests.mutants import mutants

GRADIENTS = mutants(
    "training/gradients.py",
    "training/test_gradients.py",
    [
        ("accumulate_gradients.total", "mean.total * factor", "mean.mean * factor",
         "test_any_split_gives_the_gradient_of_the_whole[1]"),
        ("accumulate_gradients", "scale = reciprocal(mean.weight)", "scale = 1 / micro_batches",
         "test_any_split_gives_the_gradient_of_the_whole[2]"),
        ("accumulate_gradients.reciprocal", "replicas.total(weight)", "weight",
         "parallel/test_runners.py::test_an_update_is_that_of_one_device[reward-pmap-2]"),
        ("accumulate_gradients", "jax.random.fold_in(key, index)", "key",
         "test_every_micro_batch_has_its_own_key"),
        ("accumulate_gradients", "optax.tree.norm(gradients)", "optax.tree.norm(params)",
         "test_any_split_gives_the_gradient_of_the_whole[1]"),
        ("accumulate_gradients.reciprocal", 
         "jnp.where(weight > 0, 1 / jnp.where(weight > 0, weight, 1), 0)", "1 / weight",
         "test_a_batch_without_weight_has_gradient_zero_and_no_loss"),
        ("means", "jnp.where(m.weight == 0, jnp.nan, m.mean)", "m.mean",
         "test_a_batch_without_weight_has_gradient_zero_and_no_loss"),
    ],
)  # fmt: skip

OPTIMIZER = mutants(
    "training/optimizer.py",
    "training/test_optimizer.py",
    [
        ("clip_by_global_norm", "jnp.minimum(1.0, max_norm /", "(max_norm /",
         "test_the_whole_gradient_is_clipped_before_adam"),
        ("make_optimizer", "mask=_is_matrix", "mask=None",
         "test_decay_is_decoupled_and_spares_vectors"),
        ("make_optimizer", "parts.insert(1, optax.add", "parts.insert(0, optax.add",
         "test_decay_is_decoupled_and_spares_vectors"),
        ("_is_matrix", "x.ndim >= 2 and not _is_vector(path)", "x.ndim >= 2",
         "test_decay_spares_the_stacked_biases_and_scales_of_layers"),
        ("_schedule", "total_steps - warmup", "total_steps", "test_schedules"),
        ("_schedule", "config.warmup_from * peak", "0.0", "test_schedules"),
        ("_schedule", "alpha=config.final_fraction", "alpha=0.0", "test_schedules"),
        ("_schedule", "config.final_fraction * peak", "0.0", "test_schedules"),
    ],
)  # fmt: skip

PROGRESS = mutants(
    "training/progress.py",
    "training/test_loop.py",
    [
        ("ProgressLine.update", "self._times.clear()", "pass",
         "test_the_time_left_is_told_from_steps_that_compiled_nothing"),
    ],
)  # fmt: skip

ADAFACTOR = mutants(
    "training/optimizer.py",
    "training/test_optimizer.py",
    [
        ("scale_by_factored_moments", "** -0.8", "** -0.5", "test_the_other_methods_follow_numpy"),
        ("scale_by_factored_moments", "rows / jnp.mean(rows, across, keepdims=True)", "rows",
         "test_the_other_methods_follow_numpy"),
        ("_clipped", "jnp.maximum(1.0, jnp.sqrt(squares))", "jnp.sqrt(squares)",
         "test_the_other_methods_follow_numpy"),
        ("_axes", "int(stacked and not listed)", "0",
         "test_adafactor_steps_each_layer_as_optax_steps_its_matrix_alone"),
    ],
)  # fmt: skip

MEASURING = mutants("training/loop.py", "training/test_evaluated.py", [
    ("_Log.write", "+ self.measuring.count", "",
     "test_what_an_evaluation_compiles_is_not_counted_into_the_time_left"),
])  # fmt: skip

SIGNALS = mutants(
    "durable/signals.py",
    "training/test_signals.py",
    [("Signals.handled", "self._again\n", "sys.unraisablehook\n",
      "test_a_signal_that_python_ignores_is_sent_again_without_a_traceback", "Failed")],
)  # fmt: skip
MUTANTS = SIGNALS + MEASURING + ADAFACTOR + GRADIENTS + OPTIMIZER + PROGRESS
