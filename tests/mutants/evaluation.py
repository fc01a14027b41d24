"""Evaluators, the report, statistics, labelers and the gold grader."""

from tests.mutants import mutants

POLICIES = mutants(
    "evaluation/policies.py",
    "evaluation/test_policies.py",
    [
        ("response_kl", "exact_kl(*logits, temperature)", "exact_kl(*logits)",
         "test_kl_equals_a_loop_over_the_tokens_distributions_at_the_sampling_temperature"),
        ("response_kl", "* mask).sum(axis=1)", ").sum(axis=1)",
         "test_kl_equals_a_loop_over_the_tokens_distributions_at_the_sampling_temperature"),
        ("Sampler.kl", "self._kl(params, reference,", "self._kl(reference, params,",
         "test_kl_equals_a_loop_over_the_tokens_distributions_at_the_sampling_temperature"),
        ("Sampler.batches", "jax.random.fold_in(key, number)", "key",
         "test_noise_is_each_row_s_own_and_more_prompts_change_no_response_before"),
    ],
)  # fmt: skip

STATISTICS = mutants(
    "evaluation/statistics.py",
    "evaluation/test_statistics.py",
    [
        ("Interval.side", "self.low > middle", "self.mean > middle",
         "test_a_difference_of_shares_is_within_minus_1_and_1"),
        ("bounded_difference", "a - b + 1", "b - a + 1",
         "test_a_difference_of_shares_is_within_minus_1_and_1"),
        ("win_rate", "0.5 * (a == b)", "0.0 * (a == b)",
         "test_win_rate_counts_a_tie_as_one_half_and_is_symmetric"),
        ("win_rate", "a > b", "a < b", "test_win_rate_counts_a_tie_as_one_half_and_is_symmetric"),
        ("ratio_interval", "correct[total > 0], total[total > 0]", "correct, total",
         "test_ratio_leaves_prompts_without_pairs_out"),
        ("_ratio", "totals - ratio * weights", "totals - ratio",
         "test_documents_weigh_their_tokens"),
        ("_error", "1 - share", "1", "test_documents_weigh_their_tokens"),
        ("_error", "documents < 1.5 or", "",
         "test_one_prompt_or_prompts_all_equal_have_no_interval"),
        ("_student", "(1 + level) / 2", "level",
         "test_student_s_interval_of_scores_without_bounds"),
        ("_error", "1 / (share**2).sum()", "len(share)", "test_documents_weigh_their_tokens"),
        ("paired_difference", "(b - rate_b * v)", "b",
         "test_a_paired_difference_of_ratios_is_the_delta_method_s"),
        ("paired_difference", "(w + v) / 2", "w",
         "test_a_paired_difference_of_ratios_is_the_delta_method_s"),
        ("paired_difference", "rate_a - rate_b), error", "rate_b - rate_a), error",
         "test_a_paired_difference_of_means_is_student_s"),
        ("unpaired_difference", "one.mean - other.mean", "other.mean - one.mean",
         "test_an_unpaired_difference_is_welch_s"),
        ("unpaired_difference", "e**2 / (of.documents - 1)", "e**2 / one.documents",
         "test_an_unpaired_difference_is_welch_s"),
        ("_bounded", "below.mean() * rng", "rng", "test_ratio_of_two_prompts_of_unequal_pairs"),
        ("_bounded", "(top + unseen)", "top",
         "test_of_values_0_and_1_the_interval_is_the_exact_one"),
    ],
)  # fmt: skip

