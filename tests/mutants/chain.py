"""The wires of the chain: which model, split, prompts, seed, and which config field."""

from tests.mutants import mutants

PACKED = "test_demonstrations_are_of_the_train_split_packed_where_the_config_says_so"
RANKED = "test_rankings_have_the_outputs_and_the_packing_of_the_config"
TEXT = "test_text_is_of_the_train_split_in_rows_of_the_length"
PROMPTS = "test_prompts_are_of_the_split_at_the_prompt_length"
PPO_PROMPTS = "test_ppo_reads_the_split_of_prompts_that_it_names"

FEEDS = (
    *mutants("stages/feeds.py", "test_feeds.py", [
        ("text", '"text", "train"', '"text", "valid"', TEXT),
        ("text", "length=length", "length=length - 1", TEXT),
        ("demonstrations", '"demonstrations", "train"', '"demonstrations", "valid"', PACKED),
        ("demonstrations", "packed=packed", "packed=False", PACKED),
        ("demonstrations", "more, text_fraction, seed", "more, 0.1, seed",
         "test_a_fraction_of_a_batch_of_demonstrations_is_text"),
        ("rankings", '"rankings", "train"', '"rankings", "valid"',
         "test_rankings_are_of_the_stage_that_collects_them_or_of_the_data[reward-abcd]"),
        ("rankings", "packed=packed", "packed=1", RANKED),
        ("rankings", "outputs=outputs", "outputs=9", RANKED),
        ("rankings", "close=inputs.build.ending.close", "close=None", RANKED),
        ("prompts", '"prompts", split', '"prompts", "test"', PROMPTS),
        ("prompts", "length=length", "length=16", PROMPTS),
    ]),
    *mutants("stages/policy_gradient.py", "test_feeds.py", [
        ("PolicyGradient._batches", 'rows["text"], self.ptx_length',
         'rows["text"], self.prompt_length', "test_ptx_reads_its_rows_of_text_an_episode"),
        ("PolicyGradient._batches", "self.batch_size * self.ptx_ratio", "self.batch_size * 2",
         "test_ptx_reads_its_rows_of_text_an_episode"),
        ("PolicyGradient._batches", "self.ptx_coefficient > 0", "True",
         "test_without_a_coefficient_no_text_is_read"),
        ("PolicyGradient._batches", "inputs, self.prompts", 'inputs, "ppo"', PPO_PROMPTS),
        ("PolicyGradient._batches", "self.batch_size, self.prompt_length,", "self.batch_size, 6,",
         PPO_PROMPTS),
    ]),
    *mutants("stages/sft.py", "test_feeds.py", [
        ("SFT._batches", "self.length, self.packed,", "self.length, False,",
         PACKED),
        ("SFT._batches", "self.pretraining_fraction,", "0.1,",
         "test_a_fraction_of_a_batch_of_demonstrations_is_text"),
    ]),
    *mutants("stages/rankings.py", "test_feeds.py", [
        ("RankingStage._batches", "self.packed, self.bucket", "1, self.bucket", RANKED),
        ("RankingStage._batches", "self.outputs, self.packed", "9, self.packed", RANKED),
    ]),
    *mutants("stages/feeds.py", "test_feeds.py", [
        ("Together.set_state", "part.set_state(state[name])", "pass",
         "test_ppo_s_position_is_of_prompts_and_of_text"),
    ]),
)  # fmt: skip

