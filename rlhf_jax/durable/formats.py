"""Numbers that say how a directory was written, so that runs outlive versions of this package.

Whoever changes what is written adds a meaning, and reads the numbers before it or raises `oldest`.
"""

import dataclasses
from typing import Any

from rlhf_jax.errors import UserError

FIELD = "format"  # in the JSON file that carries the number


@dataclasses.dataclass(frozen=True)
class Format:
    """kind: of directory, in a word; meanings: of the numbers from 0 on, the last of which is
    written now; oldest: the smallest that is read; advice: what to do with a smaller one.
    """

    kind: str
    meanings: tuple[str, ...]
    oldest: int = 0
    advice: str = "finish it with that version, or give another directory"

    @property
    def now(self) -> int:
        return len(self.meanings) - 1

    def check(self, number: Any, place: Any) -> None:
        """number: what `place` carries; None: no number, which is 0.

        Raises UserError where this version does not read it.
        """
        number = 0 if number is None else number
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise UserError(f"{place}: {FIELD}: expected a whole number, got {number!r}")
        about = f"({self.kind} format {number}, here {self.oldest} to {self.now})"
        if number > self.now:
            raise UserError(
                f"{place} was written by a later version of rlhf_jax {about}: update rlhf_jax"
            )
        if number < self.oldest:
            raise UserError(
                f"{place} was written by an earlier version of rlhf_jax {about}: {self.advice}"
            )


# In manifest.json.
CHECKPOINT = Format(
    "checkpoint",
    (
        "state (flat, by path), data and progress by Orbax; manifest.json without a number",
        "the same with the number",
    ),
)
# In model.json.
MODEL = Format(
    "model",
    (
        "params by Orbax; kind, tokenizer and model in model.json without a number",
        "the same with the number",
    ),
    advice="write it anew with that version's last checkpoint, or give another directory",
)
# In the config.json of each of its directories: data/ and one a stage.
RUN = Format(
    "run",
    (
        "six stages that each experiment has; the config alone in config.json",
        "stages by name; config.json holds the number and the config",
    ),
    oldest=1,
)
