"""Mutants of sweeps and comparisons: what is taken, what is paired, what an interval is over."""

from tests.mutants import mutants

ONCE = "test_what_does_not_depend_on_what_is_varied_is_trained_once_a_seed"
AGAIN = "test_the_same_command_runs_no_finished_run_again"
VALUES = "test_values_are_of_the_option_s_type"
FAILS = "test_a_run_that_fails_is_told_and_the_others_go_on"
MISTAKE = "test_a_mistake_is_told_before_anything_runs"
SWEEP = mutants(
    "runs/sweep.py",
    "runs/test_sweep.py",
    [
        ("Sweep._run", "self._prepare(config, before)", "None", ONCE),
        ("Sweep._prepare", "data_of(other) == data_of(config)", "True", ONCE),
        ("Sweep._has_report", 'items.get("config") == figures_config(cell.config)', "True", AGAIN),
        ("Sweep._has_report", "set(self.stages) <=", "set() <=", AGAIN),
        ("Sweep._run", "if known in self._sick:", "if False:",
         "test_a_stage_that_fails_is_not_tried_again_in_another_run"),
        ("Sweep.run", "self.failed[cell.name] = str(error)", "pass", FAILS),
        ("Sweep.compare", "Comparison(tuple(cells), self.failed)", "Comparison(tuple(cells))",
         FAILS),
        ("Sweep.tell", "cell.config.fingerprint(stage)", "stage", ONCE),
        ("Sweep._take_other", "if not some:", "if False:",
         "test_stages_of_another_run_are_taken_by_each_run_that_they_fit"),
        ("Sweep.check", "if not has_ended(cell.config.directory_of(stage)):", "if True:",
         "test_stages_of_another_run_are_taken_by_each_run_that_they_fit", "ConfigError"),
        ("grid", "seed=seed, out=out", "out=out", ONCE, "UserError"),
        ("grid", 'f"--seed={seed}", ', "", "test_a_run_knows_the_command_that_makes_it_again"),
        ("grid", '*without("--seeds", options)', "*options",
         "test_a_run_knows_the_command_that_makes_it_again", "UserError|SystemExit"),
        ("_refuse_equal", "(made, same)", "", f"{MISTAKE}[equal values]"),
        ("grid", "if top in FIXED", "if False", f"{MISTAKE}[the seed]"),
    ],
) + mutants(
    "runs/options.py",
    "runs/test_sweep.py",
    [
        ("tokens_of", "*text.split()", "text", VALUES, "SystemExit|UserError"),
        ("tokens_of", '"false": _no(path)', '"false": path', VALUES, "UserError"),
    ],
)  # fmt: skip

COMPARE = mutants(
    "runs/compare.py",
    "runs/test_sweep.py",
    [
        ("cells_of", 'if name != "seed"', "",
         "test_settings_are_told_apart_by_the_fields_that_differ"),
        ("cells_of", "if len(set(known)) < len(known):", "if False:",
         "test_runs_of_one_config_and_seed_are_told_apart_by_their_directories"),
        ("cells_of", "len(differ) > MOST_FIELDS", "False",
         "test_where_much_differs_the_first_run_names_the_setting"),
        ("between", "difference(one, other, name)", "difference(other, one, name)",
         "test_compare_writes_its_files_and_prints_a_difference"),
    ],
)  # fmt: skip

BETTER = "test_what_setting_is_clearly_better_is_told"
TOLD = mutants(
    "evaluation/comparison_findings.py",
    "evaluation/test_comparison.py",
    [
        ("_of_model", "of.value.side() != 0", "True", BETTER),
        ("_of_model", "sign * row.estimate", "row.estimate", BETTER),
        ("_minus", "other.value.negated()", "other.value", BETTER),
    ],
) + mutants(
    "evaluation/comparison_figure.py",
    "evaluation/test_comparison.py",
    [("_around", "min(high, possible[1] + edge)", "high",
      "test_a_panel_hardly_exceeds_the_possible_values")],
) + mutants(
    "runs/run.py",
    "runs/test_take.py",
    [("Run.finish", "time.monotonic() - started", "time.monotonic()",
      "test_the_time_of_a_stage_is_without_that_of_what_it_builds_on")],
) + mutants(
    "runs/take.py",
    "runs/test_take.py",
    [("take_from", " and s not in own]", "]",
      "test_a_stage_that_the_other_run_does_not_have_is_trained_here")],
)  # fmt: skip

