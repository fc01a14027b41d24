"""The judge that a command names: a model behind an endpoint, or a model on this machine."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from rlhf_jax.data.messages import Message
from rlhf_jax.errors import ConfigError, UserError, require
from rlhf_jax.evaluation.benchmarks.model import Judge, LanguageModel
from rlhf_jax.evaluation.judging.endpoint import Endpoint, EndpointJudge
from rlhf_jax.evaluation.judging.kept import Kept
from rlhf_jax.parallel.compile_cache import user_folder

FORM = "URL#MODEL, such as https://api.openai.com/v1#gpt-4o, or a folder with a model"


class LocalJudge:
    """A policy as a judge.

    digest       identifies the policy
    most_tokens  of an answer, which is the likeliest token each time
    """

    def __init__(self, policy: LanguageModel, digest: str, most_tokens: int = 512):
        require(most_tokens > 0, "most_tokens", most_tokens, "positive")
        self._policy, self._most_tokens = policy, most_tokens
        self.identity = {"model": digest, "most_tokens": most_tokens}

    def expect(self, prompts: Sequence[str]) -> None:
        pass

    def answers(self, prompts: Sequence[str]) -> list[str | None]:
        asked = list(dict.fromkeys(prompts))
        chat = self._policy.has_chat
        spoken = [(Message("user", prompt),) if chat else f"{prompt}\n\n" for prompt in asked]
        found = self._policy.answers(spoken, most_tokens=self._most_tokens)
        texts = {prompt: answer.text for prompt, answer in zip(asked, found, strict=True)}
        return [texts[prompt] if texts[prompt].strip() else None for prompt in prompts]


def judge_of(
    text: str,
    load: Callable[[str], tuple[LanguageModel, str]] | None = None,
    folder: Path | None = None,
    tell: Callable[[str], None] = print,
) -> Judge:
    """The judge that a text names.

    text: "URL#MODEL" with any fields of `Endpoint` behind it, as in
      "https://api.openai.com/v1#gpt-4o,price_in=2.5,price_out=10"; or a folder with a model.
    load: the policy in a folder, and its digest.
    folder: for the answers; None: judge/ in the user's cache directory of rlhf_jax.

    Raises UserError where the text is none of these.
    """
    if "://" not in text:
        if load is None or not Path(text).is_dir():
            raise UserError(f"judge = {text!r}: must be {FORM}")
        return LocalJudge(*load(text))
    endpoint = endpoint_of(text)
    place = folder or user_folder() / "judge"
    return EndpointJudge(endpoint, Kept(place, f"{endpoint.url}#{endpoint.model}"), tell)


def endpoint_of(text: str) -> Endpoint:
    """The endpoint of "URL#MODEL,field=value,...". Raises UserError naming what is wrong."""
    url, _, rest = text.partition("#")
    model, *parts = rest.split(",")
    kinds: Mapping[str, type] = {
        field.name: next((kind for kind in get_args(field.type) if kind is not type(None)),
                         field.type)
        for field in dataclasses.fields(Endpoint)
        if field.name not in ("url", "model")
    }  # fmt: skip
    given = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or name not in kinds:
            raise UserError(f"judge: {part!r}: must be one of {', '.join(kinds)}, and =value")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            told = "a whole number" if kinds[name] is int else "a number"
            raise UserError(f"judge: {name} = {value!r}: must be {told}") from None
    try:
        return Endpoint(url, model, **given)
    except ConfigError as error:
        raise error.inside("judge") from None
