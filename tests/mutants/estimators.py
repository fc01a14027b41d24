"""What the lab gives an advantage and a surrogate."""

from tests.mutants import mutants

EACH = "test_expectation_over_all_groups"
MUTANTS = (
    *mutants("estimators/rows.py", "estimators/test_rows.py", [
        ("of", "r.average[0]", "0 * r.average[0]",
         "estimators/test_lab.py::test_a_row_reads_what_its_advantage_carries"),
        ("of", "episodes_of(r, values)", 'episodes_of(r, "exact")',
         f"{EACH}[gae_learned_value-2]"),
        ("episodes_of", '"exact": r.exact_values', '"exact": r.learned_values',
         f"{EACH}[gae_exact_value-2]"),
        ("episodes_of", "r.log_probs, r.old_log_probs", "r.log_probs, r.log_probs",
         f"{EACH}[vtrace-2]"),
        ("tokens", "p, r.old_log_probs", "p, r.log_probs", f"{EACH}[importance_per_token-2]"),
        ("responses", "(p, r.old_log_probs)", "(p, r.log_probs)", f"{EACH}[importance-2]"),
        ("without_kl", "0.0", "0.3", f"{EACH}[k2_in_loss-2]"),
        ("baseline_return", "r.baseline[:, None]", "0.0", f"{EACH}[stale_reinforce-2]"),
    ]),
    *mutants("estimators/bench.py", "estimators/test_rows.py", [
        ("draw", "MovingAverage(decay)", "MovingAverage(0.9)",
         "test_draw_samples_the_old_policy_and_averages_only_what_came_before"),
    ]),
)  # fmt: skip
