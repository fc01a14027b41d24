"""Your own records, from a folder of JSONL files."""

import dataclasses
import os

from rlhf_jax.data import folder
from rlhf_jax.errors import require
from rlhf_jax.fields import NOT_FINGERPRINTED
from rlhf_jax.randomness import shuffle_seed
from rlhf_jax.sources.source import Source


@dataclasses.dataclass(frozen=True)
class FolderData(Source):
    """Your own records: JSONL files of a folder and their tokenizer (docs/data.md).

    If you give the numbers of demonstrations and rankings, `rlhf-jax plan` can count a whole run
    without the files, and a run refuses files with other numbers of records.

    The special tokens of a tokenizer.json are named here or in a tokenizer_config.json beside it,
    or have their usual names. If the folder has no tokenizer, one of at most model.vocab_size
    tokens is trained on its training records.
    """

    # The folder of the records; None: the folder that RLHF_JAX_DATA names.
    path: str | None = dataclasses.field(default=None, metadata=NOT_FINGERPRINTED)
    held_out: float = 0.05  # the fraction of prompts that is held out if there is no held-out file
    # The number of training demonstrations that the files must hold, else the run stops with an
    # error; None: any number.
    demonstrations: int | None = None
    rankings: int | None = None  # the same for training rankings
    pad_token: str | None = None  # fills rows; must not occur in texts or equal bos or eos
    bos_token: str | None = None  # begins prompts and documents; may equal eos_token
    eos_token: str | None = None  # ends responses and documents

    # Whether to train on records that `rlhf-jax data` made of files that are public as test sets
    allow_test: bool = dataclasses.field(default=False, metadata=NOT_FINGERPRINTED)

    def __post_init__(self):
        require(0 < self.held_out < 1, "held_out", self.held_out, "in (0, 1)")
        for field in ("demonstrations", "rankings"):
            value = getattr(self, field)
            require(value is None or value > 0, field, value, "positive, or None")

    def files(self):
        path = folder.find_folder(self.path)
        return path, folder.file_names(path)

    def is_named(self):
        return bool(self.path or os.environ.get("RLHF_JAX_DATA"))

    def records(self, seed):
        return folder.read_folder(
            self.path,
            share=self.held_out,
            seed=shuffle_seed(seed, "data/heldout"),
            demonstrations=self.demonstrations,
            rankings=self.rankings,
            allow_test=self.allow_test,
        )

    def special_tokens(self):
        return {
            "pad_token": self.pad_token,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }

    def copy_tokenizer(self, directory, vocab_size):
        return folder.copy_tokenizer(self.path, directory, vocab_size, **self.special_tokens())

    def examples(self, kind):
        return {"demonstrations": self.demonstrations, "rankings": self.rankings}.get(kind)

    def where(self, kind, split):
        return f"{kind}.{split}.jsonl"
