"""Options of `rlhf-jax label`, `rlhf-jax label export` and `rlhf-jax label wins`."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

from rlhf_jax.errors import require
from rlhf_jax.labelling.export import MERGES, Merge
from rlhf_jax.labelling.item import MOST_OUTPUTS
from rlhf_jax.runs.options import ReadOptions

# Compared with what browsers send as Origin: they leave out the scheme's own port.
ADDRESS = re.compile(
    r"(https(?!.*:443$)|http(?!.*:80$))://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"
)


@dataclasses.dataclass(frozen=True)
class LabelOptions(ReadOptions):
    """Of the labelling page. `--seed` is the seed of prompts and outputs.

    stages       stages of the experiment whose policies answer each prompt, side by side; none
                 named: the last policy, in the experiment's order, that has finished
    k            outputs of each of these stages to a prompt; InstructGPT: 4 to 9 a prompt
    rank         prompts whose outputs are ranked; None: 100 of an experiment, all of --responses
    demonstrate  prompts to which labelers write the response
    write        prompts that labelers write
    prompts      a file of prompts, .jsonl or .txt, as of generate; None: the experiment's prompts
    split        the experiment's split of prompts; None: the first that it has of feedback, ppo and
                 test
    responses    a folder with a file of responses for each model, .jsonl, as generate writes them;
                 equal prompts are shown side by side. No stage is sampled
    gold         a file of rankings, .jsonl, that are known to be right; every labeler gets some
    each         number of labelers for each item
    overlap      the share of items that at least two labelers get, to measure their agreement
    labelers     their pseudonyms. Each gets a token of their own, which is printed once; none
                 named: whoever opens the page on this machine labels, without a token
    renew        labelers who get a new token; the old one ends
    to           the folder of the labels; None: labels/ in the run's directory
    host         the address that is listened to. Any but this machine's own needs labelers, and a
                 certificate or --insecure
    port         its port; 0: a free one
    address      how labelers open the page through a proxy, such as https://labels.example.org
    certificate  a PEM file for TLS, with its chain
    key          the PEM file of the certificate's private key
    insecure     serves other machines without TLS: tokens and answers can be read on their way
    """

    stages: tuple[str, ...] = ()
    k: int = 4
    rank: int | None = None
    demonstrate: int = 0
    write: int = 0
    prompts: Path | None = None
    split: Literal["feedback", "ppo", "test"] | None = None
    responses: Path | None = None
    gold: Path | None = None
    each: int = 1
    overlap: float = 0.2
    labelers: tuple[str, ...] = ()
    renew: tuple[str, ...] = ()
    to: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    address: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False

    def __post_init__(self):
        require(1 <= self.k <= MOST_OUTPUTS, "k", self.k, f"1 to {MOST_OUTPUTS}")
        require(self.rank is None or self.rank >= 0, "rank", self.rank, "0 or more")
        for field in ("demonstrate", "write"):
            require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")
        require(self.each >= 1, "each", self.each, "1 or more")
        require(0 <= self.overlap <= 1, "overlap", self.overlap, "in [0, 1]")
        require(0 <= self.port < 2**16, "port", self.port, "in [0, 65536)")
        both = (self.certificate is None) == (self.key is None)
        require(both, "key", self.key and str(self.key), "given with --certificate, or neither")
        ok = self.address is None or ADDRESS.fullmatch(self.address) is not None
        require(ok, "address", self.address, "like https://labels.example.org, as browsers send "
                "it: in lower case, without a path and without the port 443 or 80")  # fmt: skip
        sampled = self.responses is None or not (self.stages or self.split)
        require(sampled, "responses", str(self.responses), "given without --stages and --split")


@dataclasses.dataclass(frozen=True)
class ExportLabelsOptions:
    """Of the export of labels."""

    to: Path | None = None  # the folder for the files
    # "none": a ranking for each labeler of an item. "majority", "bradley_terry": one for each item,
    # by the majorities of its labelers, or by the Bradley-Terry model.
    merge: Merge = "none"
    # Writes so many folders fold_0, fold_1, ... too, each with another group of labelers held out,
    # for cross-validation; 0: none. InstructGPT: 5.
    folds: int = 0

    def __post_init__(self):
        require(self.merge in MERGES, "merge", self.merge, f"one of {', '.join(MERGES)}")
        require(self.folds == 0 or self.folds >= 2, "folds", self.folds, "0, or 2 or more")
        merged = self.merge != "none" and self.folds > 0
        require(not merged, "merge", self.merge, "none with --folds: a merged ranking has no "
                "labeler")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LabelWinsOptions:
    """Of the win rates by people's rankings."""

    against: str | None = None  # the model that the others are compared with; None: each pair
    to: Path | None = None  # a .json file for the result; None: it is printed only

    def __post_init__(self):
        ok = self.to is None or self.to.suffix == ".json"
        require(ok, "to", self.to and str(self.to), "a file named *.json")
