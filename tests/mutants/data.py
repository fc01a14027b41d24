"""Records, rows, packing, mixing, splits."""

from tests.mutants import mutants

ARRAYS = mutants(
    "data/arrays.py",
    "data/test_arrays.py",
    [
        ("supervised_batch", "start + first : end", "start + first - 1 : end", "test_supervised"),
        ("supervised_batch", "enumerate(row, 1)", "((1, piece) for piece in row)", "test_packed"),
        ("prompt_batch", "start = length - len(ids)", "start = 0", "test_prompts_are_left_padded",
         "AssertionError|ValueError"),
        ("ranking_batch", "weights[b, k, first : len(ids)]", "weights[b, k, : len(ids)]",
         "test_rankings"),
        ("ranking_batch", "ranks[b, g, start : start + len(its_ranks)]",
         "ranks[b, g, : len(its_ranks)]",
         "test_packed_rankings_share_an_element_and_none_is_split"),
        ("first_fit", "if len(bins[b]) == most", "if len(bins[b]) > most",
         "test_first_fit_closes_a_bin_that_holds_the_most", "AssertionError|TypeError"),
        ("first_fit", "room[b] = -1", "room[b] = 0",
         "test_first_fit_closes_a_bin_that_holds_the_most"),
        ("ranking_rows", "outputs, packed)", "outputs)",
         "test_so_many_rankings_share_an_element_at_most_and_the_shape_says_how_many",
         "AssertionError|IndexError"),
        ("next_text_row", "row.append((piece, 1))", "row.append((piece, 0))", "test_text_rows"),
        ("next_text_row", "max(offset - 1, 0)", "offset", "test_text_rows"),
        ("text_ids", "*tokenizer.encode(text), tokenizer.eos_id]", "*tokenizer.encode(text)]",
         "test_text_rows"),
        ("prompt_rows", "rows.append((np.array(ids, np.int32), index))",
         "rows.append((np.array(ids, np.int32), len(rows)))", "test_prompts_are_left_padded"),
    ],
)  # fmt: skip

RECORDS = mutants(
    "data/records.py",
    "data/test_records.py",
    [
        ("deduplicate_by_prefix", "kept.setdefault(prompt[:characters], prompt)",
         "kept.setdefault(prompt, prompt)", "test_deduplicate_by_prefix"),
        ("deduplicate_by_prefix", "len(prompts) - len(kept)", "0", "test_deduplicate_by_prefix"),
    ],
)  # fmt: skip

PIPELINE = mutants(
    "data/pipeline.py",
    "data/test_pipeline.py",
    [
        ("ranking_batches", 'f"rankings, packed {packed}"', '"rankings, packed"',
         "test_batches_packed_otherwise_are_other_batches"),
        ("mixed_batches", "a.rows() / (1 - fraction)", "a.rows()",
         "test_mixing_takes_its_share_and_skips_no_row"),
        ("mixed_batches", "MixSource(a, b, fraction, seed, part, of)",
         "MixSource(a, b, fraction / 2, seed, part, of)",
         "test_mixing_takes_its_share_and_skips_no_row"),
    ],
)  # fmt: skip

HUMAN = mutants(
    "data/human.py",
    "data/test_human.py",
    [
        ("split_by_prompt", "not leaders or not key.startswith(leaders[-1])", "True",
         "test_no_prompt_is_on_both_sides", "AssertionError|ExceptionGroup"),
        ("split_by_prompt", "> fraction * len(records)", "> 2 * fraction * len(records)",
         "test_split_holds_out_about_the_fraction"),
    ],
)  # fmt: skip

WARM_UP = "test_a_warm_up_as_long_as_its_stage_is_refused_before_any_step"
FACTS = (
    *mutants("stages/facts.py", "stages/test_facts.py", [
        ("Facts.warms_up", "warmup < steps", "True", WARM_UP),
        ("Facts.warms_up", "epochs * math", "math", WARM_UP),
        ("Facts.some", " if reason is None]", "]", WARM_UP),
    ]),
    *mutants("stages/sft.py", "stages/test_facts.py", [
        ("SFT.check", "if self.packed", "if False", WARM_UP),
        ("SFT.check", " / (1 - self.pretraining_fraction)", "", WARM_UP),
    ]),
    *mutants("stages/rankings.py", "stages/test_facts.py", [
        ("RankingStage.check", "if self.packed > 1", "if False", WARM_UP),
        ("RankingStage.check", "self.outputs, self.packed)", "self.outputs)", WARM_UP),
    ]),
)  # fmt: skip

BATCHES = mutants(
    "data/batches.py",
    "data/test_pipeline.py",
    [
        ("Finite.__next__", "self._position += 1", "self._position += 2",
         "test_a_pass_goes_on_from_its_position_and_ends", "AssertionError|IndexError"),
        ("Finite.set_state", 'state["position"]', "0",
         "test_a_pass_goes_on_from_its_position_and_ends"),
        ("Finite.__next__", "raise StopIteration", "self._position = 0",
         "test_a_pass_goes_on_from_its_position_and_ends"),
    ],
)  # fmt: skip

MUTANTS = ARRAYS + RECORDS + PIPELINE + BATCHES + HUMAN + FACTS
