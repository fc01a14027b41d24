"""A directory of another version of this package is read, or refused in a sentence."""

import json

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.durable import formats, manifest
from rlhf_jax.durable.checkpoint import Checkpoints, restore, steps
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.formats import Format
from rlhf_jax.durable.model_files import load_model, save_model
from rlhf_jax.errors import UserError
from rlhf_jax.models import transformer
from rlhf_jax.models.config import RotaryScaling, TransformerConfig
from rlhf_jax.runs import doctor

OLD = Format("map", ("on paper", "on cloth", "on glass"), oldest=1, advice="draw it anew")
LATER = r"was written by a later version of rlhf_jax \({} format 9, here 0 to [12]\): update rlhf"


def test_a_number_is_read_or_refused_with_what_to_do():
    assert OLD.now == 2
    OLD.check(1, "here")
    OLD.check(2, "here")
    with pytest.raises(UserError) as error:
        OLD.check(3, "here")
    later = "here was written by a later version of rlhf_jax (map format 3, here 1 to 2)"
    assert str(error.value) == f"{later}: update rlhf_jax"
    with pytest.raises(UserError) as error:
        OLD.check(None, "here")
    earlier = "here was written by an earlier version of rlhf_jax (map format 0, here 1 to 2)"
    assert str(error.value) == f"{earlier}: draw it anew"


@pytest.mark.parametrize("number", [-1, True, "1", 1.0, [1]])
def test_what_is_no_number_is_refused(number):
    with pytest.raises(UserError, match="here: format: expected a whole number, got"):
        OLD.check(number, "here")


def test_what_is_written_now_has_the_numbers_of_now():
    assert (formats.CHECKPOINT.now, formats.MODEL.now, formats.RUN.now) == (1, 2, 1)


def _sign(folder, number):
    """Rewrites a manifest with another format number; None: with none, as format 0 has it."""
    content, wrong = manifest.read(folder)
    assert not wrong and content.pop("format", None) == 1
    content |= {} if number is None else {"format": number}
    content["sha256"] = manifest._digest(content)
    (folder / manifest.NAME).write_text(json.dumps(content))


@pytest.fixture
def stage(tmp_path):
    checkpoints = Checkpoints(tmp_path / "stage", keep=2)
    for step in (1, 2):
        checkpoints.save(step, {"w": jnp.full(3, step)}, {}, {"total_steps": 2})
    checkpoints.close()
    return tmp_path / "stage"


def test_a_checkpoint_without_a_number_is_read(stage):
    _sign(stage / "checkpoints" / "2", None)
    step, state, _, _ = restore(stage, {"w": jnp.zeros(3, jnp.int32)})
    assert step == 2 and state["w"].tolist() == [2, 2, 2]


def test_a_later_checkpoint_is_refused_even_where_an_earlier_one_is_good(stage):
    """Its manifest may have another form too."""
    folder = stage / "checkpoints" / "2"
    _sign(folder, 9)
    content = json.loads((folder / manifest.NAME).read_text())
    del content["versions"], content["sha256"]
    content["sha256"] = manifest._digest(content)
    (folder / manifest.NAME).write_text(json.dumps(content))
    with pytest.raises(UserError, match="2 " + LATER.format("checkpoint")):
        restore(stage, {"w": jnp.zeros(3, jnp.int32)})
    with pytest.raises(UserError, match="2 " + LATER.format("checkpoint")):
        doctor.examine(stage)
    assert steps(stage) == [1, 2]


SHAPE = TransformerConfig(
    vocab_size=8, layers=1, width=4, heads=1, context=8, positions="rotary",
    rotary_scaling=RotaryScaling(2.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda key: transformer.init(SHAPE, key), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.full(x.shape, 0.25, x.dtype), shapes)


def _number_model(directory, number):
    path = directory / "model.json"
    about = json.loads(path.read_text())
    assert about.pop("format", None) == formats.MODEL.now
    path.write_text(json.dumps(about | ({} if number is None else {"format": number})))


def test_a_model_without_a_number_is_read(tmp_path, params):
    save_model(tmp_path / "model", SHAPE, params, "policy", "0")
    _number_model(tmp_path / "model", None)
    manifest.write(tmp_path / "model", {"kind": "policy"})
    shape, read = load_model(tmp_path / "model", "policy", "0")
    assert shape == SHAPE and read["tokens"].tolist() == params["tokens"].tolist()


def test_a_later_model_is_refused_before_it_is_called_damaged(tmp_path, params):
    directory = tmp_path / "stage" / "model"
    save_model(directory, SHAPE, params, "policy", "0")
    _number_model(directory, 9)
    with pytest.raises(UserError, match="model " + LATER.format("model")):
        load_model(directory, "policy", "0")
    with pytest.raises(UserError, match="model " + LATER.format("model")):
        doctor.examine(tmp_path / "stage")


RUNS = {
    "earlier": (
        {"seed": 0},
        r"run was written by an earlier version of .* \(run format 0, here 1 to 1\): finish it",
    ),
    "later": (
        {"format": 9, "config": {"seed": 0}},
        r"run was written by a later version of rlhf_jax \(run format 9, here 1 to 1\): update",
    ),
}


@pytest.mark.parametrize("insist", [None, False, True])
@pytest.mark.parametrize("which", RUNS)
def test_a_run_of_another_format_is_refused_and_stays_as_it_is(tmp_path, which, insist):
    content, message = RUNS[which]
    file = tmp_path / "run" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        check_fingerprint(tmp_path / "run", {"seed": 0}, insist)
    assert json.loads(file.read_text()) == content


@pytest.mark.parametrize("content", ['{"format": 1}', "[1]", "7"])
def test_a_file_without_a_config_is_told(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: expected format and config, got other"):
        check_fingerprint(tmp_path, {"seed": 0})
