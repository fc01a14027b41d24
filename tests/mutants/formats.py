"""Readers of public data sets' formats, and what is done to their records."""

from tests.mutants import mutants


def row(name: str) -> str:
    return f"test_a_row_becomes_its_records[{name}]"


TESTS = "data/test_formats.py"
FORMATS = (
    *mutants("data/formats/alpaca.py", TESTS, [
        ("instruction", r'f"{text}\n\n{more}" if more.strip() else text', "text", row("Alpaca")),
        ("answer", "if not text.strip()", "if False", row("Self-Instruct")),
    ]),
    *mutants("data/formats/checked.py", TESTS, [
        ("read_choices", "{1: 0, 0: 1}", "{1: 1, 0: 0}", row("TruthfulQA choices")),
        ("read_llmbar", "{1: (0, 1), 2: (1, 0)}", "{1: (1, 0), 2: (0, 1)}", row("LLMBar")),
        ("read_hhh", '("chosen_instruction", "rejected_instruction")',
         '("rejected_instruction", "chosen_instruction")', row("HHH")),
    ]),
    *mutants("data/formats/compared.py", TESTS, [
        ("read_webgpt", "best_first(scores)", "(0, 1)", row("WebGPT comparisons")),
        ("read_shp", "{1: (0, 1), 0: (1, 0)}", "{1: (1, 0), 0: (0, 1)}", row("SHP")),
        ("read_safe_rlhf", 'f"{by}_response_id"', '"better_response_id"', row("PKU-SafeRLHF1")),
        ("read_helpsteer_preference", "[-preference, preference]", "[preference, -preference]",
         row("HelpSteer preferences")),
        ("read_pandalm", "agreed >= 2", "agreed >= 1", row("PandaLM")),
    ]),
    *mutants("data/formats/hh.py", TESTS, [
        ("read_hh", "rpartition", "partition", row("Anthropic HH"), "RecordError|AssertionError"),
        ("read_hh", "sides[0][0] != sides[1][0]", "False", row("Anthropic HH")),
        ("read_nectar", 'f" {field(place, each,', 'f"{field(place, each,',
         "test_anthropics_template_is_kept_as_it_is_written"),
    ]),
    *mutants("data/formats/item.py", TESTS, [
        ("best_first", "-score", "score", row("UltraFeedback2")),
        ("field", "not math.isfinite(found)", "False",
         "test_a_number_that_is_not_finite_is_refused"),
        ("as_written", ".strip()", "", row("Anthropic HH")),
    ]),
    *mutants("data/formats/messages.py", TESTS, [
        ("turns", 'message.get(text) == ""', "False", row("ShareGPT")),
        ("turns", "said in TOOLS or", "False and", row("messages2"), "RecordError"),
        ("dialogue", 'spoken[0] != "user"', "False", row("messages2")),
        ("answered", 'found[-1].role != "assistant"', "False", row("messages2")),
    ]),
    *mutants("data/formats/openassistant.py", TESTS, [
        ("_ranking", "0 < ranked < len(ranks)", "False", row("OpenAssistant trees0"),
         "AssertionError|RecordError"),
        ("_below", 'role == "prompter" and replies', "replies", row("OpenAssistant trees0")),
        ("_below", "not _refused(reply)", "True", row("OpenAssistant trees1"), "UserError"),
        ("_refused", 'given.get("review_result") is False', "False", row("OpenAssistant trees1"),
         "UserError"),
        ("trees", '("rank", "deleted", "review_result")', '("rank",)',
         row("OpenAssistant messages1"), "AssertionError|RecordError"),
        ("trees", 'known[parent]["replies"]', 'roots[-1][1]["prompt"]["replies"]',
         row("OpenAssistant messages0"), "UserError"),
    ]),
    *mutants("data/formats/scored.py", TESTS, [
        ("_score", "isdecimal", "isdigit", row("UltraFeedback1"), "ValueError"),
        ("_score", "/ len(ratings)", "/ 2.5", row("UltraFeedback0")),
        ("read_helpsteer", "row, by", 'row, "helpfulness"', row("HelpSteer1")),
    ]),
    *mutants("data/formats/summaries.py", TESTS, [
        ("read_comparison", "{0: (0, 1), 1: (1, 0)}", "{0: (1, 0), 1: (0, 1)}",
         row("summarize-from-feedback comparisons")),
        ("read_ratings", "int(number)", "0",
         "test_squality_takes_story_and_question_from_the_file_beside_it"),
    ]),
    *mutants("data/formats/trl.py", TESTS, [
        ("read_unpaired", 'float(field(where, row, "label", bool))', "1.0",
         row("TRL unpaired preferences")),
        ("read_implicit", 'max(common.rfind(" "), common.rfind("\\n"))', "len(common)",
         row("TRL preferences with implicit prompts")),
        ("read_prompt", 'if name != "prompt"', "if False", row("prompts0")),
        ("_answers", "prompt[len(text) :] + value", "value", row("TRL preferences3")),
        ("read_messages", "all_turns=True", "all_turns=False", row("messages1")),
    ]),
    *mutants("data/formats/to_records.py", TESTS, [
        ("_demonstrations", "len(responses) > 1", "False",
         "test_the_kinds_that_are_asked_for_are_made", "AssertionError"),
        ("_rankings", "of.item.ranks is None", "False", row("UltraFeedback1"), "RecordError"),
        ("rendered", 'response.removeprefix(" ")', "response", row("Anthropic HH")),
        ("_without_oldest", "(*system, *dialogue", "(*(), *dialogue",
         "test_older_turns_are_cut_as_wholes_and_counted"),
        ("shortened", "> characters", ">= characters",
         "test_older_turns_are_cut_as_wholes_and_counted", "AttributeError"),
    ]),
)  # fmt: skip

