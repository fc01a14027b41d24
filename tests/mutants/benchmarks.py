"""Benchmarks: likelihoods in packed rows, choices, what `rlhf-jax eval` keeps and tells."""

from tests.mutants import mutants

ONE = "test_log_probabilities_are_those_of_one_sequence_at_a_time[None]"
ROOM = "test_rows_hold_texts_of_one_prompt_as_far_as_there_is_room"
FEW = "test_batches_have_one_rounded_length_and_few_tokens"
SICK = "test_a_damaged_model_is_named"
LIKELIHOODS = (
    *mutants("models/transformer.py", "evaluation/benchmarks/test_language_model.py", [
        ("hidden_of_branches", "own | prompt", "prompt",
         "test_log_probabilities_are_those_of_one_sequence_at_a_time[None]"),
        ("hidden_of_branches", "seen & (apart < window)", "seen",
         "test_log_probabilities_are_those_of_one_sequence_at_a_time[3]"),
        ("hidden_of_branches", "own | prompt", "own | own | True",
         "test_log_probabilities_are_those_of_one_sequence_at_a_time[None]"),
    ]),
    *mutants("evaluation/benchmarks/packing.py", "evaluation/benchmarks/test_language_model.py", [
        ("Row.add", "[size - 1, *range", "[start - 1, *range",
         "test_log_probabilities_are_those_of_one_sequence_at_a_time[None]"),
        ("Row.add", "range(size, size + len(read))", "range(start, start + len(read))",
         "test_rows_hold_texts_of_one_prompt_as_far_as_there_is_room"),
        ("packed", "row.spans and", "row.spans and len(row.spans) < 9 and not",
         "test_rows_hold_texts_of_one_prompt_as_far_as_there_is_room"),
        ("packed", "len(piece.text) - 1 > most", "len(piece.text) > most", ROOM),
        ("packed", "sorted(rows, key=lambda row: len(row.tokens))", "rows", ROOM),
        ("Row.add", "[len(self.spans)] * len(read)", "[1] * len(read)", ONE),
        ("Row.add", "piece.text[:-1]", "piece.text", ROOM),
        ("rounded", "n >= length", "n > length", FEW),
    ]),
    *mutants("evaluation/benchmarks/language_model.py",
             "evaluation/benchmarks/test_language_model.py", [
        ("Policy.answers", "self._by_length(read, most_tokens)", "self._by_length(read)",
         "test_a_batch_has_room_for_its_answers", "IndexError"),
        ("Policy._piece", "- len(ids) + 1", "- len(ids)",
         "test_a_long_prompt_loses_its_first_tokens_and_is_counted"),
        ("Texts.fitting", "ids[-room:]", "ids[:room]",
         "test_a_long_prompt_loses_its_first_tokens_and_is_counted"),
        ("Texts.fitting", "self.cut += len(ids) > room", "pass",
         "test_a_long_prompt_loses_its_first_tokens_and_is_counted"),
        ("Texts._prompt_ids", "self.begins or not whole[1:]", "True",
         "test_without_bos_the_text_begins_with_its_first_token"),
        ("Policy.documents", "(before[start],)", "(first,)",
         "test_a_document_is_read_in_windows_that_predict_each_token_once"),
        ("Policy.answers", "number_of(names[place])", "row",
         "test_an_answer_depends_on_its_name_alone"),
        ("cut_before", "min(places)", "max(places)", "test_an_answer_ends_before_the_first_stop"),
        ("cut_before", ", ended=True", "", "test_an_answer_ends_before_the_first_stop"),
        ("batches", "rounded(len(some[0].tokens)) != length", "False", FEW),
        ("batches", "len(some) >= rows_of(length + answer, batch_size)", "False", FEW),
        ("Policy._measured", "totals[number] += found.sum()", "totals[number] = found.sum()",
         "test_a_document_is_read_in_windows_that_predict_each_token_once"),
        ("Policy._measured", "greedy[number] &= firsts[span].all()", "greedy[number] = True", ONE),
        ("Policy._measured", "not np.isfinite(totals).all()", "False", SICK),
        ("Policy.answers", "np.asarray(rollout.sick)[: len(places)].any()", "False", SICK),
        ("RewardModel.scores", "values[row]", "values[0]",
         "test_a_reward_model_scores_each_response_at_its_end_token"),
        ("RewardModel.scores", "response), True)", "response), False)",
         "test_a_reward_model_scores_each_response_at_its_end_token"),
    ]),
)  # fmt: skip

