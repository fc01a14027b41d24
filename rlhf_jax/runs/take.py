"""Takes stages from another run that has finished them with the same config.

The other run's data, models and rankings are not copied: from.json in this run's data/ and stage
directories points to them (rlhf_jax/durable/taken.py).
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from etils.epath import Path, PathLike

from rlhf_jax.data import source_files
from rlhf_jax.durable import taken
from rlhf_jax.durable.files import absolute, entries, write_atomically
from rlhf_jax.durable.fingerprint import CONFIG, differences
from rlhf_jax.durable.lock import lock
from rlhf_jax.errors import UserError
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.run import has_ended
from rlhf_jax.sources import corpora
from rlhf_jax.sources.corpora import COUNTS
from rlhf_jax.sources.records import WHOLE
from rlhf_jax.strict_json import read_json

ABSENT = "is not there"  # why a stage is not taken
OWN = ("lock", CONFIG, COUNTS, source_files.NAME, taken.NAME)  # files that each data/ has itself


class Offer(NamedTuple):
    """The stages of an experiment that can be taken from a run.

    run     the run's directory
    whole   the stages that have finished there with the same config
    reason  for each other stage, why it cannot be taken
    """

    run: Path
    whole: tuple[str, ...]
    reason: dict[str, str]


def offered(config: Experiment, run: PathLike, stages: Sequence[str]) -> Offer:
    """What another run offers of these stages, which are all trained stages.

    Raises UserError where the run does not exist or has other data.
    """
    run = absolute(run)
    if not corpora.is_made(run / "data"):
        raise UserError(f"{run}: holds no run to take stages from")
    if run == absolute(config.directory):
        raise UserError(f"{run} is the run's own directory: name another to take stages from")
    if lines := differences(run / "data", corpora.identity(*data_of(config))):
        raise UserError(f"nothing can be taken from {run}, as its data were made with another "
                        "config:\n" + "\n".join(lines))  # fmt: skip
    if (files := _files(config)) is not None:
        source_files.refuse_others(run / "data", files)
    whole, reason = [], {}
    for stage in stages:
        there = taken.followed(run / stage)
        if not there.is_dir():
            reason[stage] = ABSENT
        elif not has_ended(there):
            reason[stage] = "has not finished there"
        elif lines := differences(there, config.fingerprint(stage)):
            reason[stage] = "has another config:\n" + "\n".join(lines)
        else:
            whole.append(stage)
    return Offer(run, tuple(whole), reason)


def data_of(config: Experiment) -> tuple:
    """What the data are made from: if it is equal for two configs, their data are equal."""
    return config.data, config.model.vocab_size, config.seed, config.chat, config.published


def _files(config: Experiment) -> dict[str, str] | None:
    """The digests of the files that the experiment's records are read from; None if they are not
    read from files, or the files are not known."""
    found = config.data.files() if config.data.is_named() else None
    return (
        source_files.known(config.directory / "data")
        if found is None
        else source_files.digests(*found)
    )


def take(config: Experiment, offer: Offer, stages: Sequence[str]) -> None:
    """Takes the data, if missing, and these stages of `offer.whole` for the experiment."""
    data, source = config.directory / "data", taken.followed(offer.run / "data")
    with lock(config.directory):
        if not corpora.is_made(data):
            for name in (CONFIG, source_files.NAME):
                if (source / name).is_file():
                    write_atomically(data / name, (source / name).read_bytes())
            taken.take(data, source, [e.name for e in entries(source) if e.name not in OWN])
            counts = read_json(offer.run / "data" / COUNTS)
            counts.pop("left_out", None)  # these are counts of the other run's stages
            write_atomically(data / COUNTS, json.dumps(counts, indent=1).encode())
        for stage in stages:
            there = taken.followed(offer.run / stage)
            holds = [name for name in ("model", "records", WHOLE) if (there / name).exists()]
            taken.take(config.directory / stage, there, [*holds, CONFIG])


def here(config: Experiment, stages: Sequence[str]) -> list[str]:
    """The stages that have begun, finished or been taken in the experiment's own directory."""
    begun = (CONFIG, taken.NAME)
    return [s for s in stages if any((config.directory / s / name).is_file() for name in begun)]


def take_from(config: Experiment, run: PathLike, stages: Sequence[str]) -> None:
    """Takes the stages that another run has finished, and prints which are taken and which not.

    Raises UserError where none of the stages can be taken and none has begun here.
    """
    stages = [stage for stage in stages if config.trains(stage)]
    offer, own = offered(config, run, stages), here(config, stages)
    found = [stage for stage in offer.whole if stage not in own]
    if stages and not found and not own:
        told = "\n".join(reasons(offer, own))
        raise UserError(f"nothing can be taken from {offer.run}: {told}")
    take(config, offer, found)
    if found:
        print(f"{', '.join(found)}: taken from {offer.run}", flush=True)
    absent = [s for s, reason in offer.reason.items() if reason == ABSENT and s not in own]
    if absent:  # no warning: the experiment has further stages
        verb = "are" if len(absent) > 1 else "is"
        print(f"{', '.join(absent)} {verb} not in {offer.run} and {verb} trained here", flush=True)
    for line in reasons(offer, [*own, *absent]):
        print(line, flush=True)


def reasons(offer: Offer, own: Sequence[str]) -> list[str]:
    """Lines that say why stages are not taken; stages with the same reason share a line."""
    stages: dict[str, list[str]] = {}
    for stage, reason in offer.reason.items():
        if stage not in own:
            stages.setdefault(reason, []).append(stage)
    return [f"{', '.join(names)}: not taken from {offer.run}, each {reason}" if len(names) > 1
            else f"{names[0]}: not taken from {offer.run}, it {reason}"
            for reason, names in stages.items()]  # fmt: skip
