"""Signs, coefficients and masks of objectives/."""

from tests.mutants import mutants

REDUCTIONS = mutants(
    "objectives/reductions.py",
    "objectives/test_reductions.py",
    [
        ("as_float", "jnp.promote_types(x.dtype, jnp.float32)", "x.dtype",
         "test_as_float_keeps_fractions"),
        ("WeightedMean.of", "jnp.sum(weights) if", "jnp.float32(values.size) if",
         "test_oracle[weighted_mean]"),
        ("WeightedMean.of", "jnp.where(weights != 0, values, 0) * weights", "values * weights",
         "test_masked_out_values_are_not_read"),
        ("WeightedMean.__add__", "self.weight + other.weight", "self.weight",
         "test_sum_of_parts_is_the_mean_of_the_union"),
        ("WeightedMean.psum", "self if axis_name is None else jax.lax.psum(self, axis_name)",
         "self", "test_devices_with_different_token_counts_give_the_global_mean_and_gradient"),
        ("masked_var", "jnp.square(x - masked_mean(x, mask, axis_name))", "jnp.square(x)",
         "test_oracle[masked_var]"),
        ("whiten", "whitened if shift_mean else whitened + mean", "whitened",
         "test_oracle[whiten-keep-mean]"),
        ("whiten", "whitened if shift_mean else whitened + mean", "whitened + mean",
         "test_oracle[whiten]"),
        ("aggregation_weights", "return mask, jnp.sum(mask)", "return mask, sequences",
         "test_oracle[aggregation_weights-token]"),
        ("aggregation_weights", "jnp.maximum(tokens_Bx1, 1)", "jnp.max(tokens_Bx1)",
         "test_oracle[aggregation_weights-sequence]"),
        ("aggregation_weights", "as_float(tokens_Bx1 > 0)", "jnp.ones_like(tokens_Bx1)",
         "test_three_aggregations_of_the_same_losses"),
        ("aggregation_weights", "mask / length", "mask",
         "test_oracle[aggregation_weights-length]"),
    ],
)  # fmt: skip

TERMS = mutants(
    "objectives/terms.py",
    "objectives/test_terms.py",
    [
        ("Objective.__rmul__", "factor * t.coefficient", "factor",
         "test_ablation_is_one_expression"),
        ("Objective.__neg__", "-1.0 * self", "self", "test_ablation_is_one_expression"),
        ("Objective.value", "t.coefficient * t.mean.mean", "t.mean.mean",
         "test_value_and_metrics_of_an_expression"),
        ("Objective.loss", "t.coefficient * t.mean.total", "t.mean.total",
         "test_terms_aggregate_by_sequence"),
        ("Objective.loss", "WeightedMean(t.mean.total, totals[name]).mean", "t.mean.mean",
         "test_different_weights_are_exact_given_their_totals_and_refused_without"),
        ("Objective.loss", "jnp.asarray(totals[name]) > 0", "1",
         "test_a_term_without_weight_leaves_the_others_whole"),
        ("gradients_by_term.weighted", "terms[name].coefficient * ", "",
         "test_gradients_by_term"),
        ("gradients_by_term", "jnp.sqrt(squares)", "squares", "test_gradients_by_term"),
    ],
)  # fmt: skip

MUTANTS = REDUCTIONS + TERMS
