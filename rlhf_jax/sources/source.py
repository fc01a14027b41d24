"""The protocol of a data source: records in splits, an identity, and perhaps a grader.

A source is a frozen dataclass that inherits from `Source`, in this package or in your own file.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from etils.epath import Path

from rlhf_jax.data.counting import Splits
from rlhf_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source:
    """Gives an experiment its records. `seed` in its methods is the run's seed."""

    def files(self) -> tuple[Path, Sequence[str]] | None:
        """The folder and the names of the files that records are read from. Their digests identify
        the records. None: records depend on the config and the seed only.

        Raises UserError where a file is missing.
        """
        return None

    def is_named(self) -> bool:
        """Whether the folder of its files is named; if not, a run uses the records it holds."""
        return True

    def records(self, seed: int) -> tuple[Splits, dict]:
        """({kind: {split: records}}, counts of what was left out or changed, by name). The kinds
        are text, demonstrations, prompts, rankings and scored, as far as the source has them.

        Raises UserError naming file, line and field of a malformed record.
        """
        raise NotImplementedError

    def copy_tokenizer(self, directory: Path, vocab_size: int) -> bool:
        """Copies the source's tokenizer into a directory. False: the source has none, and one is
        trained on text and demonstrations."""
        return False

    def special_tokens(self) -> dict[str, str | None]:
        """The fields that name special tokens of its tokenizer, and their values."""
        return {}

    def examples(self, kind: str) -> int | None:
        """The number of training records of a kind; None if it is not known from the config."""
        return None

    def where(self, kind: str, split: str) -> str:
        """How messages name a split."""
        return f"data set {kind}.{split}"

    def grader(self, seed: int) -> Callable[[str, str], Any]:
        """grade(prompt, response); its result has a `score` in [0, 1] and perhaps `flags`. Raises
        UserError where the source has no grader."""
        raise UserError(f"data: {type(self).__name__} has no grader")

    def worked_examples(self, count: int, seed: int) -> str:
        """Prompts with good responses, one per line, to put before a prompt."""
        raise UserError(f"data: {type(self).__name__} has no worked examples")
