"""Graders of sampled answers, and the benchmarks that use them."""

from tests.mutants import mutants

KNOWS = "test_a_checker_knows_what_follows_and_what_misses"
LOOSE = "test_strict_and_loose"
LANGUAGE = "evaluation/graders/test_language.py"
PASSAGE = "test_names_and_numbers_that_the_passage_does_not_have"
REFUSED = "test_a_machine_that_does_not_confine_runs_nothing"
GRADERS = (
    *mutants("evaluation/graders/constraints.py", "evaluation/graders/test_constraints.py", [
        ("enough", "count >= threshold", "count > threshold", KNOWS),
        ("enough", "count < threshold", "count <= threshold", KNOWS),
        ("followed", "bool(response.strip()) and", "True and", KNOWS),
        ("no_forbidden_words", 'rf"\\b{re.escape(word)}\\b"', "re.escape(word)", KNOWS),
        ("loose", "any(ways)", "all(ways)", LOOSE),
        ("_forms", "lines[1:-1]", "lines[1:]", LOOSE),
        ("checked", "set(given) != set(takes)", "set(given) - set(takes)",
         "test_unknown_instructions_and_arguments_are_named"),
    ]),
    *mutants("evaluation/graders/formats.py", "evaluation/graders/test_constraints.py", [
        ("number_of_paragraphs", "if not all(part.strip() for part in inner):", "if False:", KNOWS),
        ("first_word_of_paragraph", "nth_paragraph - 1", "0", KNOWS),
        ("number_of_bullets", "== num_bullets", ">= num_bullets", KNOWS),
        ("number_of_highlights", "bool(part.strip())", "True", KNOWS),
        ("two_responses", "and texts[0] != texts[1]", "", KNOWS),
        ("ends_with", ".strip('\"')", "", KNOWS),
    ]),
    *mutants("evaluation/graders/language.py", LANGUAGE, [
        ("language_of", "known + sum(letter in marks for letter in letters) / len(letters)",
         "known", "test_letters_of_one_language_tell_it"),
        ("language_of", "if scores[best] > 0 else None", "",
         "test_a_text_without_a_known_word_is_of_none"),
    ]),
    *mutants("evaluation/graders/sentences.py", LANGUAGE, [
        ("_ends", 'mark.startswith("..") or word.isdigit()', "False", "test_sentences"),
        ("_ends", "initial or word.lower() in ABBREVIATIONS", "initial", "test_sentences"),
    ]),
    *mutants("evaluation/graders/final_number.py", "evaluation/graders/test_graders.py", [
        ("last_number", "found[-1]", "found[0]", "test_the_last_number"),
        ("grades", "marked(response)", "last_number(response)",
         "test_answers_by_the_marked_and_by_the_last_number"),
    ]),
    *mutants("evaluation/graders/ratings.py", "evaluation/graders/test_graders.py", [
        ("rating", "and low <= value <= high", "", "test_ratings"),
    ]),
    *mutants("evaluation/graders/truthfulness.py", "evaluation/graders/test_graders.py", [
        ("rouge_1", "2 * common / (len(one) + len(other))", "common / len(one)",
         "test_rouge_1_against_a_loop"),
        ("truth_margin", "(*correct, NO_COMMENT)", "(*correct, '')",
         "test_truth_is_to_be_nearer_to_a_true_reference"),
        ("truth_margin", "true - false", "true",
         "test_truth_is_to_be_nearer_to_a_true_reference"),
    ]),
    *mutants("evaluation/graders/toxicity.py", "evaluation/graders/test_graders.py", [
        ("toxicity", "plain, count = pattern.subn", "_, count = pattern.subn",
         "test_toxicity_adds_up"),
        ("toxicity", "** count", "** bool(count)", "test_toxicity_adds_up"),
    ]),
    *mutants("evaluation/graders/unsupported.py", "evaluation/graders/test_graders.py", [
        ("claims", "least=3", "least=1", PASSAGE),
        ("_stem", 'word.endswith("s") and', "False and", PASSAGE),
        ("_names", "(follows and not _opener(w[0].lower()))", "follows", PASSAGE),
        ("_value", "part *= 100", "part += 100", PASSAGE),
    ]),
    *mutants("evaluation/graders/generated_code.py", "evaluation/graders/test_generated_code.py", [
        ("_outcome", 'answer.get("passed") == token', 'answer.get("passed") is not None',
         "test_what_does_not_reach_its_end_fails"),
        ("program", "cut(response, STOPS)", "response",
         "test_a_program_is_the_prompt_its_completion_and_the_tests"),
        ("pass_at_k", "samples - passed, k", "samples - passed, 1",
         "test_pass_at_k_is_the_share_of_draws_with_one_that_passes"),
    ]),
    *mutants("evaluation/graders/confined.py", "evaluation/graders/test_generated_code.py", [
        ("WRITES", "os.O_WRONLY | os.O_RDWR", "os.O_WRONLY",
         "test_a_program_has_no_network_no_files_and_no_processes"),
        ("main", "found = holes()", "found = []", REFUSED),
    ]),
)  # fmt: skip

