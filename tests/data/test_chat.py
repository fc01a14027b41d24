"""Chat templates: text and ids of transformers, the trained turns, and what is refused."""

import numpy as np
import pytest
from tokenizers import processors

from rlhf_jax.data import arrays, rendering
from rlhf_jax.data.chat import ChatTemplate
from rlhf_jax.data.messages import messages_of
from rlhf_jax.data.records import Conversation, Demonstration, Prompt, Ranking, Scored, Text
from rlhf_jax.data.rendering import ChatConfig, Renderer, rendered
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.errors import ConfigError, RecordError, UserError
from rlhf_jax.sources.corpora import without
from tests.data import dialogues
from tests.data.dialogues import END, SPECIAL, digest

SAID = [{"role": "user", "content": "a"}]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, Tokenizer]:
    """By template, with the published template."""
    found = {}
    for name in SPECIAL:
        path = dialogues.write(name, tmp_path_factory.mktemp(name))
        found[name] = load_tokenizer(path).with_chat()
    return found


def chat(*said: str) -> tuple:
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": content} for i, content in enumerate(said)]
    return messages_of("messages", turns)


@pytest.mark.parametrize("name", SPECIAL)
def test_text_and_ids_are_those_of_transformers(name, tokenizers):
    tokenizer, refused = tokenizers[name], 0
    for turns, expected in zip(dialogues.dialogues(), dialogues.expected()[name], strict=True):
        messages = messages_of("messages", turns)
        if expected is None:
            refused += 1
            with pytest.raises(RecordError, match=r"the chat template refuses these messages: \w+"):
                tokenizer.chat.text(messages)
            continue
        texts = [tokenizer.chat.text(messages), tokenizer.chat.prompt(messages)]
        assert texts == expected[::2]
        ids = [tokenizer.prompt_ids(text) for text in texts]
        assert list(map(digest, ids)) == expected[1::2]
        if SPECIAL[name][1].get("bos_token") not in (None, "<|im_start|>"):
            assert [row.count(tokenizer.bos_id) for row in ids] == [
                text.count(SPECIAL[name][1]["bos_token"]) for text in texts
            ]
            assert ids[0][:2].count(tokenizer.bos_id) == 1
    assert refused == {"mistral": 15, "gemma": 30}.get(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECIAL)
def test_transformers_still_says_so(name):
    pytest.importorskip("transformers", reason="needs transformers")
    assert dialogues.by_transformers(name) == dialogues.expected()[name]


@pytest.mark.parametrize("name", [name for name in SPECIAL if name != "indented"])
def test_the_trained_tokens_are_the_assistant_s_and_what_stops_it(name, tokenizers):
    tokenizer, end = tokenizers[name], END.get(name, "<|im_end|>")
    space = " " if name == "mistral" else ""
    assert tokenizer.token_of(tokenizer.eos_id) == end
    assert tokenizer.pad_id not in (tokenizer.eos_id, tokenizer.text_eos_id, tokenizer.bos_id)
    config = ChatConfig("published", turns="all")
    record = Renderer(tokenizer, config).record(
        Conversation(chat("q0", "r1", "q2", "", "q4", "r5"))
    )
    assert (record.response, len(record.trained)) == (f"{space}r5", 2)
    close = arrays.close_with_eos(tokenizer)
    ids, targets = arrays.demonstration_piece(record, tokenizer, close)
    said = [tokenizer.token_of(i) for i in ids]
    shown = "".join(said[i] for i in np.flatnonzero(targets))
    assert shown == f"{space}r1{end}{space}{end}{space}r5{end}"
    assert ids.tolist() == tokenizer.parse(record.prompt + record.response + end)[0]
    last = Renderer(tokenizer, ChatConfig("published", turns="last")).record(
        Conversation(chat("q0", "r1", "q2", "r3"))
    )
    piece = arrays.demonstration_piece(last, tokenizer, close)
    assert "".join(tokenizer.token_of(i) for i in piece[0][piece[1]]) == f"{space}r3{end}"


def test_white_space_of_earlier_turns_is_trained_if_the_file_trims_offsets(tmp_path):
    """As the files of Llama 3 and SmolLM2 do."""
    path = dialogues.write("chatml", tmp_path)
    model, code = dialogues.stand_in("chatml"), " def f():\n\n    return 1 "
    model.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True)])
    model.save(str(path))
    tokenizer = load_tokenizer(path).with_chat()
    record = Renderer(tokenizer, ChatConfig("published")).record(
        Conversation(chat("a  b", code, "c", code))
    )
    close = arrays.close_with_eos(tokenizer)
    ids, targets = arrays.demonstration_piece(record, tokenizer, close)
    assert "".join(tokenizer.token_of(i) for i in ids[targets]) == f"{code}<|im_end|>" * 2


