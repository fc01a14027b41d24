"""Mutants of the command line: options, origins, replay, doctor, generate."""

from tests.mutants import mutants

ALONE = "test_an_option_changes_its_field_alone"
TEXTS = "test_a_field_s_text_is_its_own"
REASON = "test_an_option_that_is_none_is_told_with_its_reason"
REFUSED = "test_a_refused_value_is_named_by_its_option"
OPTIONS = mutants(
    "runs/options.py",
    "test_options.py",
    [
        ("_mirror", 'part.value in ((), [], "")', "False",
         "test_an_empty_default_is_called_none"),
        ("parse", "refuse_unknown(roots, arguments)", "pass", f"{REASON}[--fly]"),
        ("parse", '.removeprefix("no_")', "", f"{ALONE}[a flag at the top]", "UserError"),
        ("parse", "given |= {", "given = {",
         "test_a_stage_s_name_may_begin_as_a_flag_back_does", "UserError"),
        ("parse", "name not in hidden", "True",
         "test_help_of_a_stage_lists_its_own_options_and_the_shared_ones"),
        ("_parts", "evaluator.name: evaluator", "type(evaluator).__name__: evaluator",
         "test_every_stage_source_and_evaluator_has_its_options_behind_its_name", "UserError"),
        ("_fields", "hints = {}", "raise",
         "test_where_a_type_cannot_be_found_the_value_s_own_counts", "NameError"),
        ("_options", "_is_worded(part.hint) if below is None", "True if below is None",
         "test_help_gives_each_group_and_field_its_own_text"),
        ("_mirror", "about or described(type(value))", "about",
         "test_help_gives_each_group_and_field_its_own_text"),
        ("_changed", 'f"{path}.{name}".lstrip(".")', "name", REFUSED),
        ("_changed", "{**value.stages, **stages}", "stages",
         "test_every_stage_source_and_evaluator_has_its_options_behind_its_name", "ConfigError"),
        ("_changed", "{**value, **changed}", "changed",
         "test_every_stage_source_and_evaluator_has_its_options_behind_its_name"),
        ("_changed", "changed.get(str(n), inner)", "inner", f"{ALONE}[a member of a tuple]"),
        ("_changed", "with inside(path):\n        return", "if True:\n        return", REFUSED),
        ("_near", "0.7", "0.99", f"{REASON}[--base.wieght]"),
        ("_near", "name == last and group", "False", f"{REASON}[--bsae.most]"),
        ("_why_unknown", "if told[0] in _names(each)", "", f"{REASON}[--bare.x]"),
        ("_allowed", "kind.__subclasses__()", "()", f"{REASON}[--base.how]"),
    ],
)  # fmt: skip

CLI = mutants(
    "cli.py",
    "test_cli.py",
    [
        ("run_stages", "else (command,)", "else tuple(config.stages)",
         "test_every_stage_of_an_experiment_is_a_command"),
        ("run_stages", "chain.in_order(config.stages, asked)", "asked",
         "test_run_is_all_stages_each_after_what_it_needs_and_the_report"),
        ("report", "insist=how.insist", "", "test_report_is_of_what_has_finished"),
        ("read_models", '{*config.stages, "evaluators", "loop"}', "()",
         "test_help_of_all_stages_lists_none_s_fields[generate]"),
        ("run_stages", "how.insist, stages, origin", "False, stages, origin",
         "test_every_stage_of_an_experiment_is_a_command"),
        ("run_stages", "absolute(experiment)", "experiment",
         "test_every_stage_of_an_experiment_is_a_command"),
        ("command", "if rest and rest[0] in HELP:", "if False:",
         "test_every_command_has_help_without_an_experiment[ppo]"),
        ("list_stages", "stages_told(load_experiment(experiment))", "''",
         "test_the_stages_of_an_experiment_are_told_a_line_each", "IndexError"),
    ],
)  # fmt: skip

