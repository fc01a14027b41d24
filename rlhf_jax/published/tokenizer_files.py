"""The tokenizer of an exported model: tokenizer.json, tokenizer_config.json and a chat template."""

import json
from typing import Any

from etils import epath

from rlhf_jax.data.special_tokens import ADDED_PAD, CONFIG, TEMPLATE
from rlhf_jax.data.tokenizer import CHOICE, Tokenizer
from rlhf_jax.published.saving import write_json
from rlhf_jax.published.sentencepiece_json import added, converted, differing
from rlhf_jax.strict_json import parse_json

JSON = "tokenizer.json"


def write(folder: epath.Path, file: epath.Path, tokenizer: Tokenizer, context: int) -> list[str]:
    """Writes the files that transformers reads; returns sentences about what differs from the
    tokenizer of training.

    file: from which the tokenizer was loaded. context: the most tokens of a sequence.
    """
    notes, ids = [], {"eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    if not tokenizer.config or "bos_token" in tokenizer.config:  # otherwise eos begins texts
        ids["bos"] = tokenizer.bos_id
    special = {f"{word}_token": tokenizer.token_of(i) for word, i in ids.items()}
    if file.suffix == ".json":
        fields = parse_json(file.read_bytes())
        fields.pop(CHOICE, None)
        if not special["pad_token"]:  # an id above the file's last one
            special["pad_token"] = ADDED_PAD
            fields["added_tokens"] = [
                *fields.get("added_tokens", ()),
                added(tokenizer.pad_id, ADDED_PAD),
            ]
    else:
        fields = converted(file.read_bytes())
        if text := differing(tokenizer, fields):
            notes.append(f"{JSON} encodes some texts in another way than in training: {text!r}.")
    (folder / JSON).write_text(json.dumps(fields, ensure_ascii=False))
    config: dict[str, Any] = dict(tokenizer.config)
    most = config.get("model_max_length")
    config["model_max_length"] = min(most, context) if isinstance(most, int) else context
    template = config.pop("chat_template", None)
    if tokenizer.chat is not None:
        template = tokenizer.chat.source
    # This class reads tokenizer.json as it stands.
    config |= {"tokenizer_class": "PreTrainedTokenizerFast"} | special
    write_json(folder / CONFIG, config)
    if template is not None:
        (folder / TEMPLATE).write_text(template)
    return notes
