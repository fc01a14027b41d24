"""How well a policy's own likelihoods, which DPO trains, rank held-out pairs."""

import dataclasses
from typing import ClassVar

from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.held_out_rankings import (
    HeldOutRankings,
    joined,
    mean_of,
    of_each_ranking,
)
from rlhf_jax.evaluation.statistics import ratio_interval
from rlhf_jax.stages.dpo import DPO, Preference, preference_loss, reference_log_probs
from rlhf_jax.stages.stage import Need, Program, floats, policy_shapes


@dataclasses.dataclass(frozen=True)
class PreferenceAccuracy(HeldOutRankings):
    """The share of the untied pairs of held-out rankings whose better output has the higher reward
    under the objective of a DPO stage; the margin of the two rewards; and the stage's loss.

    The reward is in nats per response relative to the reference (DPO, IPO), or in nats per token
    (SimPO, ORPO, which read no reference). For a policy that is prompted with worked examples, the
    rewards are those of its model without the examples.

    reference  the stage whose policy is the objective's reference; None: it reads no reference
    objective  the objective of the DPO stage
    """

    counted: ClassVar = ("correct", "pairs", "margin", "loss", "rankings")
    reference: str | None = dataclasses.field(default=None, kw_only=True)
    objective: Preference = dataclasses.field(default=DPO(), kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        kind = type(self.objective).__name__
        allowed = "a stage, the reference of" if self.objective.reference else "None: no reference"
        ok = (self.reference is not None) == self.objective.reference
        require(ok, "reference", self.reference, f"{allowed} {kind}")

    @property
    def name(self):
        return self.named("preference_accuracy")

    def needs(self):
        read = {} if self.reference is None else {"reference": Need(self.reference, "policy")}
        return super().needs() | read

    def columns(self):
        about = "share of held-out pairs whose better output the policy rewards more; below, by how"
        margin, json = self.named("preference_margin"), {"drawn": False, "shown": False}
        found = {
            "preference_accuracy": Column(
                "prefers\nas ranked",
                f"{about} much it rewards that more, nats",
                better="higher",
                middle=0.5,
                below=margin,
                drawn=False,
                range=(0, 1),
            ),
            "preference_margin": Column(
                "margin",
                "reward of the better output minus that of the worse, nats",
                middle=0.0,
                drawn=False,
            ),
            "preference_loss": Column(
                "loss of pairs",
                "mean loss of a held-out ranking, as training has it, nats",
                range=(0, None),
                **json,
            ),
            "preference_pairs": Column("pairs", "untied pairs of outputs", digits=0, **json),
            "preference_over_long": Column(
                "too long", "rankings left out because they are too long", digits=0, **json
            ),
        }
        return {self.named(name): column for name, column in found.items()}

    def programs(self, build, asked):
        model, batch = build.shapes["subject"], self.batch_shapes()
        measure = of_each_ranking(preference_loss(self.objective, model, self.divide_by))
        if self.reference is None:
            arguments = (policy_shapes(model), batch)
            return {"measure": Program(measure, arguments, whole=True)}
        other = build.shapes["reference"]
        referred = batch | {"ref_log_probs": floats(self.batch_size, self.outputs)}
        return {
            "reference": Program(
                reference_log_probs(other, 1), (policy_shapes(other), _sequences(batch)), whole=True
            ),
            "measure": Program(measure, (policy_shapes(model), referred), whole=True),
        }

    def figures(self, subject, batches):
        """The number of pairs that the policy orders correctly, and of all pairs; loss, margin, and
        whether the ranking has an untied pair."""
        programs = subject.programs

        def measure(batch):
            if self.reference is not None:
                referred = programs["reference"](subject.model("reference"), _sequences(batch))
                batch = batch | {"ref_log_probs": referred}
            return programs["measure"](subject.params, batch)

        found = joined([measure(batch) for batch in batches])
        accuracy, loss = found["accuracy"], found["loss"]
        return {
            "correct": accuracy.total,
            "pairs": accuracy.weight,
            "margin": found["margin"].total,
            "loss": loss.total,
            "rankings": loss.weight,
        }

    def rows(self, subject):
        rows = super().rows(subject)
        return {name: x for name, x in rows.items() if name != "group"}  # all sources in one figure

    def summary(self, rows, seed):
        correct, pairs, rankings = (rows[name] for name in ("correct", "pairs", "rankings"))
        found = {
            "preference_accuracy": ratio_interval(correct, pairs, seed) if pairs.any() else None,
            "preference_margin": mean_of(rows["margin"], rankings),
            "preference_loss": mean_of(rows["loss"], rankings),
            "preference_pairs": int(pairs.sum()),
            "preference_over_long": int(rows["over_long"].sum()),
        }
        return {self.named(name): value for name, value in found.items()}

    def parts(self, rows):
        found = {"accuracy": ("correct", "pairs"), "margin": ("margin", "rankings"),
                 "loss": ("loss", "rankings")}  # fmt: skip
        return {
            self.named(f"preference_{name}"): (rows[total], rows[weight])
            for name, (total, weight) in found.items()
        }


def _sequences(batch: dict) -> dict:
    """The arrays of a batch that the reference reads."""
    return {name: batch[name] for name in ("tokens", "segments", "weights")}
