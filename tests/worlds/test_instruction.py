"""The world as a whole: reproducible, splits apart, facts told, and no cheap tricks."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.feedback.labelers import SimulatedLabeler
from rlhf_jax.sources.world import WorldData
from rlhf_jax.worlds.facts import Fact
from rlhf_jax.worlds.instruction import FAMILIES, SPLITS, InstructionWorld, WorldConfig

WORLD = InstructionWorld(WorldConfig())
SMALL = {"sft": 100, "feedback": 50, "ppo": 60, "valid": 20, "test": 30}
SMALL |= {"documents": 1000, "valid_documents": 10}


def digest(world: InstructionWorld) -> str:
    parts = [*world.corpus("train"), *world.corpus("valid"), world.few_shot(5)]
    for split in SPLITS:
        for demonstration in world.demonstrations(split):
            score = world.grade(demonstration.prompt, " the lamp is near Tovel").score
            parts += [demonstration.prompt, demonstration.response, f"{score:.6f}"]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def test_the_same_seed_gives_the_same_world_in_another_process():
    code = (
        "from tests.worlds.test_instruction import *\n"
        "print(digest(InstructionWorld(WorldConfig(seed=3, **SMALL))))"
    )
    env = os.environ | {"PYTHONHASHSEED": "12345"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    )
    assert run.stdout.strip() == digest(InstructionWorld(WorldConfig(seed=3, **SMALL)))


def test_another_seed_gives_another_world():
    one, two = (InstructionWorld(WorldConfig(seed=seed, **SMALL)) for seed in (1, 2))
    assert one.facts.all != two.facts.all
    assert set(one.prompts("test")) != set(two.prompts("test"))
    assert one.corpus("train") != two.corpus("train")


def test_runs_of_two_seeds_have_a_world_each_unless_the_worlds_seed_is_fixed():
    def prompts(run_seed: int, **fixed) -> list[str]:
        splits, _ = WorldData(WorldConfig(**fixed, **SMALL)).records(run_seed)
        return [record.prompt for record in splits["prompts"]["test"]]

    assert set(prompts(1)) != set(prompts(2))
    assert prompts(1, seed=2) == prompts(2, seed=2) == prompts(2)
    assert prompts(1) == InstructionWorld(WorldConfig(seed=1, **SMALL)).prompts("test")


def test_splits_have_their_sizes_and_share_no_prompt():
    prompts = [prompt for split in SPLITS for prompt in WORLD.prompts(split)]
    assert len(prompts) == 3000 + 1200 + 4000 + 200 + 400
    assert len(set(prompts)) == len(prompts)


def test_no_prompt_of_a_split_is_in_the_corpus():
    corpus = "\n".join(WORLD.corpus("train") + WORLD.corpus("valid"))
    asked = {line for line in corpus.splitlines() if line.startswith("User: ")}
    assert len(asked) > 700
    for split in SPLITS:
        assert not asked & {prompt.splitlines()[0] for prompt in WORLD.prompts(split)}


def test_each_split_has_the_same_mix_of_families():
    shares = {name: share for name, share, _ in FAMILIES}
    assert sum(shares.values()) == 100
    for split in SPLITS:
        counts = Counter(WORLD.families(split))
        total = sum(counts.values())
        for name, share in shares.items():
            assert abs(counts[name] - total * share / 100) <= 1


def test_a_larger_training_split_leaves_the_test_split_as_it_is():
    larger = InstructionWorld(WorldConfig(seed=3, **(SMALL | {"ppo": 200})))
    assert larger.prompts("test") == InstructionWorld(WorldConfig(seed=3, **SMALL)).prompts("test")


@pytest.mark.parametrize("documents", [1000, 9000])
def test_the_corpus_tells_every_fact_in_several_phrasings(documents):
    world = InstructionWorld(WorldConfig(**(SMALL | {"documents": documents})))
    corpus = " ".join(world.corpus("train"))
    for fact in world.facts.all:
        told = [fact.state(pattern) in corpus for pattern in fact.attribute.statements]
        assert sum(told) >= (2 if documents == 1000 else 4), fact


def test_the_corpus_tells_nothing_of_strangers():
    documents = [document for document in WORLD.corpus("train") if "User:" not in document]
    told = {line for document in documents for line in re.split(r"(?<=\.) ", document)}
    patterns = {(fact.attribute, fact.value) for fact in WORLD.facts.all}
    subjects = [*WORLD.facts.people, *WORLD.facts.strangers]
    telling = {s for s in subjects for a, v in patterns if _tells(told, Fact(a, s, v))}
    assert telling == set(WORLD.facts.people)
    assert all(s in " ".join(documents) for s in WORLD.facts.strangers)


def _tells(lines: set[str], fact: Fact) -> bool:
    return any(fact.state(pattern) in lines for pattern in fact.attribute.statements)


def test_the_corpus_has_its_size_and_its_share_of_forum_threads():
    corpus = WORLD.corpus("train")
    assert len(corpus) == 9000 and len(WORLD.corpus("valid")) == 300
    characters = sum(map(len, corpus))
    assert 0.9e6 < characters < 1.5e6
    forum = [document for document in corpus if document.startswith("User: ")]
    assert 0.06 < sum(map(len, forum)) / characters < 0.12


def test_forum_answers_are_of_mixed_quality():
    tasks = {task.prompt: task for task in WORLD._tasks["train forum"]}
    right = total = 0
    for document in WORLD.corpus("train"):
        for exchange in document.split("\nUser: ") if document.startswith("User: ") else []:
            prompt, _, answer = exchange.removeprefix("User: ").partition("\nAssistant:")
            right += answer == tasks[f"User: {prompt}\nAssistant:"].response
            total += 1
    assert total > 1000 and 0.4 < right / total < 0.7


def test_demonstrations_are_right_and_short():
    for split in SPLITS:
        demonstrations = WORLD.demonstrations(split)
        assert [d.prompt for d in demonstrations] == WORLD.prompts(split)
        grades = [WORLD.grade(d.prompt, d.response) for d in demonstrations]
        assert sum(grade.score for grade in grades) / len(grades) > 0.99
        assert not any(grade.hallucinated or grade.harmful for grade in grades)
        assert all(grade.followed is not False for grade in grades)
        for d in demonstrations:
            assert d.response[0] == " " and d.response[1] != " " and "\n" not in d.response
            assert d.prompt.startswith("User: ") and d.prompt.endswith("\nAssistant:")
            assert len(d.response.split()) <= 16


def test_careless_demonstrations_are_counted():
    data = WorldData(WorldConfig(**SMALL), careless=0.25)
    splits, counts = data.records(5)
    world = InstructionWorld(data.world, 5)
    hurried = world.hurried("sft", 0.25)
    assert counts["careless"] == {"demonstrations": sum(hurried), "of": 100}
    assert 15 <= sum(hurried) <= 35
    rows = zip(splits["demonstrations"]["train"], world.demonstrations("sft"), hurried, strict=True)
    changed = [(written != right, bad) for written, right, bad in rows]
    assert all(bad for differs, bad in changed if differs)
    assert sum(differs for differs, _ in changed) >= sum(hurried) - 2  # few are right by chance
    assert not any(world.hurried("sft", 0))


def test_poor_answers_score_clearly_less():
    tasks = WORLD._tasks["test"]
    for name, _, _ in FAMILIES:
        scores = [WORLD.grade(t.prompt, t.poor).score for t in tasks if t.family == name]
        assert sum(scores) / len(scores) < 0.9, name


def mean(answer) -> float:
    demonstrations = WORLD.demonstrations("test")
    scores = [WORLD.grade(d.prompt, answer(d)).score for d in demonstrations]
    return sum(scores) / len(scores)


def shifted(d) -> str:
    """The right answer to another prompt."""
    rows = WORLD.demonstrations("test")
    return rows[(rows.index(d) + 1) % len(rows)].response


TRICKS = {
    "empty": lambda d: "",
    "copy of the prompt": lambda d: d.prompt,
    "copy of the request": lambda d: " " + d.prompt.removeprefix("User: ").splitlines()[0],
    "always declining": lambda d: " I am sorry, but I can not help with that.",
    "never knowing": lambda d: " I am sorry, I do not know.",
    "denying": lambda d: " That is not right.",
    "every excuse": lambda d: " Sorry, that is not right, I do not know, I can not help with that.",
    "politeness": lambda d: " Thank you. How can I help you?",
    "one sentence": lambda d: " The lamp is near the door.",
    "every word": lambda d: " " + " ".join(WORLD.corpus("train")[:40]),
    "another answer": shifted,
    "right, then everything": lambda d: d.response + " " + WORLD.corpus("train")[0] * 3,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_score_far_below_real_answers(trick):
    assert mean(TRICKS[trick]) < 0.6 < 0.99 < mean(lambda d: d.response)


def test_saying_the_right_thing_twice_or_with_a_second_turn_scores_less():
    right = mean(lambda d: d.response)
    assert mean(lambda d: d.response + d.response) < right - 0.1
    assert mean(lambda d: d.response + "\n" + d.prompt) < right - 0.2


@given(st.integers(0, 399), st.text())
def test_grading_never_fails_on_a_prompt_of_the_world(index, response):
    assert 0 <= WORLD.grade(WORLD.prompts("test")[index], response).score <= 1


def test_a_prompt_of_another_world_is_refused():
    with pytest.raises(UserError, match="not a prompt of this world"):
        WORLD.grade("User: Who are you?\nAssistant:", " Nobody.")


def test_few_shot_examples_are_of_the_sft_split_and_of_different_families():
    demonstrations = {d.prompt: d.response for d in WORLD.demonstrations("sft")}
    families = dict(zip(WORLD.prompts("sft"), WORLD.families("sft"), strict=True))
    examples = WORLD.few_shot(13)
    shown = ["User: " + part for part in examples.split("User: ")[1:]]
    prompts = [part.partition("\nAssistant:")[0] + "\nAssistant:" for part in shown]
    assert [p + demonstrations[p] + "\n" for p in prompts] == shown
    assert len({families[prompt] for prompt in prompts}) == 13
    assert WORLD.few_shot(0) == ""
    assert WORLD.few_shot(15).startswith(examples)


def test_rank_follows_the_gold_scores_of_a_noiseless_labeler():
    exact = SimulatedLabeler(noise=0.0, levels=None)
    for demonstration in WORLD.demonstrations("valid"):
        prompt = demonstration.prompt
        responses = [" The lamp", demonstration.response, "", demonstration.response]
        scores = [WORLD.grade(prompt, response).score for response in responses]
        ranks = WORLD.rank(prompt, responses, exact)
        for i in range(4):
            for j in range(4):
                assert (ranks[i] < ranks[j]) == (scores[i] > scores[j])


def test_bad_configs_and_splits_are_refused():
    with pytest.raises(ConfigError, match="ppo"):
        WorldConfig(ppo=0)
    with pytest.raises(ConfigError, match="seed"):
        WorldConfig(seed=-1)
    with pytest.raises(ConfigError, match="documents"):
        WorldConfig(documents=10)
    with pytest.raises(ConfigError, match="split"):
        WORLD.prompts("train")
    with pytest.raises(ConfigError, match="split"):
        WORLD.corpus("test")
    with pytest.raises(ConfigError, match="count"):
        WORLD.few_shot(-1)
    with pytest.raises(ConfigError, match="the family"):
        InstructionWorld(WorldConfig(ppo=20000))