SHARED = (
    *mutants("evaluation/benchmarks/choices.py", "evaluation/benchmarks/test_benchmark.py", [
        ("shares", "values - values.max()", "values", "test_choices_by_likelihood"),
        ("entropy_bits", "np.log2", "np.log", "test_choices_by_likelihood"),
        ("chosen", "/ best.sum()", "", "test_choices_by_likelihood"),
    ]),
    *mutants("evaluation/benchmarks/benchmark.py", "evaluation/benchmarks/test_benchmark.py", [
        ("some", "sorted(order[:most].tolist())", "range(most)",
         "test_fewer_items_are_a_part_of_more_and_keep_their_order"),
        ("Questions._parted", "if i not in taken", "", "test_examples_are_not_measured"),
        ("Benchmark._mean", "values[np.isfinite(values)]", "np.nan_to_num(values)",
         "test_means_leave_out_what_is_not_defined"),
        ("Benchmark.parts", "np.isfinite(rows[name]).astype(float)", "np.ones(len(rows[name]))",
         "test_means_leave_out_what_is_not_defined"),
        ("Questions.form_for", "self.chat_first and model.has_chat", "model.has_chat",
         "test_the_usual_form_is_the_template_where_the_benchmark_says_so"),
    ]),
    *mutants("evaluation/benchmarks/truthfulqa.py", "evaluation/benchmarks/test_by_likelihood.py", [
        ("TruthfulQAChoices._row", "mass[true].sum()", "mass[true].max()",
         "test_mc2_is_the_mass_of_the_true_answers"),
        ("TruthfulQAChoices.examples", "*PRIMER, ", "",
         "test_a_question_stands_behind_the_six_of_the_paper"),
    ]),
    *mutants("evaluation/benchmarks/winogender.py", "evaluation/benchmarks/test_by_likelihood.py", [
        ("Winogender._row", "entropy_bits([male, female])", "entropy_bits([male, neutral])",
         "test_winogender_of_models_made_by_hand"),
        ("Winogender._row", "told[0] != told[1]", "told[0] != told[0]",
         "test_winogender_sees_that_the_person_depends_on_the_gender"),
    ]),
    *mutants("evaluation/benchmarks/bbq.py", "evaluation/benchmarks/test_by_likelihood.py", [
        ("kinds_of", "stereotyped == negative", "stereotyped",
         "test_bbq_s_bias_is_that_of_the_paper"),
        ("BBQ.summary", "[~clear]", "", "test_bbq_s_bias_is_that_of_the_paper"),
        ("BBQ._row", "None if clear else right", "right", "test_bbq_s_bias_is_that_of_the_paper"),
    ]),
    *mutants("evaluation/benchmarks/wikitext.py", "evaluation/benchmarks/test_by_likelihood.py", [
        ("Wikitext.summary", '_exp(bound) for bound in of("words")',
         '_exp(bound) for bound in of("tokens")',
         "test_wikitext_s_measures_are_sums_over_articles"),
        ("Wikitext.answered", 'len(text.encode("utf-8"))', "len(text)",
         "test_wikitext_s_measures_are_sums_over_articles"),
    ]),
)  # fmt: skip

