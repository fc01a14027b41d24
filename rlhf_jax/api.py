"""Functions for notebooks and scripts: load finished models from a run's directory, sample, score,
and compute log-probabilities. docs/api.md has examples.

The models are on the first device.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from rlhf_jax.data.messages import messages_of
from rlhf_jax.data.tokenizer import Tokenizer, find_tokenizer, load_tokenizer
from rlhf_jax.durable import taken
from rlhf_jax.durable.model_files import finished, read_about
from rlhf_jax.errors import UserError, require, require_a
from rlhf_jax.evaluation.policies import (
    Sampler,
    rounded_up,
    sampling_program,
    score_ids,
    score_program,
)
from rlhf_jax.generation.ending import Ending, final_scores
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published.folder import need_model
from rlhf_jax.published.model import load, shape_of, tokenizer_of
from rlhf_jax.randomness import random_key
from rlhf_jax.runs.models import Models
from rlhf_jax.runs.reading import ending_of
from rlhf_jax.stages.supervised import log_probs_of


@dataclasses.dataclass(frozen=True)
class Model:
    """The finished model of a stage.

    shape      the transformer's shape
    params     a nested dict of float32 arrays, for the functions of models/transformer.py
    tokenizer  the run's tokenizer
    ending     when a response ends, and how a cut response scores
    """

    shape: TransformerConfig
    params: Any
    tokenizer: Tokenizer
    ending: Ending


class Sample(NamedTuple):
    """A sampled response.

    text       without the end token
    ids        the sampled tokens, the end token included
    ended      False if it was cut at the maximum length
    log_probs  [len(ids)] float32: log p of each token in nats, at the sampling temperature and
               before top-k and top-p
    """

    text: str
    ids: tuple[int, ...]
    ended: bool
    log_probs: np.ndarray


def load_policy(run: epath.PathLike, stage: str | None = None) -> Model:
    """The finished policy of a stage, read from the run's directory; without a stage, the published
    model of a folder, of a .gguf file or of a name on the hub.

    Raises UserError where it is missing or damaged.
    """
    return _published(run) if stage is None else _load(epath.Path(run), stage, "policy")


def load_scorer(run: epath.PathLike, stage: str) -> Model:
    """The finished reward model of a stage, read from the run's directory.

    Raises UserError where it is missing or damaged.
    """
    return _load(epath.Path(run), stage, "score")


def sample(
    policy: Model,
    prompts: Sequence[str],
    *,
    response_length: int,
    n: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
) -> list[list[Sample]]:
    """Samples n responses of at most `response_length` tokens to each prompt.

    Temperature 0 is greedy; top_k 0 and top_p 1 filter nothing. The same arguments give the same
    responses.
    Raises UserError where a prompt and its response do not fit the model's context.
    """
    require(n >= 1, "n", n, "1 or more")
    context = policy.shape.context
    require(0 < response_length < context, "response_length", response_length,
            f"above 0 and below the model's context = {context}")  # fmt: skip
    sampling = SamplingConfig(temperature, top_k, top_p)
    lengths = [len(policy.tokenizer.prompt_ids(prompt)) for prompt in _texts(prompts, "prompts")]
    room = context - response_length
    for place, length in enumerate(lengths):
        require(length <= room, f"tokens of prompts[{place}]", length,
                f"<= context - response_length = {room}")  # fmt: skip
    if not prompts:
        return []
    shape = {
        "prompt_length": rounded_up(max(lengths), room),
        "response_length": response_length,
        "batch_size": batch_size,
    }
    program = _sampling(policy.shape, sampling, policy.ending, **shape)
    sampler = Sampler(
        policy.shape, policy.tokenizer, sampling, policy.ending, **shape, sample=program
    )
    key = random_key(seed, "generate/responses")
    repeated = [prompt for prompt in prompts for _ in range(n)]
    found: list[list[Sample]] = [[] for _ in prompts]
    for place, ids, log_probs in sampler.each(policy.params, repeated, key):
        response = policy.ending.response(ids, policy.tokenizer)
        found[place // n].append(Sample(response.text, tuple(ids), response.ended, log_probs))
    return found


def with_chat(model: Model, template: str | None = None) -> Model:
    """The model with a chat template: jinja text; None: the one that is published with it.

    Its prompts are then texts that `prompt_of` renders, and its responses end with the token that
    ends a turn. Models of a run with `chat` have their template already.
    Raises UserError where there is no template, or no special token ends a turn.
    """
    tokenizer = model.tokenizer.with_chat(template)
    ending = dataclasses.replace(model.ending, eos=tokenizer.eos_id, pad=tokenizer.pad_id)
    return dataclasses.replace(model, tokenizer=tokenizer, ending=ending)


def prompt_of(model: Model, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt of messages [{"role": "user", "content": "..."}, ...] by the model's chat
    template, with the beginning of the assistant's next turn.

    Raises UserError where the model has no chat template, or it refuses the messages.
    """
    if model.tokenizer.chat is None:
        raise UserError("the model has no chat template: its prompts are texts")
    return model.tokenizer.chat.prompt(messages_of("messages", messages))