FED = "test_each_feed_is_shuffled_by_the_seed_of_its_purpose"
STREAM = "test_a_stage_of_another_stream_draws_that_stream_s_numbers"
RANDOMNESS = (
    *mutants("randomness.py", "test_randomness.py", [
        ("_words", 'f"{seed}/{purpose}"', 'f"{purpose}"',
         "test_key_and_seed_are_the_words_of_the_digest"),
        ("_words", 'f"{seed}/{purpose}"', 'f"{seed}"',
         "test_key_and_seed_are_the_words_of_the_digest"),
        ("random_key", "jax.random.fold_in(jax.random.key(high), low)", "jax.random.key(high)",
         "test_key_and_seed_are_the_words_of_the_digest"),
    ]),
    *mutants("stages/feeds.py", "test_randomness.py", [
        ("prompts", 'inputs.shuffle("prompts")', 'inputs.shuffle("text")', f"{FED}[ppo]"),
        ("rankings", 'inputs.shuffle("rankings")', 'inputs.shuffle("text")', f"{FED}[reward]"),
        ("demonstrations", 'length, "text")', 'length, "demonstrations")',
         "test_mixed_demonstrations_are_shuffled_for_three_purposes"),
        ("demonstrations", 'inputs.shuffle("mix")', 'inputs.shuffle("text")',
         "test_mixed_demonstrations_are_shuffled_for_three_purposes"),
    ]),
    *mutants("stages/policy_gradient.py", "test_randomness.py", [
        ("PolicyGradient._batches", 'self.ptx_length, "text")', 'self.ptx_length, "prompts")',
         "test_prompts_and_text_of_ppo_are_read_in_orders_of_their_own"),
    ]),
    *mutants("runs/inputs.py", "test_randomness.py", [
        ("StageInputs.__init__", "self._stage.stream or stage", "stage", f"{STREAM}[sft]"),
        ("StageInputs.key", 'f"{self._stream}/{use}"', 'f"{use}"', f"{STREAM}[sft]"),
        ("StageInputs.shuffle", 'f"{self._stream}/{use}"', 'f"{use}"', f"{FED}[dpo]"),
    ]),
)  # fmt: skip

# What a stage is given, and the host's results.

ROLES = "test_a_role_s_model_is_that_of_the_stage_that_it_names_loaded_once"
RECORDS = "test_records_come_from_the_stage_that_is_named_or_from_the_data"
ONCE = "test_a_result_of_the_host_is_made_once_and_read_by_a_step_that_is_done_again"
GIVEN = (
    *mutants("runs/inputs.py", "runs/test_inputs.py", [
        ("StageInputs.model", "if stage not in self._models", "if not self._models", ROLES,
         "KeyError"),
        ("StageInputs.model", "if stage not in self._models", "if True", ROLES),
        ("StageInputs.records", "needs[kind].stage if kind in needs else None", "None", RECORDS),
        ("StageInputs.on_host", "if not result.is_there()", "if True", ONCE),
        ("StageInputs._result", 'f"{step}.json"', '"0.json"', ONCE),
        ("HostResult.is_there", ' and read_json(self.file)["of"] == self.of', "",
         "test_a_result_counts_for_equal_arguments_only"),
        ("HostResult.json", "except ValueError:", "except KeyError:",
         "test_what_is_not_finite_is_not_written", "ValueError"),
        ("StageInputs.host_results", "sorted(int(file.stem)", "sorted(str(file.stem)",
         "test_results_of_all_steps_come_in_their_order"),
        ("StageInputs.grader", "self._run.config.seed", "self._run.config.seed + 1",
         "test_the_grader_is_the_data_source_s_of_the_run_s_seed", "UserError"),
    ]),
    *mutants("parallel/runner.py", "parallel/test_runners.py", [
        ("_local_rows", "indices(x.shape[0]))", "indices(x.shape[0]), reverse=True)",
         "test_rows_go_to_the_devices_and_come_back_in_order[pmap]"),
        ("PmapRunner.rows", "np.asarray(x).reshape", "np.asarray(x)[::-1].reshape",
         "test_rows_go_to_the_devices_and_come_back_in_order[pmap]"),
    ]),
    *mutants("stages/policy_gradient.py", "runs/test_inputs.py", [
        ("PolicyGradient.needs", '"start": Need(self.start',
         '"start": Need(self.reference or self.start', ROLES),
        ("PolicyGradient.needs", "self.value or next(", "None or next(", ROLES),
        ("PolicyGradient.needs", "Need(self.reference or self.start", "Need(self.start", ROLES),
    ]),
)  # fmt: skip

