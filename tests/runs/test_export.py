"""`rlhf-jax export` on a finished run that trained its own tokenizer and models."""

import json

import jax
import numpy as np
import pytest
import tokenizers

from rlhf_jax import api, cli
from rlhf_jax.errors import UserError
from rlhf_jax.published import folder, model
from rlhf_jax.runs import export


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    place = tmp_path_factory.mktemp("exported")
    for stage in ("ppo", "reward"):
        cli.command(["export", str(small_run.directory), stage, str(place / stage)])
    return place


def test_a_policy_s_folder_is_read_again(exported, small_run):
    ours, there = api.load_policy(small_run.directory, "ppo"), folder.Folder(exported / "ppo")
    found = model.load(there, there.shape())
    jax.tree.map(np.testing.assert_array_equal, found, ours.params)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sampling = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 1.0}  # as in training
    assert json.loads((exported / "ppo" / "generation_config.json").read_text()) == ids | sampling
    made = tokenizers.Tokenizer.from_file(str(exported / "ppo" / "tokenizer.json"))
    prompt = "User: Give me two fruits.\nAssistant:"
    assert made.encode(prompt).ids == ours.tokenizer.prompt_ids(prompt)


def test_a_reward_model_s_card_has_the_report_s_figures(exported, small_run):
    report = json.loads((small_run.directory / "report.json").read_text())
    card = (exported / "reward" / "README.md").read_text()
    value = report["scorers"]["reward"]["accuracy_on_feedback"]
    assert value["low"] is not None
    shown = f"{value['mean']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    title = " ".join(report["columns"]["scorers"]["accuracy_on_feedback"]["title"].split())
    assert f"| {title} | {shown} |" in card
    assert "GPT2ForSequenceClassification" in card and '"missing_eos_score": -0.5' in card
    assert not (exported / "reward" / "generation_config.json").exists()


def test_what_cannot_be_exported_is_told(small_run, tmp_path):
    with pytest.raises(UserError, match=r"'feedback' has no finished model here; .*: .*ppo, .*sft"):
        cli.command(["export", str(small_run.directory), "feedback", str(tmp_path / "to")])
    with pytest.raises(UserError, match=r"^export needs RUN STAGE FOLDER, as in "):
        cli.command(["export", str(small_run.directory), "ppo"])
    with pytest.raises(UserError, match=r"^fetch needs MODEL, as in "):
        cli.command(["fetch"])
    assert not (tmp_path / "to").exists()
    with pytest.raises(UserError, match=r"^largest = 0: must be positive"):
        export.ExportOptions(largest=0)
