"""What is left out of prompts before training, and what is held out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.hygiene import (
    at_most,
    deduplicate_by_prefix,
    first_of_each,
    hold_out,
    luhn,
    personal,
    split_by_prompt,
)
from rlhf_jax.data.messages import Message
from rlhf_jax.data.records import Demonstration, Prompt
from rlhf_jax.errors import ConfigError


def test_split_keeps_dialogues_and_long_prefixes_together():
    shared = "x" * 100
    prompts = ["ab", "abc", "abcd", "b", "c", "d", shared + "1", shared + "2", "y", "z"]
    for seed in range(30):
        train, held = split_by_prompt(prompts, 0.3, seed)
        assert sorted(train + held) == sorted(prompts)
        for together in (prompts[:3], prompts[6:8]):
            assert len(set(together) & set(held)) in (0, len(together))
    splits = {tuple(split_by_prompt(prompts, 0.3, seed)[1]) for seed in range(30)}
    assert len(splits) > 5


@given(
    st.lists(st.text("ab", min_size=1, max_size=6), min_size=2, max_size=40),
    st.floats(0.05, 0.95),
    st.integers(0, 99),
)
def test_no_prompt_is_on_both_sides(texts, fraction, seed):
    prompts = [Prompt("u" + text) for text in texts] + [Prompt("v")]
    train, held = split_by_prompt(prompts, fraction, seed, characters=4)
    assert Counter(train) + Counter(held) == Counter(prompts)
    assert train and held
    for a in train:
        for b in held:
            assert a.prompt[:4] != b.prompt[:4]
            assert not a.prompt.startswith(b.prompt) and not b.prompt.startswith(a.prompt)


def test_split_holds_out_about_the_fraction():
    prompts = [f"{i:04d}" for i in range(1000)]
    assert len(split_by_prompt(prompts, 0.1, 0)[1]) == 100
    assert split_by_prompt(prompts, 0.1, 0) == split_by_prompt(prompts, 0.1, 0)
    demonstrations = [Demonstration(prompt, " r") for prompt in prompts for _ in range(3)]
    train, held = split_by_prompt(demonstrations, 0.25, 1)
    assert len(held) == pytest.approx(750, abs=3)
    assert train == [each for each in demonstrations if each not in set(held)]


def test_what_cannot_be_split():
    with pytest.raises(ConfigError, match="all prompts begin alike or are of one user"):
        split_by_prompt(["abc1", "abc2"], 0.5, 0, characters=3)
    with pytest.raises(ConfigError, match=r"fraction = 1\.0"):
        split_by_prompt(["a", "b"], 1.0, 0)


def test_users_are_held_out_as_wholes():
    users = [user for user in "abcdefghij" for _ in range(10)]
    held = [user for user, out in zip(users, hold_out(users, 0.3, 0), strict=True) if out]
    assert len(held) == 30 and len(set(held)) == 3


def test_the_first_of_each_key_is_kept():
    assert first_of_each(["ab", "ac", "b", "a"], lambda text: text[0]) == (["ab", "b"], 2)


def test_a_user_has_at_most_so_many_prompts():
    items = [("u", "a"), ("u", "b"), ("u", "a"), ("u", "c"), ("v", "c"), (None, "c"), (None, "d")]
    kept, left = at_most(items, 2, lambda item: item[0], lambda item: item[1])
    assert kept == [*items[:3], *items[4:]] and left == 1


@pytest.mark.parametrize("number", ["4539578763621486", "79927398713", "0", "18"])
def test_luhn(number):
    """The second number is the worked example of ISO/IEC 7812; each other last digit is wrong."""
    right = int(number[-1])
    assert [luhn(number[:-1] + str(d)) for d in range(10)] == [d == right for d in range(10)]


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            "e-mail address",
            ["write to ann.b+c@mail.example.org.", "<x@y.de>", "a_b@c-d.co"],
        ),
        (
            "telephone number",
            ["call 555-123-4567", "(030) 1234 5678 90", "+49 30 1234 5678", "+493012345678", "Tel.:"
             " 0171 234 56 78", "+1 (555) 123-4567.", "5551234567",
             "call 15552345678!", "01712345678"],
        ),
        (
            "card number",
            ["4539 5787 6362 1486", "it is 4539578763621486, valid", "5555-5555-5555-4444"],
        ),
        (
            None,
            ["@home", "a@b", "in 1984-1990", "12,345,678.90", "1 2 3 4 5 6 7 8", "3.14159265358979",
             "2023-04-05 06:07", "4539578763621487", "192.168.100.200", "x = 100 - 200 - 30",
             "at 1700000000", "3000000000 people", "2123456789 + 1", "= 2123456789",
             "2,123,456,789", "0.2123456789"],
        ),
    ],
)  # fmt: skip
def test_personal_data_is_found(kind, texts):
    for text in texts:
        assert personal(["nothing here", text]) == kind, text


def test_deduplicate_by_prefix():
    prompts = ["abcX", "abcY", "ab", "abc", "zz", "zz"]
    assert deduplicate_by_prefix(prompts, 3) == (["abcX", "ab", "zz"], 3)
    assert deduplicate_by_prefix(prompts, 4) == (["abcX", "abcY", "ab", "abc", "zz"], 1)
    with pytest.raises(ConfigError, match="characters = 0"):
        deduplicate_by_prefix(prompts, 0)
    messages = (Message("system", "s"), Message("user", ""))
    assert deduplicate_by_prefix([messages, "system: s\n\nuser: x", "system"], 11)[1] == 1
