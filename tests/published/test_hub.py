"""Names on the hub, with a stand-in for the package that fetches them."""

import sys
import types

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.published import folder, hub


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the stand-in is asked for."""
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        if repository == "no/model":
            raise OSError("404 Client Error\nnot found")
        return str(tmp_path)

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return asked


def test_a_name_is_a_folder_of_safetensors_json_and_text(asked, tmp_path):
    assert folder.find_model("own-er/na.me-1@v2").path == tmp_path
    ((repository, revision, patterns),) = asked
    assert (repository, revision) == ("own-er/na.me-1", "v2")
    assert {"config.json", "model.safetensors", "tokenizer.json"} < set(patterns)
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in patterns)
    folder.find_model("own/name", weights=False)
    assert asked[1][:2] == ("own/name", None)
    assert not any("safetensors" in p and "index" not in p for p in asked[1][2])


@pytest.mark.parametrize("name", ["name", "a/b/c", "/a/b", "../b", "a/", ".a/b"])
def test_other_texts_are_no_names(asked, name):
    assert not hub.is_name(name) and folder.find_model(name) is None and not asked


def test_what_the_hub_says_is_one_line(asked):
    told = "no folder of this name is here, and the hub does not give its files: 404 Client Error"
    with pytest.raises(UserError, match=f"^no/model: {told}$"):
        folder.need_model("no/model")
    with pytest.raises(UserError, match=f"^pretrained = 'no/model': {told}$"):
        folder.need_model("no/model", field="pretrained")


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"names on the hub need pip install 'rlhf-jax\[hub\]'$"):
        folder.find_model("own/name")