def test_records_of_every_kind_are_rendered(tokenizers):
    tokenizer, before = tokenizers["chatml"], chat("q")
    asked = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    render = Renderer(tokenizer, ChatConfig("published")).record
    assert render(Text("q")) == Text("q")
    assert render(Prompt(before, {"answer": 3})) == Prompt(asked, {"answer": 3})
    assert render(Prompt("q")) == Prompt(asked)
    assert render(Demonstration(before, " r ")) == Demonstration(asked, " r ")
    assert render(Demonstration("q", " r ")) == Demonstration(asked, "r")
    ranking = Ranking(before, ("a", "b"), (1, 0), (True, False))
    assert render(ranking) == Ranking(asked, ("a", "b"), (1, 0), (True, False))
    assert render(Scored(before, "a", 0.5)) == Scored(asked, "a", 0.5)
    human = "\n\nHuman: q\n\nAssistant: r\n\nHuman: p\n\nAssistant:"
    of_human = Renderer(tokenizer, ChatConfig("published", system="s", texts="human"))
    said = of_human.messages(human)
    assert [(m.role, m.content) for m in said] == [
        ("system", "s"), ("user", "q"), ("assistant", "r"), ("user", "p")]  # fmt: skip
    with pytest.raises(RecordError, match=r"texts = 'human': expected '.*', got 'q'"):
        of_human.messages("q")
    as_is = Renderer(tokenizer, ChatConfig("published", texts="rendered")).record
    assert as_is(Demonstration("q", " r ")) == Demonstration("q", " r ")


def test_what_rendering_changes_is_counted(tokenizers):
    records = [
        Demonstration(chat("q"), "a  b"),
        Demonstration(chat("<|eot_id|>"), "r"),
        Demonstration(chat("q"), "a<|eot_id|>"),
    ]
    counts = rendered({"demonstrations": {"train": records}}, tokenizers["llama3"],
                      ChatConfig("published")).counts  # fmt: skip
    place = "demonstrations.train"
    assert counts == {rendering.SPELLED: {place: 1}, rendering.JOINED: {place: 1}}
    drops = (
        "{% for m in messages %}[{{ m.content | replace('xb', '') }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[{% endif %}"
    )
    records = {"demonstrations": {"train": [Demonstration(chat("q"), "axb")]}}
    other = tokenizers["mistral"].with_chat(drops)
    assert rendered(records, other, ChatConfig("file")).counts == {rendering.CHANGED: {place: 1}}
    records = {"demonstrations": {"train": [Demonstration("\n\nHuman: q\n\nAssistant:", " a")] * 2}}
    for texts, expected in (("user", {rendering.HUMAN_IN: {place: 2}}), ("human", {})):
        config = ChatConfig("published", texts=texts)
        assert rendered(records, tokenizers["llama3"], config).counts == expected


def test_records_that_the_template_refuses_are_left_out_and_counted_by_reason(tokenizers):
    once, twice = Prompt(chat("a")), Prompt((*chat("a"), *chat("b")))
    system = Prompt(messages_of("messages", [{"role": "system", "content": "s"}, *SAID]))
    config = ChatConfig("published")
    splits = {"prompts": {"ppo": [twice, once, system, twice], "test": [once]}}
    made, counts, refused = rendered(splits, tokenizers["gemma"], config)
    asked = "<bos><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\n"
    assert made == {"prompts": {"ppo": [Prompt(asked)], "test": [Prompt(asked)]}}
    says = "the chat template refuses these messages: "
    assert counts == {rendering.REFUSED: {
        f"prompts.ppo ({says}Conversation roles must alternate user/assistant/user/assistant/...)":
            2,
        f"prompts.ppo ({says}System role not supported)": 1,
    }}  # fmt: skip
    assert refused == {"prompts.ppo": [0, 2, 3]}
    assert without({"a": 2, "b": 3, "c": 1}, [0, 2, 3]) == {"a": 1, "b": 1, "c": 1}
    with pytest.raises(RecordError, match=r"prompts.test: all 2 records are refused; record 1: "
                       f"{says}Conversation roles must"):  # fmt: skip
        rendered({"prompts": {"test": [twice, system]}}, tokenizers["gemma"], config)


@pytest.mark.parametrize("last", ["assistant", "system"])
def test_a_prompt_ends_with_the_turn_of_a_user(last, tokenizers):
    turns = [*SAID, {"role": last, "content": "b"}]
    for make in (Prompt, lambda p: Demonstration(p, "r"), lambda p: Scored(p, "r", 1)):
        with pytest.raises(RecordError, match=r"field 'prompt\[1\].role': expected the user's turn "
                           f"at the end of a prompt, got '{last}'"):  # fmt: skip
            make(turns)
    human = Renderer(tokenizers["chatml"], ChatConfig("published", texts="human"))
    with pytest.raises(RecordError, match=r"expected the user's turn at the end"):
        human.prompt("\n\nHuman: q\n\nAssistant: r")


