"""The transformer, its products, its attention and its heads."""

from tests.mutants import mutants

FLOAT64 = "test_equals_loops_in_float64"

TRANSFORMER = mutants(
    "models/transformer.py",
    "models/test_transformer.py",
    [
        ("Norm", "x = x - x.mean(-1, keepdims=True)", "x = x + 0", f"{FLOAT64}[gpt]"),
        ("Block._project", "rotate(q, positions, c.rotary_base), rotate(k,",
         "rotate(q, positions, c.rotary_base), (lambda k, *_: k)(k,", f"{FLOAT64}[llama]"),
        ("rotate", "first * cos - second * sin", "first * cos + second * sin",
         f"{FLOAT64}[llama]"),
        ("rotate", "/ half", "/ (2 * half)", f"{FLOAT64}[llama]"),
        ("Block._mix", "jax.nn.silu(gate) * up", "jax.nn.silu(up) * gate", f"{FLOAT64}[llama]"),
        ("Block._mix", "x = x + drop(out)", "x = drop(out)", f"{FLOAT64}[gpt]"),
        ("Block._mix", "drop(out)", "out", "test_both_branches_drop"),
        ("Block._mix", "drop(down)", "down", "test_both_branches_drop"),
        ("Block.__call__", "visible[:, -last:]", "visible[:, :last]",
         "test_last_keeps_the_last_positions[gpt]"),
        ("positions_of", "time - jax.lax.cummax(jnp.where(starts, time, 0), axis=1)", "time",
         "test_positions_restart_with_each_segment"),
        ("visible_pairs", "same & jnp.tri(segments.shape[1], dtype=bool)[None]", "same",
         "test_future_tokens_change_nothing[gpt]"),
        ("visible_pairs", "segments[:, :, None] == segments[:, None, :]",
         "(segments[:, :, None] > 0) & (segments[:, None, :] > 0)",
         "test_packed_documents_do_not_see_each_other[gpt]"),
        ("_embed", 'x + params["positions"][positions]', 'x + params["positions"][positions * 0]',
         f"{FLOAT64}[gpt]"),
        ("hidden", 'Norm(config).apply({"params": params["final_norm"]}, x)', "x",
         f"{FLOAT64}[gpt]"),
        ("head_matrix", "if config.tied_embeddings", "if True",
         "test_a_head_of_its_own_makes_the_logits"),
        ("gelu", "approximate=True", "approximate=False", f"{FLOAT64}[gpt]"),
    ],
)  # fmt: skip

ATTENTION = mutants(
    "models/attention.py",
    "models/test_attention.py",
    [
        ("_scaled", "q.shape[-1] ** -0.5", "q.shape[-1] ** -1.0",
         "test_values_and_gradients[float32]"),
        ("_weights", "jnp.where(visible[:, None, None], scores, HIDDEN)", "scores",
         "test_values_and_gradients[float32]"),
        ("_backward", "dweights - mean", "dweights", "test_values_and_gradients[float32]"),
        ("_backward", "dscores, k) * q.shape[-1] ** -0.5", "dscores, k)",
         "test_values_and_gradients[float32]"),
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

MUTANTS = LAYOUT + MATMUL + TRANSFORMER + ATTENTION + SCORE + PARTS
