"""An iteration of a policy-gradient stage: its draws, what is stale, terms of the reward, functions
on the host, and what the report shows of several such stages."""

from tests.mutants import mutants

DRAW = "test_each_draw_of_an_iteration_has_a_key_and_prompts_of_its_own"
TO_COME = "test_responses_of_an_iteration_to_come_have_its_key_and_its_place"
GIVE_WAY = "test_groups_whose_scores_are_alike_give_way_to_those_of_more_draws"
FILLED = "test_what_stays_empty_after_the_last_draw_is_filled_with_the_first_groups_alike"
LEARNS = "test_iteration_t_learns_from_the_policy_of_t_minus_stale"
ENOUGH = "test_one_draw_that_differs_everywhere_is_enough"
DRAWS = mutants("stages/iteration.py", "stages/test_iteration.py", [
    ("Iteration._draw", "next(draws), number, 0)", "next(draws), state.step, 0)", TO_COME),
    ("Iteration._draw", "jax.random.fold_in(state.key, number), 0)",
     "jax.random.fold_in(state.key, state.step), 0)", TO_COME),
    ("Iteration._fill_queue", "number < self.config.iterations", "True", TO_COME),
    ("Iteration._fill_queue", "range(ahead + 1)", "range(ahead)", TO_COME),
    ("Iteration._fill_queue", "(now + ahead,)", "(now + ahead - 1,)", TO_COME),
    ("Iteration._fill_queue", "if now == 0", "if now >= 0", TO_COME),
    ("Iteration._fill_queue", "state._replace(queue=queue)", "state", TO_COME),
    ("Iteration._fill_queue", "np.int32(number)", "np.int32(now)", TO_COME),
    ("Iteration._differing", "key if draw == 0 else jax.random.fold_in(key, draw)", "key", DRAW),
    ("Iteration._differing", "key if draw == 0 else jax.random.fold_in(key, draw)",
     "jax.random.fold_in(key, draw)", DRAW),
    ("Iteration._differing", "next(draws), number, draw)", "next(draws), number, 0)", DRAW),
    ("Iteration._differing", "only_rounding(scores.min(axis=1), scores.max(axis=1))",
     "scores.min(axis=1) == scores.max(axis=1)", DRAW),
    ("Iteration._differing", "[:size]", "", DRAW),
    ("Iteration._differing", "sum(map(_rows, kept)) < size", "sum(map(_rows, kept)) <= size",
     ENOUGH, "IndexError"),
    ("Iteration._differing", "draw < self.config.max_draws", "True", FILLED, "IndexError"),
    ("Iteration._differing", "x[~same]", "x[same]", GIVE_WAY),
    ("Iteration._differing", "*kept, *alike)", "*alike, *kept)", GIVE_WAY),
    ("Iteration._differing", "filled // group", "filled", FILLED),
    ("Iteration._differing", '"draws": draw,', '"draws": draw - 1,', GIVE_WAY),
    ("Iteration._sample", "draw, index, rollout", "draw, np.arange(8), rollout", DRAW),
    ("Iteration.__call__", "metrics | about | told", "metrics | told", DRAW),
    ("Iteration.__call__", "(state, self.frozen, *drawn, scoring)", "(state, self.frozen)", DRAW),
])  # fmt: skip

