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

MUTANTS = SAMPLING
