"""`rlhf-jax data EXPERIMENT.py --show N`: the training records of an experiment, token by token."""

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils.epath import Path
from rich.console import Console
from rich.text import Text as Styled

from rlhf_jax.data import arrays
from rlhf_jax.data.held_out import SIDES
from rlhf_jax.data.records import Demonstration, Prompt, Ranking, Record, Scored, Text
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import require
from rlhf_jax.generation.ending import Ending
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.take import data_of
from rlhf_jax.sources.corpora import Corpora, check_config, is_made, prepare

MOST = 600  # tokens that are shown of one sequence
TRAINED, SPECIAL, OTHER = "bold black on green", "bold cyan", "dim"
LEGEND = "| divides tokens, [[ ]] holds those that are trained, \u23ce is a line break"


@dataclasses.dataclass(frozen=True)
class ShowOptions:
    """Of `data` with an experiment file."""

    show: int = 3  # training records of each kind, the first ones

    def __post_init__(self):
        require(self.show >= 1, "show", self.show, "1 or more")


class Tokens(NamedTuple):
    """The tokens that a model reads of a record."""

    about: str
    ids: Sequence[int]
    trained: np.ndarray  # [len(ids)] bool


def show(config: Experiment, options: ShowOptions) -> None:
    """Prints the first training records of each kind of data. Changes no run's directory."""
    console = Console(highlight=False, soft_wrap=True)
    with _corpora(config) as corpora:
        tokenizer = corpora.tokenizer
        close = Ending.of(tokenizer, config.ending).close
        console.print(Styled(LEGEND, OTHER))
        for kind, (split, _) in SIDES.items():
            if not corpora.has(kind, split):
                continue
            records = corpora.read(kind, split)
            for number in range(min(options.show, len(records))):
                place = f"{kind}.{split} {number + 1} of {len(records)}"
                for sequence in sequences(records[number], tokenizer, close):
                    console.print(told(place, sequence, tokenizer))


@contextlib.contextmanager
def _corpora(config: Experiment) -> Iterator[Corpora]:
    """The data of the run if it has them, else data in a folder that is removed."""
    source, directory = config.data, config.directory / "data"
    if is_made(directory):
        check_config(source, directory, *data_of(config)[1:])
        yield Corpora(directory, source)
        return
    with tempfile.TemporaryDirectory() as folder:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            corpora = prepare(source, Path(folder) / "data", *data_of(config)[1:])
        print(said.getvalue(), end="", flush=True)
        yield corpora


def sequences(record: Record, tokenizer: Tokenizer, close: Callable) -> list[Tokens]:
    """The sequences of a record, as the stages train on them: of demonstrations the response and
    its end, of rankings what DPO trains and a reward model reads, of text all but the first token.
    """
    if isinstance(record, Text):
        return [_sequence("text", tokenizer.document_ids(record.text), slice(1, None))]
    if isinstance(record, Prompt):
        return [_sequence("prompt", tokenizer.prompt_ids(record.prompt), slice(0))]
    if isinstance(record, Demonstration):
        end = arrays.close_with_eos(tokenizer)
        return [_sequence("", *arrays.demonstration_piece(record, tokenizer, end))]
    if isinstance(record, Scored):
        record = Ranking(record.prompt, (record.response, record.response), (0, 0))
        return [_sequence("scored", *arrays.tokenised_ranking(record, tokenizer, close)[0][0])]
    pieces, ranks = arrays.tokenised_ranking(record, tokenizer, close)
    return [_sequence(f"rank {rank}", *piece) for piece, rank in zip(pieces, ranks, strict=True)]


def _sequence(about: str, ids: Sequence[int], targets: slice | np.ndarray) -> Tokens:
    trained = np.zeros(len(ids), bool)
    trained[targets] = True
    return Tokens(about, ids, trained)


def told(place: str, sequence: Tokens, tokenizer: Tokenizer) -> Styled:
    """A sequence token by token, in colour."""
    about, ids, trained = sequence
    counts = f"{len(ids)} tokens, {int(trained.sum())} trained"
    text = Styled(f"{place}{about and f', {about}'}: {counts}\n", "bold")
    inside = False
    for number, (i, target) in enumerate(zip(ids[:MOST], trained[:MOST], strict=True)):
        mark = ("" if number == 0 else "|") if target == inside else ("[[" if target else "]]")
        inside = bool(target)
        special = int(i) in tokenizer.special
        style = TRAINED if target else SPECIAL if special else OTHER
        text.append(mark, OTHER).append(_visible(tokenizer.token_of(int(i))), style)
    text.append("]]" if inside else "", OTHER)
    more = len(ids) - MOST
    return text.append(f" ... {more} more tokens\n" if more > 0 else "\n", OTHER)


def _visible(token: str) -> str:
    """A token on one line: line breaks and tabs as signs."""
    return token.replace("\n", "\u23ce").replace("\t", "\u21e5").replace("\r", "\u240d")
