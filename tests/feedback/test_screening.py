"""The screening test of labelers."""

import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.feedback.screening import Answers, Cutoffs, screen

FLAGS = {i: i % 3 == 0 for i in range(200)}
RANKINGS = {f"p{i}": (0, 1, 2) for i in range(100)}


def candidate(flags_right: int, rankings_right: int, scores: tuple = (6, 7)) -> Answers:
    """Agrees on so many of the 200 flags, and on so many of the 100 rankings."""
    flags = {i: sensitive == (i < flags_right) for i, sensitive in FLAGS.items()}
    ranks = {p: r if n < rankings_right else r[::-1] for n, (p, r) in enumerate(RANKINGS.items())}
    return Answers(flags, ranks, scores)


@pytest.mark.parametrize(
    "answers, verdict, missed",
    [
        (candidate(180, 90), "passed", ()),
        (candidate(100, 90), "failed", ("flags",)),
        (candidate(180, 50), "failed", ("rankings",)),
        (candidate(180, 90, (5, 6)), "failed", ("demonstrations",)),
        (candidate(100, 50, ()), "failed", ("flags", "rankings")),
        (candidate(180, 74), "close", ("rankings",)),
        (candidate(180, 90, (6,)), "passed", ()),
    ],
)
def test_the_paper_s_cutoffs_decide(answers, verdict, missed):
    found = screen(answers, Answers(FLAGS, RANKINGS))
    assert (found.verdict, found.missed) == (verdict, missed)
    flags = sum(answers.flags[i] == FLAGS[i] for i in FLAGS) / 200
    ranks = sum(answers.rankings[p] == RANKINGS[p] for p in RANKINGS) / 100
    assert (found.flags.value, found.rankings.value) == pytest.approx((flags, ranks))
    assert found.flags.items == 200 and found.rankings.items == 300


def test_a_few_answers_are_close_to_the_cutoff():
    few = Answers({i: FLAGS[i] == (i < 8) for i in range(10)})
    found = screen(few, Answers(FLAGS, RANKINGS))
    assert (found.verdict, found.missed, found.rankings) == ("close", (), None)
    strict = screen(few, Answers(FLAGS), Cutoffs(flags=0.99))
    assert (strict.verdict, strict.missed) == ("close", ("flags",))


def test_what_cannot_be_screened_is_said():
    with pytest.raises(UserError, match="no item of the test in common"):
        screen(Answers({"x": True}), Answers({"y": True}))
    with pytest.raises(UserError, match="a score of 8: must be 1 to 7"):
        screen(candidate(180, 90, (8,)), Answers(FLAGS))
    with pytest.raises(ConfigError, match=r"flags = 2: must be in \[0, 1\]"):
        Cutoffs(flags=2)