def score(
    scorer: Model,
    prompts: Sequence[str],
    responses: Sequence[str | Sample],
    *,
    missing: float | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """The reward model's score of each response, [N] float32.

    The score is read at the last token: the end token, unless a Sample was cut. A text counts as
    ended. missing: the score of cut responses; None: the model's score at the last token.
    `scorer.ending.missing` is PPO's. A text includes the space between it and its prompt.
    Raises UserError where a prompt and its response do not fit the model's context.
    """
    rows = _rows(scorer, prompts, responses)
    read = [(*prompt, *scorer.ending.read_ids(ids)) for prompt, ids, _ in rows]
    length = _fitting(scorer, read)
    program = _scoring(scorer.shape, batch_size=batch_size, length=length)
    pad = scorer.tokenizer.pad_id
    scores = score_ids(program, scorer.params, read, pad, batch_size=batch_size, length=length)
    ended = np.array([ended for *_, ended in rows], bool)
    return np.asarray(final_scores(scores, ended, missing), np.float32)


def log_probs(
    policy: Model,
    prompts: Sequence[str],
    responses: Sequence[str | Sample],
    *,
    temperature: float = 1.0,
    batch_size: int = 32,
) -> list[np.ndarray]:
    """log p of each token of each response, the end token included: N arrays [R] float32, in nats.

    A text counts as ended, and includes the space between it and its prompt; a Sample has its own
    tokens. At the sampling temperature these equal the
    sampler's log-probabilities, up to rounding.
    Raises UserError where a prompt and its response do not fit the model's context.
    """
    require(temperature > 0, "temperature", temperature, "positive")
    rows = _rows(policy, prompts, responses)
    whole = [(*prompt, *ids) for prompt, ids, _ in rows]
    length, found = _fitting(policy, whole), []
    program = _log_probs(policy.shape, float(temperature))
    for start in range(0, len(whole), batch_size):
        tokens = np.full((batch_size, length), policy.tokenizer.pad_id, np.int32)
        segments = np.zeros((batch_size, length), np.int32)
        part = whole[start : start + batch_size]
        for row, ids in enumerate(part):
            tokens[row, : len(ids)], segments[row, : len(ids)] = ids, 1
        values = np.asarray(program(policy.params, jnp.array(tokens), jnp.array(segments)))
        for row, (prompt, ids, _) in enumerate(rows[start : start + batch_size]):
            first = len(prompt) - 1  # the column of log p of the first token of the response
            found.append(values[row, first : first + len(ids)])
    return found


@functools.lru_cache(16)
def _sampling(model, sampling, ending, **shape) -> Callable:
    return jax.jit(sampling_program(model, sampling, ending, **shape).function)


@functools.lru_cache(16)
def _scoring(model: TransformerConfig, **shape) -> Callable:
    return jax.jit(score_program(model, **shape).function)


@functools.lru_cache(16)
def _log_probs(model: TransformerConfig, temperature: float) -> Callable:
    """(params, tokens [B, T], segments [B, T]) -> log p [B, T - 1] of all tokens but the first."""

    def function(params, tokens, segments):
        states = transformer.hidden(model, params, tokens, segments)[:, :-1]
        return log_probs_of(model, params, states, tokens[:, 1:], temperature)

    return jax.jit(function)


def _load(run: epath.Path, stage: str, kind: str) -> Model:
    directory = finished(run, stage)
    tokenizer = load_tokenizer(find_tokenizer(taken.followed(run / "data")))
    params = Models().load(directory / "model", kind, tokenizer.fingerprint)
    shape = read_about(directory / "model")["model"]
    return Model(shape, params, tokenizer, Ending.of(tokenizer, ending_of(directory)))


def _published(name: epath.PathLike) -> Model:
    found = need_model(str(name))
    shape, tokenizer = shape_of(found), tokenizer_of(found)
    return Model(shape, load(found, shape), tokenizer, Ending(tokenizer.eos_id, tokenizer.pad_id))


def _texts(values: Sequence[str], field: str) -> Sequence[str]:
    require(not isinstance(values, str), field, values, "a list of texts")
    return values


def _rows(
    model: Model, prompts: Sequence[str], responses: Sequence[str | Sample]
) -> list[tuple[list[int], list[int], bool]]:
    """(ids of the prompt, ids of its response, whether it ended), for each prompt."""
    same = len(_texts(prompts, "prompts")) == len(_texts(responses, "responses"))
    require(same, "len(responses)", len(responses), f"{len(prompts)}, one a prompt")
    tokenizer, rows = model.tokenizer, []
    for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        require_a((str, Sample), f"responses[{place}]", response,
                  "a text or a Sample; sample() gives a list of n for each prompt")  # fmt: skip
        if isinstance(response, str):
            ids, ended = model.ending.close(tokenizer.encode(response), True), True
        else:
            ids, ended = list(response.ids), response.ended
        rows.append((tokenizer.prompt_ids(prompt), ids, ended))
    return rows


def _fitting(model: Model, sequences: Sequence[Sequence[int]]) -> int:
    """The length of a batch into which the sequences fit."""
    lengths, context = list(map(len, sequences)), model.shape.context
    for place, length in enumerate(lengths):
        require(length <= context, f"tokens of prompts[{place}] and responses[{place}]", length,
                f"<= the model's context = {context}")  # fmt: skip
    return rounded_up(max(lengths, default=0), context)