FIT = "runs/test_stages_fit.py"
SAVED = "test_a_stage_says_so_where_it_saves_an_average"
ORDER = "test_a_stage_comes_after_all_that_it_builds_on_and_nothing_else_is_run"
GRAPH = mutants(
    "runs/chain.py",
    FIT,
    [
        ("builds_on", "found[need.stage] = None", "found.setdefault(stage)", ORDER),
        ("builds_on", "visit(need.stage, (*above, need.stage))", "pass", ORDER),
        ("builds_on", "require(need.stage in stages, field", "require(True, field",
         "test_a_stage_needs_one_that_is_there_and_not_itself", "KeyError"),
        ("builds_on", "require(need.stage not in above", "require(need.stage != stage",
         "test_a_circle_is_told_from_the_stage_at_which_it_is_met", "RecursionError"),
        ("build_of", "upstream.shape(build)", "model",
         "test_shapes_of_a_stage_are_those_of_what_it_reads"),
        ("check_chain", "require(ends == wanted", "require(True",
         "test_a_stage_needs_one_that_ends_as_it_reads", "Failed|KeyError|AssertionError"),
        ("check_chain", "require(stage.ends in ENDS", "require(True",
         "test_what_a_stage_ends_with_is_one_of_three"),
        ("check_chain", "require(need.ends in ENDS", "require(True",
         "test_what_a_stage_ends_with_is_one_of_three", "KeyError"),
        ("check_chain", "name not in reserved", "True",
         "test_a_name_that_is_none_or_is_taken_is_refused", "Failed"),
        ("check_chain", "stage.check_shapes(build_of(stages, name, model, ending))", "pass",
         "test_lengths_and_words_fit_the_models", "Failed"),
    ],
)  # fmt: skip

AVERAGE = (
    *mutants("stages/policy_gradient.py", FIT, [
        ("PolicyGradient.saved", "if self.ema_decay is None", "if False", SAVED, "TypeError"),
        ("PolicyGradient.saved", "self.start_share", "self.ema_decay", SAVED),
    ]),
    *mutants("stages/policy_gradient_config.py", FIT, [
        ("PolicyGradientConfig.start_share", "self.ema_decay**self.iterations",
         "1 - self.ema_decay**self.iterations", SAVED),
    ]),
    *mutants("evaluation/page.py", "evaluation/test_report.py", [
        ("page", "escape(text)", "text",
         "test_what_was_saved_is_told_where_it_is_not_the_last_weights"),
    ]),
)  # fmt: skip

REPORT_SCORES = "test_the_scores_of_the_report_are_of_each_policy_s_responses_to_test_prompts"
REPORT_KL = "test_the_kl_of_the_report_is_of_the_policy_to_sft_on_its_own_samples"
REPORT_LOSS = "test_the_pretraining_loss_of_the_report_is_on_held_out_text"
EXPERIENCE = "test_experience_is_that_of_the_saved_sft_and_reward_models"
FEEDBACK = "test_feedback_s_outputs_are_sampled_from_sft_at_its_temperature"
RANKINGS = "test_rankings_to_learn_from_are_those_of_the_train_split_that_are_not_tied"
NORMALISED = "test_the_training_demonstrations_score_0_on_average"
AGREE = "test_two_labelers_of_that_noise_agree_as_often_as_asked"
START = 'model_at_start(inputs, "start", self.lora)'
INITIAL = f"jax.tree.map(lambda x: 0.9 * x, {START})"

