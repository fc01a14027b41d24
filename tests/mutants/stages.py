"""What each stage reads, shifts, masks, weighs and updates."""

from tests.mutants import mutants

SICK = "stages/test_sick.py::"
SICK_STEP = SICK + "test_a_sick_supervised_step_changes_neither_parameters_nor_optimizer"
EXPERIENCE = "test_experience_equals_loops_over_unpadded_sequences"
LOOP = "test_update_equals_a_loop_over_minibatches_of_shuffled_rows"
START = "test_the_value_function_starts_as_the_reward_model_or_under_a_zero_head"

SUPERVISED = mutants(
    "stages/supervised.py",
    "stages/test_supervised.py",
    [
        ("token_losses", "states[:, :-1], batch", "states[:, 1:], batch",
         "test_the_loss_equals_a_loop_over_response_tokens"),
        ("token_losses", "-log_probs_of(", "log_probs_of(",
         "test_the_loss_equals_a_loop_over_response_tokens"),
        ("likelihood_loss", 'batch["weights"][:, 1:]', 'batch["segments"][:, 1:] > 0',
         "test_the_loss_equals_a_loop_over_response_tokens"),
        ("make_update", "jax.random.fold_in(state.key, state.step)", "state.key",
         "test_dropout_is_on_in_supervised_training_with_new_noise_each_step"),
        ("make_update", "keep_if(ok & ~empty, (params, opt_state), old)", "(params, opt_state)",
         SICK_STEP),
        ("make_update", "ok & ~empty", "ok", SICK
         + "test_a_supervised_step_without_weight_changes_neither_parameters_nor_optimizer"),
        ("make_update", "(~ok).astype", "ok.astype",
         SICK_STEP),
        ("make_update", "applied_updates(state.opt_state)", "state.step",
         SICK + "test_after_a_sick_supervised_step_the_logged_rate_is_the_applied_rate"),
    ],
)  # fmt: skip

REWARD_MODEL = mutants(
    "stages/reward_model.py",
    "stages/test_reward_model.py",
    [
        ("score_sequences",
         "score.at_last_token(_values(model, params, tokens, segments, False), segments)",
         "_values(model, params, tokens, segments, False)[..., -1]",
         "test_a_score_is_read_at_the_last_token_of_each_output"),
        ("ranking_by_ranking", "ranks.reshape(scores.shape[0], -1, outputs)",
         "ranks.reshape(scores.shape[0], -1, outputs)[:, :1]",
         "stages/test_packed_rankings.py::test_loss_and_gradient"),
        ("normalise", 'how == "shift"', 'how == "gain_and_bias"',
         "test_normalisation_of_the_demonstrations_scores[shift]"),
    ],
)  # fmt: skip

DPO = mutants(
    "stages/dpo.py",
    "stages/test_dpo.py",
    [
        ("Response.log_ratio", "self.log_probs - self.ref_log_probs", "self.log_probs",
         "test_metrics_equal_the_loops"),
        ("Response.per_token", "self.log_probs / jnp.maximum(self.tokens, 1)", "self.log_probs",
         "test_metrics_equal_the_loops"),
        ("_logs", "better.ref_log_probs, worse.ref_log_probs",
         "worse.ref_log_probs, better.ref_log_probs",
         "test_loss_and_gradient_equal_explicit_pairs"),
        ("DPO.loss", "self.beta, self.label_smoothing", "self.beta, 0.0",
         "test_loss_and_gradient_equal_explicit_pairs"),
        ("IPO.loss", "self.beta)", "2 * self.beta)",
         "test_loss_and_gradient_equal_explicit_pairs"),
        ("IPO._counted", "if not self.per_token", "if True",
         "test_loss_and_gradient_equal_explicit_pairs"),
        ("SimPO.loss", "self.margin)", "0.0)", "test_loss_and_gradient_equal_explicit_pairs"),
        ("ORPO.loss", "-better.per_token", "better.per_token",
         "test_loss_and_gradient_equal_explicit_pairs"),
        ("ORPO.loss", "self.coefficient * odds", "odds",
         "test_loss_and_gradient_equal_explicit_pairs"),
        ("response_log_probs", 'flat("weights")[:, 1:]', 'flat("segments")[:, 1:]',
         "test_log_probs_are_of_whole_responses_and_of_nothing_else"),
        ("response_log_probs", "states[:, :-1]", "states[:, 1:]",
         "test_log_probs_are_of_whole_responses_and_of_nothing_else"),
        ("preference_loss", "ranks, response, divide_by)", "ranks, response)",
         "test_pairs_are_divided_as_asked"),
        ("preference_loss", "better - worse", "worse - better", "test_metrics_equal_the_loops"),
        ("preference_loss", "correct.sum(), pairs.sum()", "correct.sum(), jnp.float32(len(pairs))",
         "test_metrics_equal_the_loops"),
    ],
)  # fmt: skip