GOLD = "test_a_gold_score_is_the_grade_of_each_response_to_its_own_prompt"
BEHAVIOUR = "test_behaviour_is_a_share_of_the_prompts_that_ask"
WINS = "test_a_win_is_a_higher_score_than_the_named_stage_s_on_the_same_prompt"
TO_THAT = "test_the_kl_of_training_is_shown_where_it_was_to_that_policy"
DISTANCE = "test_kl_is_of_the_policy_to_the_reference_on_the_policy_s_own_responses"
LATER = "test_in_training_a_stage_that_comes_later_is_not_there"
RATIOS = "test_a_policy_orders_held_out_pairs_by_its_log_ratio_to_the_reference"
CUT = "evaluation/test_held_out.py::test_rows_have_the_tokens_of_the_longest_record"
DEMONSTRATED = "test_the_sft_loss_is_of_the_responses_of_held_out_demonstrations"
LOSS = "test_the_pretraining_loss_is_of_each_held_out_document"
SCORED = "test_a_reward_score_is_the_scorer_s_and_of_a_missing_end_what_ppo_says"
EVALUATORS = (
    *mutants("evaluation/gold_score.py", "evaluation/test_evaluators.py", [
        ("GoldScore.rows", "grade(prompt, response.text)", "grade(prompt, response.text * 2)",
         GOLD),
        ("GoldScore.summary", 'rows["score"], seed', 'rows["score"], 0', GOLD),
        ("GoldScore.check", "grader()", "pass",
         "test_a_source_without_a_grader_is_told_before_any_step", "Failed"),
        ("order", "verdict[difference.side()]", "verdict[1]",
         "evaluation/test_findings.py::test_orders_that_fail"),
        ("order", "difference.side()", "(1 if a.mean > b.mean else -1)",
         "evaluation/test_findings.py::test_one_prompt_is_no_verdict_whoever_wins"),
    ]),
    *mutants("evaluation/behaviour.py", "evaluation/test_evaluators.py", [
        ("Behaviour.summary", "rows[flag][~np.isnan(rows[flag])]", "np.nan_to_num(rows[flag])",
         BEHAVIOUR),
        ("Behaviour.notes", "bool(item[flag]) == (flag in self.wanted)", "bool(item[flag])",
         BEHAVIOUR),
    ]),
    *mutants("evaluation/win_rate.py", "evaluation/test_evaluators.py", [
        ("WinRate.summary", 'rows["score"], rows["against"]', 'rows["against"], rows["score"]',
         WINS),
        ("WinRate.rows", "subject.rows(self.of, self.against)", "subject.rows(self.of)", WINS),
        ("WinRate.rows", "subject.stage != self.against", "True", WINS),
        ("WinRate._moved", "wins.side(0.5)", "int(wins.mean > 0.5)",
         "evaluation/test_findings.py::test_what_a_named_stage_did_to_the_score"),
    ]),
    *mutants("evaluation/kl.py", "evaluation/test_evaluators.py", [
        ("KL._nats", 'subject.params, subject.model("to")', 'subject.model("to"), subject.params',
         DISTANCE),
        ("KL.programs", "SamplingConfig(self.temperature)", "SamplingConfig()", DISTANCE),
        ("KL.programs", "reference, self.temperature,", "reference, 1.0,", DISTANCE),
        ("KL._nats", 'subject.key("kl")', 'subject.key("responses")', DISTANCE),
        ("KL._last", "[-1:]", "[:1]", DISTANCE),
        ("KL._last", "was_to.stage == self.to", "True", TO_THAT),
        ("KL._last", 'subject.needs.get("reference") or ', "", TO_THAT),
        ("KL._mean", "np.isfinite(nats).all()", "True",
         "test_kl_that_diverged_is_no_number", "UserError"),
    ]),
    *mutants("evaluation/pretraining_loss.py", "evaluation/test_evaluators.py", [
        ("PretrainingLoss.rows", 'and subject.has("against")', "", LOSS),
        ("PretrainingLoss.rows", '"text", "valid"', '"text", "train"', LOSS, "KeyError"),
        ("PretrainingLoss.summary", "self.against is None", "False", LOSS),
        ("PretrainingLoss.summary", 'rows["tokens"].sum()', 'len(rows["tokens"])', LOSS),
        ("loss_difference", 'np.subtract(rows["nats"], others)',
         'np.subtract(others, rows["nats"])', LOSS),
        ("loss_difference", 'difference, rows["tokens"]', "difference", LOSS),
        ("PretrainingLoss.rows", "(None, subject.stage)", "(None,)", LOSS, "KeyError"),
        ("PretrainingLoss._tax", "verdict[tax.side()]", "verdict[1 if tax.mean > 0 else -1]",
         "evaluation/test_findings.py::"
         "test_a_loss_that_moved_by_less_than_its_error_is_no_verdict"),
        ("PretrainingLoss._repair", "gain.side() > 0", "False",
         "evaluation/test_findings.py::test_how_far_ptx_repairs_the_tax"),
        ("PretrainingLoss._repair", "-100 * gain.mean / tax.mean", "100 * gain.mean / tax.mean",
         "evaluation/test_findings.py::test_how_far_ptx_repairs_the_tax"),
        ("PretrainingLoss._moved", "verdict[difference.side()]", "verdict[1]",
         "evaluation/test_findings.py::test_how_a_named_stage_moved_the_loss"),
    ]),
    *mutants("evaluation/reward_score.py", "evaluation/test_evaluators.py", [
        ("RewardScore.rows", "subject.build.ending.missing", "None", SCORED),
        ("RewardScore.rows", "sampled.responses", "sampled.responses[::-1]", SCORED),
    ]),
    *mutants("evaluation/held_out_rankings.py", "evaluation/test_reward_accuracy.py", [
        ("HeldOutRankings._of_source", "of[fits]", "of[: fits.sum()]",
         "test_a_row_is_a_prompt_of_a_source_with_its_pairs"),
        ("HeldOutRankings.rows", "start += count", "start += 1",
         "test_a_row_is_a_prompt_of_a_source_with_its_pairs"),
    ]),
    *mutants("evaluation/held_out_rankings.py", "evaluation/test_reward_accuracy.py", [
        ("HeldOutRankings._of_source", "max(len(ranking.responses) for ranking in kept)",
         "self.outputs",
         "test_a_batch_has_room_for_the_outputs_of_the_largest_ranking_of_its_source"),
        ("HeldOutRankings._of_source", "length=length", "length=self.length", CUT),
    ]),
    *mutants("evaluation/held_out_records.py", "evaluation/test_reward_accuracy.py", [
        ("HeldOutRecords.fitting", "bucket_count(None, self.length)", "1",
         "test_rows_are_cut_to_the_longest_record_that_fits[256-tokens0-fits0-128]"),
        ("HeldOutRecords.fitting", "lengths <= self.length", "lengths < self.length",
         "test_rows_are_cut_to_the_longest_record_that_fits[256-tokens1-fits1-256]"),
    ]),
    *mutants("evaluation/held_out_rankings.py", "evaluation/test_held_out.py", [
        ("mean_of", "totals[known], weights[known]", "totals[known], np.ones(known.sum())", RATIOS),
    ]),
    *mutants("evaluation/preference_accuracy.py", "evaluation/test_held_out.py", [
        ("PreferenceAccuracy.figures", 'subject.model("reference")', "subject.params", RATIOS),
        ("PreferenceAccuracy.figures", 'found["margin"].total', 'found["better_reward"].total',
         RATIOS),
        ("PreferenceAccuracy.programs", "self.objective, model, self.divide_by",
         "DPO(), model, self.divide_by", RATIOS),
        ("PreferenceAccuracy.summary", 'mean_of(rows["loss"], rankings)',
         'mean_of(rows["loss"], pairs)', RATIOS),
        ("PreferenceAccuracy.rows", 'if name != "group"', "if True", RATIOS),
    ]),
    *mutants("evaluation/score_error.py", "evaluation/test_held_out.py", [
        ("ScoreError.rows", "length=length", "length=self.length", CUT),
    ]),
    *mutants("evaluation/sft_loss.py", "evaluation/test_held_out.py", [
        ("SFTLoss.rows", "length=length", "length=self.length", CUT),
        ("SFTLoss.rows", 'batch["weights"][:, 1:]', 'batch["segments"][:, 1:] > 0', DEMONSTRATED),
        ("SFTLoss.rows", "math.nan if subject.behind else 1.0", "1.0", DEMONSTRATED),
        ("SFTLoss.summary", 'mean_interval(nats, rows["tokens"])', "mean_interval(nats)",
         DEMONSTRATED),
    ]),
    *mutants("evaluation/reward_accuracy.py", "evaluation/test_reward_accuracy.py", [
        ("RewardAccuracy.programs", "reward_loss(model, self.divide_by)", "reward_loss(model)",
         "test_the_loss_is_divided_as_the_stage_s_and_of_a_model_that_diverged_no_number"),
        ("RewardAccuracy.figures", '"loss": loss.total', '"loss": accuracy.total',
         "test_a_row_is_a_prompt_of_a_source_with_its_pairs"),
        ("pair_accuracy", "correct - longer + pairs", "longer - correct + pairs",
         "test_accuracy_and_its_difference_are_of_pairs_and_over_prompts"),
        ("pair_accuracy", "(pairs > 0).sum()", "len(pairs)",
         "test_accuracy_and_its_difference_are_of_pairs_and_over_prompts"),
        ("RewardAccuracy._of_the_whole", 'whole["accuracy"].low <= 0.5',
         'whole["accuracy"].mean <= 0.5', "test_chance"),
    ]),
    *mutants("evaluation/samples.py", "evaluation/test_evaluators.py", [
        ("Samples.rows", "if subject.scored else None", "if True else None",
         "test_where_few_responses_end_their_score_is_told"),
    ]),
    *mutants("evaluation/samples.py", "evaluation/test_report.py", [
        ("Samples._sample", 'escape(items[id]["response"].strip())',
         'items[id]["response"].strip()', "test_the_page_escapes_and_needs_nothing_else"),
        ("Samples._sample", "of[stage][id]", "next(iter(of[stage].values()))",
         "test_a_sample_shows_every_policy_s_response_and_what_is_said_of_it"),
    ]),
)  # fmt: skip