STAGES = (
    *mutants("runs/inputs.py", "test_chain.py", [
        ("StageInputs._stage_of", "needs[role].stage",
         '"pretrain" if role == "start" else needs[role].stage',
         "test_the_reward_model_starts_from_sft_under_a_new_head"),
    ]),
    *mutants("stages/one_model.py", "test_chain.py", [
        ("OneModelStage.training", "fixed, trained = parts.split(params, self.trained)",
         "fixed, trained = parts.split(jax.tree.map(lambda x: 0.9 * x, params), self.trained)",
         "test_sft_starts_from_the_base_model"),
        ("OneModelStage.training", "parts.merge(fixed, state.params)",
         "parts.merge(fixed, jax.tree.map(lambda x: 0.9 * x, state.params))",
         "test_the_last_parameters_are_saved[sft]"),
    ]),
    *mutants("stages/reward_model.py", "test_chain.py", [
        ("RewardModel.task", START, INITIAL,
         "test_the_reward_model_starts_from_sft_under_a_new_head"),
        ("RewardModel.programs", "model, self.divide_by", 'model, "untied_pairs"',
         "test_the_reward_model_s_loss_of_each_step_is_that_of_its_pairs"),
        ("demonstration_batches", '"demonstrations", "train"', '"demonstrations", "valid"',
         NORMALISED),
        ("RewardModel.finish", "demonstrations, self.normalise,", 'demonstrations, "none",',
         NORMALISED),
    ]),
    *mutants("stages/feeds.py", "test_chain.py", [
        ("rankings", '"rankings", "train"', '"rankings", "valid"', f"{RANKINGS}[reward]"),
        ("rankings", '"rankings", "train"', '"rankings", "valid"', f"{RANKINGS}[dpo]"),
    ]),
    *mutants("stages/dpo.py", "test_chain.py", [
        ("DirectPreference.task", f"reference = {START}", f"reference = {INITIAL}",
         "test_dpo_starts_from_sft"),
        ("DirectPreference.task", "(reference, sequences)",
         "(jax.tree.map(lambda x: 0.9 * x, reference), sequences)",
         "test_dpo_s_reference_is_the_sft_model_at_every_step"),
        ("DirectPreference.programs", "self.objective, model, self.divide_by",
         "self.objective, model", "test_dpo_s_reference_is_the_sft_model_at_every_step"),
    ]),
    *mutants("stages/simulated_feedback.py", "test_chain.py", [
        ("SimulatedFeedback.task", 'policy = inputs.model("policy")',
         'policy = jax.tree.map(lambda x: 0.9 * x, inputs.model("policy"))', FEEDBACK),
        ("SimulatedFeedback._asked", '"prompts", self.prompts', '"prompts", "ppo"', FEEDBACK),
        ("SimulatedFeedback.programs", "SamplingConfig(self.temperature)", "SamplingConfig()",
         FEEDBACK),
        ("SimulatedFeedback._asked", "*self.outputs", "2, 2", FEEDBACK),
        ("SimulatedFeedback.task", "jax.random.fold_in(state.key, state.step)", "state.key",
         "test_each_batch_of_outputs_has_noise_of_its_own"),
        ("SimulatedFeedback.task", "rollout.mask[real].sum(axis=1)", "rollout.mask.sum(axis=1)",
         "test_the_metrics_of_feedback_are_those_of_its_outputs"),
        ("SimulatedFeedback.finish", "calibrate_noise(scores, self.agreement)",
         "calibrate_noise(scores)", AGREE),
        ("SimulatedFeedback._ranked", "SimulatedLabeler(noise,", "SimulatedLabeler(noise / 10,",
         "test_ranks_are_those_of_the_gold_scores_under_the_noise_that_was_written"),
        ("SimulatedFeedback.finish", 'inputs.shuffle("labelers")', 'inputs.shuffle("counts")',
         "test_ranks_are_those_of_the_gold_scores_under_the_noise_that_was_written"),
        ("SimulatedFeedback.finish", '"train": ranked[held:], "valid": ranked[:held]',
         '"train": ranked[:-held], "valid": ranked[-held:]',
         "test_the_first_tenth_of_the_feedback_prompts_is_held_out"),
    ]),
)  # fmt: skip

