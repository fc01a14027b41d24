"""Finished models: an adapter is stored without its trunk, is found together with it again, and
models on one trunk hold its arrays once."""

import dataclasses
import gc
import json
import shutil

import jax
import numpy as np
import pytest
from etils.epath import Path

from rlhf_jax.durable import manifest
from rlhf_jax.durable.model_files import load_model, read_about, save_model
from rlhf_jax.errors import UserError
from rlhf_jax.models import lora, parts, score
from rlhf_jax.models.lora import LoRA
from rlhf_jax.parallel.runner import JitRunner
from rlhf_jax.runs import doctor
from rlhf_jax.runs.models import Models
from tests.models.test_parts import leaves
from tests.stages import tiny

FORM, OTHER = LoRA(3, 6.0), LoRA(2, 4.0, ("qkv", "down"))
BASE_SHAPE = dataclasses.replace(tiny.MODEL, tied_embeddings=False)


def adapted(params, form, seed):
    adapter = lora.init(form, params["blocks"], jax.random.key(seed))
    return parts.merge(params, tiny.noisy(adapter, seed))


def write(run, stage, params, form=None, on=None):
    kind = "score" if "score" in params else "policy"
    (run / stage).mkdir(parents=True)
    (run / stage / "config.json").write_text(json.dumps({"config": stage}))
    shape = dataclasses.replace(BASE_SHAPE, lora=form)
    save_model(run / stage / "model", shape, params, kind, "0", None if on is None else run / on)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run's directory and its models: "sft" an adapter on "base", "reward" the same adapter
    trained further, "ppo" one of another form."""
    run = Path(tmp_path_factory.mktemp("models"))
    base = tiny.policy_params(1, BASE_SHAPE)
    sft = adapted(base, FORM, 2)
    reward = score.with_score_head(adapted(base, FORM, 3), jax.random.key(0))
    merged = lora.merged(FORM, sft)
    ppo = adapted(merged, OTHER, 4)
    models = {"base": base, "sft": sft, "reward": reward, "ppo": ppo}
    for stage, form, on in (("base", None, None), ("sft", FORM, "base"), ("reward", FORM, "sft"),
                            ("ppo", OTHER, "sft")):  # fmt: skip
        write(run, stage, models[stage], form, on)
    return run, models


@pytest.mark.parametrize("runner", [None, tiny.one_device()], ids=["first device", "runner"])
def test_an_adapter_is_found_with_its_trunk(stored, runner):
    run, models = stored
    found = Models(runner)
    for stage, params in models.items():
        kind = "score" if stage == "reward" else "policy"
        there = leaves(found.load(run / stage / "model", kind, "0"))
        assert there.keys() == leaves(params).keys()
        for path, array in there.items():  # merged matrices may be rounded otherwise
            bound = 1e-6 if stage == "ppo" and path.split("/")[-1] in OTHER.matrices else 0
            np.testing.assert_allclose(array, leaves(params)[path], rtol=0, atol=bound)


def test_a_file_holds_the_adapter_alone(stored):
    run, models = stored
    for stage in ("sft", "reward", "ppo"):
        kind = "score" if stage == "reward" else "policy"
        _, held = load_model(run / stage / "model", kind, "0")
        wanted = {p for p in leaves(models[stage]) if p.startswith(("blocks/lora/", "score/"))}
        assert leaves(held).keys() == wanted
    assert read_about(run / "base" / "model")["trunk"] is None


def test_models_on_one_trunk_hold_its_arrays_once(stored):
    """Policy, reference, reward model: measured in bytes of live arrays."""
    run, models = stored
    found = Models(JitRunner(tiny.one_device().layout))
    size = lambda tree: sum(x.nbytes for x in leaves(tree).values())
    gc.collect()
    before = sum(x.nbytes for x in jax.live_arrays())
    base = found.load(run / "base" / "model", "policy", "0")
    sft = found.load(run / "sft" / "model", "policy", "0")
    reward = found.load(run / "reward" / "model", "score", "0")
    gc.collect()
    held = sum(x.nbytes for x in jax.live_arrays()) - before
    adapters = [size(parts.split(m, lora.TRAINED["score"]).trained) for m in (models["reward"],)]
    adapters.append(size(parts.split(models["sft"], lora.TRAINED["policy"]).trained))
    assert held == size(models["base"]) + sum(adapters)
    for model in (sft, reward):
        for path, array in leaves(base).items():
            assert path == "head" or leaves(model)[path] is array
    assert "head" in sft and "head" not in reward
    merged = found.trunk(run / "sft" / "model", "policy", "0", OTHER)
    again = found.trunk(run / "sft" / "model", "policy", "0", None)
    ppo = leaves(found.load(run / "ppo" / "model", "policy", "0"))
    for path, array in leaves(merged).items():
        assert array is leaves(again)[path] and array is ppo[path]
        assert (array is leaves(sft)[path]) == (path.split("/")[-1] not in lora.MATRICES)
    left_out = found.trunk(run / "sft" / "model", "policy", "0", FORM)
    assert all(array is leaves(base)[path] for path, array in leaves(left_out).items())
    del base, sft, reward, merged, again, ppo, left_out, model, array
    gc.collect()
    assert sum(x.nbytes for x in jax.live_arrays()) == before  # nothing is kept


def test_a_run_may_be_moved_as_a_whole(stored, tmp_path):
    run, moved = stored[0], Path(tmp_path)
    for stage in ("base", "sft"):
        shutil.copytree(run / stage, moved / stage)
    about = json.loads((moved / "sft" / "model" / "model.json").read_text())
    assert about["trunk"]["beside"] == "../../base"
    place = moved / "sft" / "model"
    about["trunk"]["directory"] = str(run / "nowhere")  # as after the other run is gone
    _rewrite(place, about)
    assert "head" in Models().load(place, "policy", "0")
    advice = "bring it back: only the adapter is stored here$"
    assert not doctor.examine(moved / "sft")[0][0].damaged
    retrained = tiny.policy_params(2, BASE_SHAPE)  # of the same config, in the same place
    save_model(moved / "base" / "model", BASE_SHAPE, retrained, "policy", "0")
    with pytest.raises(UserError, match=f"sft/model is an adapter on .*/base, which has changed "
                       f"since; {advice}"):  # fmt: skip
        Models().load(place, "policy", "0")
    (line,) = doctor.examine(moved / "sft")[0][0].damaged
    assert f"{place} is an adapter on" in line and line.endswith(advice.removesuffix("$"))
    about["trunk"] |= {"directory": str(moved / "nowhere"), "beside": "../../nowhere"}
    _rewrite(place, about)
    with pytest.raises(UserError, match=f"nowhere, which is not there; {advice}"):
        Models().load(place, "policy", "0")
    about["trunk"] = "base"
    _rewrite(place, about)
    with pytest.raises(UserError, match="expected kind, tokenizer and model, got: trunk: 'base'"):
        Models().load(place, "policy", "0")


def _rewrite(place, about):
    content = json.dumps(about).encode()
    (place / "model.json").write_bytes(content)
    manifest.write(place, {"kind": "policy"})
