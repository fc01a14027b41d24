"""The generated world as a source, and what a source without grader or examples says."""

import dataclasses

import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.sources import corpora
from rlhf_jax.sources.folder import FolderData
from rlhf_jax.sources.human import HumanData
from rlhf_jax.sources.world import WorldData
from rlhf_jax.worlds.instruction import InstructionWorld, WorldConfig

SMALL = WorldConfig(
    sft=30, feedback=7, ppo=9, valid=5, test=6, documents=1000, valid_documents=10
)  # fmt: skip


def test_it_needs_no_files(tmp_path):
    corpus = corpora.prepare(WorldData(SMALL), tmp_path, 512, 0)
    counts = corpus.counts
    assert counts["demonstrations"] == {"train": 30, "valid": 5}
    assert counts["prompts"] == {"feedback": 7, "ppo": 9, "test": 6}
    assert counts["text"]["train"] > 900 and "rankings" not in counts
    assert corpus.tokenizer.vocab_size == 512
    assert corpus.sources("prompts", "ppo") == {"all": 9}
    assert corpus.where("prompts", "ppo") == "data set prompts.ppo"


def test_records_and_grader_are_of_the_world_of_the_seed():
    world = InstructionWorld(SMALL, 4)
    data = WorldData(SMALL, careless=0.5)
    splits, counts = data.records(4)
    assert splits["demonstrations"]["train"] == world.demonstrations("sft", 0.5)
    assert splits["demonstrations"]["valid"] == world.demonstrations("valid")
    assert [p.prompt for p in splits["prompts"]["feedback"]] == world.prompts("feedback")
    assert counts == {"careless": {"demonstrations": sum(world.hurried("sft", 0.5)), "of": 30}}
    right = world.demonstrations("valid")[0]
    grade = data.grader(4)
    assert grade(right.prompt, right.response).score > grade(right.prompt, "").score
    assert data.worked_examples(2, 4) == world.few_shot(2) != InstructionWorld(SMALL, 5).few_shot(2)
    assert data.examples("demonstrations") == 30 and data.examples("rankings") is None


def test_careless_has_its_bounds():
    with pytest.raises(ConfigError, match=r"^careless = 1\.0: must be in \[0, 1\)"):
        WorldData(careless=1.0)


@pytest.mark.parametrize("source", [HumanData(), FolderData()], ids=["human", "folder"])
def test_nobody_knows_what_a_good_response_to_people_s_prompts_is(source):
    name = type(source).__name__
    with pytest.raises(UserError, match=f"^data: {name} has no grader$"):
        source.grader(0)
    with pytest.raises(UserError, match=f"^data: {name} has no worked examples$"):
        source.worked_examples(3, 0)


def test_a_change_of_the_source_is_refused_in_its_directory(tmp_path):
    data = WorldData(SMALL)
    corpora.prepare(data, tmp_path, 512, 0)
    with pytest.raises(UserError) as refused:
        corpora.prepare(dataclasses.replace(data, careless=0.0), tmp_path, 512, 0)
    assert str(refused.value).splitlines()[1:] == ["  data.careless: 0.25 there, 0.0 now"]
    with pytest.raises(UserError) as refused:
        corpora.prepare(data, tmp_path, 512, 1)
    assert str(refused.value).splitlines()[1:] == ["  seed: 0 there, 1 now"]
