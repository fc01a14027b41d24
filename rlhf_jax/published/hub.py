"""Models on the Hugging Face hub, by the package `huggingface_hub`, an extra. Only safetensors,
JSON and text files are fetched."""

import re

from etils import epath

from rlhf_jax.errors import UserError

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
         "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
         "model.safetensors.index.json", "README.md")  # fmt: skip
WEIGHTS = ("model.safetensors", "model-*.safetensors")


def is_name(text: str) -> bool:
    """Whether a text is OWNER/NAME, or OWNER/NAME@REVISION."""
    return NAME.fullmatch(text) is not None


def folder(name: str, weights: bool = True, called: str | None = None) -> epath.Path:
    """The folder with the files of OWNER/NAME or OWNER/NAME@REVISION, which are fetched unless they
    are there already. called: the name in errors.

    Raises UserError where `huggingface_hub` is not installed, or the files cannot be fetched.
    """
    repository, _, revision = name.partition("@")
    about = f"{called or name}: no folder of this name is here, and"
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(f"{about} names on the hub need pip install 'rlhf-jax[hub]'") from None
    patterns = [*SMALL, *(WEIGHTS if weights else ())]
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=patterns
        )
    except Exception as error:  # of the network, the hub and its client, of many kinds
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{about} the hub does not give its files: {what}") from None
    return epath.Path(found)
