"""The transformer, its products, its attention and its heads."""

from tests.mutants import mutants

FLOAT64 = "test_equals_loops_in_float64"

TRANSFORMER = mutants(
    "models/transformer.py",
    "models/test_transformer.py",
    [
        ("positions_of", "time - jax.lax.cummax(jnp.where(starts, time, 0), axis=1)", "time",
         "test_positions_restart_with_each_segment"),
        ("_embed", 'x + params["positions"][positions]', 'x + params["positions"][positions * 0]',
         f"{FLOAT64}[gpt]"),
        ("_states", 'Norm(config).apply({"params": params["final_norm"]}, x)', "x",
         f"{FLOAT64}[gpt]"),
        ("head_matrix", "if config.tied_embeddings", "if True",
         "test_a_head_of_its_own_makes_the_logits"),
    ],
) + mutants(
    "models/block.py",
    "models/test_transformer.py",
    [
        ("_normed", "x = x - x.mean(-1, keepdims=True)", "x = x + 0", f"{FLOAT64}[gpt]"),
        ("Block._project", "rotate(k, positions, frequency)", "k", f"{FLOAT64}[llama]"),
        ("Block._mix", 'act(self._dense("gate", y)) * up', 'act(up) * self._dense("gate", y)',
         f"{FLOAT64}[llama]"),
        ("Block._mix", "mixed = x + drop(out)", "mixed = drop(out)", f"{FLOAT64}[gpt]"),
        ("Block._mix", "drop(out)", "out", "test_both_branches_drop"),
        ("Block._mix", "drop(down)", "down", "test_both_branches_drop"),
        ("gelu", "approximate=True", "approximate=False", f"{FLOAT64}[gpt]"),
    ],
) + mutants(
    "models/rotary.py",
    "models/test_transformer.py",
    [
        ("rotate", "first * cos - second * sin", "first * cos + second * sin",
         f"{FLOAT64}[llama]"),
        ("frequencies", "/ half)", "/ (2 * half))", f"{FLOAT64}[llama]"),
    ],
)  # fmt: skip

VALUES = "test_values_and_gradients[float32-None]"
ATTENTION = mutants(
    "models/attention.py",
    "models/test_attention.py",
    [
        ("_scaled", "q.astype(jnp.float32) * scale", "q", VALUES),
        ("_weights", "jnp.where(visible[:, None, None], scores, HIDDEN)", "scores", VALUES),
        ("_backward", "dweights - mean", "dweights", VALUES),
        ("_sums", "blocks.sum(-2)", "blocks[..., 0, :]",
         "test_sums_over_the_width_of_a_head[48-cpu]"),
        ("_backward", "dscores, k) * scale", "dscores, k)", VALUES),
        ("_backward", "dscores * slope", "dscores", "test_values_and_gradients[float32-1.5]"),
        ("cached_attention", "_capped(scores, softcap)", "scores",
         "test_a_cache_gives_what_the_sequence_gives[cpu-float32-3-1.5]"),
        ("view_of", "k=-window", "k=-window - 1",
         "test_a_view_ends_at_the_token_at_its_segment_and_at_the_window"),
        ("View.last", "self.visible[:, -queries:]", "self.visible[:, :queries]",
         "test_a_view_ends_at_the_token_at_its_segment_and_at_the_window"),
        ("view_of", "same & jnp.tri(segments.shape[1], dtype=bool)[None]", "same",
         "models/test_transformer.py::test_future_tokens_change_nothing[gpt]"),
        ("view_of", "segments[:, :, None] == segments[:, None, :]",
         "(segments[:, :, None] > 0) & (segments[:, None, :] > 0)",
         "models/test_transformer.py::test_packed_documents_do_not_see_each_other[gpt]"),
    ],
)  # fmt: skip

PADDED = "test_rows_with_padding_on_either_side"
FUSED = mutants(
    "models/attention.py",
    "models/test_fused.py",
    [
        ("fused_attention", "scale=scale", "scale=None", "test_values_and_gradients[5-2-1-8]"),
        ("fused_attention", "is_causal=True", "is_causal=False",
         "test_values_and_gradients[5-2-1-8]"),
        ("left_aligned", "(time + start) % length", "time + 0 * start", f"{PADDED}[4-False]"),
        ("left_aligned", "(segments == expected).all(axis=1)", "(segments >= 0).all(axis=1)",
         "test_states_of_a_packed_row_are_nan"),
        ("refused", "config.window is not None", "False",
         "test_what_the_kernel_refuses_takes_the_products_with_one_line[window]", "KeyError"),
        ("refused", "config.attention_softcap is not None", "False",
         "test_what_the_kernel_refuses_takes_the_products_with_one_line[softcap]"),
    ],
) + mutants(
    "models/transformer.py",
    "models/test_fused.py",
    [
        ("_right_padded", "columns[:, -last:]", "columns[:, :last]", f"{PADDED}[4-False]"),
        ("_wider", "found, HIDDEN", "found, 0", "test_columns_after_the_vocabulary"),
    ],
) + mutants(
    "models/block.py",
    "models/test_fused.py",
    [
        ("_bias_gradients", "g.astype(jnp.float32).sum", "g.sum",
         "test_a_bias_sums_its_gradient_in_float32"),
    ],
) + mutants(
    "models/matmul.py",
    "models/test_fused.py",
    [
        ("_gradients", 'product(f"{in_a},{out}->{in_b}", a, g)',
         'product(f"{in_a},{out}->{in_b}", a, g, result).astype(jnp.float32)',
         "test_results_are_bfloat16_and_gradients_of_weights_float32"),
        ("result_dtype", "on_cpu()", "not on_gpu()",
         "test_results_between_products_are_bfloat16_on_accelerators[tpu]"),
    ],
)  # fmt: skip

