"""The sampler and the decode loop."""

from tests.mutants import mutants

SAMPLING = mutants(
    "generation/sampling.py",
    "generation/test_sampling.py",
    [
        ("sample", "logits / (config.temperature or 1.0)", "logits",
         "test_log_probability_is_tempered_and_unfiltered"),
        ("sample", "jnp.log(weights.sum(-1))",
         "jnp.log(keep_top(weights, config.top_k, config.top_p).sum(-1))",
         "test_log_probability_is_tempered_and_unfiltered"),
        ("keep_top", "top_p * weights.sum(-1)", "top_p",
         "test_keep_top_equals_a_sort"),
        ("keep_top", "kept.sum(-1) >= top_k", "kept.sum(-1) > top_k",
         "test_keep_top_equals_a_sort"),
        ("inverse_cdf", "target - before", "target",
         "test_the_largest_uniform_draws_a_token_of_weight"),
        ("greedy", ".min(axis=-1)", ".max(axis=-1)", "test_greedy_takes_the_first_largest"),
    ],
)  # fmt: skip

ENDING = mutants(
    "generation/ending.py",
    "generation/test_ending.py",
    [
        ("Ending.read_ids", "if i != self.eos or self.stop is None", "",
         "test_api.py::"
         "test_what_a_reward_model_reads_has_no_eos_where_another_token_is_the_end"),
        ("Ending.stops", "column >= self.stop_after", "column > self.stop_after",
         "generation/test_decode.py::"
         "test_a_response_ends_at_the_first_stop_token_at_or_after_the_column"),
        ("Ending.end", "self.eos if self.stop is None else self.stop", "self.eos",
         "test_a_response_and_the_text_of_it_give_a_reward_model_the_same_ids"),
        ("Ending.read", "jnp.where(tokens == self.eos, 0, mask)", "mask",
         "test_a_response_and_the_text_of_it_give_a_reward_model_the_same_ids"),
        ("Ending.close", "if ended and not there", "if ended",
         "test_whole_text_that_already_ends_with_the_stop_token_gets_no_second_one"),
        ("Ending.close", "if ended and not there", "if not there",
         "test_a_response_and_the_text_of_it_give_a_reward_model_the_same_ids"),
        ("Ending.of", "ids[0], config.stop_after, missing", "ids[0], 0, missing",
         "test_a_stop_token_is_one_token"),
        ("Ending.of", "ids[0], config.stop_after, missing", "ids[0], config.stop_after",
         "test_a_stop_token_is_one_token"),
        ("Ending.of", "pad, missing=missing", "pad", "test_a_stop_token_is_one_token"),
        ("Ending.planned", "None if config.stop_token is None else 3", "None",
         "test_without_a_tokenizer_an_ending_has_a_stop_where_the_config_has_one"),
        ("Ending.check", "self.stop is None or", "",
         "test_a_response_must_be_longer_than_the_column_from_which_it_may_stop", "ConfigError"),
        ("Ending.check", "response_length - 1, ", "response_length, ",
         "test_a_response_must_be_longer_than_the_column_from_which_it_may_stop"),
        ("Ending.response", "read[:-1] if ended else read", "read",
         "test_a_response_and_the_text_of_it_give_a_reward_model_the_same_ids"),
        ("final_scores", "jnp.where(ended, scores, missing)", "scores",
         "test_a_missing_end_scores_what_the_config_says"),
    ],
)  # fmt: skip

ONE_RULE = "test_training_ppo_and_report_give_a_response_one_score"
USERS = (
    *mutants("stages/experience.py", "generation/test_ending.py", [
        ("Experiences._scores", "final_scores(scores, ended, self.ending.missing)", "scores",
         ONE_RULE),
        ("Experiences._read", "self.ending.read(tokens[:, -length:], mask)", "mask", ONE_RULE),
        ("Experiences._sampled", "jnp.where(rollout.sick.any(), jnp.nan, log_probs)", "log_probs",
         "stages/test_experience.py::test_what_a_sick_sampler_drew_reaches_no_update"),
    ]),
    *mutants("evaluation/policies.py", "generation/test_ending.py", [
        ("score_responses", "*response.ids]", "*response.ids, tokenizer.eos_id]", ONE_RULE),
        ("score_responses", "ended, missing)", "ended, None)", ONE_RULE),
    ]),
    *mutants("data/arrays.py", "data/test_arrays.py", [
        ("close_with_eos", "if ended else list(ids)", "",
         "test_a_response_that_was_cut_has_no_eos_and_none_as_a_target"),
    ]),
    *mutants("stages/reward_model.py", "stages/test_stages.py", [
        ("demonstration_batches", "inputs.build.ending.close", "None",
         "test_demonstrations_that_are_normalised_end_as_responses_do"),
    ]),
    *mutants("evaluation/reward_score.py", "evaluation/test_evaluators.py", [
        ("RewardScore.rows", "missing=subject.build.ending.missing", "missing=None",
         "test_a_reward_score_is_the_scorer_s_and_of_a_missing_end_what_ppo_says"),
    ]),
)  # fmt: skip

MUTANTS = SAMPLING + ENDING + USERS
