"""Options of the published families, and how their names and layouts map."""

from tests.mutants import mutants

LOGITS = "test_logits_equal_loops_in_float64"
DECODED = "test_decoding_with_a_cache_gives_the_logits_of_the_sequence"
KINDS = "test_layers_of_two_kinds_unrolled_and_recomputed_give_the_same"

OPTIONS = (
    mutants(
        "models/block.py",
        "models/test_shapes.py",
        [
            ("_normed", "1 + scale if", "scale if", f"{LOGITS}[gemma]"),
            ("Norm", "nn.initializers.zeros if", "nn.initializers.ones if",
             "test_a_norm_starts_with_a_gain_of_1"),
            ("Block._dense", 'c.biases or (c.qkv_bias and name == "qkv")', "c.biases",
             f"{LOGITS}[qwen]", "KeyError"),
            ("Block._project", 'Norm(c, name="k_norm")(k)', "k", f"{LOGITS}[qwen]",
             "KeyError"),
            ("Block._mix", "x if c.parallel_residual else mixed", "mixed", f"{LOGITS}[neox]"),
            ("Block._mix", 'out = Norm(c, name="attention_out_norm")(out)', "out = out",
             f"{LOGITS}[gemma]", "KeyError"),
            ("Block._mix", 'down = Norm(c, name="mlp_out_norm")(down)', "down = down",
             f"{LOGITS}[gemma]", "KeyError"),
            ("exact_gelu", "approximate=False", "approximate=True", f"{LOGITS}[neox]"),
            ("ACTIVATIONS", '"geglu": gelu', '"geglu": jax.nn.silu', f"{LOGITS}[gemma]"),
            ("Block.__call__", "c.score_scale", "c.head_width**-0.5", f"{LOGITS}[gemma]"),
            ("Block._project", "frequencies(c, self.local)", "frequencies(c, False)",
             f"{LOGITS}[qwen]"),
        ],
    )
    + mutants(
        "models/rotary.py",
        "models/test_shapes.py",
        [
            ("rotate", "x[..., half : 2 * half]", "x[..., -half:]", f"{LOGITS}[neox]"),
            ("scaled", "return frequency / scaling.factor", "return frequency",
             f"{LOGITS}[neox]"),
            ("scaled", "(turns - scaling.low)", "(turns - scaling.high)", f"{LOGITS}[qwen]"),
            ("frequencies", "config.rotary_scaling is None or own is not None",
             "config.rotary_scaling is None", f"{LOGITS}[qwen]"),
        ],
    )
    + mutants(
        "models/config.py",
        "models/test_shapes.py",
        [
            ("TransformerConfig.is_local", "(layer + 1) % every", "layer % every",
             f"{LOGITS}[gemma]"),
            ("TransformerConfig.period", "self.global_every or 1", "1", f"{LOGITS}[gemma]"),
        ],
    )
    + mutants(
        "models/transformer.py",
        "models/test_shapes.py",
        [
            ("_embed", "x = x * config.width**0.5", "x = x * 1.0", f"{LOGITS}[gemma]"),
            ("logits", "config.logit_softcap * jnp.tanh(found / config.logit_softcap)", "found",
             f"{LOGITS}[gemma]"),
            ("_scan", "range(looped, config.layers)", "range(looped, looped)",
             f"{LOGITS}[gemma]"),
            ("_states", "run(x, block_params, key, config.is_local(i), only)",
             "run(x, block_params, key, config.is_local(0), only)", f"{KINDS}[gemma]"),
            ("decode_step", "ages < config.window", "ages <= config.window", f"{DECODED}[gemma]"),
            ("decode_step", "near if local else visible", "visible", f"{DECODED}[gemma]"),
            ("for_decoding", '("norm", "bias")', '("norm",)',
             "test_norms_and_biases_stay_float32_in_decoding"),
            ("prefill", "Block(config, local)", "Block(config)", f"{DECODED}[qwen]"),
        ],
    )
)  # fmt: skip

STORED = mutants(
    "durable/model_files.py",
    "durable/test_formats.py",
    [("read_about", "from_json(model)", "TransformerConfig(**model)",
      "test_a_model_without_a_number_is_read", "AttributeError")],
)  # fmt: skip

ONCE = "test_tensors_fill_the_model_once_and_come_back"
FAMILIES = (
    mutants(
        "models/families/family.py",
        "models/test_families.py",
        [
            ("Published.theirs", "np.argsort(self.order)", "self.order", f"{ONCE}[neox]"),
            ("Family.lacking", "different_fields(written, config)", "[]",
             "test_impossible_and_unknown_models_are_refused"),
            ("Family.from_config", 'reader.only("quantization_config", None, (None,))', "pass",
             "test_what_computes_otherwise_is_refused_by_name[llama2]"),
            ("Family.own_name", "re.search(self.buffers, name)", "False",
             "test_the_names_of_a_trunk_alone_and_of_buffers_are_known"),
        ],
    )
    + mutants(
        "models/families/projections.py",
        "models/test_families.py",
        [
            ("_heads", "groups + 1)", "groups)", f"{ONCE}[llama2]"),
            ("_heads", 'paired and part != "v"', "False",
             "test_gguf_of_a_llama_holds_the_same_model_with_paired_rotations"),
        ],
    )
    + mutants(
        "models/families/fields.py",
        "models/test_families.py",
        [
            ("windows", "(layer + 1) % every != 0 for", "local[layer] for",
             "test_what_computes_otherwise_is_refused_by_name[qwen2]"),
            ("windows", "fields.layers()", "len(local)",
             "test_what_computes_otherwise_is_refused_by_name[qwen2]"),
            ("Fields.layers", "not 1 <= count <= MOST_LAYERS", "False",
             "test_what_computes_otherwise_is_refused_by_name[gpt2]"),
            ("Fields.only", "value == one and type(value) is type(one)", "True",
             "test_what_computes_otherwise_is_refused_by_name[gpt2]"),
            ("rotary", '"rope_parameters" if "rope_parameters" in fields else "rope_scaling"',
             '"rope_scaling"', "test_both_ways_to_write_rotary_positions_are_read"),
        ],
    )
)  # fmt: skip

MUTANTS = OPTIONS + STORED + FAMILIES