SCORE = mutants(
    "models/score.py",
    "models/test_score.py",
    [
        ("with_score_head", "jnp.zeros(())", "jnp.ones(())",
         "test_head_starts_at_the_published_scale"),
        ("zero_score_head", "jnp.zeros_like", "jnp.ones_like",
         "test_head_starts_at_the_published_scale"),
        ("rescale", 'gain * head["bias"] + bias', 'head["bias"] + bias',
         "test_rescale_is_an_affine_map_of_the_score"),
        ("scores", '+ head["bias"]', "", "test_rescale_is_an_affine_map_of_the_score"),
        ("at_last_token", "jnp.maximum(index, 0)", "jnp.maximum(index - 1, 0)",
         "test_read_at_the_last_real_token"),
        ("at_last_token", "jnp.where(index >= 0, picked, 0.0)", "picked",
         "test_read_at_the_last_real_token"),
    ],
)  # fmt: skip

MATMUL = mutants(
    "models/matmul.py",
    "models/test_matmul.py",
    [
        ("_row_major_product", "preferred_element_type=jnp.float32",
         "preferred_element_type=jnp.bfloat16", "test_bfloat16_sums_in_float32"),
        ("_gradients", 'f"{out},{in_b}->{in_a}", g, b', 'f"{out},{in_b}->{in_a}", g, 2 * b',
         "test_values_and_gradients"),
        ("_multiplies_bfloat16", "not BFLOAT16.isdisjoint(", "BFLOAT16.issubset(",
         "test_cpus_with_instructions_for_bfloat16_multiply_it"),
    ],
)  # fmt: skip

MEASURED = "test_arrays_lie_where_they_were_measured"
LAYOUT = mutants(
    "parallel/layout.py",
    "parallel/test_layout.py",
    [
        ("_many_tokens", '"spread": spread', '"spread": time', MEASURED),
        ("_many_tokens", "rows if rows == ROWS else ()", "rows", MEASURED),
        ("_one_token", '"feed_forward": T + F', '"feed_forward": T', MEASURED),
        ("_cuts", "sorted(axes, key=[*rules].index)", "axes", MEASURED),
        ("Layout.spec", "1 in map(sizes.get, TOKENS)", "False", MEASURED),
        ("Layout._parameter", "self._rows(x) if fewer else", "None if fewer else", MEASURED),
        ("Layout._parameter", "axes is None or x.ndim > len(axes)", "axes is None",
         "test_a_parameter_without_axes_is_refused"),
    ],
) + mutants(
    "models/matmul.py",
    "parallel/test_layout.py",
    [
        ("_forward", 'place(low_b, of.weights, "gathered")', "low_b", MEASURED),
        ("_backward", 'place(db, of.weights, "kept")', "db", MEASURED),
    ],
)  # fmt: skip

WHOLE = "test_each_parameter_is_in_one_part_and_both_together_are_the_model"
PARTS = mutants(
    "models/parts.py",
    "models/test_parts.py",
    [
        ("split", "require(name in names", "require(True",
         "test_what_is_not_there_cannot_be_trained"),
        ("split", "sorted({name for path in paths for name in path})",
         "sorted({path[0] for path in paths})", f"{WHOLE}", "AssertionError|.*ConfigError"),
        ("split", "for wanted in (False, True)", "for wanted in (True, False)", WHOLE),
        ("_pick", "_pick(inner, names, named)", "inner", WHOLE),
        ("_pick", "{} if named else tree", "tree", WHOLE),
        ("_pick", "not isinstance(part, dict) or part", "True", WHOLE),
        ("merge", "merge(fixed[name], trained[name])", "trained[name]", WHOLE),
        ("merge", "**trained, **both", "**both", WHOLE),
    ],
)  # fmt: skip

MUTANTS = LAYOUT + MATMUL + TRANSFORMER + ATTENTION + FUSED + SCORE + PARTS