PPO = (
    *mutants("stages/policy_gradient.py", "test_chain_ppo.py", [
        ("PolicyGradient.task", f"policy = {START}", f"policy = {INITIAL}",
         "test_policy_and_average_start_from_sft[ppo]"),
        ("PolicyGradient.task", "policy, reference, scorers, scorer)",
         "policy, jax.tree.map(lambda x: 0.9 * x, reference), scorers, scorer)",
         "test_the_kl_penalty_is_measured_from_sft[ppo]"),
        ("PolicyGradient.task", "policy, reference, scorers, scorer)",
         "policy, reference, jax.tree.map(lambda x: 0.9 * x, scorers), scorer)",
         f"{EXPERIENCE}[ppo-0-returns]"),
        ("PolicyGradient.task", "runner.create(initial, policy, scorer,",
         "runner.create(initial, policy, jax.tree.map(lambda x: 0.9 * x, scorer),",
         "test_the_value_function_starts_as_the_reward_model[ppo]"),
        ("PolicyGradient.task.model", "state.policy if state.ema is None else state.ema",
         "state.policy",
         "test_the_saved_policy_is_the_average_of_the_weights_of_all_iterations[ppo]"),
        ("PolicyGradient.task", "total_steps=self.iterations", "total_steps=2",
         "test_the_prompts_are_of_the_ppo_split[ppo]"),
    ]),
    *mutants("stages/policy_gradient.py", "test_second_round.py", [
        ("PolicyGradient.task", "self, policy, reference, scorers, scorer)",
         "self, policy, policy, scorers, scorer)",
         "test_experience_is_that_of_the_models_that_the_stage_names[ppo_2-0-returns]"),
    ]),
)  # fmt: skip

ITERATION = (
    *mutants("stages/iteration.py", "test_chain_ppo.py", [
        ("Iteration._draw", 'self.frozen.fixed["policy"], state.policy)',
         'self.frozen.fixed["policy"], state.ema)',
         "test_rollouts_are_drawn_at_the_temperature_without_top_k[ppo]"),
    ]),
    *mutants("stages/policy_update.py", "test_chain_ppo.py", [
        ("make_update", "x.sum(axis=0), told", "x[0], told",
         "test_the_losses_of_an_iteration_are_means_of_its_epochs"),
    ]),
)  # fmt: skip

OF_THE_SEED = "test_records_and_grader_are_of_the_world_of_the_seed"
DATA = mutants(
    "sources/world.py",
    "sources/test_world.py",
    [
        ("WorldData.records", '"train": world.demonstrations("sft", self.careless)',
         '"train": world.demonstrations("sft")', OF_THE_SEED),
        ("WorldData.records", 'world.demonstrations("valid")',
         'world.demonstrations("valid", self.careless)', OF_THE_SEED),
        ("WorldData.records", "InstructionWorld(self.world, seed)", "InstructionWorld(self.world)",
         OF_THE_SEED),
        ("WorldData.grader", "self.world, seed", "self.world, 0", OF_THE_SEED, "UserError"),
        ("WorldData.worked_examples", "self.world, seed", "self.world, 0", OF_THE_SEED),
    ],
)  # fmt: skip