PARTS = tuple(
    mutant
    for file, scope, old, new in (
        ("win_rate", "WinRate.parts", "0.5 * (own == other)", "0.0"),
        ("pretraining_loss", "PretrainingLoss.parts", 'rows["nats"] - rows["against"]',
         'rows["nats"]'),
        ("reward_accuracy", "RewardAccuracy.parts", "correct - longer", "correct"),
        ("samples", "Samples.parts", '(rows["tokens"], ones)', '(rows["ended"], ones)'),
        ("behaviour", "Behaviour.parts", "of * 1.0", "of * 1.0 + 1"),
        ("preference_accuracy", "PreferenceAccuracy.parts", '("margin", "rankings")',
         '("margin", "pairs")'),
    )
    for mutant in mutants(f"evaluation/{file}.py", "evaluation/test_report.py",
                          [(scope, old, new, "test_an_evaluator_s_parts_come_to_its_columns")])
)  # fmt: skip

SEVERAL = "test_of_several_seeds_a_difference_is_paired_by_seed"
ONE = "test_of_one_seed_a_difference_is_paired_by_item"
OTHER = "test_where_the_items_differ_nothing_is_paired"
RANGE = "test_intervals_are_cut_to_the_possible_values"
COMPARISON = mutants(
    "evaluation/comparison.py",
    "evaluation/test_comparison.py",
    [
        ("Row._estimate", "mean_interval(list(means.values()))", "mean_interval([0.0, 1.0])",
         "test_of_several_seeds_the_interval_is_student_s_over_seeds"),
        ("Row._estimate", "if None in means.values():", "if False:",
         "test_what_one_seed_does_not_know_is_not_known_of_their_mean",
         "AssertionError|TypeError|UserError"),
        ("Row._estimate", "mean_interval(*_weighed(parts))", "mean_interval(parts['totals'])",
         "test_of_one_seed_it_is_the_report_s_or_else_over_items"),
        ("_alike", "told.setdefault(cell.seed, now) != now", "False",
         "test_a_model_that_may_not_be_the_same_has_a_row_in_each_setting[another figure]"),
        ("_alike", 'cell.items["models"][row.model], ', "",
         "test_a_model_that_may_not_be_the_same_has_a_row_in_each_setting[another model]"),
        ("_alike", "all(set(first.seeds) & set(row.seeds) for row in others)", "True",
         "test_a_model_that_may_not_be_the_same_has_a_row_in_each_setting[no seed in common]"),
        ("_difference", "one.by_seed[seed] - other.by_seed[seed]",
         "other.by_seed[seed] - one.by_seed[seed]", SEVERAL),
        ("_difference", "for side in (x, y)", "for side in (y, x)", ONE),
        ("_difference", "not all(_same_items(a, b, column, seed) for seed in common)", "False",
         OTHER),
        ("_same_items", "one == other", "True", OTHER),
        ("_difference", "max(len(a.seeds), len(b.seeds)) > 1", "False",
         "test_of_other_seeds_nothing_is_paired_and_of_one_beside_several_nothing_is_known"),
        ("_weighed", "if w > 0", "", "test_items_without_weight_are_none_of_an_interval",
         "AssertionError|ConfigError"),
        ("Row.estimate", "found.value.within(*self.possible(column))", "found.value", RANGE),
        ("difference", "low - greatest, high - least", "low, high", RANGE),
    ],
) + mutants(
    "evaluation/comparison_page.py",
    "evaluation/test_comparison.py",
    [
        ("_difference", "found.value.negated()", "found.value",
         "test_the_page_escapes_and_has_a_matrix_a_column"),
        ("_difference", "better * value.side()", "value.side()", "test_a_lower_loss_is_good"),
    ],
) + mutants(
    "evaluation/comparison_figure.py",
    "evaluation/test_comparison.py",
    [
        ("_scale", "max(positive) < DECADES * min(positive)", "False",
         "test_an_axis_is_of_what_the_values_span[few of one size]"),
        ("_points", "if len(estimate.by_seed) > 1", "if False",
         "test_the_picture_has_a_panel_a_column_with_lines_bars_and_seeds",
         "AssertionError|IndexError"),
    ],
)  # fmt: skip

MUTANTS = SWEEP + COMPARE + TOLD + PARTS + COMPARISON
