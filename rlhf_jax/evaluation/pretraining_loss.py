"""The loss of a policy on held-out plain text, and whether alignment has made it worse."""

import dataclasses
import math

import numpy as np

from rlhf_jax.data.pipeline import text_pass
from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import (
    Column,
    Found,
    Measured,
    number,
    paired,
    same_items,
)
from rlhf_jax.evaluation.statistics import Interval, mean_interval
from rlhf_jax.evaluation.token_losses import TokenLosses
from rlhf_jax.stages.stage import Need
from rlhf_jax.stages.supervised import document_losses


@dataclasses.dataclass(frozen=True)
class PretrainingLoss(TokenLosses):
    """Loss in nats per token on the data source's held-out text, and its paired difference, over
    documents, from the loss of the policy of the stage `against`.

    With `every`, it also measures the stages that train before `against` has finished, then without
    the difference.

    length      tokens per row
    batch_size  rows per batch
    against     the stage to compare with; None: no comparison
    tax         one or two stages. The findings say whether the first has a higher loss than
                `against` (an alignment tax), and whether the second removes it
    told        stages whose difference is among the findings
    over        the column over which the figure draws it
    """

    against: str | None = None
    tax: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    over: str | None = "gold_score"

    def __post_init__(self):
        super().__post_init__()
        named = (*self.tax, *self.told)
        ok = self.against is not None or not named
        require(ok, "against", self.against, f"a stage, to compare {', '.join(named)} with")
        require(len(self.tax) <= 2, "tax", self.tax, "a stage that pays and one that repairs")

    def needs(self):
        return {} if self.against is None else {"against": Need(self.against, "policy")}

    def optional(self):
        return ("against",)

    def columns(self):
        about, below = "nats per token of the data's held-out plain text", None
        if self.against is not None:
            below = f"{self.name}_vs_{self.against}"
            about += f"; below, its paired difference from that of {self.against}, over documents"
        how = {"better": "lower", "below": below, "over": self.over, "range": (0, None)}
        found = {self.name: Column("text\nloss", about, **how)}
        if below is not None:
            about = f"loss on held-out text, difference from that of {self.against}"
            found[below] = Column("difference", about, middle=0.0, drawn=False)
        return found

    def check(self, facts, grader):
        facts.there("text", "valid")

    def rows(self, subject):
        text = text_pass(
            subject.records("text", "valid"),
            subject.tokenizer,
            batch_size=self.batch_size,
            length=self.length,
        )
        model, program = subject.build.shapes["subject"], subject.programs["losses"]
        nats, tokens = document_losses(model, subject.params, text, program)
        ids = np.array([f"document {i}" for i in range(len(nats))])
        rows = {"id": ids, "nats": nats, "tokens": tokens}
        if self.against not in (None, subject.stage) and subject.has("against"):
            other = subject.rows(self.name, self.against)
            rows["against"] = same_items(rows, other, "nats")[1]
        return rows

    def summary(self, rows, seed):
        loss, *difference = self.columns()
        found = {loss: float(rows["nats"].sum() / rows["tokens"].sum())}
        if self.against is None:  # else the interval is that of the difference
            found[loss] = loss_difference(rows, np.zeros(len(rows["nats"])))
        compared = "against" in rows
        for name in difference:
            found[name] = loss_difference(rows, rows["against"]) if compared else None
        return found

    def parts(self, rows):
        loss, *difference = self.columns()
        found = {loss: (rows["nats"], rows["tokens"])}
        if "against" in rows:
            found |= {name: (rows["nats"] - rows["against"], rows["tokens"]) for name in difference}
        return found

    def findings(self, found, seed):
        sentences = [self._moved(stage, found) for stage in self.told if stage in found]
        stages = [stage for stage in (self.against, *self.tax) if stage in found]
        if not self.tax:
            return sentences
        if not {self.against, self.tax[0]} <= set(stages):
            words = f"the alignment tax of {self.tax[0]} on {self.against}"
            return [*sentences, f"Not measured, so not judged: {words}."]
        loss = lambda stage: found[stage].summary[self.name]
        if diverged := [stage for stage in stages if not math.isfinite(loss(stage))]:
            told = ", ".join(diverged)
            return [*sentences, "Not known: the alignment tax, because the pretraining loss of "
                    f"{told} is not finite."]  # fmt: skip
        return [*sentences, *self._tax(found)]

    def _moved(self, stage: str, found: Found) -> str:
        names = [name for name in (self.against, stage) if name in found]
        losses = ", ".join(f"{name} {_told(found[name].summary[self.name])}" for name in names)
        start = f"Loss on held-out text, nats per token: {losses}"
        difference = found[stage].summary[f"{self.name}_vs_{self.against}"]
        if number(difference) is None or not math.isfinite(number(difference)):
            return f"{start}: not known, one is not finite."
        verdict = {1: "raised it", -1: "lowered it", 0: "did not clearly change it"}
        return f"{start}; {stage} {verdict[difference.side()]} ({difference.text('+')})."

    def _tax(self, found: Found) -> list[str]:
        """Sentences on whether the first stage of `tax` has a higher loss than `against`, and
        whether the second repairs it."""
        stage, before = self.tax[0], self.against
        tax = _difference(found[stage], found[before])
        verdict = {
            1: "Holds: there is an alignment tax, a pretraining loss of",
            0: "Not sure: whether there is an alignment tax, the pretraining loss is",
            -1: "Does not hold: there is no alignment tax, the pretraining loss is",
        }
        losses = [found[name].summary[self.name] for name in (stage, before)]
        sentence = (
            f"{verdict[tax.side()]} {losses[0]:.4f} nats per token for {stage}, {losses[1]:.4f} "
            f"for {before}, a difference of {tax.text('+')}."
        )
        repaired = [name for name in self.tax[1:] if name in found]
        return [sentence, *(self._repair(name, found, tax) for name in repaired)]

    def _repair(self, stage: str, found: Found, tax: Interval) -> str:
        """A sentence on whether a stage's loss is below that of the stage with the tax, and how
        much of the tax it leaves."""
        payer, one = self.tax[0], found[stage]
        gain, left = (_difference(one, found[name]) for name in (payer, self.against))
        figures = (
            f"{stage} has {one.summary[self.name]:.4f} nats per token, against {payer} "
            f"{gain.text('+')}, against {self.against} {left.text('+')}."
        )
        if tax.side() <= 0:
            return f"Not known: whether {stage} repairs the tax: there is no clear tax; {figures}"
        if gain.side() > 0:
            return f"Does not hold: {stage} does not repair the alignment tax; {figures}"
        if gain.side() == 0:
            return f"Not sure: whether {stage} repairs the alignment tax; {figures}"
        if left.side() > 0:
            share = -100 * gain.mean / tax.mean
            return f"Holds in part: {stage} repairs {share:.0f} % of the tax; {figures}"
        if left.side() == 0:
            unsure = "what is left of it is not clear"
            return f"Holds: {stage} repairs the alignment tax, {unsure}; {figures}"
        return f"Holds: {stage} repairs all of the alignment tax; {figures}"


def loss_difference(rows, others: np.ndarray) -> Interval | float:
    """The policy's loss minus another policy's, in nats per token, over the same documents; NaN if
    one of them diverged. others: the other policy's nats per document."""
    difference = np.subtract(rows["nats"], others)
    finite = np.isfinite(difference).all()
    return mean_interval(difference, rows["tokens"]) if finite else math.nan


def _difference(one: Measured, other: Measured) -> Interval:
    return loss_difference(one.rows, paired(one, other, "nats")[1])


def _told(loss: float) -> str:
    return f"{loss:.3f}" if math.isfinite(loss) else "-"
