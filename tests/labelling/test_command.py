"""rlhf-jax label: items from files, what is refused, export and deletion."""

import json
import os
import socket

import pytest

from rlhf_jax import cli
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.labelling import responses, serve
from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.item import Output
from rlhf_jax.labelling.options import LabelOptions
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.store import Store


def write(path, *records) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """A folder with the responses of two models."""
    folder, asked = tmp_path / "responses", [{"role": "user", "content": "r"}]
    write(folder / "sft.jsonl",
          {"prompt": "p", "responses": ["a", "b", "a"], "ended": [True, False, True], "x": 1},
          {"prompt": "q", "responses": ["same"]},
          {"prompt": asked, "response": "c\0", "ended": False})  # fmt: skip
    write(folder / "ppo.jsonl",
          {"prompt": "p", "response": "b"}, {"prompt": "q", "response": "same"},
          {"prompt": asked, "response": "d", "log_prob": -1.0})  # fmt: skip
    return folder


@pytest.fixture
def ended(monkeypatch):
    """The server ends as soon as it serves."""
    served = []
    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda self, sockets: served.append(sockets))
    return served


def test_outputs_of_several_models_to_one_prompt_are_one_item(files):
    found = responses.of_folder(files)
    assert found.alike == 1  # q, whose outputs are one text
    one, other = found.items
    assert set(one.outputs) == {Output("a", True, ("sft",)), Output("b", True, ("ppo", "sft"))}
    assert other.prompt[0].content == "r"
    assert set(other.outputs) == {Output("c\0", False, ("sft",)), Output("d", True, ("ppo",))}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (["p"], "expected a JSON object"),
        ({"response": "a"}, "'prompt': expected a prompt"),
        ({"prompt": "p"}, "'response': expected a response"),
        ({"prompt": "p", "response": "a", "responses": ["a"]}, "'response': expected a response"),
        ({"prompt": "p", "response": 3}, "'response': expected a string, got 3"),
        ({"prompt": "p", "responses": "ab"}, "'responses': expected a list"),
        ({"prompt": "p", "response": "\ud800"}, "no lone surrogates"),
        ({"prompt": "p", "response": "a", "ended": 1}, "'ended': expected true or false"),
        ({"prompt": "p", "responses": ["a", "b"], "ended": [True]}, "'ended': expected true"),
        ({"prompt": "", "response": "a"}, "'prompt': expected a string that is not empty"),
    ],
)
def test_a_malformed_line_of_responses_is_named(tmp_path, record, message):
    write(tmp_path / "m.jsonl", {"prompt": "p", "response": "a"}, record)
    with pytest.raises(RecordError) as error:
        responses.of_folder(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'm.jsonl'}:2: ") and message in str(
        error.value
    )


def test_a_model_whose_name_utf8_cannot_hold_is_refused(tmp_path):
    write(tmp_path / os.fsdecode(b"\xff.jsonl"), {"prompt": "p", "responses": ["a", "b"]})
    with pytest.raises(UserError, match="UTF-8 can hold"):
        responses.of_folder(tmp_path)


def test_folders_without_responses_and_too_many_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        responses.of_folder(tmp_path / "none")
    with pytest.raises(UserError, match="has no file"):
        responses.of_folder(tmp_path)
    write(tmp_path / "m.jsonl", {"prompt": "p", "responses": [str(i) for i in range(26)]})
    with pytest.raises(UserError, match='26 outputs for the prompt "p": must be 25 at most'):
        responses.of_folder(tmp_path)


def test_a_label_folder_is_made_served_exported_and_deleted_from(files, tmp_path, capsys, ended):
    folder, out = str(tmp_path / "labels"), tmp_path / "out"
    gold = write(tmp_path / "gold.jsonl", {"prompt": "g", "chosen": "1", "rejected": "2"})
    options = ["--responses", str(files), "--gold", gold, "--write", "2", "--port", "0"]
    assert cli.command(["label", folder, *options, "--labelers", "anna", "ben"]) == 0
    told = capsys.readouterr().out
    assert "2 new prompts" in told and "1 left out" in told and "1 new gold items" in told
    links = {line.split()[0]: line.split()[1] for line in told.splitlines() if "/enter#" in line}
    assert list(links) == ["owner", "anna", "ben"]
    # Once more, from the folder alone: no token is printed, nothing is added.
    assert cli.command(["label", folder, *options]) == 0
    told = capsys.readouterr().out
    assert "0 new prompts" in told and "#" not in told
    assert cli.command(["label", folder, "--port", "0", "--renew", "ben"]) == 0
    assert capsys.readouterr().out.count("/enter#") == 1
    assert len(ended) == 3
    store = Store(Database(folder))
    assert store.count() == 5
    people = People(store.database)
    assert people.enter(links["anna"].partition("#")[2]) is not None
    assert people.enter(links["ben"].partition("#")[2]) is None
    found = store.next("anna")
    content = {"ranks": [0, 1], "scores": [7, 1], "flags": [[], []]}
    store.answer("anna", found.id, "answered", content, None)
    assert cli.command(["label", "export", folder, "--to", str(out)]) == 0
    assert f"{out / 'rankings.train.jsonl'}: 1 records" in capsys.readouterr().out
    assert cli.command(["label", "delete", folder, "anna"]) == 0
    assert "anna: 1 answers are deleted" in capsys.readouterr().out
    assert cli.command(["label", "export", folder, "--to", str(out), "--merge", "majority"]) == 0
    assert capsys.readouterr().out == "nothing is labeled yet\n" and not list(out.iterdir())


