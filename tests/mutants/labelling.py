"""Mutants of the labelling page's server: who gets what, what is stored, what is refused."""

from tests.mutants import mutants

GOES = "test_each_item_goes_to_as_many_labelers_as_are_wanted_and_to_nobody_twice"
TABS = "test_two_tabs_get_the_same_item_and_the_second_answer_changes_nothing"
LATE = "test_an_item_whose_time_is_over_goes_to_another_and_a_late_answer_is_kept"
UNDO = "test_undo_opens_the_last_item_again_and_refuses_its_old_form"
GOLD = "test_gold_items_come_to_everybody_now_and_then"
TIME = "test_the_time_of_an_answer_is_bounded_by_the_clock"
MANY = "test_two_processes_and_many_threads_never_double_an_item"
DELETED = "test_a_labeler_s_data_are_deleted_without_a_trace"
DURABLE = "test_the_file_is_durable_and_private"
STORE = (
    *mutants("labelling/store.py", "labelling/test_store.py", [
        ("wanted", "max(each, 2) if extra", "each if extra",
         "test_a_share_of_the_items_has_two_labelers"),
        ("Store.answer", 'if row["state"] in ("answered", "skipped"):', "if False:", TABS),
        ("Store.answer", '(row["state"], row["content"]) != (state, text)',
         'row["content"] != text', TABS),
        ("Store.answer", "min(passed, seconds)", "seconds", TIME),
        ("Store.next", "(now,)", "(now - 9 * LEASE,)", LATE),
        ("Store.next", "keep, (now + LEASE,", 'keep, (row["until"],',
         "test_a_page_that_is_opened_again_keeps_its_item_longer"),
        ("Store.undo", "secrets.token_urlsafe(16)", 'row["id"]', UNDO),
        ("Store.undo", "ORDER BY at DESC", "ORDER BY at", UNDO),
        ("Store.add", 'self._insert(connection, item, number if item.gold is None else EVERYBODY)',
         "self._insert(connection, item, number)",
         "labelling/test_export.py::test_gold_items_are_not_trained_on"),
        ("Store.worked", "> gap", "> 9 * gap", "test_work_without_a_break_is_counted"),
        ("_open_row", "OR state = 'late' AND taken < wanted", "OR state = 'late'", LATE),
        ("_open_row", "ORDER BY given DESC", "ORDER BY given", UNDO),
        ("_row", "AND person = ?", "AND ? != ''", "test_nobody_answers_what_another_labeler_has"),
        ("_waiting_item", "ORDER BY taken DESC, id", "ORDER BY id DESC", GOES),
        ("_gold_item", "// GOLD_EVERY", "// 5", GOLD),
    ]),
    *mutants("labelling/database.py", "labelling/test_store.py", [
        ("COUNTED", "IN ('open', 'answered')", "IN ('answered')", MANY),
        ("SCHEMA", "UNIQUE (item, person)", "UNIQUE (id, item, person)",
         "test_the_file_itself_refuses_a_second_assignment_of_an_item"),
        ("Database._open", "synchronous = FULL", "synchronous = NORMAL", DURABLE),
        ("Database._open", "0o600", "0o644", DURABLE),
        ("Database._open", "secure_delete = ON", "secure_delete = OFF", DURABLE),
        ("Database._refuse_other", "if number or tables:", "if number:",
         "test_files_that_are_not_ours_are_refused_and_stay", "OperationalError|AssertionError"),
        ("Database.__init__", "refuse_network(Path(folder))", "",
         "test_a_database_asks_where_it_is"),
        ("file_system", "len(place) >= len(best)", "len(place) <= len(best) or not best",
         "test_a_network_file_system_is_refused"),
        ("Database.forget", 'self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")', "",
         DELETED),
    ]),
)  # fmt: skip

