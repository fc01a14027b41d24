"""Randomness by purpose, and what a stage has learnt."""

from tests.mutants import mutants

RANDOMNESS = mutants(
    "randomness.py",
    "test_randomness.py",
    [
        ("_words", 'f"{seed}/{purpose}"', 'f"{purpose}"',
         "test_all_purposes_of_several_seeds_differ"),
        ("_words", 'f"{seed}/{purpose}"', 'f"{seed}"',
         "test_all_purposes_of_several_seeds_differ"),
    ],
)  # fmt: skip

CHANGES = "test_a_change_reaches_the_stages_downstream_and_no_other"
ELSEWHERE = "test_a_model_of_another_run_is_known_by_its_content"
RUN = mutants(
    "runs/experiment.py",
    "test_identity.py",
    [
        ("Experiment.fingerprint", "chain.in_order(self.stages, [stage])", "[stage]",
         "test_a_stage_holds_all_stages_upstream[sft]"),
        ("Experiment.fingerprint", "chain.in_order(self.stages, [stage])",
         "list(self.stages)", "test_a_stage_holds_all_stages_upstream[sft]"),
        ("Experiment.fingerprint", '"seed": self.seed', '"seed": 0', f"{CHANGES}[seed]"),
        ("Experiment.fingerprint", '"data": self.data', '"data": 0', f"{CHANGES}[data]"),
        ("Experiment.fingerprint", '"model": self.model', '"model": 0', f"{CHANGES}[model]"),
        ("Experiment.fingerprint", '"ending": self.ending', '"ending": 0', f"{CHANGES}[ending]"),
        ("Experiment.fingerprint", "manifest.digest(path)", "str(path)", ELSEWHERE),
        ("Experiment.is_another_run_s", "and not self.stages[stage].needs()", "",
         "test_a_stage_holds_all_stages_upstream[prompted]"),
    ],
)  # fmt: skip

HEALTH = mutants(
    "training/health.py",
    "training/test_health.py",
    [
        ("Health.count", "self._updates - left_out", "self._updates",
         "test_a_stage_without_one_update_is_not_done[empty]"),
        ("Health.count", "self._updates - left_out", "1 - left_out",
         "test_one_update_of_many_is_enough_to_be_done", "SickError"),
    ],
)  # fmt: skip

MIX = mutants(
    "data/sources.py",
    "data/test_pipeline.py",
    [
        ("targets_of_text", "stop - start - 1", "stop - start",
         "test_a_fraction_of_the_loss_scales_the_weights_of_text"),
    ],
)  # fmt: skip

TEXT = mutants(
    "training/gradients.py",
    "stages/test_policy_update.py",
    [
        ("split_each_epoch", "in range(1, epochs)", "in [1] * (epochs - 1)",
         "test_each_epoch_shuffles_the_text_anew_and_reads_each_row_once"),
        ("split_each_epoch", "fold_in(jax.random.fold_in(key, epoch), number)",
         "fold_in(key, epoch)", "test_update_equals_a_loop_over_minibatches_of_shuffled_rows"),
    ],
)  # fmt: skip

MUTANTS = RANDOMNESS + RUN + HEALTH + MIX + TEXT