REPORT = (
    *mutants("evaluation/summary.py", "evaluation/test_report.py", [
        ("summarise", "for stage in stages:", "for stage in ():",
         "test_policies_are_in_the_order_of_the_stages_whatever_is_measured_first"),
        ("measured", 'rows["group"] == group', 'rows["group"] != group',
         "test_groups_stand_beside_the_whole"),
        ("measured", "v.within(*ends)", "v",
         "test_an_interval_is_cut_to_the_range_of_its_column"),
        ("_add", "taken := entry.keys() & summary.keys()", "taken := ()",
         "test_two_columns_of_one_name_are_refused", "Failed"),
        ("shown", "name not in below", "True", "test_the_table_keeps_its_figures_at_80_columns",
         "AssertionError|ValueError"),
    ]),
    *mutants("evaluation/evaluator.py", "evaluation/test_report.py", [
        ("as_json", "if math.isfinite(value.mean) else None", "",
         "evaluation/test_evaluators.py::test_what_is_not_finite_is_not_known"),
        ("same_items", 'np.array_equal(one["id"], other["id"])', "True",
         f"evaluation/test_evaluators.py::{WINS}", "Failed"),
    ]),
    *mutants("evaluation/table.py", "evaluation/test_report.py", [
        ("tables", "room -= needed", "room -= 0",
         "test_columns_that_do_not_fit_stand_in_another_table"),
    ]),
    *mutants("evaluation/page.py", "evaluation/test_report.py", [
        ("_section", "escape(row)", "row", "test_the_page_escapes_and_needs_nothing_else"),
    ]),
    *mutants("evaluation/figure.py", "evaluation/test_report.py", [
        ("_over", "panel, across.mean, point.mean", "panel, point.mean, across.mean",
         "test_the_figure_has_a_panel_for_each_evaluator_and_each_metric"),
    ]),
)  # fmt: skip