PPO_LOSSES = mutants(
    "stages/experience.py",
    "stages/test_policy_losses.py",
    [
        ("response_states", "return states[:, :-1]", "return states[:, 1:]",
         "test_value_loss_and_its_gradient_equal_loops_over_values[0.2]"),
    ],
) + mutants(
    "stages/policy_update.py",
    "stages/test_policy_losses.py",
    [
        ("policy_loss", "config.surrogate(*compared, state.surrogate)",
         "dataclasses.replace(config.surrogate, clip=0.4)(*compared)",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("policy_loss", "compared = log_probs, batch.log_probs,",
         "compared = log_probs, jax.lax.stop_gradient(log_probs),",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("policy_loss", "WeightedMean.of(losses, *aggregation_weights(batch.mask, *aggregated))",
         "WeightedMean.of(losses)",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("policy_loss", "config.response_length, config.temperature",
         "config.response_length, 1.0",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("value_loss", "WeightedMean.of(errors, batch.mask)", "WeightedMean.of(errors)",
         "test_value_loss_and_its_gradient_equal_loops_over_values[0.2]"),
    ],
)  # fmt: skip

PPO_EXPERIENCE = mutants(
    "stages/experience.py",
    "stages/test_experience.py",
    [
        ("Experiences._evaluate", "log_probs(self.shapes.reference, frozen.reference)",
         "log_probs(self.shapes.reference, params.policy)",
         f"{EXPERIENCE}[plain]"),
        ("Experiences._one", "self._values(params, *rows)",
         "self._values(params._replace(value=frozen.scorers['reward']), *rows)",
         f"{EXPERIENCE}[plain]"),
        ("Experiences._log_probs", "self.config.temperature", "1.0",
         f"{EXPERIENCE}[plain]"),
        ("Experiences._experience", "if config.whiten_rewards", "if config.whiten_advantages",
         f"{EXPERIENCE}[plain]"),
        ("Experiences._experience", "shift_mean=False", "shift_mean=True",
         f"{EXPERIENCE}[other]"),
        ("Experiences._experience", "if config.whiten_advantages", "if True",
         f"{EXPERIENCE}[other]"),
        ("Experiences._experience", '"score": sampled.scores.mean()', '"score": rewards.mean()',
         f"{EXPERIENCE}[plain]"),
        ("Experiences._experience", "log_ratio.sum(axis=1).mean()", "log_ratio.mean()",
         f"{EXPERIENCE}[plain]"),
        ("Experiences._experience", "-masked_mean(", "masked_mean(",
         f"{EXPERIENCE}[plain]"),
    ],
) + mutants(
    "objectives/estimator.py",
    "stages/test_experience.py",
    [
        ("GAE.__call__", "self.discount, self.lam", "1.0, self.lam", f"{EXPERIENCE}[other]"),
        ("GAE.__call__", "self.discount, self.lam", "self.discount, 0.95",
         f"{EXPERIENCE}[other]"),
    ],
)  # fmt: skip

PPO_UPDATE = mutants(
    "stages/policy_update.py",
    "stages/test_policy_update.py",
    [
        ("initial_state", "else copy(policy)", "else copy(jax.tree.map(jnp.zeros_like, policy))",
         START),
        ("optimizers", "make_optimizer(value, steps)",
         "make_optimizer(config.policy_optimizer, steps)",
         "test_policy_and_value_function_have_an_optimizer_each"),
        ("_update_key", "jax.random.fold_in(key, step), 1)", "key, 1)",
         LOOP),
        ("make_update", "x.sum(axis=0), told", "x[0], told",
         LOOP),
        ("make_minibatch_update", "ok & (of_episodes != 0)", "ok",
         SICK + "test_minibatches_of_ppo_without_a_token_change_nothing[True]"),
        ("make_minibatch_update", 'ptx_loss, fixed["policy"], state.policy, text',
         'ptx_loss, fixed["policy"], state.ema, text', LOOP),
        ("make_update", "moved.kl, config.batch_size)", "moved.kl, 2 * config.batch_size)",
         "test_the_controller_s_coefficient_moves_in_the_state_by_ziegler_s_formula"),
        ("make_update", "keep_if(jnp.isfinite(moved.kl), carried, before)",
         "carried", SICK + "test_where_all_are_sick_nothing_moves_but_the_step"),
        ("make_minibatch_update", "ok & ~empty, new", "~empty, new",
         SICK + "test_a_minibatch_of_ppo_is_left_out_alone"),
    ],
)  # fmt: skip

PARTS = "stages/test_trained_parts.py"
ONE = "test_two_steps_of_a_stage_that_trains_one_model"
ITERATION = "test_an_iteration_of_ppo_ptx"
UNKNOWN = "test_a_parameter_that_the_model_does_not_have_is_refused_before_any_step"
# A model without its fixed part has no parameter of a name.
NO_PART = "AssertionError|KeyError|ValueError|ScopeParamNotFoundError"
TRAINED_PARTS = (
    *mutants("stages/one_model.py", PARTS, [
        ("OneModelStage.training", "parts.split(params, self.trained)", "parts.split(params)",
         f"{ONE}[sft]", NO_PART),
        ("OneModelStage.training", "parts.merge(fixed, state.params)", "state.params",
         f"{ONE}[dpo]", NO_PART),
        ("OneModelStage.training", "prepare(programs, place(batch)), fixed",
         "prepare(programs, place(batch)), {}", f"{ONE}[reward]", NO_PART),
        ("OneModelStage.update_program", "parts.split(params, self.trained)", "parts.split(params)",
         "test_what_is_planned_has_an_optimizer_of_the_trained_parameters_alone"),
        ("OneModelStage.check_shapes", "if self.trained", "if False", f"{UNKNOWN}[sft]"),
        ("OneModelStage.check_shapes", "self.parameters(", "policy_shapes(",
         f"{UNKNOWN}[reward]"),
    ]),
    *mutants("stages/supervised.py", PARTS, [
        ("make_update", "parts.merge(fixed, trained)", "trained", f"{ONE}[base]", NO_PART),
    ]),
    *mutants("stages/policy_update.py", PARTS, [
        ("initial_state", "parts.split(policy, config.trained_policy).trained", "policy",
         f"{ITERATION}[both]"),
        ("initial_state", "config.trained_value", "config.trained_policy", f"{ITERATION}[both]",
         NO_PART),
        ("frozen_of", "config.trained_value", "config.trained_policy",
         f"{ITERATION}[both]", NO_PART),
        ("frozen_of", "value_at_start(config, policy, scorer)", "scorer",
         "test_a_value_head_of_zeros_that_is_not_trained_stays_one"),
        ("make_minibatch_update", 'of_values, fixed["value"]', 'of_values, fixed["policy"]',
         f"{ITERATION}[value]", NO_PART),
    ]),
    *mutants("stages/iteration.py", PARTS, [
        ("Iteration._draw", 'parts.merge(self.frozen.fixed["policy"], state.policy)',
         "state.policy", f"{ITERATION}[both]", NO_PART),
    ]),
    *mutants("stages/experience.py", PARTS, [
        ("Experiences._one", "whole(state, frozen.fixed)", "state", f"{ITERATION}[value]",
         NO_PART),
    ]),
    *mutants("stages/policy_gradient.py", PARTS, [
        ("PolicyGradient.task", 'parts.merge(frozen.fixed["policy"], trained)', "trained",
         f"{ITERATION}[both]"),
        ("PolicyGradient.check_shapes", "(score_shapes(shapes.value), self.train_value,",
         "(score_shapes(shapes.value), self.train_policy,", f"{UNKNOWN}[value]"),
    ]),
)  # fmt: skip

STAGE = "stages/test_stages.py"
TOLD = "test_steps_that_the_config_tells_are_those_that_the_stage_takes"
UNTOLD = "test_steps_that_only_the_data_tell_are_not_guessed"
STARTS = "test_each_stage_starts_from_the_model_that_it_names"
DIVIDED = "test_rankings_are_divided_as_the_stage_says"
MORE = "test_more_micro_batches_are_the_next_divisor_with_a_row_for_each_group"
NORMALISED = "test_scores_of_demonstrations_are_normalised_at_the_end_or_before_training_too"
PPO_SHAPES = "stages/test_policy_gradient.py::"
STAGES = (
    *mutants("stages/one_model.py", STAGE, [
        ("OneModelStage.training", "self.epochs * batches.steps_per_epoch",
         "batches.steps_per_epoch", TOLD),
        ("OneModelStage.with_micro_batches", "self.batch_size // groups", "self.batch_size", MORE),
        ("OneModelStage.with_micro_batches", "self.micro_batches * times", "times", MORE),
        ("OneModelStage.batches", "self.batch_size, self.micro_batches", "self.batch_size, 1",
         "test_batches_that_have_to_fit_the_devices"),
    ]),
    *mutants("stages/one_model.py", STAGE, [
        ("new_policy", 'inputs.key("initialise")', 'inputs.key("training")', STARTS),
    ]),
    *mutants("stages/sft.py", STAGE, [
        ("SFT.task", "self.start is None", "True", STARTS),
    ]),
    *mutants("stages/sft.py", STAGE, [
        ("SFT.steps", " / (1 - self.pretraining_fraction)", "", TOLD),
        ("SFT.steps", "None if self.packed else", "", UNTOLD),
        ("SFT.steps", "self.epochs * ", "", TOLD),
    ]),
    *mutants("stages/feeds.py", STAGE, [
        ("demonstrations", "part, fraction_of)", "part)",
         "test_a_fraction_of_sft_s_rows_or_of_its_loss_is_text[loss]"),
    ]),
    *mutants("stages/rankings.py", STAGE, [
        ("RankingStage.steps", "self.packed > 1 or", "", UNTOLD),
        ("RankingStage.steps", "or self.rankings is not None", "", UNTOLD),
        ("RankingStage.steps", "self.epochs * ", "", TOLD),
        ("RankingStage.__post_init__", "whole and 1 <=", "1 <=",
         "test_a_field_that_cannot_be_is_refused_by_its_name", "Failed: DID NOT RAISE"),
        ("RankingStage.batch_shapes", "(rows, self.packed, outputs)", "(rows, outputs, outputs)",
         "test_fields_at_the_edge_are_taken"),
    ]),
    *mutants("stages/reward_model.py", STAGE, [
        ("RewardModel.programs", "model, self.divide_by", 'model, "all_pairs"',
         f"{DIVIDED}[untied_pairs-reward]"),
        ("RewardModel.task", 'self.normalise == "gain_and_bias"', 'self.normalise != "none"',
         f"{NORMALISED}[shift]"),
        ("RewardModel.task", 'self.normalise == "gain_and_bias"', "False",
         f"{NORMALISED}[gain_and_bias]"),
        ("RewardModel.task", 'inputs.key("head")', 'inputs.key("training")', STARTS),
        ("RewardModel.finish", "demonstrations, self.normalise", 'demonstrations, "shift"',
         f"{NORMALISED}[gain_and_bias]"),
    ]),
    *mutants("stages/dpo.py", STAGE, [
        ("DirectPreference.programs", "model, self.divide_by", 'model, "all_pairs"',
         f"{DIVIDED}[untied_pairs-dpo]"),
    ]),
    *mutants("stages/policy_gradient.py", STAGE, [
        ("PolicyGradient.needs", "self.reference or self.start", "self.start",
         "test_what_each_stage_reads_and_ends_with"),
        ("PolicyGradient.task", 'inputs.model("reference")', 'inputs.model("start")',
         PPO_SHAPES + "test_the_kl_is_to_the_reference_that_is_named", "AssertionError|.*Error"),
        ("PolicyGradient.task", 'policy, scorer, inputs.key("training")',
         'policy, scorer, inputs.key("text")',
         PPO_SHAPES + "test_the_kl_is_to_the_reference_that_is_named"),
        ("PolicyGradient.batches", "steps * self.micro_batches", "self.micro_batches",
         "test_batches_that_have_to_fit_the_devices"),
        ("PolicyGradient.batches", "steps * self.text_pieces", "self.text_pieces",
         "test_batches_that_have_to_fit_the_devices"),
        ("PolicyGradient.with_micro_batches", "rows * self.ptx_ratio // groups", "rows // groups",
         "test_more_micro_batches_of_ppo"),
        ("PolicyGradient.with_micro_batches", "self.batch_size // self.minibatches",
         "self.batch_size", "test_more_micro_batches_of_ppo"),
    ]),
)  # fmt: skip

FEEDBACK = mutants(
    "stages/simulated_feedback.py",
    "stages/test_simulated_feedback.py",
    [
        ("SimulatedFeedback.programs", "SamplingConfig(self.temperature)", "SamplingConfig()",
         "test_outputs_are_the_policy_s_batch_by_batch"),
        ("SimulatedFeedback.task", "jax.random.fold_in(state.key, state.step)", "state.key",
         "test_outputs_are_the_policy_s_batch_by_batch"),
        ("SimulatedFeedback.task", "rollout.mask[real].sum(axis=1)", "rollout.mask.sum(axis=1)",
         "test_outputs_are_the_policy_s_batch_by_batch"),
        ("SimulatedFeedback.task", "np.asarray(rollout.sick)[real].sum()", "0",
         "test_outputs_of_a_damaged_policy_are_refused", "Failed: DID NOT RAISE"),
        ("SimulatedFeedback.finish", "len(outputs) != sum(counts)", "False",
         "test_outputs_of_another_batch_size_are_no_rankings", "Failed|RuntimeError"),
        ("SimulatedFeedback.finish", "len(ranked) // 10", "len(ranked) // 5",
         "test_each_prompt_has_outputs_of_the_range_and_the_first_tenth_is_held_out"),
        ("SimulatedFeedback.finish", "max(1, len(ranked) // 10)", "len(ranked) // 10",
         "test_each_prompt_has_outputs_of_the_range_and_the_first_tenth_is_held_out"),
        ("SimulatedFeedback.finish", "list(dict.fromkeys(r.responses))", "list(r.responses)",
         "test_equal_outputs_tie_and_only_different_ones_tell_how_often_labelers_agree",
         "AssertionError|.*UserError"),
        ("SimulatedFeedback.finish", "calibrate_noise(scores, self.agreement)",
         "calibrate_noise(scores)",
         "test_equal_outputs_tie_and_only_different_ones_tell_how_often_labelers_agree"),
        ("SimulatedFeedback.finish", 'noise, inputs.shuffle("labelers")', "noise, 0",
         "test_two_labelers_agree_as_often_as_asked"),
        ("SimulatedFeedback._asked", "*self.outputs", "4, 9",
         "test_each_prompt_has_outputs_of_the_range_and_the_first_tenth_is_held_out"),
    ],
)  # fmt: skip

MUTANTS = (*SUPERVISED, *REWARD_MODEL, *DPO, *PPO_LOSSES, *PPO_EXPERIENCE, *PPO_UPDATE,
           *TRAINED_PARTS, *STAGES, *FEEDBACK)  # fmt: skip
