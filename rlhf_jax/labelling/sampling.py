"""Items to label from an experiment: its prompts, and outputs of its stages."""

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

import jax

from rlhf_jax.data.messages import Messages
from rlhf_jax.data.records import Prompt
from rlhf_jax.durable.files import absolute
from rlhf_jax.errors import UserError, require
from rlhf_jax.labelling.item import MOST_OUTPUTS, Item, Output
from rlhf_jax.labelling.options import LabelOptions
from rlhf_jax.labelling.responses import items_of
from rlhf_jax.labelling.store import Store
from rlhf_jax.randomness import shuffle_seed
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.generate import Asked, answered, check_room, read_prompts, text_of
from rlhf_jax.runs.items import digest
from rlhf_jax.runs.reading import finished_stage, reading_run
from rlhf_jax.runs.run import Run

SPLITS = ("feedback", "ppo", "test")
RANK = 100  # prompts of an experiment, if no number is given


def add_items(config: Experiment, options: LabelOptions, store: Store) -> None:
    """Adds the items that the options ask for of an experiment, unless this command has added them
    before. Prints what it did.

    config.seed is the seed of prompts and outputs; the models are the run's, whatever its seed.
    Raises UserError where a stage has not finished, or there are too few prompts.
    """
    if options.rank == 0 and not options.demonstrate:
        return
    stages = _stages(config, options)
    most = f"{MOST_OUTPUTS} outputs of a prompt at most, in all stages together"
    require(2 <= options.k * len(stages) <= MOST_OUTPUTS, "k", options.k, f"2 to {most}")
    source = _source(config, options, stages)
    if store.has_batch(source):
        return
    run = reading_run(config, "label", options.insist)
    asked, written = _asked(run, options, stages, config.seed)
    keys = {stage: run.key(f"label/{stage}/{config.seed}") for stage in stages}
    found = items_of(_outputs(run, asked, options.k, keys), str(config.directory))
    more = [Item("demonstrate", one.prompt) for one in written]
    store.add([*found.items, *more], options.each, options.overlap, source)
    for stage in stages:
        run.evaluation.release(stage)
    print(f"label: {len(found.items)} prompts with up to {options.k * len(stages)} outputs of "
          f"{', '.join(stages)}; {found.alike} left out, because all outputs are equal; "
          f"{len(more)} prompts for demonstrations", flush=True)  # fmt: skip


def _stages(config: Experiment, options: LabelOptions) -> list[str]:
    named: Sequence[str | None] = options.stages or (None,)
    return [finished_stage(config, name, "policy", "stages") for name in dict.fromkeys(named)]


def _source(config: Experiment, options: LabelOptions, stages: Sequence[str]) -> str:
    """Identifies the prompts and outputs: they are the same, if it is."""
    file = options.prompts
    read = None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    models = {stage: config.fingerprint(stage) for stage in stages}
    asked = [options.k, options.rank, options.demonstrate, options.split, config.seed, read]
    return f"{absolute(config.directory)} {digest([models, asked])}"


def _asked(
    run: Run, options: LabelOptions, stages: Sequence[str], seed: int
) -> tuple[list[Asked], list[Asked]]:
    """The prompts whose outputs are ranked, and those for demonstrations: of the file in its order,
    or drawn from the split."""
    count = (RANK if options.rank is None else options.rank) + options.demonstrate
    if options.prompts is not None:
        asked = read_prompts(options.prompts)[:count]
        asked = [one._replace(text=text_of(run, one)) for one in asked]
        for stage in stages:
            check_room(run, stage, asked)
    else:
        asked = _of_split(run, options.split, stages, seed)[:count]
    ranked = len(asked) - options.demonstrate
    if ranked < (1 if options.rank is None else options.rank):
        place = options.prompts or "the experiment"
        raise UserError(f"{place}: has {len(asked)} prompts that can be asked; --rank and "
                        f"--demonstrate ask for {count}")  # fmt: skip
    return asked[:ranked], asked[ranked:]


def _of_split(run: Run, split: str | None, stages: Sequence[str], seed: int) -> list[Asked]:
    there = [name for name in SPLITS if run.corpora.has("prompts", name)]
    require(split is None or split in there, "split", split, f"one of {', '.join(there)}")
    if not there:
        raise UserError("the experiment has no prompts: give --prompts FILE")
    split = split or there[0]
    records: Sequence[Prompt] = run.records("prompts", split, None)
    order = list(range(len(records)))
    random.Random(shuffle_seed(seed, "label/prompts")).shuffle(order)
    texts = dict.fromkeys(records[i].prompt for i in order)
    asked = [Asked(f"prompts.{split}", text, {}, text) for text in texts]
    short = [one for one in asked if all(_fits(run, stage, one.text) for stage in stages)]
    if left_out := len(asked) - len(short):
        print(f"label: {left_out} of {len(asked)} prompts of {split} are left out: they are longer "
              "than evaluation.prompt_length", flush=True)  # fmt: skip
    return short


def _fits(run: Run, stage: str, text: str) -> bool:
    before, most = run.evaluation.prompting(stage).before, run.evaluation.asked(stage).prompt_length
    return len(run.tokenizer.prompt_ids(before + text)) <= most


def _outputs(
    run: Run, asked: Sequence[Asked], count: int, keys: Mapping[str, jax.Array]
) -> Iterator[tuple[str | Messages, list[Output]]]:
    """(prompt, `count` outputs of each stage) of each prompt. keys: the random key of a stage."""
    found = []
    for stage, key in keys.items() if asked else ():
        found.append([
            [Output(a.response.text, a.response.ended, (stage,)) for a in answers]
            for _, answers in answered(run, stage, asked, count, key)
        ])  # fmt: skip
    for number, one in enumerate(asked):
        yield one.prompt, list(itertools.chain(*(rows[number] for rows in found)))