ASKED = "test_every_policy_is_asked_with_the_same_noise_and_graded_by_the_world"
REFUSED = "test_evaluators_that_do_not_fit_the_stages_are_refused"
RUN = (
    *mutants("runs/evaluation.py", "runs/test_evaluation.py", [
        ("OneSubject.has", "not self._model.training or", "", LATER),
        ("OneSubject.has", "not self._model.training or", "True or", LATER),
        ("Evaluation.in_training", "evaluator, in_training=True)", "evaluator)",
         "test_it_runs_where_what_it_reads_comes_before"),
        ("StageModel.sampled", '"report/responses"', '"report/kl"', f"{ASKED}[sft]"),
        ("Evaluation.answering", "how.before + prompt", "prompt", f"{ASKED}[prompted]"),
        ("Evaluation.answering", "min(asked.batch_size, max(1, len(prompts)))", "asked.batch_size",
         "test_fewer_prompts_than_a_batch_have_a_batch_of_their_own_with_the_same_responses"),
        ("asked_of", "prompting_of(config, stage).prompt_length or", "", f"{ASKED}[prompted]",
         "AssertionError|ConfigError"),
        ("Evaluation.answering", "self._until(how.until, sampled)", "sampled",
         "test_an_answer_ends_where_the_stage_says"),
        ("Evaluation.test_prompts", 'read("prompts", split)', 'read("prompts", "ppo")',
         "test_prompts_without_room_are_left_out_of_all_figures_and_counted",
         "AssertionError|UserError"),
        ("OneSubject", "own.trained_to_end", "True",
         "test_prompts_without_room_are_left_out_of_all_figures_and_counted"),
        ("Evaluation.test_prompts", "fitting[: self.config.evaluation.most_prompts]", "fitting",
         "test_the_report_can_read_fewer_prompts"),
        ("Evaluation._check_prompts", "- left.fitting", "- len(left.ids)",
         "test_the_report_can_read_fewer_prompts"),
        ("Evaluation.test_prompts", "prompt_ids(b + prompt)", "prompt_ids(prompt)",
         "test_prompts_without_room_are_left_out_of_all_figures_and_counted",
         "AssertionError|AttributeError"),
        ("Evaluation.release", "stage not in self._needed", "False",
         "test_only_models_that_others_are_measured_by_stay_in_memory"),
        ("Evaluation.check", "self._read_by(e)", "[e.name]", "test_what_it_reads_is_checked_too"),
        ("Evaluation.in_training", "<= upstream", "is not None",
         "test_it_runs_where_what_it_reads_comes_before", "AssertionError|ConfigError"),
        ("Evaluation.in_training", "not evaluator.within or stage in evaluator.within", "True",
         "test_it_runs_where_what_it_reads_comes_before"),
        ("Evaluation.attach", "step % evaluator.every == 0", "step > 1",
         "test_the_model_is_measured_every_so_many_steps_of_its_training"),
        ("Evaluation.attach", "task.model(state)", 'self.run.model("pretrain")',
         "test_the_model_is_measured_every_so_many_steps_of_its_training"),
    ]),
    *mutants("runs/report.py", "runs/test_evaluation.py", [
        ("measure", "chain.stages_of(evaluation.evaluators, evaluator) <= set(stages)", "True",
         "test_what_is_compared_with_a_stage_that_has_not_finished_is_left_out"),
        ("seconds", "[-1]", "[0]", "test_the_rows_are_the_finished_stages_in_order"),
    ]),
    *mutants("runs/chain.py", "runs/test_evaluation.py", [
        ("check_evaluators", "not late", "True", REFUSED, "Failed"),
        ("check_evaluators", "field in by_name", "True", REFUSED, "Failed|KeyError"),
    ]),
    *mutants("durable/checkpoint.py", "training/test_evaluated.py", [
        ("ranked", "name != newest", "False",
         "test_checkpoints_by_another_metric_than_now_are_not_compared_with_these"),
    ]),
    *mutants("training/loop.py", "training/test_evaluated.py", [
        ("_train", "task.evaluate(step, state)", "task.evaluate(step - 1, state)",
         "test_it_is_of_the_state_after_the_step_and_stands_beside_its_metrics"),
        ("_Log.write", " or evaluated", "",
         "test_a_step_that_is_evaluated_has_a_line_whatever_log_every_is"),
        ("_Log", "config.best if chosen else task.best", "task.best",
         "test_the_best_checkpoint_may_be_by_what_was_evaluated"),
    ]),
)  # fmt: skip

