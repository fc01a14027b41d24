"""Rows that are cut or shared, and what is computed in them."""

from tests.mutants import mutants

CUT = "test_a_batch_ends_with_the_size_of_its_longest_row"
OUTPUTS = "test_outputs_that_share_rows_are_the_same_outputs"
LOSS = "stages/test_packed_rankings.py::test_loss_and_gradient"
FEEDS = "test_feeds.py::test_batches_are_cut_to_the_longest_of_their_rows_where_the_config_says_so"
BINS = "data/test_arrays.py::test_first_fit_closes_a_bin_that_holds_the_most"
SIZES = "test_sizes_are_equal_steps_up_to_the_full_size"
PLACES = "test_places_in_rows_do_not_overlap"
SHARES = "data/test_shares.py::test_a_process_tokenises_its_share_once_and_then_its_own_rows"
STATES = "test_states_in_shared_rows_are_those_of_episodes_alone"
SMALLEST = "test_scoring_and_updates_take_the_smallest_rows_that_hold_every_piece[four sizes]"
TRACED = "test_scoring_and_update_compute_the_rows_of_their_fit_and_no_others"
ITERATION = "test_an_iteration_gives_scoring_and_update_the_rows_of_its_own_responses"
WHERE = "test_episodes_share_rows_on_one_device_without_the_fused_kernel"
COLUMNS = "stages/test_experience.py::test_columns_after_the_longest_response_change_no_episode"

DATA = (
    *mutants("data/buckets.py", "data/test_buckets.py", [
        ("first_fit", "if len(bins[b]) == most", "if len(bins[b]) > most", BINS,
         "AssertionError|TypeError"),
        ("first_fit", "room[b] = -1", "room[b] = 0", BINS),
        ("bucket_for", "size >= need", "size > need", SIZES, "AssertionError|StopIteration"),
        ("bucket_sizes", "-(-full * i // count)", "full * i // count", SIZES,
         "AssertionError|StopIteration"),
        ("bucket_count", "tokens <= SHORT", "tokens < SHORT",
         "test_only_rows_longer_than_64_tokens_are_cut_by_default"),
        ("places_in_rows", "at += lengths[i]", "at = lengths[i]", PLACES),
        ("most_rows", "-(-sequences // (length // longest))",
         "sequences // (length // longest)", "test_first_fit_needs_at_most_the_most_rows"),
        ("shared_length", "2 * longest <= context", "longest <= context",
         "test_first_fit_needs_at_most_the_most_rows"),
        ("Buckets.cut", "max(map(size, rows))", "min(map(size, rows))", f"{CUT}[demonstrations]"),
        ("Buckets.cut", "if name in CUT", "if name != 'tokens'", f"{CUT}[demonstrations]"),
    ]),
    *mutants("data/arrays.py", "data/test_buckets.py", [
        ("ranking_batch", "segments[b, m, here] = k + 1", "segments[b, m, here] = 1", OUTPUTS),
        ("ranking_batch", "places_in_rows(lengths, row_length)", "alone", f"{OUTPUTS}[24-1]",
         "AssertionError|IndexError"),
        ("ranking_rows", "len(first_fit(lengths, row_length))", "len(lengths)",
         f"{OUTPUTS}[12-2]", "AssertionError|StopIteration"),
        ("demonstration_rows", "sum(sizes[i][0]", "max(sizes[i][0]", f"{CUT}[packed]"),
    ]),
    *mutants("data/batches.py", "data/test_shares.py", [
        ("Batches.__next__", "batch, rows, self.size", "batch, rows[self._part], self.size",
         f"{SHARES}[demonstrations]", "AssertionError|ValueError"),
    ]),
    *mutants("data/sources.py", "test_feeds.py", [
        ("MixSource.size", "self._kinds[row.kind]", "self._kinds[0]", FEEDS,
         "TypeError"),
    ]),
)  # fmt: skip