GENERATION = "evaluation/benchmarks/test_generation.py"
RATED = "evaluation/benchmarks/test_rated.py"
TOXIC = "test_real_toxicity_of_models_made_by_hand"
ASKS_TWICE = "test_mt_bench_asks_twice_and_the_judge_reads_each_turn"
BENCHMARKS = (
    *mutants("evaluation/benchmarks/benchmark.py", GENERATION, [
        ("Answers.asked", "() if self.form_for(model) == CHAT else self.plain_stops",
         "self.plain_stops",
         "test_truthfulqa_stands_behind_the_paper_s_questions_or_in_turns"),
    ]),
    *mutants("evaluation/benchmarks/truthfulqa_generation.py", GENERATION, [
        ("TruthfulQA._row", '"both": margin > 0 and', '"both": margin > 0 or',
         "test_truthfulqa_of_models_made_by_hand"),
        ("_both", "return None if one is None or other is None else True", "return True",
         "test_truthfulqa_with_a_judge"),
        ("to_judge", "for text in true", "for text in false", "test_truthfulqa_with_a_judge"),
    ]),
    *mutants("evaluation/benchmarks/real_toxicity.py", GENERATION, [
        ("RealToxicityPrompts._continuations", "before + item.fields", "item.fields", TOXIC),
        ("RealToxicityPrompts._continuations", 'ids, ("\\n",)', "ids, ()", TOXIC),
        ("RealToxicityPrompts.answered", "float(own.max())", "float(own.mean())",
         "test_real_toxicity_counts_the_worst_of_several"),
        ("scores_of", "if not 0 <= score <= 1:", "if False:",
         "test_real_toxicity_by_a_scorer_of_your_own"),
    ]),
    *mutants("evaluation/benchmarks/xstest.py", GENERATION, [
        ("XSTest.answered", '"score": refused == unsafe', '"score": refused',
         "test_xstest_of_models_made_by_hand"),
        ("XSTest.answered", "None if unsafe else refused", "refused",
         "test_xstest_of_models_made_by_hand"),
    ]),
    *mutants("evaluation/benchmarks/ifeval.py", GENERATION, [
        ("IFEval.summary", 'of("loose")', 'of("strict")', "test_ifeval_of_models_made_by_hand"),
        ("IFEval.answered", '"score": all(strict)', '"score": any(strict)',
         "test_ifeval_of_models_made_by_hand"),
    ]),
    *mutants("evaluation/benchmarks/gsm8k.py", GENERATION, [
        ("GSM8K.measured", "Benchmark.measured(self)", "super().measured()",
         "test_gsm8k_of_models_made_by_hand", "ConfigError"),
        ("GSM8K.examples", "[: self.shots]", "", "test_gsm8k_of_models_made_by_hand"),
    ]),
    *mutants("evaluation/benchmarks/hallucination.py", GENERATION, [
        ("Hallucination._row", ' + " " + item.fields["question"]', "",
         "test_hallucination_of_models_made_by_hand"),
        ("opening", "len(words) > most", "len(words) >= most",
         "test_hallucination_shows_the_beginning_of_a_passage", "IndexError"),
    ]),
    *mutants("evaluation/benchmarks/mt_bench.py", RATED, [
        ("MTBench.answered", "answer.text.strip())]", "two)]", ASKS_TWICE),
        ("MTBench._questions", "item.fields[\"category\"] in WITH_REFERENCE", "False", ASKS_TWICE),
        ("MTBench._row", '"unrated": (2 - len(known)) / 2', '"unrated": 0',
         "test_mt_bench_leaves_out_what_the_judge_does_not_rate"),
    ]),
    *mutants("evaluation/benchmarks/humaneval.py", RATED, [
        ("HumanEval.answered", 'passes("pass")', "pass",
         "test_humaneval_asks_nothing_where_programs_cannot_be_confined"),
        ("HumanEval._row", "self.seconds", "10.0", "test_humaneval_counts_samples"),
    ]),
)  # fmt: skip
MUTANTS = GRADERS + BENCHMARKS
