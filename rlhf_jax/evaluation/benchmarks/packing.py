"""Rows of a prompt and the texts that continue it, as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LENGTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # that batches have


class Piece(NamedTuple):
    """A text whose tokens are predicted. number: of its request, which may have several pieces.
    prompt: at least one id."""

    number: int
    prompt: tuple[int, ...]
    text: tuple[int, ...]


class Row(NamedTuple):
    """A prompt and texts that continue it.

    tokens, branches, positions  by column, as `transformer.hidden_of_branches` has them. The last
                                 token of a text is predicted only, and has no column
    targets, places  the tokens to predict, and the columns of the tokens that predict them
    spans    (number of the request, its targets)
    """

    tokens: list[int]
    branches: list[int]
    positions: list[int]
    targets: list[int]
    places: list[int]
    spans: list[tuple[int, slice]]

    @classmethod
    def of(cls, prompt: Sequence[int]) -> "Row":
        size = len(prompt)
        return cls(list(prompt), [0] * size, list(range(size)), [], [], [])

    def add(self, piece: Piece) -> None:
        """Adds a text behind the prompt."""
        size, start, read = len(piece.prompt), len(self.tokens), piece.text[:-1]
        self.spans.append(
            (piece.number, slice(len(self.targets), len(self.targets) + len(read) + 1))
        )
        self.places.extend([size - 1, *range(start, start + len(read))])
        self.targets.extend(piece.text)
        self.tokens.extend(read)
        self.branches.extend([len(self.spans)] * len(read))
        self.positions.extend(range(size, size + len(read)))


def packed(pieces: Sequence[Piece], most: int) -> list[Row]:
    """Rows of at most `most` tokens, sorted by length; each holds texts of one prompt."""
    together: dict[tuple[int, ...], list[Piece]] = {}
    for piece in pieces:
        together.setdefault(piece.prompt, []).append(piece)
    rows = []
    for prompt, texts in together.items():
        row = Row.of(prompt)
        for piece in texts:
            if row.spans and len(row.tokens) + len(piece.text) - 1 > most:
                rows.append(row)
                row = Row.of(prompt)
            row.add(piece)
        rows.append(row)
    return sorted(rows, key=lambda row: len(row.tokens))


def rounded(length: int) -> int:
    """The least of LENGTHS that is no smaller; above them, of the multiples of 512."""
    return next((n for n in LENGTHS if n >= length), -(-length // 512) * 512)


def filled(
    rows: Sequence[Row], count: int, length: int, targets: int, pad: int
) -> tuple[np.ndarray, ...]:
    """(tokens, branches, positions [count, length], places, targets [count, targets]) int32 of the
    rows and of padding."""
    tokens = np.full((count, length), pad, np.int32)
    branches = np.full((count, length), -1, np.int32)
    positions = np.zeros((count, length), np.int32)
    places, wanted = np.zeros((count, targets), np.int32), np.zeros((count, targets), np.int32)
    for i, row in enumerate(rows):
        size, many = len(row.tokens), len(row.targets)
        tokens[i, :size], branches[i, :size] = row.tokens, row.branches
        positions[i, :size] = row.positions
        places[i, :many], wanted[i, :many] = row.places, row.targets
    return tokens, branches, positions, places, wanted
