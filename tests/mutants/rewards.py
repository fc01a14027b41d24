"""Terms of a reward, the processes of a function, prompts with further fields, the host's rows."""

from tests.mutants import mutants

LOOP = "test_a_term_is_the_loop_s"
CORNERS = "test_over_long_at_its_corners"
TERMS = (
    *mutants("rewards/learned.py", "rewards/test_terms.py", [
        ("LearnedReward.of", "judged.scores[self.stage]", "-judged.scores[self.stage]",
         f"{LOOP}[learned]"),
    ]),
    *mutants("rewards/ensemble.py", "rewards/test_terms.py", [
        ("EnsembleReward.of", "scores.min(axis=0)", "scores.max(axis=0)", f"{LOOP}[worst]"),
        ("EnsembleReward.of", "- self.coefficient", "+ self.coefficient", f"{LOOP}[uncertainty]"),
        ("EnsembleReward.of", "scores.var(axis=0)", "scores.std(axis=0)", f"{LOOP}[uncertainty]"),
        ("EnsembleReward.of", "scores.var(axis=0)", "scores.var(axis=0, ddof=1)",
         f"{LOOP}[uncertainty]"),
        ("EnsembleReward.of", "for stage in self.stages", "for stage in self.stages[1:]",
         f"{LOOP}[of two]"),
        ("EnsembleReward.__post_init__", "and not alike", "",
         "test_what_contradicts_itself_is_refused[<lambda>-stages1]"),
    ]),
    *mutants("rewards/penalties.py", "rewards/test_terms.py", [
        ("MissingEnd.of", "~judged.ended", "judged.ended", f"{LOOP}[missing end]"),
        ("OverLong.of", "self.longest - self.soft", "self.longest", f"{LOOP}[over-long]"),
        ("OverLong.of", "over / self.soft", "over / self.longest", CORNERS),
        ("OverLong.of", "jnp.clip(over / self.soft, 0, 1)", "jnp.minimum(over / self.soft, 1)",
         CORNERS),
        ("OverLong.of", "jnp.clip(over / self.soft, 0, 1)", "jnp.maximum(over / self.soft, 0)",
         CORNERS),
    ]),
    *mutants("rewards/graded.py", "rewards/test_terms.py", [
        ("GradedReward.function", 'record["prompt"], response', 'response, record["prompt"]',
         "test_a_grade_is_of_each_response_to_its_own_prompt"),
    ]),
    *mutants("rewards/reward.py", "rewards/test_terms.py", [
        ("total", "reward.weight * term", "term",
         "test_the_reward_is_the_weighted_sum"),
        ("total", "start=first", "start=0.0", "test_the_reward_is_the_weighted_sum"),
    ]),
)  # fmt: skip

FAILS = "test_a_call_that_fails_scores_as_said_and_the_others_go_on"
STOPS = "test_by_default_a_call_that_fails_ends_the_run_and_no_process_is_left"
SOURCE = "test_the_source_of_the_function_is_part_of_the_config"
ORDER = "test_each_row_has_its_own_number_in_order"
SHARED = "test_two_processes_share_the_rows_and_stay"
CHECKED = (
    *mutants("rewards/checked.py", "rewards/test_checked.py", [
        ("CheckedReward.identity", "file and hashlib", "None and hashlib", SOURCE),
        ("CheckedReward.identity", "file_of(self.checker, tuple(sys.path))",
         "file_of(self.checker, tuple(sys.path)).replace('judges', 'other')", SOURCE),
        ("CheckedReward.of", "jnp.where(jnp.isnan(found), self.on_error, found)", "found",
         f"{FAILS}[nan]"),
        ("CheckedReward.function", "if self.on_error is None:", "if False:", STOPS, "TypeError"),
        ("CheckedReward.function", "host.at_end(workers.close)", "pass", STOPS, "TypeError"),
        ("CheckedReward.function", "len(lines)} of", "len(rows)} of", f"{FAILS}[nan]"),
        ("CheckedReward", "10.0, metadata=NOT_FINGERPRINTED", "10.0", SOURCE),
        ("CheckedReward", "4, metadata=NOT_FINGERPRINTED", "4", SOURCE),
        ("CheckedReward.check", "file_of(self.checker, tuple(sys.path))", "pass",
         "test_a_function_that_is_not_there_is_told_before_any_step[nowhere:f-raised "
         "ModuleNotFoundError: No module named 'nowhere']"),
    ]),
    *mutants("rewards/workers.py", "rewards/test_checked.py", [
        ("Workers.call", "[found[number] for number in range(len(rows))]", "[*found.values()]",
         ORDER),
        ("Workers.call", "rows[waiting[0]]", "rows[0]", ORDER),
        ("Workers.call", "min(self._count,", "min(1,", SHARED),
        ("Workers._until", "self.close()", "pass", "test_an_interrupt_leaves_no_process"),
        ("Worker.__init__", '"JAX_PLATFORMS": "cpu"', '"JAX_PLATFORMS": "cuda"',
         "test_a_worker_knows_no_devices_and_nothing_of_this_package"),
        ("Worker.__init__", '"CUDA_VISIBLE_DEVICES": ""', '"CUDA_VISIBLE_DEVICES": "0"',
         "test_a_worker_knows_no_devices_and_nothing_of_this_package"),
        ("Worker.kill", "os.killpg(self._process.pid, signal.SIGKILL)", "self._process.kill()",
         "test_an_interrupt_leaves_no_process"),
    ]),
    *mutants("rewards/worker.py", "rewards/test_checked.py", [
        ("call", "math.isfinite(number)", "number == number or True", f"{FAILS}[nan]"),
        ("call", "(Exception, SystemExit)", "Exception", f"{FAILS}[exit]"),
        ("number_of", "isinstance(found, str | bytes)", "False", f"{FAILS}[text]"),
        ("load", "sys.modules.get(getattr(function, \"__module__\", None), sys.modules[module])",
         "sys.modules[module]", SOURCE),
        ("main", "os.dup2(2, 1)", "pass", f"{FAILS}[nan]", "json|ValueError|JSONDecodeError"),
        ("main", "ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)", "pass",
         "test_a_worker_ends_with_what_started_it_even_inside_a_call"),
    ]),
    *mutants("durable/fingerprint.py", "rewards/test_checked.py", [
        ("fingerprint_of", "| known | values", "| values", SOURCE),
    ]),
    *mutants("runs/experiment.py", "rewards/test_checked.py", [
        ("load_experiment", "[folder, *(place for place in sys.path if place != folder)]",
         "[*(place for place in sys.path if place != folder)]",
         "test_what_lies_beside_an_experiment_is_found", "UserError"),
        ("load_experiment", "str(file.absolute().parent)", "str(file.parent)",
         "test_what_lies_beside_an_experiment_is_found"),
    ]),
)  # fmt: skip