FILES = (
    *mutants("data/formats/files.py", "data/test_files.py", [
        ("_json", 'if _is_object(content.lstrip().partition(b"\\n")[0])', "if False",
         "test_lines_under_the_name_json_are_read", "RecordError"),
    ]),
    *mutants("data/records.py", "data/test_files.py", [
        ("_open_zst", "not frame.eof", "False", "test_zstandard"),
        ("_open_zst", "left = frame.unused_data", 'left = b""', "test_zstandard"),
    ]),
)  # fmt: skip

ONE_SIDE = "test_a_user_is_on_one_side_if_other_rows_have_none"
FIELDS = "test_further_fields_of_prompts_are_searched_too"
NAMED = "test_a_files_name_says_whether_it_is_a_test_set"
LICENCE = "test_a_licence_is_known_by_name_or_content_only"
HYGIENE = (
    *mutants("data/hygiene.py", "data/test_hygiene.py", [
        ("dialogues", "not leaders or not key.startswith(leaders[-1])", "True",
         "test_no_prompt_is_on_both_sides", "AssertionError|ExceptionGroup"),
        ("hold_out", "> fraction * len(groups)", "> 2 * fraction * len(groups)",
         "test_split_holds_out_about_the_fraction"),
        ("luhn", "(1 + place % 2)", "(2 - place % 2)", "test_luhn[4539578763621486]"),
        ("luhn", "9 * (value > 9)", "0", "test_luhn[4539578763621486]"),
        ("at_most", "prompt(item) in prompts or", "", "test_a_user_has_at_most_so_many_prompts"),
    ]),
    *mutants("data/collect.py", "data/test_collect.py", [
        ("_prompt", 'if message.role != "system"', "if True",
         "test_a_systems_turn_is_no_beginning_of_a_prompt"),
        ("split", "entry.user is None", "True", "test_users_or_prompts_are_held_out_as_wholes"),
        ("split", "entry.user is None", "None in [e.user for e in entries]", ONE_SIDE),
        ("_said", "yield from _strings(record.fields)", "pass", FIELDS),
        ("_without_user", "field != name", "True", FIELDS),
        ("_write", "if there:", "if False:", "test_records_that_are_there_stay"),
    ]),
    *mutants("data/convert.py", "data/test_collect.py", [
        ("read_file", "digest in PUBLIC_TESTS or", "",
         "test_a_test_set_is_known_under_another_name"),
        ("is_test_name", "if TEST_FOLDER.fullmatch(folder) or", "if",
         f"{NAMED}[test/0000.jsonl-True]"),
        ("is_test_name", "or OTHER_NAME.fullmatch(folder)", "",
         f"{NAMED}[test/data/train/0.jsonl-False]"),
    ]),
    *mutants("data/convert.py", "data/test_formats.py", [
        ("_licence", "or form.is_called(name)", "or True", f"{LICENCE}[mine.jsonl-False]"),
        ("_records", 'tally.left_out["an empty text"] += 1', "pass", row("text0")),
        ("read_file", "form.test or", "", "test_every_file_of_the_human_data_is_read"),
    ]),
    *mutants("data/about.py", "data/test_collect.py", [
        ("origin", "tests and not allow_test", "False",
         "test_a_test_set_is_trained_on_only_if_that_is_allowed"),
        ("origin", 'each["split"] == "train"', "True",
         "test_a_test_set_is_trained_on_only_if_that_is_allowed", "ConfigError"),
    ]),
    *mutants("sources/folder.py", "data/test_collect.py", [
        ("FolderData.records", "allow_test=self.allow_test", "allow_test=True",
         "test_a_test_set_is_trained_on_only_if_that_is_allowed"),
    ]),
    *mutants("evaluation/table.py", "evaluation/test_report.py", [
        ("print_report", 'sentences(report["records"])', "()",
         "test_public_test_sets_and_licences_are_told"),
    ]),
    *mutants("evaluation/page.py", "evaluation/test_report.py", [
        ("page", " if asked else", " if True else", "test_a_report_without_evaluators_is_a_page",
         "TypeError"),
        ("_origin", "escape(line)", "line", "test_public_test_sets_and_licences_are_told"),
    ]),
)  # fmt: skip

LOSS = "test_the_loss_is_half_the_mean_squared_error_of_the_scores_of_whole_responses"
REGRESSION = (
    *mutants("stages/reward_regression.py", "stages/test_reward_regression.py", [
        ("score_loss", 'regression_loss(scores, batch["scores"]), there', 'regression_loss('
         'scores, batch["scores"])', LOSS),
        ("RewardRegression.finish", 'self.normalise == "none"', "True",
         "test_it_learns_the_scores_and_keeps_their_scale"),
        ("RewardRegression.check", "facts.warms_up(len(found)", "facts.warms_up(2 * len(found)",
         "test_what_it_reads_and_ends_with", "Failed|AssertionError"),
    ]),
    *mutants("data/arrays.py", "stages/test_reward_regression.py", [
        ("scored_rows", "scored[row[0]].score", "scored[0].score", LOSS),
    ]),
)  # fmt: skip

MUTANTS = FORMATS + FILES + HYGIENE + REGRESSION
