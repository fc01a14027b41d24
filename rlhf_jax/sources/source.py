"""What a data source is: records in splits, cheap facts, an identity, and maybe a grader.

A source is a frozen dataclass under `Source`, in the package or outside of it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from etils.epath import Path

from rlhf_jax.data.counting import Splits
from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source:
    """Gives an experiment its records. seed: the run's."""

    def files(self) -> tuple[Path, Sequence[str]] | None:
        """A folder and the names of its files that records are read from, whose digests are the
        records' identity; None: the config and the seed are.

        Raises UserError where one is missing.
        """
        return None

    def is_named(self) -> bool:
        """Whether it says where its files lie; else a run goes on with the records it holds."""
        return True

    def records(self, seed: int) -> tuple[Splits, dict]:
        """{kind: {split: records}} of text, demonstrations, prompts and rankings, as far as it has
        them, and counts of what was left out or changed, by name.

        Raises UserError naming file, line and field of a malformed record.
        """
        raise NotImplementedError

    def copy_tokenizer(self, directory: Path, vocab_size: int) -> bool:
        """Puts the tokenizer that the records go with into a directory; False: one is trained on
        text and demonstrations."""
        return False

    def examples(self, kind: str) -> int | None:
        """How many records of a kind there are to train on, if the config tells."""
        return None

    def where(self, kind: str, split: str) -> str:
        """What messages call a split."""
        return f"data set {kind}.{split}"

    def grader(self, seed: int) -> Callable[[str, str], Any]:
        """grade(prompt, response), with a `score` in [0, 1] and maybe flags; UserError where nobody
        knows what a good response is."""
        raise UserError(f"data: {type(self).__name__} has no grader")

    def worked_examples(self, count: int, seed: int) -> str:
        """Prompts with good responses, a line each, to put before a prompt."""
        raise UserError(f"data: {type(self).__name__} has no worked examples")