NUMBER = "test_the_number_behind_the_mark_counts"
GSM8K = (
    *mutants("rewards/gsm8k.py", "rewards/test_gsm8k.py", [
        ("number", '.replace(",", "")', "", f"{NUMBER}[#### 1,000-#### 1000-1]", "ValueError"),
        ("number", '.replace("$", "")', "", f"{NUMBER}[#### 1000-#### $1,000.00 in all-1]"),
        ("correct", 'marked(answer) if "####" in answer else number(answer)', "marked(answer)",
         f"{NUMBER}[42-six times seven\\n#### 42-1]", "ValueError"),
    ]),
    *mutants("data/formats/checked.py", "rewards/test_gsm8k.py", [
        ("read_gsm8k", '{"answer": answer}', '{"answer": row["question"]}',
         "test_its_problems_are_prompts_with_answers_and_demonstrations"),
        ("read_gsm8k", "(answer,)", '(answer + ".",)',
         "test_its_problems_are_prompts_with_answers_and_demonstrations"),
    ]),
)  # fmt: skip

KEPT = "test_a_prompt_keeps_its_further_fields"
FIELDS = (
    *mutants("data/records.py", "data/test_records.py", [
        ("to_json", "| record.fields", "", KEPT),
        ("from_json", '{k: v for k, v in fields.items() if k != "prompt"}', "{}", KEPT),
        ("Prompt.__post_init__", "json.loads(json.dumps(dict(self.fields)))", "dict(self.fields)",
         KEPT),
        ("Prompt", ", hash=False", "", KEPT, "TypeError"),
    ]),
    *mutants("data/messages.py", "data/test_records.py", [
        ("check_json", "allow_nan=False, ", "",
         "test_a_malformed_line_is_named_in_one_line[Prompt-{\"prompt\": \"a\", "
         "\"answer\": NaN}-field 'answer': expected a JSON value of fini]"),
    ]),
    *mutants("data/builder.py", "data/test_builder.py", [
        ("RecordSource.__getitem__", 'json.loads(texts.get("fields", "{}"))', "{}",
         "test_each_kind_comes_back_in_order[Prompt]"),
        ("RecordSource.__getitem__", 'texts.get("fields", "{}")', 'texts["fields"]',
         "test_prompts_of_a_data_set_without_the_field_have_none", "KeyError"),
    ]),
    *mutants("data/counting.py", "data/test_folder.py", [
        ("_identity", "isinstance(record, Prompt)", "False",
         "test_what_records_say_twice_or_not_at_all_is_counted"),
    ]),
)  # fmt: skip

ROWS = "test_rows_of_the_host_are_made_once_and_read_by_a_step_that_is_done_again"
OWN = "test_each_process_asks_for_its_own_rows_and_has_all"
BOTH = (
    "parallel/test_processes.py::"
    "test_two_processes_ask_the_host_of_their_own_rows_and_have_those_of_both"
)
HOST = (
    *mutants("runs/inputs.py", "runs/test_inputs.py", [
        ("StageInputs.rows_on_host", "result.is_there()", "False", ROWS),
        ("StageInputs.rows_on_host", "column[own]", "column", OWN, "UserError"),
        ("StageInputs.rows_on_host", "if len(part) != expected:", "if False:",
         "test_rows_without_a_result_each_are_refused"),
        ("StageInputs.close", "self._at_end.close()", "pass",
         "test_what_a_stage_opens_is_closed_when_it_ends_however_it_ends[None]"),
    ]),
    *mutants("runs/run.py", "runs/test_inputs.py", [
        ("Run._run", "contextlib.closing(inputs)", "contextlib.nullcontext()",
         "test_what_a_stage_opens_is_closed_when_it_ends_however_it_ends[ends1]"),
    ]),
    *mutants("parallel/processes.py", BOTH, [
        ("gathered", "row[:length]", "row", BOTH),
        ("gathered", "if jax.process_count() == 1:", "if True:", BOTH),
    ]),
)  # fmt: skip

MUTANTS = (*TERMS, *CHECKED, *GSM8K, *FIELDS, *HOST)