STALE = "test_stale_responses_are_read_by_the_networks_of_the_iteration"
BY_LEARNER = "test_what_a_sick_sampler_drew_reaches_no_update"
TERM = "test_each_term_reads_its_own_scorer_and_its_own_function"
TOLD = "test_terms_and_failed_calls_are_told_by_their_numbers"
EXPERIENCE = (
    *mutants("stages/experience.py", "stages/test_carried.py", [
        ("Experiences.stale", "state.step %", "(state.step + 1) %", STALE),
        ("Experiences.stale", "self._values(params, *rows)",
         "self._values(params._replace(value=frozen.scorers['reward']), *rows)", STALE),
        ("Experiences.stale", "params.policy, *rows", "frozen.reference, *rows", STALE),
        ("Experiences._log_probs", "temperature, fit)", "1.0, fit)", STALE),
        ("Experiences.stale", "sampled, values, log_probs)",
         "sampled, values, sampled.log_probs)", STALE),
        ("Experiences.stale", "k2(log_probs", "2 * k2(log_probs", STALE),
        ("Experiences.stale", "masked_mean(gap, sampled.mask)", "gap.mean()", STALE),
    ]),
    *mutants("stages/experience.py", "stages/test_iteration.py", [
        ("Experiences.push", "number % (", "(number + 1) % (", LEARNS),
        ("Experiences.queue", "self.config.stale + 1", "self.config.stale", LEARNS),
    ]),
    *mutants("stages/experience.py", "stages/test_experience.py", [
        ("Experiences._experience", "explained_variance(values, returns, mask)",
         "explained_variance(returns, values, mask)",
         "test_experience_equals_loops_over_unpadded_sequences[plain]"),
        ("Experiences._read", "of(shapes[stage], params)",
         "of(shapes[stage], [*frozen.scorers.values()][0])", TERM,
         "AssertionError|TypeError|.*Error"),
        ("Experiences._scores", "read[stage] for", "[*read.values()][0] for", TERM),
        ("Experiences._scores", "found.get(str(number))", 'found.get("1")', TERM),
        ("Experiences._scores", "total(self.config.rewards, terms)", "sum(terms)", TERM),
        ("Experiences._scores", "rollout.mask, ended)", "rollout.mask, ~ended)", TERM),
        ("Experiences._sampled", "jnp.isnan(values)", "~jnp.isnan(values)", TOLD),
        ("Experiences._sampled", "sum(failed[1:], start=", "sum(failed[2:], start=", TOLD),
        ("Experiences._sampled", "enumerate(terms)", "enumerate(terms, 1)", TOLD,
         "KeyError"),
        ("Experiences._sampled", "if len(terms) > 1", "if terms", TOLD),
        ("Experiences._sampled", "rollout.log_probs) * mask", "rollout.log_probs)", TOLD),
        ("Experiences._sampled", "rollout.sick.any(), jnp.nan", "False, jnp.nan", BY_LEARNER),
        ("Experiences._experience", '("sick_rows", "reward_errors")', '("sick_rows",)', TOLD),
        ("Experiences._experience", '["sampler_gap"].max()', '["sampler_gap"].mean()', TOLD),
    ]),
)  # fmt: skip

