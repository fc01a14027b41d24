"""Labelers' agreement, pools and screening."""

from tests.mutants import mutants

KRIPPENDORFF = "test_krippendorff_is_the_library_of_that_name"
PAIRS = "test_raw_agreement_is_a_count_of_pairs_of_labelers"
COHEN = "test_cohen_and_its_interval_are_statsmodels"
AGREEMENT = mutants(
    "feedback/agreement.py",
    "feedback/test_agreement.py",
    [
        ("krippendorff", "(totals.sum() - 1)", "totals.sum()", KRIPPENDORFF),
        ("_ordinal", "- totals / 2", "", KRIPPENDORFF),
        ("_interval", "** 2", "** 4", KRIPPENDORFF),
        ("_Cells.of", "/ (counts[item] - 1)", "/ counts[item]", KRIPPENDORFF),
        ("raw_agreement", "each_pair=True", "each_pair=False", PAIRS),
        ("_kappa", "table.sum(axis=0) @ table.sum(axis=1)",
         "table.sum(axis=0) @ table.sum(axis=0)", COHEN),
        ("cohen", "ratings.groups[both_labeled]", "0 * ratings.groups[both_labeled]", COHEN),
        ("with_the_others", "np.delete(ratings.labels, ratings.labelers.index(name), axis=1)",
         "ratings.labels", "test_one_labeler_with_the_others"),
        ("_Cells.of", "ratings.groups[item], values", "item, values",
         "test_items_of_one_group_count_once_for_the_interval"),
        ("_estimate", "(1 - level) / 2, (1 + level) / 2", "1 - level, level",
         "test_a_known_spread_of_raw_agreement"),
        ("Ratings.of_rankings", "ranks[j] - ranks[i]", "ranks[i] - ranks[j]",
         "test_rankings_are_labels_of_pairs"),
        ("_estimate", "or np.ptp(found) <= 1e-12", "",
         "test_where_nothing_differs_there_is_no_interval_and_no_kappa"),
    ],
)  # fmt: skip

GROUPS = "test_labelers_of_one_group_agree_more_than_those_of_two"
LIKED = "test_a_group_likes_the_same_words_in_every_response"
LENIENT = "test_lenience_moves_ratings_and_length_moves_ranks"
POOLS = (
    *mutants("feedback/pools.py", "feedback/test_pools.py", [
        ("LabelerPool.seen", "taste_of(group,", "taste_of(labeler,", GROUPS),
        ("taste_of", "/ math.sqrt(len(words))", "", LIKED),
        ("taste_of", "sorted(set(response.split()))", "response.split()", LIKED),
        ("taste_of", "(seed, \"taste\", group, word)", "(seed, \"taste\", word)", GROUPS),
        ("LabelerPool.seen", "+ lenience", "", LENIENT),
        ("LabelerPool.seen", "length * math", "math", LENIENT),
        ("LabelerPool.rank", "< self.careless", "> self.careless",
         "test_a_careless_labeler_answers_at_random"),
        ("folds", "-sizes[name]", "sizes[name]", "test_folds_divide_labelers_evenly_by_records"),
        ("folds", "filled[fold][0] + sizes[name]", "filled[fold][0] + 1",
         "test_folds_divide_labelers_evenly_by_records"),
    ]),
    *mutants("feedback/screening.py", "feedback/test_screening.py", [
        ("screen", "found.value < least", "found.value > least",
         "test_the_paper_s_cutoffs_decide"),
        ("screen", "mean < cutoffs.demonstrations", "mean > cutoffs.demonstrations",
         "test_the_paper_s_cutoffs_decide"),
        ("Cutoffs", "rankings: float = 0.75", "rankings: float = 0.7",
         "test_the_paper_s_cutoffs_decide"),
        ("screen", "found.low < least <= found.high", "False",
         "test_a_few_answers_are_close_to_the_cutoff"),
    ]),
)  # fmt: skip

MUTANTS = (*AGREEMENT, *POOLS)
