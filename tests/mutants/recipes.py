"""The numbers of the papers in the InstructGPT experiments."""

from tests.mutants import mutants

PRINTED = "test_what_the_papers_print"
SIX = f"{PRINTED}[instructgpt_6b]"

MUTANTS = (
    *mutants("experiments/instructgpt_6b.py", "test_recipes.py", [
        ("ADAM", "b2=0.95", "b2=0.999", SIX),
        ("COSINE", "final_fraction=0.1", "final_fraction=0.0", SIX),
        ("CONSTANT", "warmup_from=0.1", "warmup_from=0.0", SIX),
        ("CONSTANT", "warmup_steps=80", "warmup_steps=10", SIX),
        ("ppo", "learning_rate=9e-6", "learning_rate=9e-5", SIX),
        ("ppo", "kl=FixedController(0.02)", "kl=FixedController(0.2)", SIX),
        ("ppo", "epochs=1", "epochs=4", SIX),
        ("ppo", "PPOClip(0.2)", "PPOClip(0.5)", SIX),
        ("ppo", "ema_decay=0.992", "ema_decay=0.5", SIX),
        ("ppo", "ptx_ratio=8", "ptx_ratio=1", SIX),
        ("ppo", "iterations=500", "iterations=256",
         "test_sums_that_the_papers_print[instructgpt_6b-2.0]"),
        ("config", "ptx_coefficient=27.8", "ptx_coefficient=1.0", SIX),
        ("config", "learning_rate=1.04e-5", "learning_rate=9.65e-6", SIX),
        ("config", "pretraining_fraction=0.1", "pretraining_fraction=0.0", SIX),
        ("config", "learning_rate=9e-6", "learning_rate=9e-5", SIX),
        ("config", "epochs=2,", "epochs=16,", SIX),
        ("config", 'normalise="shift"', 'normalise="none"', SIX),
        ("config", "warmup_steps=179", "warmup_steps=358",
         "test_sums_that_the_papers_print[instructgpt_6b-2.0]"),
    ]),
    *mutants("experiments/instructgpt_1b3.py", "test_recipes.py", [
        ("config", "learning_rate=5e-6", "learning_rate=1.04e-5", f"{PRINTED}[instructgpt_1b3]"),
        ("config", '"reward", model=six.model', '"reward"',
         f"{PRINTED}[instructgpt_1b3]", "AttributeError"),
        ("config", '"runs/instructgpt_6b"', '"runs/instructgpt_1b3"',
         f"{PRINTED}[instructgpt_1b3]"),
    ]),
    *mutants("experiments/instructgpt_175b.py", "test_recipes.py", [
        ("config", "learning_rate=2.45e-6", "learning_rate=5.03e-6",
         f"{PRINTED}[instructgpt_175b]"),
        ("value", "learning_rate=5e-6", "learning_rate=9e-6", f"{PRINTED}[instructgpt_175b]"),
    ]),
    *mutants("stages/simulated_feedback.py", "test_recipes.py", [
        ("SimulatedFeedback.agreement", "0.726", "0.9",
         "test_simulated_labelers_are_those_of_the_paper"),
        ("SimulatedFeedback.outputs", "(4, 9)", "(2, 9)",
         "test_simulated_labelers_are_those_of_the_paper"),
    ]),
    *mutants("stages/policy_gradient_config.py", "stages/test_policy_gradient_config.py", [
        ("PolicyGradientConfig.advantage", "GAE()", "GAE(lam=1.0)",
         "test_the_defaults_are_the_papers"),
        ("PolicyGradientConfig.value_clip", "= 0.2", "= None", "test_the_defaults_are_the_papers"),
        ("PolicyGradientConfig.whiten_rewards", "False", "True",
         "test_the_defaults_are_the_papers"),
        ("PolicyGradientConfig.whiten_advantages", "True", "False",
         "test_the_defaults_are_the_papers"),
        ("PolicyGradientConfig.optimizer_steps", "self.epochs * self.minibatches",
         "self.minibatches", "test_values_at_the_edge_are_taken"),
    ]),
)  # fmt: skip