REPORT = (
    *mutants("runs/evaluation.py", "test_chain_ppo.py", [
        ("Evaluation.test_prompts", "self.config.evaluation.prompts,", '"ppo",',
         f"{REPORT_SCORES}[ppo]", "AssertionError|IndexError"),
        ("responses_program", "asked.sampling, ending",
         "dataclasses.replace(asked.sampling, temperature=1.0), ending",
         f"{REPORT_SCORES}[ppo]"),
        ("Evaluation.answering", "how.before + prompt for", "prompt for",
         f"{REPORT_SCORES}[prompted]", "AssertionError|IndexError"),
        ("StageModel.params", "self.evaluation.run.model(self.stage)",
         'self.evaluation.run.model("ppo" if self.stage == "ppo_ptx" else self.stage)',
         f"{REPORT_LOSS}[ppo_ptx]"),
    ]),
    *mutants("evaluation/kl.py", "test_chain_ppo.py", [
        ("KL.needs", "Need(self.to,", 'Need("pretrain",', f"{REPORT_KL}[ppo]"),
        ("KL._nats", 'subject.params, subject.model("to")', 'subject.model("to"), subject.params',
         f"{REPORT_KL}[ppo]"),
        ("KL.programs", "SamplingConfig(self.temperature)", "asked.sampling", f"{REPORT_KL}[ppo]"),
        ("KL.programs", "reference, self.temperature,", "reference, 1.0,", f"{REPORT_KL}[ppo]"),
    ]),
    *mutants("evaluation/sft_loss.py", "test_chain_held_out.py", [
        ("SFTLoss.rows", '"demonstrations", "valid"', '"demonstrations", "train"',
         "test_the_sft_loss_is_of_held_out_demonstrations"),
    ]),
    *mutants("evaluation/held_out_rankings.py", "test_chain_held_out.py", [
        ("HeldOutRankings.rows", 'subject.records("rankings", "valid")',
         'subject.records("rankings", "train")[:2]',
         "test_the_reward_model_s_loss_and_accuracy_are_of_held_out_pairs"),
    ]),
    *mutants("evaluation/preference_accuracy.py", "test_chain_held_out.py", [
        ("PreferenceAccuracy.needs", "Need(self.reference,", 'Need("pretrain",',
         "test_preferences_are_log_ratios_to_sft_on_held_out_pairs[dpo]"),
    ]),
    *mutants("evaluation/pretraining_loss.py", "test_chain_ppo.py", [
        ("PretrainingLoss.rows", '"text", "valid"', '"text", "train"', f"{REPORT_LOSS}[sft]"),
    ]),
    *mutants("runs/run.py", "test_chain_ppo.py", [
        ("Run._check_model", "directory = self.stage_directory(stage)",
         'directory = self.stage_directory("sft" if stage == "ppo" else stage)',
         f"{REPORT_LOSS}[ppo]"),
    ]),
    *mutants("runs/run.py", "test_chain.py", [
        ("Run._run", "self._check_records(stage, made, made.check)", "pass", f"{RANKINGS}[dpo]",
         "KeyError"),
    ]),
)  # fmt: skip

SECOND = "test_the_second_reward_model_starts_from_sft_and_reads_the_second_rankings"
ELSEWHERE = (
    *mutants("runs/run.py", "runs/test_elsewhere.py", [
        ("Run.check", "if self.config.is_another_run_s(stage)", "if False",
         "test_a_model_that_does_not_fit_is_refused_before_any_stage", "Failed"),
        ("Run._check_model", "different_fields(found, shape)", "[]",
         "test_another_shape_is_refused_by_field", "Failed"),
        ("Run._finish_elsewhere", "self.finish(name)", "pass",
         "test_a_prompted_policy_waits_for_what_it_starts_from"),
    ]),
    *mutants("stages/elsewhere.py", "runs/test_elsewhere.py", [
        ("FromRun.shape", "self.model or build.model", "build.model",
         "test_how_a_model_is_computed_may_differ", "UserError"),
        ("FewShot.prompting", "self.examples, seed", "self.examples, 0",
         "test_it_is_asked_behind_worked_examples_a_line_each"),
        ("FewShot.prompting", '"\\n", self.prompt_length', "None, self.prompt_length",
         "test_it_is_asked_behind_worked_examples_a_line_each"),
    ]),
    *mutants("runs/run.py", "test_second_round.py", [
        ("Run.records", "return self.collected(stage).read(kind, split)",
         'return self.collected("feedback").read(kind, split)', SECOND),
    ]),
)  # fmt: skip

MUTANTS = (FEEDS + RANDOMNESS + GIVEN + GRAPH + AVERAGE + STAGES + PPO + ITERATION + DATA
           + REPORT + ELSEWHERE)  # fmt: skip