LABELERS = mutants(
    "feedback/labelers.py",
    "feedback/test_labelers.py",
    [
        ("LIKERT", "7", "5", "test_the_papers_labelers_are_the_default"),
        ("SimulatedLabeler.ratings", "self.noise * self", "0.1 * self.noise * self",
         "test_noise_is_normal_with_the_stated_deviation"),
        ("SimulatedLabeler.ratings", "x * steps + 0.5", "x * steps",
         "test_likert_levels_split_the_range_evenly_and_tie"),
        ("SimulatedLabeler.rank", "reverse=True", "reverse=False",
         "test_likert_levels_split_the_range_evenly_and_tie"),
        ("SimulatedLabeler._normal", "(self.seed, prompt, response)",
         "(self.seed, response)", "test_noise_depends_on_seed_prompt_and_response_only"),
        ("pairwise_agreement", "np.sign(a[j] - a[i]) == np.sign(b[j] - b[i])",
         "(a[j] > a[i]) == (b[j] > b[i])",
         "test_pairwise_agreement_counts_pairs_ties_included"),
        ("_Pairs.agreement", "noise * math.sqrt(2)", "noise",
         "test_calibrated_labelers_of_different_seeds_agree_as_asked"),
        ("_Pairs.agreement", "+ tied**2", "",
         "test_expected_agreement_of_two_scores_by_hand"),
    ],
)  # fmt: skip