AS_STARTED = "test_a_run_is_as_its_last_command_read_it_and_each_stage_as_it_was_started"
REPLAY = (
    *mutants("runs/replay.py", "test_replay.py", [
        ("replay", "if differ := differences(sick.parent, config.fingerprint(stage)):",
         "if differ := []:",
         "test_a_config_other_than_the_stage_s_is_refused_by_what_differs"),
        ("replay", "if left := run.left(chain.builds_on(config.stages, stage)):", "if left := []:",
         "test_replay_names_what_it_lacks[pretrain/model]", "SystemExit|AssertionError|IndexError"),
        ("replay", "or config.directory_of(stage) != sick.parent", "",
         "test_a_batch_of_no_stage_of_the_experiment_is_refused"),
        ("replay", "config or _origin", "_origin",
         "test_a_run_that_python_made_is_replayed_with_its_config", "UserError"),
        ("_in_place", "out=str(directory), ", "", "test_replay_finds_what_was_sick",
         "AssertionError"),
        ("show", "() if origin is None else origin.options", "()",
         "test_an_experiment_file_that_moved_is_told_and_given"),
    ]),
    *mutants("runs/origin.py", "test_replay.py", [
        ("Origin.applied", "self.options", "()",
         "test_a_stage_keeps_the_file_and_the_options_that_it_was_started_with"),
    ]),
    *mutants("runs/origin.py", "runs/test_origin.py", [
        ("experiment_of", "config.with_stages(**{name: stages[name]})", "config", AS_STARTED),
        ("experiment_of", "out=source, ", "", AS_STARTED),
        ("experiment_of", ", parallel=experiment.parallel", "", AS_STARTED),
        ("experiment_of", "and differences(run / name, config.fingerprint(name))", "",
         "test_a_stage_that_a_later_command_was_to_change_is_as_that_read_it"),
        ("experiment_of", "not epath.Path(path).is_dir()", "False",
         "test_records_that_have_moved_are_those_of_the_run"),
    ]),
    *mutants("runs/run.py", "test_use.py", [
        ("Run.__init__", "origin.write(self.directory)", "pass",
         "test_several_responses_to_each_prompt_of_a_file", "UserError"),
    ]),
    *mutants("experiments/finetune.py", "test_finetune.py", [
        ("RANKINGS", '"start": "sft"', '"start": "pretrained"', "test_all_of_the_page_runs"),
    ]),
    *mutants("runs/benchmarking.py", "test_eval.py", [
        ("eval_command", "is_experiment(word)", "word.endswith('.py')",
         "test_another_context_is_another_model", "ConfigError"),
    ]),
    *mutants("runs/lm_eval.py", "test_eval.py", [
        ("lm_eval_command", "is_experiment(source)", "source.endswith('.py')",
         "test_the_harness_takes_a_run_s_directory"),
    ]),
    *mutants("runs/run.py", "test_replay.py", [
        ("Run._begin", "self.origin.write(self.stage_directory(stage))", "pass",
         "test_a_stage_keeps_the_file_and_the_options_that_it_was_started_with"),
    ]),
)  # fmt: skip

DIFFERS, LACKS = "test_what_differs_is_named", "test_what_only_one_run_has_differs"
DOCTOR = mutants(
    "runs/doctor.py",
    "test_replay.py",
    [
        ("stages_in", " or _collected(d)", "",
         "test_doctor_tells_the_rankings_that_a_stage_ends_with"),
        ("_stage", "*entries(directory / HOST)", "",
         "test_doctor_reads_what_the_host_wrote_down"),
        ("_records", "found != expected", "False",
         "test_doctor_tells_rankings_that_are_damaged[another count]"),
        ("_records", "len(list(records.read(kind, split)))", "expected",
         "test_doctor_tells_rankings_that_are_damaged[a file of records]"),
    ],
) + mutants(
    "runs/doctor.py",
    "runs/test_same.py",
    [("show_sweep", "len(damaged) + sum", "sum", "test_a_sweep_is_told_run_by_run"),
     ("cells_in", 'if (entry / "data").is_dir()', "", "test_a_sweep_is_told_run_by_run",
      "AssertionError|UserError")],
) + mutants(
    "runs/same.py",
    "runs/test_same.py",
    [
        ("_metrics", "pair[0] != pair[1]", "False", DIFFERS),
        ("_metrics", "len(lines[0]) != len(lines[1])", "False", LACKS),
        ("_models", "a[name].tobytes() != b[name].tobytes()", "False", DIFFERS),
        ("_records", "pair[0] != pair[1]", "False", DIFFERS),
        ("_records", "counts[0] != counts[1]", "False", LACKS, "ValueError"),
        ("show_same", "1 if differ else 0", "0", DIFFERS),
    ],
)  # fmt: skip

