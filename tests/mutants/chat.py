"""Chat templates: rendering, which turns are trained, special tokens, and what is shown."""

from tests.mutants import mutants

TRAINED = "test_the_trained_tokens_are_the_assistant_s_and_what_stops_it"
TRIMS = "test_white_space_of_earlier_turns_is_trained_if_the_file_trims_offsets"
REFUSES = "test_records_that_the_template_refuses_are_left_out_and_counted_by_reason"
REFUSED_OF = "test_sources_are_counted_without_what_the_template_refuses"
LAST = "test_a_prompt_ends_with_the_turn_of_a_user"
WRONG = "test_templates_that_cannot_be_trained_with_are_refused"
PADS = "test_padding_has_a_token_of_its_own"
CONTINUES = "test_a_response_continues_its_prompt_where_a_text_begins_with_a_space"
SHOWN = "test_chat_run.py::test_records_are_shown_token_by_token"
STORED = "test_chat_run.py::test_records_are_stored_as_the_text_of_the_template"
KINDS = "test_records_of_every_kind_are_rendered"
COUNTED = "test_what_rendering_changes_is_counted"

MUTANTS = (
    *mutants("data/chat.py", "data/test_chat.py", [
        ("_compiled", "trim_blocks=True, lstrip_blocks=True", "trim_blocks=False",
         "test_text_and_ids_are_those_of_transformers[indented]", "AssertionError|RecordError"),
        ("ChatTemplate.turns", "messages[i].role == \"assistant\"", "True", f"{TRAINED}[llama3]",
         "AssertionError|RecordError"),
        ("ChatTemplate.turns", "if every and self.marked", "if False",
         f"{WRONG}[nothing marked]"),
        ("ChatTemplate._to_end", "place + len(end)", "place", f"{TRAINED}[chatml]"),
        ("ChatTemplate._to_end", "if place < 0", "if False", f"{WRONG}[end unmarked]"),
        ("ChatTemplate._span", "not text.startswith(through)", "False", f"{WRONG}[later turns]"),
        ("ChatTemplate._span", "not through.startswith(before)", "False",
         f"{WRONG}[another beginning]"),
        ("ChatTemplate._marked_before", "len(marked) != replies", "False",
         f"{WRONG}[every turn marked]"),
        ("ChatTemplate._marked_spans", "if sign not in said", "",
         "test_generation_marks_say_which_turns_are_trained", "AssertionError|RecordError"),
        ("ChatTemplate.prompt", "generate=True", "generate=False",
         "test_text_and_ids_are_those_of_transformers[chatml]"),
    ]),
    *mutants("data/rendering.py", "data/test_chat.py", [
        ("Renderer._parts", "stop - len(self._end)", "stop", KINDS),
        ("Renderer.turn", "response.strip() if isinstance(prompt, str) else response", "response",
         KINDS),
        ("Renderer.messages", "if system is not None and", "if False and", KINDS),
        ("Renderer.record", 'self._config.turns == "all"', "True", f"{TRAINED}[gemma]"),
        ("rendered", "bool(special.search(_spoken(record)))", "0", COUNTED),
        ("rendered", "_joined_differ(made[-1], tokenizer)", "0", COUNTED),
        ("rendered", 'config.texts == "user" and', "True and", COUNTED),
        ("rendered", "records and not made", "False", REFUSES, "Failed"),
        ("_turns", 'last_of_user("prompt", tuple(found))', "tuple(found)", f"{LAST}[system]",
         "Failed"),
    ]),
    *mutants("data/arrays.py", "data/test_chat.py", [
        ("demonstration_piece", "start <= a < b <= stop", "start <= a",
         f"{TRAINED}[qwen2_5]"),
        ("demonstration_piece", "if not each.trained", "if True", f"{TRAINED}[qwen2_5]"),
    ]),
    *mutants("data/tokenizer.py", "data/test_tokenizer.py", [
        ("_from_hugging_face", "model.post_processor = None", "pass",
         f"data/test_chat.py::{TRIMS}"),
        ("_continuing", "return found", "return coder", f"{CONTINUES}[llama]"),
        ("Tokenizer.document_ids", "self.text_eos_id", "self.eos_id",
         "data/test_chat.py::test_a_saved_tokenizer_has_its_template"),
        ("Tokenizer.prompt_ids", "if self.chat is not None", "if False",
         "data/test_chat.py::test_text_and_ids_are_those_of_transformers[gemma]"),
        ("Tokenizer.with_chat", '"eos": end, ', "", f"data/test_chat.py::{TRAINED}[gemma]"),
    ]),
    *mutants("data/special_tokens.py", "data/test_tokenizer.py", [
        ("special_ids", "if pad not in {*taken, *text_eos}", "if True",
         f"{PADS}[specials6-config6-<|endoftext|>-the unknown token]",
         "AssertionError|UserError"),
        ("special_ids", '{"pad": size}', '{"pad": size - 1}',
         f"{PADS}[specials0-config0-None-the file has no unused token]",
         "AssertionError|UserError"),
        ("_pads", "if token.special and RESERVED.search(token.content)", "if False",
         f"{PADS}[specials5-config5-<|reserved_special_token_7|>-is unused]"),
    ]),
    *mutants("data/tokenizer_contract.py", "data/test_tokenizer.py", [
        ("try_contract", "if found := [never[i] for i in ids if i in never]", "if found := []",
         "test_names_of_special_tokens"),
        ("try_contract", "(None if back == text else (text, back))", "None",
         "test_what_a_tokenizer_loses_is_said", "AssertionError|TypeError"),
    ]),
    *mutants("data/messages.py", "data/test_chat.py", [
        ("last_of_user", 'last == "user"', 'last != "assistant"', f"{LAST}[system]", "Failed"),
    ]),
    *mutants("sources/corpora.py", "test_chat_run.py", [
        ("_rendered", "without(sizes, left)", "sizes", REFUSED_OF),
        ("identity", '{} if chat == PLAIN else {"chat": chat}', "{}", STORED),
        ("_rendered", "tokenizer.save(file)", "pass", STORED),
        ("prepare", "rendering.refuse_messages(splits)", "pass",
         "test_messages_without_a_template_are_refused", ".*"),
    ]),
    *mutants("runs/scoring.py", "test_chat_run.py", [
        ("item_of", "close(tokenizer.encode(one.response), ended)",
         "close(tokenizer.encode(one.response), True)", "test_scored_records_are_rendered"),
        ("item_of", 'as_text(from_json(given("prompt", "response"), Demonstration))',
         'from_json(given("prompt", "response"), Demonstration)',
         "test_scored_records_are_rendered", ".*"),
        ("item_of", "as_text(from_json(fields, Ranking))", "from_json(fields, Ranking)",
         "test_scored_records_are_rendered"),
    ]),
    *mutants("api.py", "test_chat_run.py", [
        ("with_chat", "eos=tokenizer.eos_id, ", "", "test_a_published_model_gets_its_template"),
    ]),
    *mutants("runs/show.py", "test_chat_run.py", [
        ("sequences", "slice(1, None)", "slice(None)", SHOWN),
        ("sequences", "slice(0)", "slice(None)", SHOWN),
        ("told", "TRAINED if target else", "", SHOWN),
        ("_left_out", "fact.tokens > length", "fact.tokens > length + 9", SHOWN),
    ]),
)  # fmt: skip
