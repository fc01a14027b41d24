"""Plain text as documents."""

import itertools
import os
import re

from rlhf_jax.data.records import read_lines
from rlhf_jax.errors import RecordError


def read_text(path: str | os.PathLike, characters: int = 2000) -> list[str]:
    """Documents whose concatenation is the file: WikiText's articles (" = Title = "), or in other
    files paragraphs, joined until they have `characters` characters.
    """
    try:
        text = b"".join(read_lines(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"{path}: expected UTF-8, got byte {error.object[error.start]:#04x} at {error.start}"
        ) from None
    headings = [m.start() for m in re.finditer(r"(?m)^ \n = [^=\n]+ = \n \n", text)]
    if headings:
        bounds = [0, *headings[1:], len(text)]
        return [text[a:b] for a, b in itertools.pairwise(bounds)]
    documents, current = [], ""
    for block in re.split(r"(?<=\n\n)(?=[^\n])", text):
        current += block
        if len(current) >= characters:
            documents.append(current)
            current = ""
    return [*documents, current] if current else documents
