"""Slots, and a cache that grows in pieces."""

from tests.mutants import mutants

TESTS = "generation/test_slots.py"
REFILLED = "test_slots_that_are_refilled_change_no_response_and_no_slot_waits"
DEVICES = "test_slots_of_eight_devices_keep_each_row_on_its_own"
WIRED = "test_what_samples_decodes_as_its_config_says"
MOST = "test_the_most_turns_of_a_loop"

LOOP = mutants(
    "generation/slots.py",
    TESTS,
    [
        ("_loop", "drawn=held.drawn + held.live", "drawn=held.drawn", REFILLED),
        ("_loop", "prompt_length - held.length[:, None]", "0 * held.length[:, None]", REFILLED),
        ("_loop", "jnp.where(held.live, held.row, rows)", "held.row", REFILLED),
        ("_loop", "free.any(axis=1) &", "free.all(axis=1) &", REFILLED),
        ("_loop", "next=state.next + moves", "next=state.next + 1", DEVICES),
        ("_loop", "jnp.where(moves.reshape(-1, *[1] * (new.ndim - 1)), new, old)", "new", DEVICES),
        ("_wider", "state.column % ring", "0", REFILLED),
        ("_wider", "column=jnp.int32(ring)", "column=jnp.int32(0)", REFILLED),
        ("run", "queue.row % (batch // groups)", "queue.row", DEVICES),
        ("run", "groups = row_groups()", "groups = 1", DEVICES),
        ("_queue", "decoder.goes_on(token, 0)", "token >= 0", REFILLED),
    ],
)  # fmt: skip

TURN = mutants(
    "generation/decode.py",
    TESTS,
    [
        ("Decoder.turn", "inside < drawn", "inside <= drawn", REFILLED),
        ("Decoder.turn", "[None] + drawn", "[None] + 0 * drawn",
         "test_decoded_log_probabilities_are_those_of_the_sequences"),
        ("Decoder.goes_on", " & (column + 1 < self.response_length)", "", REFILLED),
        ("DecodingConfig.turns", "-(-rows // self.slots)", "rows // self.slots", MOST),
        ("DecodingConfig.turns", "self.sizes(response_length)[0]", "response_length", MOST),
        ("DecodingConfig.share", "self.slots * rows // all_rows", "self.slots",
         "test_a_device_has_its_share_of_the_slots"),
        ("DecodingConfig.sizes", "(i + 1)", "i", "test_the_cache_grows_to_the_whole_response"),
    ],
)  # fmt: skip

WIRES = (
    *mutants("stages/experience.py", TESTS, [
        ("make_rollout", "decoding=own,", "", f"{WIRED}", "KeyError"),
    ]),
    *mutants("stages/simulated_feedback.py", TESTS, [
        ("SimulatedFeedback.programs", "decoding=self.decoding,", "", WIRED, "KeyError"),
        ("SimulatedFeedback.programs", "self.decoding.turns(self.batch_size, self.response_length)",
         "self.response_length - 1", WIRED),
    ]),
    *mutants("evaluation/policies.py", TESTS, [
        ("sampling_program", "decoding=decoding,", "", WIRED, "KeyError"),
    ]),
    *mutants("evaluation/kl.py", TESTS, [
        ("KL.programs", "decoding=asked.decoding, ", "", WIRED),
    ]),
    *mutants("stages/policy_gradient.py", TESTS, [
        ("PolicyGradient.batches", 'found.append(Rows("decoding.slots", self.decoding.slots, 1))',
         "pass", "test_the_slots_of_ppo_are_cut_over_the_devices"),
        ("PolicyGradient.programs", "build.ending, self.decoding)", "build.ending)", WIRED),
    ]),
)  # fmt: skip

MUTANTS = LOOP + TURN + WIRES