STAGES = (
    *mutants("stages/outputs.py", "stages/test_packed_rankings.py", [
        ("_of_outputs", "1 + jnp.arange(outputs)", "jnp.arange(outputs)", f"{LOSS}[reward]"),
        ("sums", "_of_outputs(segments, outputs), flat, 0", "flat == flat, flat, 0",
         f"{LOSS}[dpo]"),
        ("at_last", "jnp.max(", "jnp.min(",
         "stages/test_reward_model.py::test_the_loss_equals_explicit_pairs_divided_as_asked"),
    ]),
    *mutants("stages/sft.py", "test_feeds.py", [
        ("SFT._batches", "self.bucket_count", "1", FEEDS),
    ]),
    *mutants("stages/reward_regression.py", "test_feeds.py", [
        ("RewardRegression._batches", "self.bucket_count", "1", FEEDS),
    ]),
    *mutants("stages/rankings.py", "test_feeds.py", [
        ("RankingStage._batches", "self.bucket_count", "1", FEEDS),
        ("RankingStage._batches", "self.row_length(inputs.build)", "None", FEEDS),
        ("RankingStage.row_length", "or fused(shape, self.length)", "", FEEDS),
        ("RankingStage.row_length", "shared_length(self.length, shape.context)", "self.length",
         FEEDS),
    ]),
    *mutants("stages/fitting.py", "stages/test_fitting.py", [
        ("last_states", "columns - first", "columns", STATES),
        ("last_states", "1 + jnp.arange(count, dtype=segments.dtype)[:, None]",
         "jnp.ones((count, 1), segments.dtype)", STATES),
        ("last_states", "places[:, -last:]", "places[:, :last]", STATES),
        ("shared_rows", "lengths[piece::pieces].tolist()", "lengths[: len(lengths) // pieces]",
         "test_each_piece_fills_rows_of_its_own", "AssertionError|ValueError"),
        ("Fitting.__call__", "lengths[rows], micro, length", "lengths, micro, length", SMALLEST),
        ("Fitting.__call__", "bucket_for(int(responses.max())", "bucket_for(int(responses.min())",
         "test_responses_are_cut_to_the_smallest_size_that_holds_the_longest"),
        ("Fit.cut", ": self.response", ":", TRACED),
        ("Fit.places", "self.rows * self.length * pieces", "segments.size",
         "test_places_are_those_of_the_shared_rows"),
    ]),
    *mutants("stages/experience.py", "stages/test_fitting.py", [
        ("Experiences.fresh", "found, fit, valued=True", "found, WHOLE, valued=True", TRACED),
        ("Experiences._read", "length + 1, fit", "length + 1, WHOLE", TRACED),
        ("Experiences._values", "length, fit)", "length)", TRACED),
        ("Experiences._log_probs", "temperature, fit)", "temperature)", TRACED),
        ("Experiences._experience", "(sampled.segments > 0).sum()", "mask.sum()", COLUMNS),
    ]),
    *mutants("stages/policy_update.py", "stages/test_fitting.py", [
        ("make_update", "picked._replace(fit=fit)", "picked", TRACED),
        ("value_loss", "batch.fit", "WHOLE", TRACED),
        ("policy_loss", "batch.fit", "WHOLE", TRACED),
    ]),
    *mutants("stages/iteration.py", "stages/test_fitting.py", [
        ("Iteration.__call__", "*drawn, scoring)", "*drawn, update)", ITERATION),
        ("Iteration.__call__", "self.frozen.fixed, update", "self.frozen.fixed, scoring",
         ITERATION),
        ("Iteration.__call__", "self.size = scoring.size", "self.size = WHOLE.size", ITERATION),
    ]),
    *mutants("stages/policy_gradient.py", "stages/test_fitting.py", [
        ("PolicyGradient._fitting", "runner.layout.mesh.size == 1 and", "", WHERE),
        ("PolicyGradient._fitting", "and not kernel", "", WHERE),
        ("PolicyGradient._fitting", "any(", "all(", WHERE),
        ("PolicyGradient._fitting", "shared_length(longest, context)", "longest", WHERE),
    ]),
    *mutants("stages/policy_gradient_config.py", "stages/test_fitting.py", [
        ("PolicyGradientConfig.bucket_count", "1 if self.stale else", "", WHERE),
    ]),
    *mutants("training/loop.py", "training/test_loop.py", [
        ("_Compilations.stepped", "self._steps[size] > WARM", "self._blocks > WARM",
         "test_a_step_may_compile_for_each_size_of_its_batch"),
        ("_Compilations.stepped", "self._compiled and", "",
         "test_a_steady_step_is_not_warned_of", "RuntimeWarning"),
    ]),
    *mutants("stages/supervised.py", "stages/test_supervised.py", [
        ("with_padding", "segments == 0", "segments == 1",
         "test_the_share_of_padding_is_told"),
        ("with_padding", "(params, batch, *key)", "(params, batch, None)",
         "test_the_share_of_padding_is_told"),
    ]),
)  # fmt: skip

MUTANTS = DATA + STAGES
