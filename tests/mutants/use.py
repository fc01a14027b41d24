"""Mutants of what people do with finished models: generate, score, rlhf_jax.api."""

from tests.mutants import mutants

SEVERAL = "test_several_responses_to_each_prompt_of_a_file"
BEST = "test_the_best_of_several_has_the_highest_score_of_ppo"
SCORES = "test_scores_of_responses_rankings_and_comparisons"
NULL = "test_what_generate_wrote_is_scored_and_what_is_too_long_is_null"
USE = (
    *mutants("runs/generate.py", "test_use.py", [
        ("answered", "one.text for one in asked for _ in range(count)",
         "one.text for _ in range(count) for one in asked", SEVERAL),
        ("answered", "run.model(stage)", 'run.model("ppo")', SEVERAL),
        ("as_json", ", one.fields)", ")", SEVERAL),
        ("best", "of_responses(prompts,", "of_responses(prompts[::-1],", BEST),
        ("best", "argmax", "argmin", BEST),
        ("generate", "options.best_of or options.n", "options.n", BEST),
        ("as_json", 'short(answer.score)} if scorer', "0.0} if scorer", BEST),
    ]),
    *mutants("runs/scoring.py", "test_use.py", [
        ("StageScorer.of", "self.missing))", "None))", BEST),
        ("StageScorer.of", "self.missing))", "None))", SCORES),
        ("survey", "ended.count(False)", "0", SCORES),
        ("survey", "any(n in item.record", "any(n not in item.record", SCORES),
        ("score", "totals.setdefault(json.dumps(item.record[\"prompt\"])", "totals.setdefault(\"\"",
         SCORES),
        ("StageScorer", "self._params = run.model(stage)",
         'self._params = {**run.model("pretrain"), "score": run.model(stage)["score"]}', SCORES),
        ("item_of", 'fields = given("prompt", "responses", "ended") | none',
         'fields = given("prompt", "responses") | none', SCORES),
        ("item_of", '| given("ranks")', "", SCORES, "AssertionError|ValueError"),
        ("item_of", '"chosen" or "ranks" in record', '"chosen" or True', NULL),
        ("count_pairs", "ranks[:, None] < ranks", "ranks[:, None] > ranks", SCORES),
        ("count_pairs", "alike(scores), alike(lengths)", "alike(lengths), alike(scores)", SCORES),
        ("told", "total(correct), total(longer)", "total(longer), total(correct)", SCORES),
        ("scored", "if len(ids) <= context]", "]", NULL, "ValueError"),
        ("score", "and None not in scores", "", NULL, "TypeError"),
    ]),
    *mutants("runs/reading.py", "test_use.py", [
        ("ending_of", "EndingConfig(**fields)", "EndingConfig()",
         "test_api.py::test_a_model_is_the_one_that_the_stage_ended_with"),
        ("lines_to", 'path.with_name(path.name + ".partial")', "path",
         "test_a_file_is_replaced_when_all_its_lines_are_there", "AssertionError"),
    ]),
)  # fmt: skip

CUT = "test_a_sample_is_scored_as_it_was_cut"
DRAWN = "test_samples_have_the_log_probabilities_of_the_model"
ENDED = "test_a_text_counts_as_ended_at_another_temperature_too"
API = mutants("api.py", "test_api.py", [
    ("load_scorer", '"score")', '"policy")', "test_the_best_of_four_is_the_page_s",
     "UserError"),
    ("sample", "for prompt in prompts for _ in range(n)", "for _ in range(n) for prompt in prompts",
     DRAWN),
    ("sample", "SamplingConfig(temperature,", "SamplingConfig(1.0,", DRAWN),
    ("sample", "random_key(seed,", "random_key(0,",
     "test_a_sample_is_drawn_by_seed_and_arguments"),
    ("sample", "temperature, top_k, top_p", "temperature, 0, top_p",
     "test_a_sample_is_drawn_by_seed_and_arguments"),
    ("log_probs", "len(prompt) - 1", "len(prompt)", DRAWN),
    ("_log_probs", "tokens[:, 1:], temperature", "tokens[:, 1:]", ENDED),
    ("_rows", "tokenizer.encode(response), True), True", "tokenizer.encode(response), False), True",
     ENDED),
    ("_rows", "response.ids), response.ended", "response.ids), True", CUT),
    ("score", "ended, missing)", "ended, None)", CUT),
])  # fmt: skip

OPENING = (
    *mutants("runs/opening.py", "runs/test_opening.py", [
        ("lines", "config.model.compute_dtype", '"float32"',
         "test_devices_mesh_runner_processes_and_dtypes"),
        ("_stages", "own(stage) and stage not in left", "stage not in left",
         "test_what_runs_what_has_finished_and_what_is_read_elsewhere"),
        ("_stages", "if not left:", "if False:",
         "test_a_stage_that_has_finished_says_where_its_model_is"),
    ]),
    *mutants("runs/run.py", "runs/test_opening.py", [
        ("Run", "left = self.left(stages)", "left = stages",
         "test_what_runs_what_has_finished_and_what_is_read_elsewhere"),
        ("Run", "self._check_configs(stages)", "pass",
         "test_a_config_that_differs_is_refused_before_anything_is_told"),
        ("Run", "corpora.check_config(*data)", "pass",
         "test_a_config_that_differs_is_refused_before_anything_is_told"),
    ]),
)  # fmt: skip

KINDS = (
    *mutants("errors.py", "runs/test_stages_fit.py", [
        ("require_form", "if len(shown) <= 60 else", "if True else",
         "test_a_part_of_an_experiment_that_is_another_kind_of_thing_is_named"),
    ]),
    *mutants("runs/inputs.py", "runs/test_inputs.py", [
        ("StageInputs._stage_of", "if role not in needs:", "if False:",
         "test_a_role_that_a_stage_does_not_have_is_named", "KeyError"),
    ]),
)  # fmt: skip

KNOWN = mutants("runs/evaluation.py", "runs/test_evaluation.py", [
    ("Evaluation.answering", "if whole else None", "", "test_an_answer_ends_where_the_stage_says"),
])  # fmt: skip

MUTANTS = USE + API + OPENING + KINDS + KNOWN
