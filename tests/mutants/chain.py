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

MUTANTS = FEEDS + RANDOMNESS