FORGED = "test_a_form_that_no_page_sends_is_refused"
OTHERS = "test_requests_of_other_pages_are_refused"
TOKENS = "test_only_a_token_opens_the_page_and_it_is_stored_hashed"
PLACES = "test_an_answer_is_stored_by_output_though_it_is_given_by_place"
NASTY = "test_a_model_s_text_is_shown_as_text"
SHOWN = "test_undo_shows_the_answer_again"
OWNER = "test_the_owner_sees_agreement_and_exports_and_labels_nothing"
PAGES = (
    *mutants("labelling/app.py", "labelling/test_app.py", [
        ("Site.__init__", "autoescape=True", "autoescape=False", NASTY),
        ("Site.__init__", "session-{folder}", "session",
         "test_pages_on_two_ports_of_a_host_keep_their_sessions"),
        ("Site._visit", "if owner and not person.owner:", "if False:", OWNER),
        ("Site._visit", "and forged():", "and False:", FORGED),
        ("Site._asked", "if not visit.person.consented:", "if False:",
         "test_consent_comes_first"),
        ("Site.next_item", "if not visit.person.consented:", "if False:",
         "test_consent_comes_first", "KeyError|AssertionError"),
        ("Site.enter", 'samesite="strict"', 'samesite="lax"',
         "test_every_response_has_the_headers_that_protect_it"),
        ("Site.leave", "self.people.leave(visit.session)", "",
         "test_leaving_ends_the_session", "KeyError|AssertionError"),
    ]),
    *mutants("labelling/forms.py", "labelling/test_app.py", [
        ("_ranking", "ranks[number] = whole", "ranks[i] = whole", PLACES),
        ("_ranking", "flags[number] = [", "flags[i] = [", PLACES),
        ("answer_of", '.replace("\\r\\n", "\\n")', "",
         "test_demonstrations_and_prompts_are_written"),
        ("DIGITS", "[0-9]{1,10}", "\\\\d{1,10}",
         "test_a_wrong_form_is_shown_again_with_what_was_typed"),
        ("one", "if len(values) != 1:", "if not values:", FORGED),
        ("parse", 'errors="strict"', 'errors="replace"', "test_a_body_is_bounded_and_a_form_too"),
    ]),
    *mutants("labelling/shown.py", "labelling/test_app.py", [
        ("visible", ".translate(PICTURES)", "", NASTY),
        ("_former", "by_place(counted(ranks))", "counted(ranks)", SHOWN),
        ("_former", 'by_place(content.get("scores", none))', 'content.get("scores", none)', SHOWN),
    ]),
    *mutants("labelling/guard.py", "labelling/test_app.py", [
        ("Guard._why_refused", 'if _only(headers, b"host") not in self._hosts:', "if False:",
         OTHERS),
        ("Guard._why_refused", 'if _only(headers, b"origin") not in self._origins:', "if False:",
         OTHERS),
        ("_only", "if len(values) == 1", "if values", OTHERS),
        ("_with_headers", "*more", "",
         "test_every_response_has_the_headers_that_protect_it", "KeyError"),
    ]),
    *mutants("labelling/people.py", "labelling/test_app.py", [
        ("digest", "hashlib.sha256(secret.encode()).digest()", "secret.encode()", TOKENS),
        ("People.register", 'connection.execute("DELETE FROM sessions WHERE person = ?", (name,))',
         "", "test_a_new_token_ends_the_old_one_and_its_sessions", "KeyError"),
        ("People.enter", '"(SELECT 1 FROM people WHERE token IS NOT NULL)"',
         '"(SELECT 1 FROM people WHERE token IS NULL AND name = 0)"',
         "test_this_machine_s_page_needs_no_token_until_there_are_labelers"),
    ]),
)  # fmt: skip

