"""The models that `rlhf-jax eval` measures: those of a run's stages, and published folders."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from rlhf_jax.data.counting import HELD_OUT, texts_of
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.durable import manifest
from rlhf_jax.durable.model_files import has_model
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.benchmarks.language_model import Policy, RewardModel, Texts
from rlhf_jax.evaluation.benchmarks.model import LanguageModel, Scorer
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published import model as published
from rlhf_jax.published import scorer
from rlhf_jax.published.folder import PublishedModel, need_model
from rlhf_jax.runs.evaluation import shape_of
from rlhf_jax.runs.experiment import PRETRAINED
from rlhf_jax.runs.models import under
from rlhf_jax.runs.reading import finished_stage
from rlhf_jax.runs.run import Run
from rlhf_jax.sources.corpora import Corpora
from rlhf_jax.stages.stage import Ends

JUDGED_AT_ONCE = 8  # sequences per batch of a model on this machine that judges
KINDS = {"policy": Policy, "score": RewardModel}
RECORDS = ("text", "demonstrations", "rankings", "scored", "prompts")


class Named(NamedTuple):
    """A model to measure.

    name    in the results
    ends    "policy" or "score"
    digest  identifies its weights
    place   its directory or file
    context the maximum number of tokens of a prompt and an answer
    open    reads it, and returns a function: the model that asks so many sequences at a time
    trained the training records of its run, as texts; None: they are not known
    """

    name: str
    ends: Ends
    digest: str
    place: str
    context: int
    open: Callable[[], Callable[[int], LanguageModel | Scorer]]
    trained: Callable[[], Iterator[str]] | None = None


def of_run(run: Run, stages: Sequence[str], context: int | None = None) -> list[Named]:
    """The finished models of a run. stages: those that are measured; none: all. context: `reading`.

    A policy that the run prompts with examples is its start's model, and is left out.
    Raises UserError where a named stage has not finished, or no stage has.
    """
    config, found = run.config, []
    known = [name for name, stage in config.stages.items() if stage.ends in KINDS]
    for stage in stages:
        require(stage in known, "stages", stage, f"of {', '.join(known)}")
        finished_stage(config, stage, config.stages[stage].ends, "stages")
    there = [name for name in known if has_model(config.directory_of(name) / "model")]
    for stage in [name for name in there if not stages or name in stages]:
        if run.evaluation.prompting(stage).before:
            print(f"eval: {stage} is prompted with the run's own examples: not measured")
            continue
        directory, ends = config.directory_of(stage) / "model", config.stages[stage].ends
        shape = reading(shape_of(config, run.ending, stage), context)
        open_ = functools.partial(_opened, run, stage, ends, shape)
        published = stage == PRETRAINED  # which was trained elsewhere
        trained = None if published else functools.partial(training_texts, run.corpora)
        digest = _digest(directory) + _of_context(context)
        found.append(Named(stage, ends, digest, str(directory), shape.context, open_, trained))
    if not found:
        raise UserError(f"{config.directory}: no stage has finished with a model to measure")
    return found


def reading(shape: TransformerConfig, context: int | None) -> TransformerConfig:
    """The shape of a model that reads so many tokens at most; None: as it was trained.

    Raises ConfigError where the model has learned positions, and fewer.
    """
    if context is None:
        return shape
    most = shape.context if shape.positions == "learned" else None
    need = "positive" if most is None else f"1 to {most}, as the model's positions are learned"
    require(0 < context <= (most or context), "context", context, need)
    return dataclasses.replace(shape, context=context)


def _of_context(context: int | None) -> str:
    return "" if context is None else f" context {context}"


def _opened(
    run: Run, stage: str, ends: Ends, shape: TransformerConfig
) -> Callable[[int], LanguageModel | Scorer]:
    chat = run.tokenizer if run.tokenizer.chat else None
    # Without a chat template the stages were trained on prompts that begin with bos.
    texts = Texts(run.tokenizer, chat, chat is None or run.tokenizer.begins_texts)
    compiled = functools.cache(run.runner.evaluate)
    compile = lambda name, program: compiled(program.function)
    params = run.model(stage)
    return lambda size: KINDS[ends](shape, params, texts, run.ending, compile, size)


def _digest(directory) -> str:
    """Of a finished model and of the models under its adapters. Raises UserError where one is
    damaged."""
    found = manifest.digest(directory)
    if found is None:
        raise UserError(f"{directory}: {manifest.NAME} is missing or damaged")
    place = under(directory)
    return found if place is None else f"{found} {_digest(place / 'model')}"


def training_texts(corpora: Corpora) -> Iterator[str]:
    """Every text of a run's training records."""
    counts = corpora.counts
    for kind in RECORDS:
        for split in counts.get(kind, {}):
            if split not in HELD_OUT:
                for record in corpora.read(kind, split):
                    yield " ".join(texts_of(record))


def of_folder(name: str, context: int | None = None) -> Named:
    """A published model: a policy, or a reward model with a single label. context: `reading`."""
    found = need_model(name)
    ends: Ends = "score" if scorer.is_one(found) else "policy"
    path = Path(name)
    short = path.stem if path.suffix == ".gguf" else path.name
    shape, digest = reading(published.shape_of(found), context), found.digest()
    return Named(short, ends, digest + _of_context(context), str(found.path), shape.context,
                 functools.partial(_read, found, ends, shape))  # fmt: skip


def judging(name: str) -> tuple[LanguageModel, str]:
    """A published policy as a judge, and its digest. Raises UserError for a reward model."""
    found = of_folder(name)
    require(found.ends == "policy", "judge", name, "a policy, not a reward model")
    return found.open()(JUDGED_AT_ONCE), found.digest


def _read(
    found: PublishedModel, ends: Ends, shape: TransformerConfig
) -> Callable[[int], LanguageModel | Scorer]:
    tokenizer = published.tokenizer_of(found)
    params = (scorer.load if ends == "score" else published.load)(found, shape)
    texts = Texts(tokenizer, _with_chat(tokenizer), tokenizer.begins_texts)
    ending = Ending(tokenizer.eos_id, tokenizer.pad_id)
    compiled = functools.cache(jax.jit)
    compile = lambda name, program: compiled(program.function)
    return lambda size: KINDS[ends](shape, params, texts, ending, compile, size)


def _with_chat(tokenizer: Tokenizer) -> Tokenizer | None:
    """The tokenizer with its published chat template; None: there is none."""
    return tokenizer.with_chat() if tokenizer.config.get("chat_template") else None