GRADING = mutants(
    "worlds/grading.py",
    "worlds/test_grading.py",
    [
        ("WEIGHTS", "0.6", "0.5", "test_the_score_is_the_stated_combination"),
        ("Sequence.judge", "max(len(words), len(self.expected))", "len(self.expected)",
         "test_helpful_is_the_share_of_the_request_that_is_met"),
        ("Listing.judge", "max(asked, len(items))", "asked",
         "test_helpful_is_the_share_of_the_request_that_is_met"),
        ("OneWord.judge", "right / (1 + len(rivals))", "float(right)",
         "test_helpful_is_the_share_of_the_request_that_is_met"),
        ("Told.judge", "bool(false or denied)", "False",
         "test_flags_are_set_where_the_prompt_asks_for_them"),
        ("grade", "0.5**faults", "0.5 ** (faults * (verdict.limit < LONGEST))",
         "test_a_second_line_halves_every_kind_of_task"),
        ("grade", " and not verdict.repeats", "",
         "test_a_run_of_three_words_said_twice_halves_and_faults_multiply"),
    ],
)  # fmt: skip

WORLD = mutants(
    "worlds/instruction.py",
    "worlds/test_instruction.py",
    [
        ("InstructionWorld.hurried", "rng.random() < careless", "rng.random() < careless / 2",
         "test_careless_demonstrations_are_counted"),
        ("_side", '"{seed}/side/{request}"', '"{seed}/side/{request}/{id(request)}"',
         "worlds/test_requests.py::test_no_request_is_on_the_held_out_and_on_the_training_side"),
    ],
)  # fmt: skip

HELD_OUT = (
    *mutants("worlds/corpus.py", "worlds/test_requests.py", [
        ("Phrasing.__call__", " if p != kept", "",
         "test_held_out_text_tells_facts_in_other_phrasings_than_training_text"),
    ]),
    *mutants("worlds/exercises.py", "worlds/test_requests.py", [
        ("word", "sorted((given, target))", "(given, target)",
         "test_no_request_is_on_the_held_out_and_on_the_training_side"),
    ]),
    *mutants("worlds/questions.py", "worlds/test_requests.py", [
        ("premise", "_request(told)", '("premise", told.attribute.name, told.subject)',
         "test_no_request_is_on_the_held_out_and_on_the_training_side"),
    ]),
    *mutants("sources/world.py", "worlds/test_instruction.py", [
        ("WorldData.records", "InstructionWorld(self.world, seed)", "InstructionWorld(self.world)",
         "test_runs_of_two_seeds_have_a_world_each_unless_the_worlds_seed_is_fixed"),
    ]),
)  # fmt: skip

MUTANTS = (POLICIES + STATISTICS + EVALUATORS + REPORT + RUN + LABELERS + GRADING + WORLD
           + HELD_OUT)  # fmt: skip
