"""Judges at an endpoint and on this machine, and what they say of pairs."""

from tests.mutants import mutants

AGAIN = "test_what_fails_for_a_time_is_tried_again_with_longer_waits"
TOLD = "test_what_is_expected_in_all_is_told_once_and_the_limit_stays"
ONCE = "test_answers_come_in_order_and_are_asked_once"
SLOW = "test_a_server_that_hangs_or_drips_is_given_up_in_time"
CUT = "test_a_line_that_a_kill_has_cut_is_asked_again"
BOTH = "test_both_orders_are_asked_and_an_equal_pair_ties_unasked"
ALWAYS = "test_a_judge_that_always_says_a_has_no_opinion"
CONTROL = "test_it_is_the_logistic_regression_of_statsmodels"
LENGTH = "test_a_judge_who_likes_length_alone_finds_no_winner"
DIAGONAL = "test_a_calibrated_model_is_on_the_diagonal_and_a_boaster_below"
ALL = "test_it_is_the_mean_over_all_choices_of_n_samples"
STATISTICS = (
    *mutants("evaluation/length_control.py", "evaluation/test_length_control.py", [
        ("length_terms", "longer / spread", "longer", CONTROL),
        ("length_controlled", "one - other", "one + other", CONTROL),
        ("length_controlled", "np.append(wins, 0.5)", "np.append(wins, 1.0)", CONTROL),
        ("length_controlled_interval", "column[drawn]", "column", LENGTH),
    ]),
    *mutants("evaluation/paired_tests.py", "evaluation/test_paired_tests.py", [
        ("sign_test", "wins < 0.5", "wins <= 0.5", "test_the_sign_test_is_mcnemar_s_exact_test"),
        ("permutation_test", ">= seen).mean()", "> seen + 1e-9).mean()",
         "test_few_items_take_all_signs"),
        ("permutation_test", "np.abs(signs @ apart) >= seen", "signs @ apart >= seen",
         "test_many_items_agree_with_scipy"),
        ("over_prompts_and_seeds", "by_run @ filled", "np.ones(runs) @ filled",
         "test_runs_that_differ_widen_the_interval"),
    ]),
    *mutants("evaluation/calibration.py", "evaluation/test_calibration.py", [
        ("probability", "/ 2)", ")", DIAGONAL),
        ("brier", "** 2", "", "test_brier_is_the_squared_distance_from_certainty"),
        ("calibration_error", "one.pairs * abs", "abs", "test_bins_are_those_of_a_loop"),
        ("by_margin", "np.quantile(size, np.linspace(0, 1, bins + 1))",
         "np.linspace(size.min(), size.max(), bins + 1)", "test_agreement_rises_with_the_margin"),
    ]),
    *mutants("evaluation/best_of_n.py", "evaluation/test_best_of_n.py", [
        ("best_of_n_weights", "rank[enough] - n + 1", "rank[enough] - n + 2", ALL),
        ("best_of_n", "shared[place]", "weights[place]", ALL),
        ("best_of_n", "@ of", "@ by", ALL),
        ("best_of_n_kl", "(n - 1) / n", "1 / n",
         "test_the_bound_of_the_kl_is_exact_for_a_fine_distribution"),
    ]),
)  # fmt: skip
KNOWN = "test_llmbar_s_scorers_of_known_results"
RULE = "test_the_rule_of_ties_by_hand"
BEST = "test_reward_bench_takes_the_best_of_four_and_the_mean_of_its_parts"
TESTS = "evaluation/benchmarks/test_reward_benchmarks.py"
REWARDS = (
    *mutants("evaluation/benchmarks/pairs.py", TESTS, [
        ("ScoredPairs.answered", "better - worse", "worse - better", KNOWN),
    ]),
    *mutants("evaluation/benchmarks/llmbar.py", TESTS, [
        ("LLMBar.items", "3 - label", "label", KNOWN),
    ]),
    *mutants("evaluation/benchmarks/reward_bench.py", TESTS, [
        ("RewardBench2.answered", "min(right) > max(wrong)", "max(right) > max(wrong)", BEST),
        ("RewardBench2.summary", "sum(parts.values()) / len(parts)", "max(parts.values())", BEST),
        ("ties_score", "own > s for", "own > 0 for", RULE),
        ("ties_score", "min(own, other) > s", "own > s", RULE),
        ("_margin", "gap / spread - 1", "gap / spread", RULE),
        ("_margin", "if gap else 0.0", "", RULE),
        ("ties_score", '(ref if kind == "ref" else tied)', "tied", BEST),
        ("RewardBench2.answered", "min(right) - max(wrong)", "max(right) - max(wrong)", BEST),
        ("RewardBench2.answered", "max(right) - min(right)", "0.0", BEST),
        ("RewardBench2.summary", 'rows["score"][~tied]', 'rows["score"]', BEST),
        ("RewardBench2.items", "not tied and len", "len",
         "test_reward_bench_takes_the_best_of_four_and_the_mean_of_its_parts", "RecordError"),
    ]),
)  # fmt: skip
WINS = "test_a_judge_s_wins_are_of_pairs_in_both_orders"
FOLDS = "test_each_fold_is_a_run_and_their_accuracies_are_joined"
HAND = "test_the_example_by_hand"
PROMPTS = SIGNS = "test_the_sign_test_is_over_prompts"
SAME = "test_best_of_n_is_measured_from_the_same_samples"
PAIR = "test_the_sums_of_a_ranking_are_those_of_its_pairs"
EVALUATORS = (
    *mutants("evaluation/judged_win_rate.py", "evaluation/test_judged_win_rate.py", [
        ("JudgedWinRate.summary", 'rows["consistent"][known]', 'rows["win"][known]', WINS),
        ("_lengths", "sizes[1]}", "sizes[0]}", WINS),
        ("LengthControlledWinRate.summary", "0.5 * (own == other)", "0.0 * (own == other)",
         "test_length_control_of_scores_reads_their_wins"),
    ]),
    *mutants("evaluation/best_of_n_policy.py", "evaluation/test_judged_win_rate.py", [
        ("BestOfN.rows", "best_of_n(scores, grades, n)", "best_of_n(grades, grades, n)", SAME),
        ("BestOfN.summary", "best_of_n_kl(n)", "best_of_n_kl(self.samples)", SAME),
    ]),
    *mutants("evaluation/reward_calibration.py", "evaluation/test_reward_calibration.py", [
        ("pair_sums", "& (ranks[:, None] >= 0)", "", PAIR),
        ("pair_sums", "right[own].sum()", "own.sum()", PAIR),
    ]),
    *mutants("runs/lm_eval.py", "runs/test_lm_eval.py", [
        ("loglikelihood", "context.rstrip()", "context",
         "test_spaces_at_the_end_of_a_context_belong_to_the_continuation"),
        ("_way", 'if how.get("do_sample", False) else 0.0', "",
         "test_answers_are_grouped_by_how_they_are_sampled"),
    ]),
    *mutants("feedback/cross_validation.py", "feedback/test_cross_validation.py", [
        ("split", "elif not left_out:", "else:",
         "test_neither_a_held_out_prompt_nor_a_left_out_labeler_is_trained_on"),
        ("cross_validated", "ddof=1", "ddof=0",
         "test_the_accuracy_of_folds_is_a_mean_with_its_error"),
        ("write_folds", "fold.others", "fold.known", "test_folds_are_folders_of_records"),
        ("write_folds", ", VALID: encoded(fold.known)", "", "test_folds_are_folders_of_records"),
        ("write_folds", ", *parts[0].others)", ",)",
         "test_no_training_file_of_a_fold_has_a_held_out_prompt"),
        ("_without", "not in held", "is not None",
         "test_no_training_file_of_a_fold_has_a_held_out_prompt"),
        ("write_folds", "file.read_bytes() != content", "False",
         "test_folds_of_other_options_are_kept"),
    ]),
    *mutants("runs/cross_validation.py", "runs/test_cross_validation.py", [
        ("cross_validate", "config.seed)", "1)", FOLDS),
        ("_fold", '"others": folder / OTHERS', '"others": records / VALID', FOLDS),
        ("_fold", "path=str(records)", "path=config.data.path", FOLDS),
        ("_fold", "chain.in_order(own.stages, [stage])", "[stage]", FOLDS),
        ("summed", "one - other", "other - one", FOLDS),
    ]),
    *mutants("labelling/wins.py", "labelling/test_wins.py", [
        ("_wins", "ranks[j] - ranks[i]", "ranks[i] - ranks[j]", HAND),
        ("_wins", "np.mean(values)", "values[0]", HAND),
        ("_wins", 'json.dumps(answer["prompt"])', 'str(answer["item"])', PROMPTS),
        ("_wins", "sign_test(shares)", "sign_test(every)", SIGNS),
        ("_wrong", "and not isinstance(rank, bool)", "", "test_a_wrong_export_is_named"),
        ("_wrong", "isinstance(name, str)", "True", "test_a_wrong_export_is_named"),
        ("_ranks", 'and answer["gold"] is None', "", HAND),
        ("_ranks", 'and answer["state"] == "answered"', "", HAND, "KeyError"),
    ]),
    *mutants("stages/simulated_feedback.py", "feedback/test_pools.py", [
        ("SimulatedFeedback._ranked", "ranks=ranks, labeler=name", "ranks=ranks",
         "test_feedback_by_a_pool_names_the_labeler_of_each_ranking"),
    ]),
)  # fmt: skip
MUTANTS = (
    *EVALUATORS,
    *REWARDS,
    *STATISTICS,
    *mutants("evaluation/judging/endpoint.py", "evaluation/judging/test_endpoint.py", [
        ("EndpointJudge._tried", "2.0 ** (number - 1)", "1.0", AGAIN),
        ("EndpointJudge._tell_again", "self._told = time.monotonic()", "pass", AGAIN,
         "ValueError"),
        ("EndpointJudge._tried", 'self._secret or "\\0"', '"\\0"',
         "test_the_key_is_sent_and_kept_nowhere"),
        ("EndpointJudge._tried", "again.wait", "0.0",
         "test_the_server_s_wait_is_kept_within_a_minute"),
        ("EndpointJudge._ask", "self._stopped.set()", "pass",
         "test_what_stays_wrong_is_not_tried_again"),
        ("EndpointJudge.answers", "if self._known(p) is None", "", ONCE),
        ("Endpoint.request", '"temperature": self.temperature', '"temperature": 0.0', ONCE),
        ("Endpoint.secret", 'self.url.startswith("https")', "True",
         "test_the_key_is_sent_and_kept_nowhere"),
        ("EndpointJudge._check", "+ spent", "",
         "test_the_cost_is_told_before_the_first_request_and_has_a_limit"),
        ("EndpointJudge._ask", "there if there is not None else at_most", "there or 0",
         "test_an_answer_without_usage_counts_at_its_highest_cost"),
        ("EndpointJudge.answers", "if not self._expected", "if True", TOLD),
        ("EndpointJudge.answers", "self._check(missing)", "pass", TOLD),
        ("EndpointJudge._tokens", "len(prompts) * self.endpoint.most_tokens",
         "self.endpoint.most_tokens", TOLD),
        ("understood", "if text and text.strip() else None", "",
         "test_an_empty_answer_is_none_and_is_kept"),
        ("_deadline", "sock.shutdown(socket.SHUT_RDWR)", "pass", SLOW),
    ]),
    *mutants("evaluation/judging/kept.py", "evaluation/judging/test_endpoint.py", [
        ("Kept._read", "os.ftruncate(self._file, 0)", "pass", CUT),
        ("Kept._read", "JUDGED.check(_parsed(first).get(FIELD, -1), self.path)", "pass", CUT),
        ("Kept._read", "not _counts(tokens)", "not isinstance(tokens, list)", CUT, "TypeError"),
        ("Kept._read", 'self._add(record["key"], Known(answer, tuple(tokens)))',
         'self._found[record["key"]] = Known(answer, tuple(tokens))',
         "test_the_limit_counts_the_answers_that_are_kept_already"),
        ("Kept.put", "os.write(self._file, _line(record))", "pass", ONCE),
    ]),
    *mutants("evaluation/judging/endpoint.py", "evaluation/judging/test_verdicts.py", [
        ("Endpoint.identity", '{"url": self.url} | self.request("")', "vars(self)",
         "test_only_what_changes_answers_is_a_judge_s_identity"),
        ("Endpoint.identity", '{"url": self.url} | ', "",
         "test_only_what_changes_answers_is_a_judge_s_identity"),
    ]),
    *mutants("evaluation/judging/verdicts.py", "evaluation/judging/test_verdicts.py", [
        ("_judged", "other = -other", "other = other", BOTH),
        ("_judged", "if one == other else 0.5", "", ALWAYS),
        ("compare", "(p.other, p.one)", "(p.one, p.other)", BOTH),
        ("verdict_of", "found[-1]", "found[0]", "test_the_last_verdict_counts"),
        ("question", 'r"< \\1 >"', 'r"<\\1>"', "test_an_answer_cannot_write_beside_its_marks"),
        ("compare", "len(unread) == len(asked)", "False",
         "test_a_verdict_that_cannot_be_read_leaves_the_pair_out"),
    ]),
)  # fmt: skip