BEGINS = "{% if add_generation_prompt %}[{% endif %}"
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "[{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}]{{ m.content }}{% endif %}{% endfor %}" + BEGINS
)
PLAIN = "{% for m in messages %}[{{ m.content }}</s>{% endfor %}"


def test_generation_marks_say_which_turns_are_trained(tokenizers):
    template = ChatTemplate(MARKED, {})
    text, spans = template.turns(chat("q\ue000", "r1", "q", "r2"), "</s>", every=True)
    assert text == "]q\ue000[r1</s>]q[r2</s>"
    assert [text[a:b] for a, b in spans] == ["r1</s>", "r2</s>"]
    only = template.turns(chat("q", "r1", "q", "r2"), "</s>", every=False).spans
    assert len(only) == 1


WRONG = {
    "no end": (MARKED.replace("</s>", ""), "has no </s>: the token that stops a response must be"),
    "end unmarked": (
        MARKED.replace("</s>{% endgeneration %}", "{% endgeneration %}</s>"),
        "a turn has no </s>: the token that stops a response must be trained, got 'r1'",
    ),
    "all marked": (
        "{% generation %}" + PLAIN + "{% endgeneration %}" + BEGINS,
        "marks 1 turns as generated, and 2 are of the assistant",
    ),
    "every turn marked": (
        PLAIN.replace("[", "[{% generation %}").replace("</s>", "</s>{% endgeneration %}") + BEGINS,
        "marks 4 turns as generated, and 2 are of the assistant",
    ),
    "nothing marked": (
        PLAIN + "{% if false %}{% generation %}{% endgeneration %}{% endif %}" + BEGINS,
        "marks 0 turns as generated",
    ),
    "others marked": (
        PLAIN.replace("[", "{% if m.role == 'user' %}{% generation %}[{% endgeneration %}"
                      "{% else %}[{% endif %}") + BEGINS,
        "do not hold the turns of the assistant alone",
    ),
    "later turns": (
        PLAIN.replace("[", "[{% if not loop.last and m.role == 'assistant' %}old {% endif %}")
        + BEGINS,
        "writes an earlier turn otherwise when later turns follow",
    ),
    "another beginning": (
        PLAIN + BEGINS.replace("[", "<think>"),
        "begins a turn of the assistant otherwise than its prompt",
    ),
    "today": ("{{ strftime_now('%d') }}", "the chat template fails: 'strftime_now' is undefined"),
    "attributes": ("{{ messages.__class__.__mro__ }}", "fails: access to attribute '__class__'"),
    "changes": ("{{ messages.append(1) }}", "fails: access to attribute 'append'"),
    "sum": ("{{ 1 / 0 }}", "the chat template fails: division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_templates_that_cannot_be_trained_with_are_refused(name):
    source, message = WRONG[name]
    with pytest.raises(RecordError, match=message):
        ChatTemplate(source, {}).turns(chat("q", "r1", "q", "r2"), "</s>", every=True)


def test_a_template_that_ends_no_turn_or_is_none_is_refused(tokenizers, tmp_path):
    tokenizer = tokenizers["mistral"]
    with pytest.raises(UserError, match="expected a special token after a turn of the assistant"):
        tokenizer.with_chat("{% for m in messages %}: {{ m.content }}\n{% endfor %}")
    with pytest.raises(UserError, match="chat template: line 1: unexpected '}'"):
        tokenizer.with_chat("{{ messages }")
    dialogues.stand_in("gemma").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        load_tokenizer(tmp_path / "tokenizer.json").with_chat()
    with pytest.raises(ConfigError, match="system = 's': must be None without a template"):
        ChatConfig(system="s")
    with pytest.raises(UserError, match=r"^chat.template = 'word': must be 'published' or a file"
                       r".*: No such file"):  # fmt: skip
        _ = ChatConfig("word").source


def test_a_saved_tokenizer_has_its_template(tokenizers, tmp_path):
    tokenizer = tokenizers["gemma"]
    tokenizer.save(tmp_path / "t.json")
    again = load_tokenizer(tmp_path / "t.json")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.eos_id, again.text_eos_id) == (tokenizer.eos_id, tokenizer.text_eos_id)
    assert again.token_of(again.text_eos_id) == "<eos>"
    assert again.document_ids("a")[-1] == again.text_eos_id
    assert again.chat.text(chat("a")) == tokenizer.chat.text(chat("a"))