READS = "test_generate_reads_the_last_finished_stage_or_the_one_named"
GENERATE = mutants(
    "runs/generate.py",
    "test_cli.py",
    [
        ("generate", "/{config.seed}", "/{run.config.seed}", READS),
        ("check_room", "before + one.text", "one.text",
         "test_generate_names_the_line_whose_prompt_is_too_long[behind examples]"),
    ],
)  # fmt: skip
READING = mutants(
    "runs/reading.py",
    "test_cli.py",
    [
        ("reading_run", "seed=seed_of(config)", "seed=config.seed", READS),
        ("finished_stage", "finished[-1]", "finished[0]", READS),
        ("finished_stage", "stage not in finished", "False", "test_generate_trains_nothing",
         "KeyError"),
        ("finished_stage", "if made.ends == ends", "", "test_generate_asks_a_policy_alone"),
    ],
)  # fmt: skip

TAKEN = (
    *mutants("durable/taken.py", "durable/test_taken.py", [
        ("located", 'digest(place, found["holds"]) == found["sha256"]', "True",
         "test_what_has_changed_is_refused_with_both_places[another size]"),
        ("located", 'os.path.normpath(directory / found["beside"])', 'found["directory"]',
         "test_two_runs_that_are_moved_together_still_find_each_other", "UserError"),
        ("digest", "if size <= SMALL", "if False",
         "test_what_has_changed_is_refused_with_both_places[the same size]"),
    ]),
    *mutants("runs/take.py", "runs/test_take.py", [
        ("offered", "differences(there, config.fingerprint(stage))", "[]",
         "test_what_is_equal_is_taken_and_what_differs_is_told"),
        ("offered", "lines := differences(run", "lines := [] and differences(run",
         "test_where_nothing_can_be_taken_is_refused_and_nothing_is_written"),
        ("offered", "(files := _files(config)) is not None", "False",
         "test_records_of_other_files_are_refused"),
        ("take", 'counts.pop("left_out", None)', "pass",
         "test_what_is_equal_is_taken_and_what_differs_is_told"),
        ("take", "there = taken.followed(offer.run / stage)", "there = offer.run / stage",
         "test_a_second_call_takes_nothing_twice_and_a_third_run_reads_the_first"),
        ("here", "begun = (CONFIG, taken.NAME)", "begun = (taken.NAME,)",
         "test_a_stage_that_has_begun_here_stays"),
    ]),
    *mutants("runs/run.py", "runs/test_take.py", [
        ("Run._same_config", "not taken.is_taken(own)", "True",
         "test_a_changed_config_of_a_taken_stage_is_refused_and_insisting_writes_nothing"),
    ]),
    *mutants("sources/corpora.py", "runs/test_take.py", [
        ("prepare", "(directory / taken.NAME).unlink(missing_ok=True)", "pass",
         "test_data_whose_counts_a_kill_left_out_are_made_here"),
    ]),
    *mutants("runs/evaluation.py", "runs/test_take.py", [
        ("Evaluation.measuring", "chain.stages_of(self.evaluators, evaluator) <= set(there)",
         "True",
         "test_only_evaluators_that_have_a_model_are_checked"),
    ]),
    *mutants("cli.py", "runs/test_take.py", [
        ("run_stages", "chain.named(config.stages, named)", "tuple(config.stages)",
         "test_run_of_some_stages_trains_them_takes_those_below_and_reports_what_has_finished"),
        ("run_stages", "if stage not in named", "",
         "test_cli.py::"
         "test_stages_that_a_command_names_are_trained_and_those_below_them_are_taken"),
    ]),
    *mutants("runs/report.py", "runs/test_take.py", [
        ("report", "chain.named(run.config.stages, stages)", "list(run.config.stages)",
         "test_run_of_some_stages_trains_them_takes_those_below_and_reports_what_has_finished"),
    ]),
)  # fmt: skip

