"""A run on messages: data, SFT of every turn, and what `generate` and the API are asked."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from rlhf_jax import api, cli
from rlhf_jax.data.records import Demonstration, Prompt, Scored, Text
from rlhf_jax.data.rendering import ChatConfig, record_of
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.errors import RecordError, UserError
from rlhf_jax.generation.ending import Ending
from rlhf_jax.runs import scoring
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.show import OTHER, TRAINED, ShowOptions, sequences, show, told
from rlhf_jax.sources.corpora import check_config, prepare
from rlhf_jax.sources.folder import FolderData
from tests.data import dialogues
from tests.pages import parts

ROOT = Path(__file__).resolve().parents[1]
TURNS = [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "r1"},
         {"role": "user", "content": "q2"}, {"role": "assistant", "content": "r3"}]  # fmt: skip
PUBLISHED = ChatConfig("published")


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "records"
    place.mkdir()
    dialogues.write("gemma", place)
    lines = [{"messages": TURNS[:2]}, {"messages": TURNS}, {"prompt": "p", "response": " r"}]
    for name, records in {
        "demonstrations.train": lines,
        "demonstrations.valid": [{"prompt": "held out", "response": "r"}],
        "rankings.train": [{"prompt": TURNS[:1], "chosen": "a", "rejected": "b"}],
        "rankings.valid": [{"prompt": TURNS[:3], "chosen": "a", "rejected": "b<eos>"}],
    }.items():
        content = "".join(json.dumps(record) + "\n" for record in records)
        (place / f"{name}.jsonl").write_text(content)
    return place


def made(folder, name="data", chat=PUBLISHED):
    size = len(dialogues.SPECIAL["gemma"][0]) + 256
    return prepare(FolderData(str(folder)), folder.parent / name, size, 0, chat)


ASKED = "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n"


def test_records_are_stored_as_the_text_of_the_template(folder, capsys):
    corpora = made(folder)
    one, several, plain = corpora.read("demonstrations", "train")
    assert one == Demonstration(ASKED.format("q0"), "r1")
    assert several.response == "r3"
    assert [several.prompt[a:b] for a, b in several.trained] == ["r1<end_of_turn>"]
    assert plain == Demonstration(ASKED.format("p"), "r")
    assert corpora.read("prompts", "ppo")[0] == Prompt(ASKED.format("q0"))
    tokenizer = corpora.tokenizer
    assert tokenizer.token_of(tokenizer.eos_id) == "<end_of_turn>"
    assert corpora.counts["joined_differently"] == {"rankings.valid": 1}
    assert "if prompt and response are joined first: rankings.valid 1" in capsys.readouterr().out
    check_config(FolderData(str(folder)), folder.parent / "data", 262, 0, PUBLISHED)
    with pytest.raises(UserError, match="another config"):
        check_config(FolderData(str(folder)), folder.parent / "data", 262, 0)


class OfSources(FolderData):
    """The records of a folder, said to be of two sources."""

    def records(self, seed):
        splits, counts = super().records(seed)
        return splits, counts | {"sources": {"rankings.train": {"a": 2, "b": 1}}}


def test_sources_are_counted_without_what_the_template_refuses(folder, capsys):
    rows = [{"prompt": prompt, "chosen": "a", "rejected": "b"}
            for prompt in (TURNS[:1], [*TURNS[:1], TURNS[2]], "p")]  # fmt: skip
    (folder / "rankings.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpora = prepare(OfSources(str(folder)), folder.parent / "data", 262, 0, PUBLISHED)
    assert corpora.counts["rankings"] == {"train": 2, "valid": 1}
    assert corpora.sources("rankings", "train") == {"a": 1, "b": 1}
    told = "data: left out, as they cannot be rendered: rankings.train (the chat template refuses "
    assert told in capsys.readouterr().out


def test_messages_without_a_template_are_refused(folder):
    with pytest.raises(UserError, match=r"demonstrations.train, record 1: field 'prompt': expected "
                       r"a text, got messages: name the template"):  # fmt: skip
        made(folder, chat=ChatConfig())


def test_a_template_of_a_file_is_known_by_its_text(folder, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text(dialogues.template("gemma"))
    corpora = made(folder, chat=ChatConfig(str(file), turns="last"))
    assert corpora.read("demonstrations", "train")[1].trained == ()
    other = tmp_path / "u.jinja"
    file.rename(other)
    there = FolderData(str(folder)), folder.parent / "data", 262, 0
    check_config(*there, ChatConfig(str(other), turns="last"))
    other.write_text("another")
    with pytest.raises(UserError, match="another config"):
        check_config(*there, ChatConfig(str(other), turns="last"))
    assert load_tokenizer(folder.parent / "data" / "tokenizer.json").chat.source == (
        dialogues.template("gemma"))  # fmt: skip
    assert dataclasses.replace(PUBLISHED, template=None) == ChatConfig()
    other.write_text("{{ messages }")
    with pytest.raises(UserError, match=rf"^chat.template = '{other}': chat template: line 1: "):
        made(folder, "again", ChatConfig(str(other)))


def test_records_are_shown_token_by_token(folder, capsys, tmp_path):
    config = load_experiment(str(ROOT / "experiments/folder.py"))
    config = dataclasses.replace(
        config,
        data=FolderData(str(folder)),
        model=dataclasses.replace(config.model, vocab_size=262),
        chat=PUBLISHED,
        out=str(tmp_path / "run"),
    )
    show(config, ShowOptions(2))

    lines = capsys.readouterr().out.splitlines()
    begin = "|".join([
        *("<bos>", "<start_of_turn>", *"user\u23ceq0", "<end_of_turn>", "\u23ce"),
        *("<start_of_turn>", *"model\u23ce"),
    ])  # fmt: skip
    below = lambda line: lines[lines.index(line) + 1] if line in lines else None
    expected = f"{begin}[[r|1|<end_of_turn>]]"
    assert below("demonstrations.train 1 of 3: 21 tokens, 3 trained") == expected
    assert sum(line.startswith("demonstrations.train") for line in lines) == 2
    expected = f"{begin}[[b|<end_of_turn>]]"
    assert below("rankings.train 1 of 1, rank 1: 20 tokens, 2 trained") == expected
    assert below("prompts.ppo 1 of 2, prompt: 18 tokens, 0 trained") == begin
    assert not (tmp_path / "run").exists()
    sft = dataclasses.replace(config.stages["sft"], length=20)
    show(config.with_stages(sft=sft), ShowOptions(3))
    out = capsys.readouterr().out
    assert "sft: demonstrations.train.jsonl: all: 2 too long of 3 left out (sft.length = 20;" in out
    first, second, third = re.findall(r"^demonstrations.train .*$", out, re.MULTILINE)
    assert first.endswith("21 tokens, 3 trained, longer than sft.length = 20: left out")
    assert second.endswith(": left out") and third.endswith(" trained")
    corpora = made(folder, "run/data")
    show(config, ShowOptions(1))  # of the run's own data
    assert lines[-1] == "" and "demonstrations.train 1 of 3" in capsys.readouterr().out
    several = corpora.read("demonstrations", "train")[1]
    close = lambda ids, ended: [*ids, 9] if ended else ids
    (sequence,) = sequences(several, corpora.tokenizer, close)
    shown = told("x", sequence, corpora.tokenizer)
    style = {str(span.style) for span in shown.spans if shown.plain[span.start : span.end] == "r"}
    assert style == {TRAINED, OTHER}  # of r1 and r3, and of "user"
    scored = sequences(Scored("p", "s", 1.0), corpora.tokenizer, close)
    assert scored[0].ids.tolist()[-1] == 9 and scored[0].trained.sum() == 2
    assert sequences(Text("a"), corpora.tokenizer, close)[0].trained.tolist() == [False, True, True]


SHRUNK = """--model.layers 1 --model.width 16 --model.heads 2 --model.context 128 --sft.epochs 1
    --model.vocab-size 262 --evaluation.response-length 8"""


def test_the_page_runs(folder, tmp_path, monkeypatch, capsys):
    """docs/chat.md: its run, by SFT alone; then `generate` of messages and the Python block."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_template.jinja").write_text(dialogues.template("gemma"))
    page = parts((ROOT / "docs" / "chat.md").read_text(encoding="utf-8"))
    run, of_file, block, shown = (part.text for part in page if part.kind in ("sh", "python"))

    def asked(command: str, text: str, *more: str) -> str:
        text = text.replace("FOLDER", str(folder)).replace("experiments/", f"{ROOT}/experiments/")
        _, _, experiment, *options = shlex.split(text)
        assert cli.command([command, experiment, *options, *SHRUNK.split(), *more]) == 0
        return capsys.readouterr().out

    assert "sft: done" in asked("sft", run)
    assert "[[r|1|<end_of_turn>]]" in asked("data", shown)
    assert "[[r|1|<end_of_turn>]]" in asked("data", of_file, "--out", "other")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": TURNS[:1], "id": 7}) + '\n{"prompt": "q0"}\n')
    asked("generate", run, "--prompts", str(prompts), "--to", "answers.jsonl")
    first, second = map(json.loads, Path("answers.jsonl").read_text().splitlines())
    assert (first["prompt"], first["id"], second["prompt"]) == (TURNS[:1], 7, "q0")
    made = {}
    exec(block, made)
    assert made["prompt"] == ASKED.format("Name a river.")
    begun = made["policy"].tokenizer.prompt_ids(made["prompt"])
    assert begun.count(made["policy"].tokenizer.bos_id) == 1
    system = [{"role": "system", "content": "s"}, TURNS[0]]
    prompts.write_text(json.dumps({"prompt": system}))
    with pytest.raises(UserError, match=r"prompts.jsonl:1: the chat template refuses these "
                       r"messages: System role not supported"):  # fmt: skip
        asked("generate", run, "--prompts", str(prompts))