FILES = ("--responses", "FILES")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "label needs an experiment file, a run or a folder of labels"),
        (("FOLDER",), "has no labels.sqlite"),
        (("FOLDER", "x", *FILES), "'x' belongs to no option"),
        (("FOLDER", *FILES, "--stages", "sft"), "responses = "),
        (("FOLDER", *FILES, "--to", "x"), "to = 'x': must be left out"),
        (("FOLDER", *FILES, "--labelers", "anna", "Ben"), "labelers = 'Ben': must be pseudonyms"),
        (("FOLDER", *FILES, "--labelers", "owner"), "labelers = 'owner'"),
        (("FOLDER", *FILES, "--renew", "anna"), "renew: 'anna' has no token"),
        (("FOLDER", *FILES, "--host", "0.0.0.0", "--insecure"), "address = None: must be given"),
        (("FOLDER", *FILES, "--host", "10.0.0.1"), "host = '10.0.0.1': must be given with --cert"),
        (("FOLDER", *FILES, "--host", "127.0.0.2", "--address", "http://a.b"), "labelers = ()"),
        (("FOLDER", *FILES, "--host", "::1", "--address", "http://a.b/c"), "address = 'http://a.b/"),
        (("FOLDER", *FILES, "--certificate", "x"), "key = None: must be given with"),
        (("FOLDER", *FILES, "--certificate", "x", "--key", "y"), "are no pair of a certificate"),
        (("FOLDER", *FILES, "--rank", "0"), "holds nothing to label"),
        (("FOLDER", *FILES, "--rank", "1", "--demonstrate", "2"), "demonstrate = 2: must be 1"),
        (("FOLDER", *FILES, "--k", "26"), "k = 26: must be 1 to 25"),
        (("FOLDER", *FILES, "--overlap", "2"), "overlap = 2.0"),
        (("FOLDER", *FILES, "--port", "70000"), "port = 70000"),
        (("export", "FOLDER", "--to", "x"), "has no labels.sqlite"),
        (("export", "--to", "x"), "label export needs FOLDER"),
        (("delete", "FOLDER"), "label delete needs FOLDER"),
        (("delete", "FOLDER", "anna", "--force"), "takes no option"),
    ],
)  # fmt: skip
def test_what_is_refused(files, tmp_path, ended, arguments, message):
    names = {"FOLDER": str(tmp_path / "labels"), "FILES": str(files)}
    with pytest.raises(UserError) as error:
        cli.command(["label", *(names.get(word, word) for word in arguments)])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not ended


def test_an_address_that_is_taken_is_refused_before_tokens_are_made(files, tmp_path, ended):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: cannot be listened to"):
            cli.command(["label", str(tmp_path / "labels"), "--responses", str(files),
                         "--labelers", "anna", "--port", port])  # fmt: skip
    assert People(Database(tmp_path / "labels")).names() == []


def test_addresses_of_this_machine():
    assert [serve.is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")]
    assert not any(map(serve.is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))
    assert serve.origins_of("127.0.0.1", 80, False) == [
        "http://localhost", "http://127.0.0.1", "http://[::1]"
    ]  # fmt: skip
    assert serve.origins_of("fe80::1", 8443, True) == ["https://[fe80::1]:8443"]


@pytest.mark.parametrize(
    "address",
    ["https://LABELS.org", "https://x.org:443", "http://x.org:80", "http://a b", "https://x.org?y",
     "https://u@x.org", "https://x.org/", "ftp://x.org"],
)  # fmt: skip
def test_an_address_that_no_browser_sends_is_refused(address):
    with pytest.raises(UserError, match="as browsers send it"):
        LabelOptions(address=address)


@pytest.mark.parametrize("address", ["https://x.org", "http://[::1]:443", "https://x-y.org:8443"])
def test_addresses_that_browsers_send_are_allowed(address):
    assert LabelOptions(address=address).address == address


def test_a_name_that_is_no_host_is_refused():
    with pytest.raises(UserError, match="cannot be listened to"):
        serve.listen("é" * 70, 0)