STARTING = (
    *mutants("cli.py", "test_cli.py", [
        ("start", "start_with_large_pages()", "pass",
         "test_the_program_starts_with_large_pages"),
    ]),
    *mutants("parallel/host.py", "parallel/test_host.py", [
        ("SETTINGS", '"glibc.malloc.trim_threshold": str(2**40),', "",
         "test_the_variable_has_every_setting"),
        ("SETTINGS", '"glibc.malloc.hugetlb": "1"', '"glibc.malloc.hugetlb": "0"',
         "test_the_variable_has_every_setting"),
        ("large_pages", "any(name in given for name in SETTINGS)", "False",
         "test_where_the_user_has_set_one_nothing_is_set"),
        ("large_pages", "[given] * bool(given)", "[]",
         "test_other_settings_of_the_user_stay_before_ours"),
        ("start_with_large_pages", "sys.orig_argv[1:]", "sys.argv",
         "test_a_process_starts_anew_once_with_its_arguments", "CalledProcessError"),
        ("start_with_large_pages", "os.environ | missing", "os.environ",
         "test_a_process_starts_anew_once_with_its_arguments"),
        ("start_with_large_pages", "os.environ.get(STARTED) == process or", "",
         "test_a_process_whose_variable_was_lost_does_not_start_a_third_time"),
        ("start_with_large_pages", "sys.gettrace() or", "", "test_a_debugger_keeps_its_process"),
        ("start_with_large_pages", "or not sys.executable", "",
         "test_where_it_cannot_start_anew_it_goes_on"),
        ("large_pages", "or glibc() < OLDEST", "", "test_with_another_library_nothing_is_set"),
        ("large_pages", "any(name in environment for name in THEIRS)", "False",
         "test_where_the_user_has_set_one_by_its_other_name_nothing_is_set"),
        ("large_pages", '.strip(":")', "", "test_other_settings_of_the_user_stay_before_ours"),
        ("glibc", 'if name == "glibc" else ()', "", "test_with_another_library_nothing_is_set"),
    ]),
)  # fmt: skip

FIELD_TEXTS = mutants(
    "runs/field_texts.py",
    "test_options.py",
    [
        ("first_sentence", "[.:;]", "[.;]", TEXTS),
        ("described", '.split("\\n\\n")[0]', "",
         "test_help_gives_each_group_and_field_its_own_text"),
        ("_docstring", '"" if re.fullmatch(written, text, re.DOTALL) else text', "text", TEXTS),
        ("_docstring", "re.fullmatch(written", "re.match(written", TEXTS),
        ("field_texts", "entry = []", "pass", TEXTS),
        ("field_texts", "reversed(kind.__mro__[:-1])", "kind.__mro__[:1]",
         "test_help_of_a_stage_lists_its_own_options_and_the_shared_ones"),
        ("_comments", 'lines[above - 1].strip().startswith("#")', "False", TEXTS),
        ("_comments", "behind]]", "]]", TEXTS),
    ],
)  # fmt: skip

MUTANTS = TAKEN + FIELD_TEXTS + OPTIONS + CLI + REPLAY + DOCTOR + GENERATE + READING + STARTING
