"""The inputs of a stage on records that a test makes up, without a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from rlhf_jax.generation.ending import Ending
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs import chain
from rlhf_jax.runs.inputs import StageInputs
from rlhf_jax.sources.source import Source
from tests.data.conftest import Letters

MODEL = TransformerConfig(vocab_size=40, layers=2, width=16, heads=2, context=200)
ENDING = Ending(Letters.eos_id, Letters.pad_id)


class Alone:
    """The one process of a run."""

    def own_rows(self, count):
        return slice(None)


def inputs_of(
    stages: Mapping,
    name: str,
    records: Callable[[str, str, str | None], Sequence] | None = None,
    *,
    directory: Path = Path("nowhere"),
    seed: int = 0,
    ending: Ending = ENDING,
    shape: TransformerConfig = MODEL,
    data: Source | None = None,
    **parts,
) -> StageInputs:
    """Of the stage `name`. records(kind, split, stage that ends with them); shape: of the models;
    parts: of the run."""
    given = {"runner": Alone(), "tokenizer": Letters()} | parts
    run = SimpleNamespace(
        config=SimpleNamespace(stages=stages, seed=seed, data=data),
        build=lambda stage: chain.build_of(stages, stage, shape, ending),
        stage_directory=lambda stage: directory / stage,
        records=records,
        **given,
    )
    return StageInputs(run, name)