NONE = "test_a_benchmark_that_measures_none_of_the_models_is_refused_or_left_out"
JUDGE = "test_the_command_asks_a_judge_at_an_endpoint"
PHONE = "test_each_figure_names_its_measure_and_fits_a_phone"
COMMAND = (
    *mutants("evaluation/benchmarks/overlap.py", "runs/test_benchmarking.py", [
        ("words_of", "text.lower()", "text",
         "test_a_text_stands_in_a_record_that_has_its_words_in_a_row"),
        ("Overlap.found", "and words[start : start + len(some)] == some", "",
         "test_a_text_stands_in_a_record_that_has_its_words_in_a_row"),
        ("Overlap.__init__", "len(words) < LEAST", "len(words) < 4",
         "test_a_text_stands_in_a_record_that_has_its_words_in_a_row"),
    ]),
    *mutants("runs/kept_rows.py", "runs/test_benchmarking.py", [
        ("measured_as", "if name not in WITHOUT_EFFECT", "",
         "test_only_what_changes_rows_makes_another_file"),
        ("measured_as", '"files": files, ', "", "test_only_what_changes_rows_makes_another_file"),
        ("KeptRows", "self._cut_last_line()", "pass",
         "test_a_line_that_a_kill_has_cut_is_measured_again", "RecordError"),
    ]),
    *mutants("runs/benchmarking.py", "runs/test_judged_rows.py", [
        ("Measuring._part", "judge and judge.identity", "None",
         "test_rows_are_of_a_judge_s_identity"),
    ]),
    *mutants("runs/kept_rows.py", "runs/test_judged_rows.py", [
        ("tell_unread", "said.count(None)", "rows[-1:].count(None)",
         "test_answers_without_a_verdict_are_counted_once_a_benchmark_and_model"),
    ]),
    *mutants("runs/measured.py", "runs/test_judged_rows.py", [
        ("judging", "found.digest", "name",
         "test_a_judge_on_this_machine_is_known_by_its_weights"),
    ]),
    *mutants("runs/benchmarking.py", "runs/test_benchmarking.py", [
        ("Measuring._part", "if item.id not in kept.rows", "",
         "test_what_was_measured_is_kept_and_not_measured_again"),
        ("Measuring._part", "measured_as(benchmark, model.digest,",
         "measured_as(benchmark, model.name,",
         "test_fewer_items_are_not_measured_again_and_another_model_is"),
        ("_with_options", "benchmark.most_items or options", "options",
         "test_options_for_all_give_way_to_a_benchmark_s_own"),
        ("evaluate", "for_models(benchmarks, models, options.on)", "benchmarks", NONE),
        ("Measuring.run", "self._tell_cost(parts)", "pass", JUDGE),
        ("Measuring._tell_cost", "judge_questions(part.left,", "judge_questions(part.items,",
         JUDGE),
        ("Measuring._part", "len(items) - len(left)", "len(left)",
         "test_what_was_measured_is_kept_and_not_measured_again"),
    ]),
    *mutants("evaluation/benchmarks/truthfulqa_generation.py",
             "evaluation/benchmarks/test_generation.py", [
        ("TruthfulQA.judge_questions", "for name in ASKED", 'for name in ("true",)',
         "test_truthfulqa_with_a_judge"),
    ]),
    *mutants("evaluation/benchmarks/mt_bench.py", "evaluation/benchmarks/test_rated.py", [
        ("MTBench.judge_questions", "(answer, answer)", '(answer, "")',
         "test_mt_bench_asks_twice_and_the_judge_reads_each_turn"),
    ]),
    *mutants("evaluation/benchmark_figure.py", "runs/test_benchmarking.py", [
        ("forest", "y - 11", "y - 40", PHONE),
        ("_axis", "{escape(column.plain)}", "", PHONE),
        ("forest", 'f": {column.about}"', '""', PHONE),
    ]),
    *mutants("runs/options.py", "test_options.py", [
        ("parse", "if names.count(name) > 1", "if False",
         "test_a_stage_named_as_an_option_is_refused_by_the_commands_that_have_it"),
    ]),
    *mutants("runs/fitting_benchmarks.py", "runs/test_benchmarking.py", [
        ("within_context", "m.context <= most", "m.context < most",
         "test_answers_longer_than_a_context_are_refused_or_left_out"),
        ("within_context", "m.ends == benchmark.judges and ", "",
         "test_answers_longer_than_a_context_are_refused_or_left_out", "UserError"),
        ("for_models", "if name in named or not found", "if not found", NONE),
        ("for_models", "if name in named or not found", "if name in named", NONE),
        ("for_models", "if model.ends not in wanted", "if False", NONE),
        ("tell_against", "- {kinds.get(against)}", "",
         "test_models_of_another_kind_are_told_with_what_they_are_compared"),
        ("tell_against", "if model.ends in measured", "if model.ends != kinds.get(against)",
         "test_models_of_another_kind_are_told_with_what_they_are_compared"),
        ("tell_against", "> 1", "> 0",
         "test_models_of_another_kind_are_told_with_what_they_are_compared"),
    ]),
    *mutants("runs/measured.py", "runs/test_benchmarking.py", [
        ("judging", 'found.ends == "policy"', "True", "test_a_reward_model_is_no_judge"),
        ("reading", 'if shape.positions == "learned" else None', "",
         "test_a_context_is_read_unless_positions_are_learned"),
    ]),
    *mutants("runs/measured.py", "test_pretrained.py", [
        ("of_run", "stage == PRETRAINED", "False",
         "test_training_records_of_a_published_model_are_not_those_of_the_run"),
    ]),
    *mutants("runs/benchmarking.py", "runs/test_benchmarking.py", [
        ("Measuring.run", "except TooLongError", "except ZeroDivisionError",
         "test_a_text_longer_than_a_context_leaves_its_benchmark_out", "TooLongError"),
        ("evaluate", "name in options.on or", "",
         "test_a_text_longer_than_a_context_leaves_its_benchmark_out"),
    ]),
    *mutants("runs/measured.py", "test_eval.py", [
        ("of_run", " + _of_context(context)", "", "test_another_context_is_another_model"),
        ("of_run", "run.ending, stage), context)", "run.ending, stage), None)",
         "test_another_context_is_another_model"),
    ]),
    *mutants("evaluation/benchmark_results.py", "runs/test_benchmarking.py", [
        ("differences", "parts[0][column], parts[1][column]", "parts[1][column], parts[0][column]",
         "test_models_are_compared_item_by_item"),
        ("examples", "-apart[id]", "apart[id]", "test_examples_are_where_models_differ_most"),
        ("_of_model", "~np.isin", "np.isin",
         "test_items_in_training_records_are_counted_and_told"),
    ]),
    *mutants("evaluation/benchmark_page.py", "runs/test_benchmarking.py", [
        ("_example", 'escape(item.get("prompt", item["id"]))', 'item.get("prompt", item["id"])',
         "test_the_page_has_every_figure_with_its_interval_and_n"),
    ]),
    *mutants("published/scorer.py", "published/test_saving.py", [
        ("load", "jnp.float32(bias)", "jnp.float32(0)",
         "test_a_written_scorer_is_read_as_it_was"),
    ]),
)  # fmt: skip

MUTANTS = LIKELIHOODS + SHARED + COMMAND
