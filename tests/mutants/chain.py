"""The wires of the chain: which model, split, prompts, seed, and which config field."""

from tests.mutants import mutants

FEEDS = mutants(
    "feeds.py",
    "test_feeds.py",
    [
        ("Feeds.text", '"text", "train"', '"text", "valid"',
         "test_text_is_of_the_train_split_in_rows_of_the_length"),
        ("Feeds.text", "length=length", "length=length - 1",
         "test_text_is_of_the_train_split_in_rows_of_the_length"),
        ("Feeds.demonstrations", '"demonstrations", "train"', '"demonstrations", "valid"',
         "test_demonstrations_are_of_the_train_split_packed_where_the_config_says_so"),
        ("Feeds.demonstrations", "packed=config.packed", "packed=False",
         "test_demonstrations_are_of_the_train_split_packed_where_the_config_says_so"),
        ("Feeds.demonstrations", "fraction = config.pretraining_fraction", "fraction = 0.1",
         "test_a_fraction_of_a_batch_of_demonstrations_is_text"),
        ("Feeds.rankings", "packed=config.packed", "packed=False",
         "test_rankings_have_the_outputs_and_the_packing_of_the_config"),
        ("Feeds.rankings", "outputs=config.outputs", "outputs=9",
         "test_rankings_have_the_outputs_and_the_packing_of_the_config"),
        ("Feeds.rankings", "close=close", "close=None",
         "test_rankings_have_the_outputs_and_the_packing_of_the_config"),
        ("Feeds.prompts", '"prompts", "ppo"', '"prompts", "test"',
         "test_prompts_are_of_the_ppo_split_at_the_prompt_length"),
        ("Feeds.prompts", "length=config.prompt_length", "length=16",
         "test_prompts_are_of_the_ppo_split_at_the_prompt_length"),
        ("PPOBatches", "rows, config.ptx_length", "rows, config.prompt_length",
         "test_ptx_reads_its_rows_of_text_an_episode"),
        ("PPOBatches", "config.ptx_coefficient > 0", "True",
         "test_without_a_coefficient_no_text_is_read"),
    ],
)  # fmt: skip

RANDOMNESS = (
    *mutants("randomness.py", "test_randomness.py", [
        ("_words", 'f"{seed}/{purpose}"', 'f"{purpose}"',
         "test_key_and_seed_are_the_words_of_the_digest"),
        ("_words", 'f"{seed}/{purpose}"', 'f"{seed}"',
         "test_key_and_seed_are_the_words_of_the_digest"),
        ("random_key", "jax.random.fold_in(jax.random.key(high), low)", "jax.random.key(high)",
         "test_key_and_seed_are_the_words_of_the_digest"),
    ]),
    *mutants("feeds.py", "test_randomness.py", [
        ("PPOBatches", 'f"{stage}/prompts"', '"ppo/prompts"',
         "test_ppo_and_ppo_ptx_read_in_orders_of_their_own"),
        ("PPOBatches", 'f"{stage}/text"', '"ppo/text"',
         "test_ppo_and_ppo_ptx_read_in_orders_of_their_own"),
        ("Feeds.rankings", "self._shuffled(purpose)", 'self._shuffled("reward/rankings")',
         "test_each_feed_is_shuffled_by_the_seed_of_its_purpose"),
        ("Feeds.demonstrations", '"sft/text", whole', '"sft/demonstrations", whole',
         "test_mixed_demonstrations_are_shuffled_for_three_purposes"),
    ]),
)  # fmt: skip

REPORT_SCORES = "test_the_scores_of_the_report_are_of_each_policy_s_responses_to_test_prompts"
REPORT_KL = "test_the_kl_of_the_report_is_of_the_policy_to_sft_on_its_own_samples"
REPORT_LOSS = "test_the_pretraining_loss_of_the_report_is_on_held_out_text"
EXPERIENCE = "test_experience_is_that_of_the_saved_sft_and_reward_models"
FEEDBACK = "test_feedback_s_outputs_are_sampled_from_sft_at_ppo_s_temperature"
RANKINGS = "test_rankings_to_learn_from_are_those_of_the_train_split_that_are_not_tied"
CARELESS = "test_the_share_of_careless_demonstrations_is_the_config_s_and_none_is_held_out"
NORMALISED = "test_the_training_demonstrations_score_0_on_average"

