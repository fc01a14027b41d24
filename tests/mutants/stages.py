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
        ("likelihood_loss", 'batch["weights"][:, 1:])', 'batch["segments"][:, 1:] > 0)',
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
        ("score_sequences", "score.at_last_token(values, segments)", "values[..., -1]",
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
    "stages/ppo.py",
    "stages/test_ppo_losses.py",
    [
        ("response_states", "last=length + 1)[:, :-1]", "last=length)",
         "test_value_loss_and_its_gradient_equal_loops_over_values[0.2]"),
        ("policy_loss", "ppo_clip(log_probs, batch.log_probs, batch.advantages, config.clip)",
         "ppo_clip(log_probs, batch.log_probs, batch.advantages, 2 * config.clip)",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("policy_loss", "ppo_clip(log_probs, batch.log_probs, batch.advantages, config.clip)",
         "ppo_clip(log_probs, jax.lax.stop_gradient(log_probs), batch.advantages, config.clip)",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("policy_loss", "WeightedMean.of(values, batch.mask)", "WeightedMean.of(values)",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("policy_loss", "config.response_length, config.temperature",
         "config.response_length, 1.0",
         "test_policy_loss_and_its_gradient_equal_loops_over_logits"),
        ("value_loss", "WeightedMean.of(errors, batch.mask)", "WeightedMean.of(errors)",
         "test_value_loss_and_its_gradient_equal_loops_over_values[0.2]"),
    ],
)  # fmt: skip

PPO_EXPERIENCE = mutants(
    "stages/ppo.py",
    "stages/test_ppo_experience.py",
    [
        ("make_experience", "log_probs(reference, frozen.reference)",
         "log_probs(reference, state.policy)",
         f"{EXPERIENCE}[plain]"),
        ("make_experience", "score.scores(state.value, states)",
         "score.scores(frozen.reward, states)",
         f"{EXPERIENCE}[plain]"),
        ("make_experience", "segments, length, config.temperature", "segments, length, 1.0",
         f"{EXPERIENCE}[plain]"),
        ("make_experience", "if config.whiten_rewards", "if config.whiten_advantages",
         f"{EXPERIENCE}[plain]"),
        ("make_experience", "config.discount, config.gae_lambda", "1.0, config.gae_lambda",
         f"{EXPERIENCE}[other]"),
        ("make_experience", "config.discount, config.gae_lambda", "config.discount, 0.95",
         f"{EXPERIENCE}[other]"),
        ("make_experience", "shift_mean=False", "shift_mean=True",
         f"{EXPERIENCE}[other]"),
        ("make_experience", "if config.whiten_advantages", "if True",
         f"{EXPERIENCE}[other]"),
        ("make_experience", '"score": scores.mean()', '"score": rewards.mean()',
         f"{EXPERIENCE}[plain]"),
        ("make_experience", "log_ratio.sum(axis=1).mean()", "log_ratio.mean()",
         f"{EXPERIENCE}[plain]"),
        ("make_experience", "-masked_mean(log_probs, mask)", "masked_mean(log_probs, mask)",
         f"{EXPERIENCE}[plain]"),
    ],
)  # fmt: skip

PPO_UPDATE = mutants(
    "stages/ppo.py",
    "stages/test_ppo_update.py",
    [
        ("initial_state", "else copy(policy)", "else copy(jax.tree.map(jnp.zeros_like, policy))",
         START),
        ("optimizers", "make_optimizer(config.value_optimizer, steps)",
         "make_optimizer(config.policy_optimizer, steps)",
         "test_policy_and_value_function_have_an_optimizer_each"),
        ("make_update", "jax.random.fold_in(state.key, state.step), 1)", "state.key, 1)",
         LOOP),
        ("make_update", "x.sum(axis=0), told", "x[0], told",
         LOOP),
        ("make_minibatch_update", "ok & ~empty[1]", "ok",
         SICK + "test_minibatches_of_ppo_without_a_token_change_nothing[True]"),
        ("make_minibatch_update", 'ptx_loss, fixed["policy"], state.policy, text',
         'ptx_loss, fixed["policy"], state.ema, text', LOOP),
        ("make_update", "kl, config.batch_size)", "kl, 2 * config.batch_size)",
         "test_the_controller_s_coefficient_moves_in_the_state_by_ziegler_s_formula"),
        ("make_update", "keep_if(jnp.isfinite(kl), kl_coefficient, state.kl_coefficient)",
         "kl_coefficient", SICK + "test_where_all_are_sick_nothing_moves_but_the_step"),
        ("make_minibatch_update", "ok & ~empty[0]", "~empty[0]",
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
        ("OneModelStage.training", "parts.split(params, self.train)", "parts.split(params)",
         f"{ONE}[sft]", NO_PART),
        ("OneModelStage.training", "parts.merge(fixed, state.params)", "state.params",
         f"{ONE}[dpo]", NO_PART),
        ("OneModelStage.training", "prepare(programs, place(batch)), fixed",
         "prepare(programs, place(batch)), {}", f"{ONE}[reward]", NO_PART),
        ("OneModelStage.update_program", "parts.split(params, self.train)", "parts.split(params)",
         "test_what_is_planned_has_an_optimizer_of_the_trained_parameters_alone"),
        ("OneModelStage.check_shapes", "if self.train", "if False", f"{UNKNOWN}[sft]"),
        ("OneModelStage.check_shapes", "self.parameters(", "policy_shapes(",
         f"{UNKNOWN}[reward]"),
    ]),
    *mutants("stages/supervised.py", PARTS, [
        ("make_update", "parts.merge(fixed, trained)", "trained", f"{ONE}[base]", NO_PART),
    ]),
    *mutants("stages/ppo.py", PARTS, [
        ("initial_state", "parts.split(policy, config.train_policy).trained", "policy",
         f"{ITERATION}[both]"),
        ("initial_state", "config.train_value", "config.train_policy", f"{ITERATION}[both]",
         NO_PART),
        ("frozen_of", "reward), config.train_value", "reward), config.train_policy",
         f"{ITERATION}[both]", NO_PART),
        ("frozen_of", "value_at_start(config, reward)", "reward",
         "test_a_value_head_of_zeros_that_is_not_trained_stays_one"),
        ("make_iteration", 'parts.merge(frozen.fixed["policy"], state.policy)', "state.policy",
         f"{ITERATION}[both]", NO_PART),
        ("make_experience", "state = whole(state, frozen.fixed)", "", f"{ITERATION}[value]",
         NO_PART),
        ("make_minibatch_update", 'losses[1], fixed["value"]', 'losses[1], fixed["policy"]',
         f"{ITERATION}[value]", NO_PART),
    ]),
    *mutants("stages/ppo_stage.py", PARTS, [
        ("PPO.task", 'parts.merge(frozen.fixed["policy"], trained)', "trained",
         f"{ITERATION}[both]"),
        ("PPO.check_shapes", '(build.shapes["reward"]), self.train_value',
         '(build.shapes["reward"]), self.train_policy', f"{UNKNOWN}[value]"),
    ]),
)  # fmt: skip

STAGE = "stages/test_stages.py"
TOLD = "test_steps_that_the_config_tells_are_those_that_the_stage_takes"
UNTOLD = "test_steps_that_only_the_data_tell_are_not_guessed"
STARTS = "test_each_stage_starts_from_the_model_that_it_names"
DIVIDED = "test_rankings_are_divided_as_the_stage_says"
MORE = "test_more_micro_batches_are_the_next_divisor_with_a_row_for_each_group"
NORMALISED = "test_scores_of_demonstrations_are_normalised_at_the_end_or_before_training_too"
PPO_SHAPES = "stages/test_ppo_stage.py::"
STAGES = (
    *mutants("stages/one_model.py", STAGE, [
        ("OneModelStage.training", "self.epochs * batches.steps_per_epoch",
         "batches.steps_per_epoch", TOLD),
        ("OneModelStage.with_micro_batches", "self.batch_size // groups", "self.batch_size", MORE),
        ("OneModelStage.with_micro_batches", "self.micro_batches * times", "times", MORE),
        ("OneModelStage.batches", "self.batch_size, self.micro_batches", "self.batch_size, 1",
         "test_batches_that_have_to_fit_the_devices"),
    ]),
    *mutants("stages/pretrain.py", STAGE, [
        ("Pretrain.task", 'inputs.key("initialise")', 'inputs.key("training")', STARTS),
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
        ("RewardModel.programs", "reward_loss(model, self.divide_by)", "reward_loss(model)",
         f"{DIVIDED}[untied_pairs-reward]"),
        ("RewardModel.task", 'self.normalise == "gain_and_bias"', 'self.normalise != "none"',
         f"{NORMALISED}[shift]"),
        ("RewardModel.task", 'self.normalise == "gain_and_bias"', "False",
         f"{NORMALISED}[gain_and_bias]"),
        ("RewardModel.task", 'inputs.key("head")', 'inputs.key("training")', STARTS),
        ("RewardModel.finish", "demonstrations, self.normalise", 'demonstrations, "shift"',
         f"{NORMALISED}[none]"),
    ]),
    *mutants("stages/dpo.py", STAGE, [
        ("DirectPreference.programs", "model, self.divide_by)", "model)",
         f"{DIVIDED}[untied_pairs-dpo]"),
    ]),
    *mutants("stages/ppo_stage.py", STAGE, [
        ("PPO.needs", "self.reference or self.start", "self.start",
         "test_what_each_stage_reads_and_ends_with"),
        ("PPO.task", 'inputs.model("reference")', 'inputs.model("start")',
         PPO_SHAPES + "test_the_kl_is_to_the_reference_that_is_named", "AssertionError|.*Error"),
        ("PPO.task", 'policy, reward, inputs.key("training")', 'policy, reward, inputs.key("text")',
         PPO_SHAPES + "test_the_kl_is_to_the_reference_that_is_named"),
        ("PPO.batches", "steps * self.micro_batches", "self.micro_batches",
         "test_batches_that_have_to_fit_the_devices"),
        ("PPO.batches", "steps * self.text_pieces", "self.text_pieces",
         "test_batches_that_have_to_fit_the_devices"),
        ("PPO.with_micro_batches", "rows * self.ptx_ratio // groups", "rows // groups",
         "test_more_micro_batches_of_ppo"),
        ("PPO.with_micro_batches", "self.batch_size // self.minibatches", "self.batch_size",
         "test_more_micro_batches_of_ppo"),
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
        ("SimulatedFeedback.finish", 'seed=inputs.shuffle("labelers")', "seed=0",
         "test_two_labelers_agree_as_often_as_asked"),
        ("SimulatedFeedback._asked", "*self.outputs", "4, 9",
         "test_each_prompt_has_outputs_of_the_range_and_the_first_tenth_is_held_out"),
    ],
)  # fmt: skip

MUTANTS = (*SUPERVISED, *REWARD_MODEL, *DPO, *PPO_LOSSES, *PPO_EXPERIENCE, *PPO_UPDATE,
           *TRAINED_PARTS, *STAGES, *FEEDBACK)  # fmt: skip
