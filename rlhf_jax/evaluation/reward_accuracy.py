"""How often a reward model orders held-out pairs as the rankings do."""

import dataclasses
from typing import ClassVar

import numpy as np

from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Column, Summary
from rlhf_jax.evaluation.held_out_rankings import (
    HeldOutRankings,
    joined,
    mean_of,
    of_each_ranking,
)
from rlhf_jax.evaluation.statistics import Interval, ratio_interval
from rlhf_jax.stages.reward_model import length_pair_counts, reward_loss
from rlhf_jax.stages.stage import Program, score_shapes


@dataclasses.dataclass(frozen=True)
class RewardAccuracy(HeldOutRankings):
    """The share of untied pairs in held-out rankings that a reward model orders as the rankings do,
    and the share that the rule "the longer output is better" orders right, by source and overall;
    and the model's loss on these rankings.

    agreement  the share of pairs on which two labelers agree, if it is known; the report tells it
               beside the accuracy
    """

    judges: ClassVar = "score"
    counted: ClassVar = ("correct", "longer", "pairs", "loss", "rankings")
    agreement: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        ok = self.agreement is None or 0 < self.agreement <= 1
        require(ok, "agreement", self.agreement, "in (0, 1], or None")

    @property
    def name(self):
        return self.named("accuracy")

    @property
    def _names(self) -> dict[str, str]:
        parts = ("longer_is_better", "difference", "pairs", "prompts", "over_long")
        return {"accuracy": self.name} | {part: f"{self.name}_{part}" for part in parts}

    def columns(self):
        about = {
            "accuracy": "share of held-out pairs that the model orders as the rankings do"
            + self._labelers("; two labelers agree on"),
            "longer_is_better": 'share that the rule "the longer output is better" orders right',
            "difference": "accuracy minus longer is better, paired",
            "pairs": "untied pairs of outputs",
            "prompts": "prompts with an untied pair",
            "over_long": "rankings left out because they are too long",
        }
        found = {
            "accuracy": Column(
                "accuracy", about["accuracy"], better="higher", middle=0.5, range=(0, 1)
            ),
            "longer_is_better": Column(
                "longer is\nbetter",
                about["longer_is_better"],
                middle=0.5,
                drawn=False,
                range=(0, 1),
            ),
            "difference": Column(
                "difference", about["difference"], middle=0.0, drawn=False, range=(-1, 1)
            ),
            "pairs": Column("pairs", about["pairs"], digits=0, drawn=False),
            "prompts": Column("prompts", about["prompts"], digits=0, drawn=False, shown=False),
            "over_long": Column("too long", about["over_long"], digits=0, drawn=False, shown=False),
        }
        about = "mean loss of a held-out ranking, as training has it, nats"
        loss = Column("loss", about, better="lower", drawn=False, range=(0, None))
        named = {self._names[part]: column for part, column in found.items()}
        return named | {self.named("loss"): loss}

    def programs(self, build, asked):
        model = build.shapes["subject"]
        measure = of_each_ranking(reward_loss(model, self.divide_by))
        arguments = (score_shapes(model), self.batch_shapes())
        return {"measure": Program(measure, arguments, whole=True)}

    def figures(self, subject, batches):
        """Pairs that the model has right, that longer-is-better has right, and all; the loss, and
        whether the ranking has an untied pair."""
        measure = subject.programs["measure"]
        found = joined([measure(subject.params, batch) for batch in batches])
        longer, _ = length_pair_counts(batches)
        accuracy, loss = found["accuracy"], found["loss"]
        return {
            "correct": accuracy.total,
            "longer": np.asarray(longer),
            "pairs": accuracy.weight,
            "loss": loss.total,
            "rankings": loss.weight,
        }

    def summary(self, rows, seed):
        columns = (rows[name] for name in ("correct", "longer", "pairs"))
        found = pair_accuracy(*columns, seed) | {"over_long": int(rows["over_long"].sum())}
        named = {self._names[part]: value for part, value in found.items()}
        return named | {self.named("loss"): mean_of(rows["loss"], rows["rankings"])}

    def parts(self, rows):
        correct, longer, pairs = (rows[name] for name in ("correct", "longer", "pairs"))
        totals = {"accuracy": correct, "longer_is_better": longer, "difference": correct - longer}
        found = {self._names[part]: (total, pairs) for part, total in totals.items()}
        return found | {self.named("loss"): (rows["loss"], rows["rankings"])}

    def findings(self, found, seed):
        sentences = []
        for scorer, measured in found.items():
            whole = (
                {"": measured.summary} if len(measured.groups) < 2 else {"all": measured.summary}
            )
            for source, summary in (whole | dict(measured.groups)).items():
                named = f"Reward model {scorer}" + (f", {source}" if source else "")
                sentences.append(self._against_chance(named, self._parts(summary)))
            sentences += self._of_the_whole(scorer, self._parts(measured.summary))
        return sentences

    def _parts(self, summary: Summary) -> Summary:
        return {part: summary[name] for part, name in self._names.items()}

    def _against_chance(self, named: str, part: Summary) -> str:
        if not part["pairs"]:
            return f"{named}: not known, no held-out pair was left."
        verdict = {
            1: "better than chance",
            -1: "worse than chance",
            0: "not clearly better or worse than chance, because the interval contains 0.5",
        }[part["accuracy"].side(0.5)]
        return (
            f"{named}: {part['accuracy'].text()} of {part['pairs']} held-out pairs of "
            f"{part['prompts']} prompts ordered as the rankings do, {verdict}"
            f"{self._labelers('; two labelers agree on')}."
        )

    def _labelers(self, words: str) -> str:
        """How often two labelers agree, after the words; "" if it is not known."""
        return "" if self.agreement is None else f"{words} {self.agreement:.3f}"

    def _of_the_whole(self, scorer: str, whole: Summary) -> list[str]:
        sentences = []
        if whole["pairs"]:
            verdict = {
                1: "the reward model is better",
                -1: "the reward model is worse",
                0: "the reward model is not clearly better or worse",
            }[whole["difference"].side()]
            sentences.append(
                'The rule "the longer output is better" is right on '
                f"{whole['longer_is_better'].text()}: {verdict} "
                f"(difference {whole['difference'].text()})."
            )
        if whole["over_long"]:
            sentences.append(
                f"{whole['over_long']} held-out rankings are longer than {self.length} tokens and "
                "are not counted."
            )
        if not whole["pairs"] or whole["accuracy"].low <= 0.5:
            sentences.append(
                f"{scorer} is not clearly better than chance, so a higher score is no sign of "
                "a better response."
            )
        return sentences


def pair_accuracy(correct: np.ndarray, longer: np.ndarray, pairs: np.ndarray, seed: int) -> dict:
    """Share of pairs that the reward model orders as the rankings do, and share of
    longer-is-better.

    Args:
      correct, longer, pairs: [N], per prompt: pairs that the reward model orders right, pairs that
        the rule "the longer output is better" orders right, and all pairs.

    Returns: {"accuracy", "longer_is_better", "difference", "pairs", "prompts"}. The first three
      have intervals over prompts, the difference is paired; all three are None without pairs.
    """
    counts = {"pairs": int(pairs.sum()), "prompts": int((pairs > 0).sum())}
    if not counts["pairs"]:
        return dict.fromkeys(("accuracy", "longer_is_better", "difference")) | counts
    halved = ratio_interval((correct - longer + pairs) / 2, pairs, seed)  # within 0..pairs
    return {
        "accuracy": ratio_interval(correct, pairs, seed),
        "longer_is_better": ratio_interval(longer, pairs, seed),
        "difference": Interval(*(2 * bound - 1 for bound in halved)),
        **counts,
    }
