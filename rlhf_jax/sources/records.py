"""The records that a stage produces, on disk."""

import dataclasses
import json
from collections.abc import Sequence

from etils.epath import Path

from rlhf_jax.data.builder import read_dataset, write_dataset
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.parallel import processes
from rlhf_jax.strict_json import read_json

WHOLE = "records.json"  # counts; written last


@dataclasses.dataclass(frozen=True)
class StageRecords:
    """<stage>/records: data sets by kind, like those of the data source."""

    stage: str
    directory: Path  # of the stage
    tokenizer: Tokenizer

    @staticmethod
    def there(directory: Path) -> bool:
        """Whether a stage's records are complete."""
        return (directory / WHOLE).is_file()

    @property
    def is_whole(self) -> bool:
        return self.there(self.directory)

    def has(self, kind: str, split: str) -> bool:
        return split in read_json(self.directory / WHOLE).get(kind, {})

    def read(self, kind: str, split: str) -> Sequence:
        return read_dataset(self.directory / "records", kind, split)

    def sources(self, kind: str, split: str) -> dict[str, int]:
        """{source: how many records of a split it has}; the only source is the stage."""
        return {self.stage: read_json(self.directory / WHOLE)[kind][split]}

    def where(self, kind: str, split: str) -> str:
        """How messages name a split."""
        return f"{kind}.{split} of {self.stage}"

    def write(self, kind: str, splits: dict[str, Sequence]) -> None:
        """Writes the splits of a kind, in one process, then the file that marks them complete."""
        counts = {kind: {split: len(records) for split, records in splits.items()}}

        def write():
            write_dataset(self.directory / "records", kind, splits)
            write_atomically(self.directory / WHOLE, json.dumps(counts, indent=1).encode())

        processes.first_alone(write, "records")
