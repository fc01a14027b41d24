"""Which tokens of a tokenizer.json pad, begin and end texts.

Published folders name them in tokenizer_config.json beside tokenizer.json. Many name no pad token,
or the end token. Padding then needs a token of its own: where the same token pads and ends, code
that masks the padding by its id does not train the end.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath

from rlhf_jax.errors import UserError
from rlhf_jax.strict_json import parse_json

USUAL_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|bos|>", "<|begin_of_text|>", "<|startoftext|>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|eos|>", "<|end_of_text|>", "<|endoftext|>"),
}
ADDED_PAD = "<|rlhf_jax_pad|>"  # an id above the vocabulary that no text has
RESERVED = re.compile("reserved|unused|extra_id|dummy", re.IGNORECASE)
CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
BESIDE = (CONFIG, "special_tokens_map.json", TEMPLATE)  # read beside a tokenizer.json
TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
FLAGS = ("add_bos_token", "add_eos_token", "model_max_length", "clean_up_tokenization_spaces")


def published(folder: epath.PathLike) -> dict[str, Any]:
    """What the files beside a tokenizer.json say: the names of special tokens ("bos_token", ...),
    "chat_template" and flags of tokenizer_config.json; {} where there are no such files.

    Raises:
      UserError: a file is not JSON, or a field has another type.
    """
    folder, found = epath.Path(folder), {}
    for file in (folder / "special_tokens_map.json", folder / CONFIG):
        if file.is_file():
            found |= _fields(file)
    if (folder / TEMPLATE).is_file():
        found["chat_template"] = (folder / TEMPLATE).read_text()
    return found


def _fields(file: epath.Path) -> dict[str, Any]:
    try:
        content = parse_json(file.read_bytes())
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, got {type(content).__name__}")
    found = {name: content[name] for name in FLAGS if content.get(name) is not None}
    for name in TOKENS:
        value = content.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if value is not None:
            _check(isinstance(value, str), file, name, value, "a token")
            found[name] = value
    template = content.get("chat_template")
    if isinstance(template, list):  # several by name; transformers takes "default"
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    if template is not None:
        _check(isinstance(template, str), file, "chat_template", template, "a text")
        found["chat_template"] = template
    return found


def _check(ok: bool, file: epath.Path, field: str, value: Any, allowed: str) -> None:
    if not ok:
        raise UserError(f"{file}: field {field!r}: expected {allowed}, got {value!r:.60}")


def special_ids(
    model: tokenizers.Tokenizer,
    size: int,
    given: Mapping[str, str | None],
    config: Mapping[str, Any],
    makes: Callable[[], set[int]],
    name: str,
) -> tuple[dict[str, int], dict[str, str]]:
    """(ids, why they were chosen, by word) of "pad", "bos" and "eos".

    A token is that which `given` names; else that of `config` (`published`); else the one with a
    usual name. Without a bos token, eos begins texts. Without a pad token, or where it is bos or
    eos, padding is a reserved or an unused token, the unknown token if no text has it, or the new
    id `size`.

    makes: gives the ids that texts have.

    Raises:
      UserError: there is no eos token, or none of the given name.
    """
    known = lambda names: [i for i in map(model.token_to_id, names) if i is not None]
    ids, why = {}, {}
    for word in ("eos", "bos"):
        names = [given.get(word)] if given.get(word) else [config.get(f"{word}_token")]
        usual = () if given.get(word) else USUAL_NAMES[word]
        found = known([one for one in (*names, *usual) if one])
        if not found and (word == "eos" or given.get(word)):
            raise _missing(model, name, word, [one for one in (*names, *usual) if one])
        if not found:
            found, why["bos"] = [ids["eos"]], "none is named: eos begins texts"
        ids[word] = found[0]
    if given.get("pad") and given["pad"] != ADDED_PAD:
        found = known([given["pad"]])
        if not found:
            raise _missing(model, name, "pad", [given["pad"]])
        return ids | {"pad": found[0]}, why
    taken, text_eos = set(ids.values()), known([config.get("eos_token") or ""])
    for pad, reason in _pads(model, config, makes, given.get("pad") == ADDED_PAD):
        if pad not in {*taken, *text_eos}:
            why |= {"pad": reason} if reason else {}
            return ids | {"pad": pad}, why
    why["pad"] = "the file has no unused token: this is the id above its last one"
    return ids | {"pad": size}, why


def _pads(model: tokenizers.Tokenizer, config: Mapping, makes: Callable, added: bool):
    """(id, why) of tokens that could pad, the best first."""
    if added:
        return
    for token in (config.get("pad_token"), *USUAL_NAMES["pad"]):
        if token and (i := model.token_to_id(token)) is not None:
            yield i, ""
    for i, token in sorted(model.get_added_tokens_decoder().items()):
        if token.special and RESERVED.search(token.content):
            yield i, f"the file names none but eos, and {token.content} is unused"
    unknown = model.token_to_id(config.get("unk_token") or "<unk>")
    if unknown is not None and unknown not in makes():
        yield unknown, "the file names none but eos, and no text has the unknown token"


def _missing(model: tokenizers.Tokenizer, name: str, word: str, names: Sequence[str]) -> UserError:
    added = [token.content for token in model.get_added_tokens_decoder().values()]
    return UserError(
        f"{name}: expected {'an' if word == 'eos' else 'a'} {word} token, got none of "
        f"{', '.join(names)}: name one with {word}_token (its added tokens: "
        f"{', '.join(added[:12]) or 'none'})"
    )
