"""Evaluators, statistics, labelers and the gold grader."""

from tests.mutants import mutants

POLICIES = mutants(
    "evaluation/policies.py",
    "evaluation/test_policies.py",
    [
        ("Sampler._response_kl", "exact_kl(*logits, self.temperature)", "exact_kl(*logits)",
         "test_kl_equals_a_loop_over_the_tokens_distributions_at_the_sampling_temperature"),
        ("Sampler._response_kl", "* mask).sum(axis=1)", ").sum(axis=1)",
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
        ("mean_interval", "totals - ratio * weights", "totals - ratio",
         "test_documents_weigh_their_tokens"),
        ("mean_interval", "1 - weights / whole", "1", "test_documents_weigh_their_tokens"),
        ("mean_interval", "documents < 1.5 or", "",
         "test_one_prompt_or_prompts_all_equal_have_no_interval"),
        ("mean_interval", "(1 + level) / 2", "level",
         "test_student_s_interval_of_scores_without_bounds"),
        ("mean_interval", "whole**2 / (weights**2).sum()", "len(totals)",
         "test_documents_weigh_their_tokens"),
        ("_bounded", "below.mean() * rng", "rng", "test_ratio_of_two_prompts_of_unequal_pairs"),
        ("_bounded", "(top + unseen)", "top",
         "test_of_values_0_and_1_the_interval_is_the_exact_one"),
    ],
)  # fmt: skip

REPORT = mutants(
    "evaluation/report_summary.py",
    "evaluation/test_report.py",
    [
        ("summarise", "win_rate(result.scores, sft.scores, seed)",
         "win_rate(sft.scores, result.scores, seed)", "test_schema_and_figures"),
        ("summarise", "bounded_mean(result.scores, seed)", "bounded_mean(result.scores, 0)",
         "test_schema_and_figures"),
        ("loss_difference", "np.subtract(losses, others)", "np.subtract(others, losses)",
         "test_findings_where_every_order_holds"),
        ("_share", "sum(asked) / len(asked)", "sum(asked) / len(flags)",
         "test_schema_and_figures"),
        ("_order", "verdict[difference.side()]", "verdict[1]", "test_findings_where_orders_fail"),
        ("_order", "difference.side()", "(1 if a.mean > b.mean else -1)",
         "test_one_prompt_is_no_verdict_whoever_wins"),
        ("_repair", "against_ppo.side() > 0", "False", "test_how_far_ptx_repairs_the_tax"),
        ("_tax", 'verdict[tax.side()]', "verdict[1 if tax.mean > 0 else -1]",
         "test_a_loss_that_moved_by_less_than_its_error_is_no_verdict"),
        ("_repair", "-100 * against_ppo.mean / tax.mean", "100 * against_ppo.mean / tax.mean",
         "test_how_far_ptx_repairs_the_tax"),
    ],
)  # fmt: skip

HUMAN_REPORT = mutants(
    "evaluation/human_report.py",
    "evaluation/test_human_report.py",
    [
        ("pair_accuracy", "correct - longer + pairs", "longer - correct + pairs",
         "test_accuracy_and_its_difference_are_of_pairs_and_over_prompts"),
        ("pair_accuracy", "(pairs > 0).sum()", "len(pairs)",
         "test_accuracy_and_its_difference_are_of_pairs_and_over_prompts"),
        ("findings", 'whole["accuracy"]["low"] <= 0.5', 'whole["accuracy"]["mean"] <= 0.5',
         "test_chance"),
    ],
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
        ("SimulatedLabeler._normal", "repr((self.seed, prompt, response))",
         "repr((self.seed, response))", "test_noise_depends_on_seed_prompt_and_response_only"),
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
    *mutants("corpora.py", "worlds/test_instruction.py", [
        ("world_splits", "InstructionWorld(data.world, seed)", "InstructionWorld(data.world)",
         "test_runs_of_two_seeds_have_a_world_each_unless_the_worlds_seed_is_fixed"),
    ]),
)  # fmt: skip

MUTANTS = (POLICIES + STATISTICS + REPORT + HUMAN_REPORT + LABELERS + GRADING + WORLD
           + HELD_OUT)  # fmt: skip