def test_scored_records_are_rendered(folder):
    tokenizer = made(folder).tokenizer
    close = lambda ids, ended: [*ids, tokenizer.eos_id] if ended else list(ids)
    as_text = lambda record: record_of(record, tokenizer, PUBLISHED)
    asked = tokenizer.prompt_ids(ASKED.format("q0"))
    ends = lambda *said: [[*asked, *close(tokenizer.encode(text), True)] for text in said]
    one = {"prompt": TURNS[:1], "response": "r"}
    two = {"prompt": "q0", "chosen": "r", "rejected": "s"}
    for record, sequences_of in ((one, ends("r")), (two, ends("r", "s"))):
        found = scoring.item_of(record, tokenizer, close, as_text)
        assert found.sequences == sequences_of
    assert scoring.count_pairs(found, [1.0, 0.0]).correct == 1
    cut = scoring.item_of(one | {"ended": False}, tokenizer, close, as_text)
    assert cut.sequences == [[*asked, *tokenizer.encode("r")]] and cut.ended == [False]
    with pytest.raises(RecordError, match="expected a text, got messages: name the template"):
        record_of(Prompt(TURNS[:1]), tokenizer, ChatConfig())


def test_a_published_model_gets_its_template(folder):
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    plain = api.Model(None, None, tokenizer, Ending(tokenizer.eos_id, tokenizer.pad_id))
    with pytest.raises(UserError, match="the model has no chat template: its prompts are texts"):
        api.prompt_of(plain, TURNS[:1])
    model = api.with_chat(plain)
    assert api.prompt_of(model, TURNS[:1]) == ASKED.format("q0")
    ends = [model.tokenizer.token_of(i) for i in (plain.ending.end, model.ending.end)]
    assert ends == ["<eos>", "<end_of_turn>"]
