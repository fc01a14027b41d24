"""Format numbers of directories, so that a later version of this package can read a run.

If you change what is written, add a meaning, and either read the earlier formats or raise `oldest`.
"""

import dataclasses
from typing import Any

from rlhf_jax.errors import UserError

FIELD = "format"  # the field of the JSON file that holds the number


@dataclasses.dataclass(frozen=True)
class Format:
    """The format numbers of one kind of directory.

    kind      the kind of directory, in a word
    meanings  what each number from 0 on means; the last one is written now
    oldest    the smallest number that is read
    advice    what to do with a smaller number
    """

    kind: str
    meanings: tuple[str, ...]
    oldest: int = 0
    advice: str = "finish it with that version, or give another directory"

    @property
    def now(self) -> int:
        return len(self.meanings) - 1

    def check(self, number: Any, place: Any) -> None:
        """Raises UserError where this version does not read format `number`, found at `place`.

        number: None, where there is none, counts as 0.
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


# The number is in manifest.json.
CHECKPOINT = Format(
    "checkpoint",
    (
        "state (flat, by path), data and progress by Orbax; manifest.json without a number",
        "the same with the number",
    ),
)
# The number is in model.json.
MODEL = Format(
    "model",
    (
        "params by Orbax; kind, tokenizer and model in model.json without a number",
        "the same with the number",
        "the same; model has the fields of published families too. With `trunk` in model.json the "
        "params are those of an adapter, and `trunk` is the place of the model under it",
    ),
    advice="write it again from its last checkpoint with that version, or give another directory",
)
# The number is in published.json of the stage that has read a published model.
PUBLISHED = Format(
    "record of a published model", ("name, files, digest, shape, licence and base_model",)
)
# The number is in about.json of a folder of records.
CONVERTED = Format("folder of converted records", ("sources with name, licence, test and split",))
# The number is in the first line of each file of `rlhf-jax eval`.
MEASURED = Format(
    "file of measured items",
    ("a line that says what was measured, then a row a line",),
    advice="give another --to",
)
# The number is in config.json of data/ and of each stage's directory.
RUN = Format(
    "run",
    (
        "six stages that each experiment has; the config alone in config.json",
        "stages by name; config.json holds the number and the config",
    ),
    oldest=1,
)
# The number is the user_version of labels.sqlite; that of a new file is 0.
LABELS = Format(
    "label store",
    ("an empty file", "people, sessions, batches, items, outputs and assignments"),
    oldest=1,
)
# The number is in the first line of the file with a judge's answers.
JUDGED = Format("file of a judge's answers", ("key, answer and tokens of each request",))
