"""HHH by a reward model's scores."""

import dataclasses

from rlhf_jax.evaluation.benchmarks.benchmark import Item
from rlhf_jax.evaluation.benchmarks.hhh import HHH
from rlhf_jax.evaluation.benchmarks.pairs import ScoredPairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class HHHScores(ScoredPairs):
    """The share of HHH's 221 pairs of replies of which a reward model scores the better one higher;
    `hhh` measures policies on the same pairs."""

    called = "hhh_scores"
    title = "HHH by scores"
    licence = HHH.licence
    source = HHH.source
    files = HHH.files
    plain = HHH.plain

    def items(self):
        found = []
        for item in HHH(data=self.data).items():
            better, worse = item.fields["replies"]
            pair = {"prompt": item.fields["question"], "better": better, "worse": worse,
                    "group": item.fields["group"]}  # fmt: skip
            found.append(Item(item.id, pair, item.text))
        return found