READ = "test_training_reads_the_export_as_it_is"
BY_LABELER = "test_the_owner_reads_agreement_by_labeler"
EXPORT = (
    *mutants("labelling/export.py", "labelling/test_export.py", [
        ("_rankings", "places = [ranks[i] for i in kept]", "places = ranks[: len(kept)]", READ),
        ("_rankings", "ended, labeler)", "None, labeler)", READ),
        ("_scored", 'if "\\0" not in output.text', "", READ, "RecordError"),
        ("files", "a.item.prompt not in prompts", "a.labeler not in held_out",
         "test_each_fold_holds_other_labelers_and_their_prompts_out"),
        ("write_folds", "if group == number", "if group != number",
         "test_each_fold_holds_other_labelers_and_their_prompts_out", "ValueError|AssertionError"),
        ("write", "(folder / name).unlink(missing_ok=True)", "pass",
         "test_an_export_leaves_no_file_of_an_earlier_one"),
        ("_merged", "for a in some]", "for a in some[-1:]]",
         "test_one_ranking_of_an_item_is_that_of_most_labelers"),
    ]),
    *mutants("labelling/answers.py", "labelling/test_export.py", [
        ("rankings", "(a.item.gold is not None) == gold", "True",
         "test_gold_items_are_not_trained_on"),
    ]),
    *mutants("labelling/merging.py", "labelling/test_export.py", [
        ("majority", "np.sign(wins - wins.T)", "(wins - wins.T)",
         "test_majorities_and_strengths_can_differ"),
        ("_wins", "/ 2", "// 2", "test_strengths_are_those_of_maximum_likelihood"),
    ]),
    *mutants("labelling/owner.py", "labelling/test_export.py", [
        ("gold_pairs", "(gold[i] < gold[j]) == (ranks[i] < ranks[j])", "(ranks[i] < ranks[j])",
         "test_gold_items_are_not_trained_on"),
        ("origins", "(1 + np.sign(ranks[j] - ranks[i])) / 2", "float(ranks[i] < ranks[j])",
         "test_models_are_compared_over_pairs_of_their_outputs"),
        ("_items", "and a.item.gold is None", "", "test_gold_items_are_not_trained_on"),
        ("_items", " AND a.state = 'answered'", "",
         "test_an_item_is_complete_when_all_have_answered"),
        ("_labelers", "raw.get(name, nobody)", "nobody", BY_LABELER),
    ]),
    *mutants("labelling/responses.py", "labelling/test_command.py", [
        ("_of_line", "Output(text, end, (name,))", "Output(text, end, ())",
         "test_outputs_of_several_models_to_one_prompt_are_one_item"),
    ]),
    *mutants("labelling/item.py", "labelling/test_command.py", [
        ("with_equal_joined", "other.origins + output.origins", "other.origins",
         "test_outputs_of_several_models_to_one_prompt_are_one_item"),
    ]),
    *mutants("labelling/serve.py", "labelling/test_command.py", [
        ("is_loopback", "ipaddress.ip_address(host).is_loopback", "True",
         "test_addresses_of_this_machine"),
    ]),
)  # fmt: skip

RECORDS = (
    *mutants("data/records.py", "data/test_records.py", [
        ("to_json", 'fields["labeler"] = record.labeler', "pass",
         "test_what_is_written_is_read"),
        ("from_json", "labeler=labeler", "labeler=None", "test_comparison_lines_are_rankings"),
    ]),
    *mutants("data/builder.py", "data/test_builder.py", [
        ("_labeler", 'fields.get("labeler", b"").decode("utf-8") or None', "None",
         "test_each_kind_comes_back_in_order"),
    ]),
)  # fmt: skip
ASKED = "test_the_outputs_to_label_are_those_of_the_stages"
DRAWN = "test_prompts_to_label_are_drawn_from_the_experiment"
SAMPLING = mutants("labelling/sampling.py", "test_use.py", [
    ("add_items", "label/{stage}/{config.seed}", "label/{stage}/{run.config.seed}", ASKED),
    ("add_items", "if store.has_batch(source):", "if False:", ASKED, "TypeError"),
    ("_outputs", "(stage,))", "())", ASKED),
    ("_of_split", 'shuffle_seed(seed, "label/prompts")', "0", DRAWN),
])  # fmt: skip
MUTANTS = SAMPLING + STORE + PAGES + EXPORT + RECORDS