ROWS = "test_a_step_draws_more_prompts_once_and_all_are_rows_of_all_processes"
GROUPS = "test_the_rows_of_a_group_lie_side_by_side_and_a_process_loads_its_own"
SAYS = "test_each_function_says_its_number_of_each_response_and_its_own_prompt"
STARTS = "test_stale_responses_have_a_place_each_and_values_start_from_the_stage_that_is_named"
READ = "stages/test_critics.py::test_what_the_value_network_starts_from_is_read"
STAGE = (
    *mutants("stages/feeds.py", "test_feeds.py", [
        ("Prompted.draws", "if str(number) not in more:", "if True:", ROWS, "AssertionError"),
        ("Prompted.draws", 'batch.setdefault("more", {})', 'dict(batch.get("more", {}))', ROWS),
        ("Prompted.draws", 'yield self.runner.rows(batch["prompts"], rows)', "pass", ROWS),
        ("Prompted.draws", "self.runner.rows(more[str(number)], rows)",
         "self.runner.rows(more[str(number)], 64)", ROWS),
        ("Prompted.text", 'self.rows["text"]', 'self.rows["prompts"]', ROWS),
        ("Prompted.whole", '{"more": self.rows["prompts"]}', '{"more": self.rows["text"]}', ROWS),
    ]),
    *mutants("stages/policy_gradient.py", "test_feeds.py", [
        ("PolicyGradient._batches", '{"prompts": self.batch_size}',
         '{"prompts": self.batch_size // self.group}', GROUPS),
        ("PolicyGradient._batches", "self.prompt_length, self.group", "self.prompt_length", GROUPS,
         "AssertionError|.*Error"),
    ]),
    *mutants("stages/policy_gradient.py", "stages/test_policy_gradient.py", [
        ("PolicyGradient._functions", "enumerate(self.rewards)", "enumerate(self.rewards, 1)", SAYS,
         "AssertionError|IndexError"),
        ("PolicyGradient._functions", "if term.on_host", "", SAYS, "NotImplementedError"),
        ("PolicyGradient._asks", "self.rewards[int(n)]", "self.rewards[1]", SAYS),
        ("PolicyGradient._asks", "records[place])", "records[place % 2])", SAYS),
        ("PolicyGradient._asks", 'f"reward_{term}" if draw == 0 else f"reward_{term}_{draw}"',
         'f"reward_{term}"', SAYS),
        ("PolicyGradient._asks", 'f"reward_{term}" if draw == 0 else f"reward_{term}_{draw}"',
         'f"reward_{term}_{draw}"', SAYS),
        ("PolicyGradient._asks", "int(number), function", "int(draw), function", SAYS),
        ("PolicyGradient._asks", 'inputs.records("prompts", self.prompts)',
         'inputs.records("prompts", "ppo")', SAYS, "KeyError"),
        ("PolicyGradient._asks", "response.text for", "str(response.ids) for", SAYS),
        ("PolicyGradient.task", "queue=empty())", "queue=None)", STARTS),
        ("PolicyGradient.task", '(inputs, "value", self.lora)',
         '(inputs, "rewards reward", self.lora)',
         STARTS),
        ("PolicyGradient.check", "term.check()", "pass",
         "test_a_function_that_is_not_there_is_told_before_any_step", ".*DID NOT RAISE"),
    ]),
    *mutants("stages/policy_gradient.py", READ, [
        ("PolicyGradient.needs", "self.value or next(iter(self.scorers.values()), None)",
         "self.value", READ),
    ]),
    *mutants("stages/policy_update.py", "stages/test_iteration.py", [
        ("initial_state", "queue=copy(queue)", "queue=None", LEARNS, "AssertionError|.*Error"),
    ]),
    *mutants("stages/policy_update.py", "stages/test_carried.py", [
        ("initial_state", "advantage=config.advantage.init()",
         "advantage=jax.tree.map(lambda x: x + 1, config.advantage.init())",
         "test_a_sick_iteration_leaves_what_is_carried_as_it_was"),
        ("make_update", "config.surrogate.carry(surrogate, kl)",
         "config.surrogate.carry(surrogate, moved.kl)",
         "test_a_penalty_s_coefficient_is_that_of_the_iteration_and_doubles_by_its_kl"),
    ]),
)  # fmt: skip

SHOWN = "test_the_gold_score_is_drawn_over_the_column_that_is_named"
MANY = "test_more_stages_than_colours_are_told_apart_by_their_markers"
SHOWS = (
    *mutants("parallel/runner.py", "parallel/test_runners.py", [
        ("PmapRunner.compile", "(1,) if donate", "(0,) if donate",
         "test_a_donated_state_gives_its_memory_and_nothing_else_does[pmap]"),
        ("PmapRunner.compile", "(1,) if donate", "(2,) if donate",
         "test_a_donated_state_gives_its_memory_and_nothing_else_does[pmap]"),
        ("PmapRunner.compile", "for i in range(arguments)", "for i in range(1, arguments + 1)",
         "test_rows_go_to_the_devices_and_come_back_in_order[pmap]", "AssertionError|.*Error"),
    ]),
    *mutants("evaluation/figure.py", "evaluation/test_report.py", [
        ("look", "(place + again)", "(place + 0)", MANY),
        ("look", "LOOKS[place][0]", "LOOKS[(place + again) % len(LOOKS)][0]", MANY),
        ("_over", "panel.set_xscale(", "(lambda *_, **__: None)(", f"{SHOWN}[1000.0-asinh]"),
        ("_over", "10 * means", "1 * means", f"{SHOWN}[1.0-linear]"),
        ("_over", "linear_width=means[len(means) // 2]", "linear_width=means[0]",
         f"{SHOWN}[1000.0-asinh]"),
    ]),
    *mutants("evaluation/gold_score.py", "evaluation/test_report.py", [
        ("GoldScore.columns", "over=self.over", "over=None", f"{SHOWN}[1.0-linear]",
         "KeyError"),
    ]),
)  # fmt: skip

MUTANTS = (*DRAWS, *EXPERIENCE, *STAGE, *SHOWS)
