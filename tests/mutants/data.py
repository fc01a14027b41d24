"""Records, rows, packing, mixing, splits."""

from tests.mutants import mutants

FEWER = "test_two_processes_have_the_rows_of_one_and_each_tokenises_fewer_texts"

ARRAYS = mutants(
    "data/arrays.py",
    "data/test_arrays.py",
    [
        ("supervised_batch", "[targets] = 1", "[:] = 1", "test_supervised"),
        ("supervised_batch", "enumerate(row, 1)", "((1, piece) for piece in row)", "test_packed"),
        ("prompt_batch", "start = length - len(ids)", "start = 0", "test_prompts_are_left_padded",
         "AssertionError|ValueError"),
        ("ranking_batch", "[targets] = 1", "[:] = 1", "test_rankings"),
        ("ranking_batch", "ranks[b, g, start : start + len(its_ranks)]",
         "ranks[b, g, : len(its_ranks)]",
         "test_packed_rankings_share_an_element_and_none_is_split"),
        ("ranking_rows", "outputs, packed)", "outputs)",
         "test_so_many_rankings_share_an_element_at_most_and_the_shape_says_how_many",
         "AssertionError|IndexError"),
        ("text_batch", "slice(1, None)", "slice(0, None)", "test_text_rows"),
        ("next_text_row", "max(offset - 1, 0)", "offset", "test_text_rows"),
        ("text_ids", "document_ids(text)", "document_ids(text)[:-1]",
         "test_text_rows"),
        ("prompt_rows", "zip(ids, rows, strict=True)", "zip(ids, range(len(ids)), strict=True)",
         "test_prompts_are_left_padded"),
        ("demonstration_rows", "[[kept[i] for i in members]", "[[i for i in members]",
         "test_packed", "AssertionError|ValueError"),
        ("ranking_rows", "[[kept[i] for i in members]", "[[i for i in members]",
         "test_packed_rankings_share_an_element_and_none_is_split", "AssertionError|ValueError"),
        ("demonstration_rows", "sum(sizes[i][1]", "sum(sizes[i][0]",
         "data/test_pipeline.py::test_a_fraction_of_the_loss_scales_the_weights_of_text"),
    ],
)  # fmt: skip

PREFIXES = mutants(
    "data/hygiene.py",
    "data/test_hygiene.py",
    [
        ("deduplicate_by_prefix", "kept.setdefault(plain(prompt)[:characters], prompt)",
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
        ("mixed_batches", "MixSource(a, b, fraction, seed, of)",
         "MixSource(a, b, fraction / 2, seed, of)",
         "test_mixing_takes_its_share_and_skips_no_row"),
    ],
)  # fmt: skip

OWN = "test_a_process_tokenises_its_share_once_and_then_its_own_rows"
SHARES = (
    *mutants("data/pipeline.py", "data/test_shares.py", [
        ("supervised_batches", "share=part != ALL", "share=False", f"{OWN}[demonstrations]"),
        ("prompt_batches", "share=part != ALL", "share=False", f"{OWN}[prompts]"),
        ("ranking_batches", "share=part != ALL", "share=False", f"{OWN}[rankings]"),
        ("text_batches", "share and processes.count() > 1", "False", f"{OWN}[text]"),
        ("text_batches", "part=part", "part=ALL", f"{OWN}[text]", "AssertionError|ValueError"),
    ]),
    *mutants("data/sources.py", "data/test_shares.py", [
        ("MixSource.to_batch", "[back]", "", f"{OWN}[mixed]"),
        ("MixSource._scale", "np.float32(sum(map(of.targets, rows)))", "np.float32(len(rows))",
         "data/test_pipeline.py::test_a_fraction_of_the_loss_scales_the_weights_of_text"),
    ]),
    *mutants("parallel/processes.py", "data/test_shares.py", [
        ("measured", "range(own.start, own.stop)", "range(count)",
         "test_lengths_are_measured_in_shares_and_known_to_all"),
    ]),
    *mutants("stages/facts.py", "data/test_shares.py", [
        ("Measures.of", "processes.measured(of, len(records))", "map(of, range(len(records)))",
         "test_lengths_are_measured_in_shares_and_known_to_all"),
    ]),
    *mutants("stages/feeds.py", "test_feeds.py", [
        (scope, old, new, f"{FEWER}[{kind}]") for scope, old, new, kind in (
            ("text", "part=inputs.runner.own_rows(rows)", "part=pipeline.ALL", "base"),
            ("demonstrations", "part=part", "part=pipeline.ALL", "sft"),
            ("rankings", "part=inputs.runner.own_rows(rows)", "part=pipeline.ALL", "reward"),
            ("prompts", "part=slice(first, last)", "part=pipeline.ALL", "ppo"),
        )
    ]),
)  # fmt: skip

DRAWN = "test_what_the_folder_has_no_file_of_is_drawn_by_prompt"
BESIDE = "test_a_file_that_is_there_stays_as_it_is_but_for_prompts_drawn_beside_it"
FOLDER = (
    *mutants("data/held_out.py", "data/test_folder.py", [
        ("_draw", "max(1, round(share * len(found)))", "1", DRAWN),
        ("_draw", "held if kind in missing else drawn", "drawn", BESIDE),
        ("_draw", "{train: kept, side: taken} if", "{train: records, side: taken} if", DRAWN),
        ("_draw", "(seed, list(SIDES).index(kind))", "list(SIDES).index(kind)", DRAWN),
        ("_draw", "len(free) - 1", "len(free)",
         "test_text_is_held_out_by_document_and_nothing_of_one_prompt", "AssertionError|.*Error"),
        ("complete", "_prompts_of(splits, side)", "_prompts_of(splits, 1 - side)", DRAWN),
    ]),
    *mutants("sources/folder.py", "data/test_folder.py", [
        ("FolderData.records", "share=self.held_out", "share=0.05", DRAWN),
        ("FolderData.records", "shuffle_seed(seed,", "shuffle_seed(0,", DRAWN),
    ]),
    *mutants("sources/corpora.py", "data/test_folder.py", [
        ("training_texts", "texts or [", "texts + [",
         "test_a_tokenizer_is_trained_on_other_records_where_there_is_no_text"),
    ]),
    *(mutant for file, scope in (
        ("stages/pretrain.py", "Pretrain.check"), ("stages/sft.py", "SFT.check"),
        ("stages/policy_gradient.py", "PolicyGradient.check"),
        ("evaluation/pretraining_loss.py", "PretrainingLoss.check"))
      for mutant in mutants(file, "stages/test_facts.py", [
        (scope, "facts.there", "print",
         "test_a_stage_or_evaluator_without_its_records_is_refused_before_any_step",
         "Failed|AssertionError")])),
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

MUTANTS = ARRAYS + PREFIXES + PIPELINE + SHARES + FOLDER + BATCHES + FACTS
