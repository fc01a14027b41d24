"""JSON that no field can take is told in one line, whichever file it stands in."""

import json
import math

import numpy as np
import pytest

from rlhf_jax.data.convert import Reading, read_file
from rlhf_jax.durable.batch_file import ABOUT, read_batch
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.durable.model_files import read_about
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.runs.origin import Origin
from rlhf_jax.strict_json import parse_json, read_json
from rlhf_jax.training.metrics import read_lines

HUGE = b"9" * 5000


def test_values_are_those_of_json():
    assert parse_json(b'{"a": [1, -2, 0.5, "\\u00e9", null, true]}') == {
        "a": [1, -2, 0.5, "\u00e9", None, True]
    }
    digits = b"123456789" * 33  # 297 of them
    assert parse_json(digits) == int(digits)


def test_a_number_of_thousands_of_digits_is_read_as_one_that_no_field_takes():
    for text, value in ((HUGE, math.inf), (b"-" + HUGE, -math.inf), (b"9" * 301, math.inf)):
        found = parse_json(text)
        assert found == value and not isinstance(found, int)
    assert repr(parse_json(b"-" + HUGE)) == "a number of 5000 digits"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "expected UTF-8, got byte 0xff"),
        (b"", r"expected JSON, got: Expecting value \(column 1\)"),
        (b'{"a": 1,\n}', r"expected JSON, got: .* \(line 2, column 1\)|\(column 8\)"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_wrong_is_one_line(content, message, tmp_path):
    with pytest.raises(UserError, match=message):
        parse_json(content)
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json: cannot be read: ") as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [HUGE, b'{"step": ' + HUGE + b"}", b'{"kind": ' + HUGE + b"}"])
def test_every_reader_of_the_package_says_so(content, tmp_path):
    for name in ("model.json", "config.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"model\.json: expected"):
        read_about(tmp_path)
    with pytest.raises(UserError, match=r"run format 0, here|config\.json: expected format and"):
        check_fingerprint(tmp_path, {"kind": "policy"})
    (tmp_path / "metrics.jsonl").write_bytes(content + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: is damaged \(no step in it\)"):
        read_lines(tmp_path / "metrics.jsonl")
    np.savez(tmp_path / "b.npz", **{ABOUT: np.frombuffer(HUGE, np.uint8)})
    with pytest.raises(UserError, match=r"b\.npz: expected a batch saved for replay"):
        read_batch(tmp_path / "b.npz")
    (tmp_path / "experiment.json").write_bytes(content)
    with pytest.raises(UserError, match=r"experiment\.json: expected an experiment file and opt"):
        Origin.read(tmp_path)


def test_the_readers_of_human_feedback_name_line_and_field(tmp_path):
    def read(name, form, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordError) as caught:
            read_file(str(tmp_path / name), Reading(format=form))
        return str(caught.value).removeprefix(f"{tmp_path}/")

    reply = {"role": "assistant", "text": "b", "rank": 12345, "replies": []}
    tree = {"prompt": {"role": "prompter", "text": "a", "replies": [reply, reply]}}
    content = json.dumps(tree).encode().replace(b"12345", HUGE, 1)
    told = read("trees.jsonl", "OpenAssistant trees", content)
    assert (
        told == "trees.jsonl:1: field 'rank': expected a finite number, got a number of 5000 digits"
    )
    told = read("hh.jsonl", "Anthropic HH", b'{"chosen": ' + HUGE + b', "rejected": "b"}')
    assert told == "hh.jsonl:1: field 'chosen': expected str, got a number of 5000 digits"
    told = read("pandalm.json", "PandaLM", b'[{"instruction": ' + HUGE + b"}]")
    assert told == "pandalm.json[0]: field 'instruction': expected str, got a number of 5000 digits"