STAGES = mutants(
    "run.py",
    "test_chain.py",
    [
        ("Run._sft", 'self.model("pretrain"), self.feeds',
         'transformer.init(model, self.key("pretrain/initialise")), self.feeds',
         "test_sft_starts_from_the_base_model"),
        ("Run._reward", 'policy = self.model("sft")', 'policy = self.model("pretrain")',
         "test_the_reward_model_starts_from_sft_under_a_new_head"),
        ("Run._reward", 'self.rankings("train")', 'self.rankings("valid")',
         f"{RANKINGS}[reward]"),
        ("Run._reward", "(model, config.divide_by)", '(model, "untied_pairs")',
         "test_the_reward_model_s_loss_of_each_step_is_that_of_its_pairs"),
        ("Run._reward", "return self._normalise_reward(params)", "return params", NORMALISED),
        ("Run._normalise_reward", '"demonstrations", "train"', '"demonstrations", "valid"',
         NORMALISED),
        ("Run._dpo", 'policy = self.model("sft")', 'policy = self.model("pretrain")',
         "test_dpo_starts_from_sft"),
        ("Run._dpo", "refer(policy, batch)", 'refer(self.model("pretrain"), batch)',
         "test_dpo_s_reference_is_the_sft_model_at_every_step"),
        ("Run._dpo", 'self.rankings("train")', 'self.rankings("valid")', f"{RANKINGS}[dpo]"),
        ("Run._dpo", "config.objective, model, config.divide_by", "config.objective, model",
         "test_dpo_s_reference_is_the_sft_model_at_every_step"),
        ("Run._collect_feedback", 'self.model("sft")', 'self.model("pretrain")', FEEDBACK),
        ("Run._collect_feedback", '"prompts", "feedback"', '"prompts", "ppo"', FEEDBACK),
        ("Run._collect_feedback", "SamplingConfig(self.config.ppo.temperature)",
         "self.config.evaluation.sampling", FEEDBACK),
        ("Run._collect_feedback", "*data.outputs", "2, 2", FEEDBACK),
        ("Run._collect_feedback", "calibrate_noise(scores, data.agreement)",
         "calibrate_noise(scores)",
         "test_two_labelers_of_that_noise_agree_as_often_as_asked"),
        ("Run._collect_feedback", "SimulatedLabeler(noise,", "SimulatedLabeler(noise / 10,",
         "test_two_labelers_of_that_noise_agree_as_often_as_asked"),
        ("Run._collect_feedback", '"feedback/labelers"', '"feedback/counts/again"',
         "test_ranks_are_those_of_the_gold_scores_under_the_noise_that_was_written"),
        ("Run._collect_feedback", '"train": ranked[held:], "valid": ranked[:held]',
         '"train": ranked[:-held], "valid": ranked[-held:]',
         "test_the_first_tenth_of_the_feedback_prompts_is_held_out"),
    ],
)  # fmt: skip

PPO = mutants(
    "run.py",
    "test_chain_ppo.py",
    [
        ("Run._run_ppo", 'self.model("sft"), self.model("reward")',
         'self.model("pretrain"), self.model("reward")',
         "test_policy_and_average_start_from_sft[ppo]"),
        ("Run._run_ppo", "ppo.Frozen(policy, reward)", 'ppo.Frozen(self.model("pretrain"), reward)',
         "test_the_kl_penalty_is_measured_from_sft[ppo]"),
        ("Run._run_ppo", "ppo.Frozen(policy, reward)",
         "ppo.Frozen(policy, score.zero_score_head(reward))", f"{EXPERIENCE}[ppo-0-returns]"),
        ("Run._run_ppo", "ppo.initial_state(config, policy, reward, key)",
         "ppo.initial_state(config, policy, score.zero_score_head(reward), key)",
         "test_the_value_function_starts_as_the_reward_model[ppo]"),
        ("Run._run_ppo", "getattr(self.config, stage)", "self.config.ppo",
         "test_an_iteration_of_ptx_reads_ptx_ratio_rows_of_training_text_an_episode",
         "AssertionError|KeyError"),
        ("Run._run_ppo", "state.policy if state.ema is None else state.ema", "state.policy",
         "test_the_saved_policy_is_the_average_of_the_weights_of_all_iterations[ppo]"),
        ("Run.model", 'self.stage_directory(stage) / "model"',
         'self.stage_directory("sft" if stage == "ppo" else stage) / "model"',
         f"{REPORT_LOSS}[ppo]"),
    ],
)  # fmt: skip

ITERATION = mutants(
    "stages/ppo.py",
    "test_chain_ppo.py",
    [
        ("make_iteration", "programs.rollout(state.policy, key", "programs.rollout(state.ema, key",
         "test_rollouts_are_drawn_at_the_temperature_without_top_k[ppo]"),
        ("make_update", "x.sum(axis=0), told", "x[0], told",
         "test_the_losses_of_an_iteration_are_means_of_its_epochs"),
    ],
)  # fmt: skip

DATA = mutants(
    "corpora.py",
    "test_chain.py",
    [
        ("world_splits", '"train": world.demonstrations("sft", data.careless)',
         '"train": world.demonstrations("sft")', CARELESS),
        ("world_splits", 'world.demonstrations("valid")',
         'world.demonstrations("valid", data.careless)', CARELESS),
        ("world_splits", "InstructionWorld(data.world, seed)", "InstructionWorld(data.world)",
         CARELESS),
    ],
)  # fmt: skip

REPORT = mutants(
    "judge.py",
    "test_chain_ppo.py",
    [
        ("judge_world", '"prompts", "test"', '"prompts", "ppo"', f"{REPORT_SCORES}[ppo]",
         "AssertionError|IndexError"),
        ("judge_world", "run.config.evaluation.sampling", "SamplingConfig()",
         f"{REPORT_SCORES}[ppo]"),
        ("judge_world", 'reference, results = run.model("sft")',
         'reference, results = run.model("pretrain")', f"{REPORT_KL}[ppo]"),
        ("kl_to", "sampler.kl(params, reference,", "sampler.kl(reference, params,",
         f"{REPORT_KL}[ppo]"),
        ("kl_to", "SamplingConfig(run.ppo_of(stage).temperature)",
         "run.config.evaluation.sampling", f"{REPORT_KL}[ppo]"),
        ("text_losses", '"text", "valid"', '"text", "train"', f"{REPORT_LOSS}[sft]"),
        ("STAGE_OF", '"ppo_ptx": "ppo_ptx"', '"ppo_ptx": "ppo"', f"{REPORT_LOSS}[ppo_ptx]"),
    ],
)  # fmt: skip

MUTANTS = FEEDS + RANDOMNESS + STAGES + PPO + ITERATION + DATA + REPORT
