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
from rlhf_jax.errors import UserError, inside, require
from rlhf_jax.generation.ending import Ending
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.take import data_of
from rlhf_jax.sources.corpora import Corpora, check_config, is_made, prepare
from rlhf_jax.stages.facts import Facts, Measures

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
        checked = _checked(config, corpora, close)
        console.print(Styled(LEGEND, OTHER))
        for kind, (split, _) in SIDES.items():
            if not corpora.has(kind, split):
                continue
            records = corpora.read(kind, split)
            for number in range(min(options.show, len(records))):
                place = f"{kind}.{split} {number + 1} of {len(records)}"
                out = _left_out(checked, kind, split, number)
                for sequence in sequences(records[number], tokenizer, close):
                    console.print(told(place, sequence, tokenizer, out))


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


def _checked(config: Experiment, corpora: Corpora, close: Callable) -> list[Facts]:
    """The records as the stages check them, which prints how many each leaves out."""
    measures, found = Measures(close), []
    for name, stage in config.stages.items():
        if "rankings" in stage.needs():  # another stage collects them
            continue
        facts = Facts(name, lambda kind: corpora, measures)
        try:
            with inside(name):
                stage.check(facts)
        except UserError as error:
            print(f"a run would be refused: {error}")
        found.append(facts)
    return found


def _left_out(checked: Sequence[Facts], kind: str, split: str, number: int) -> str:
    """Which stages leave a record out, and why."""
    found = ""
    for facts in checked:
        if (kind, split) in facts.limits:
            field, length = facts.limits[kind, split]
            fact = facts.measured(kind, split)[number]
            if fact.tokens > length:
                found += f", longer than {field} = {length}: left out"
            elif fact.reason is not None:
                found += f", {fact.reason}: left out by {field.partition('.')[0]}"
    return found


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


def told(place: str, sequence: Tokens, tokenizer: Tokenizer, left_out: str = "") -> Styled:
    """A sequence token by token, in colour. left_out: which stages leave it out."""
    about, ids, trained = sequence
    plural = "" if len(ids) == 1 else "s"
    counts = f"{len(ids)} token{plural}, {int(trained.sum())} trained{left_out}"
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
