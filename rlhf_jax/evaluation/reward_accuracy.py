"""How often a reward model orders held-out pairs as people did."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from rlhf_jax.data.arrays import tokenised_ranking
from rlhf_jax.data.pipeline import ranking_pass
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Column, Evaluator, Summary
from rlhf_jax.evaluation.statistics import Interval, ratio_interval
from rlhf_jax.stages.reward_model import count_pairs, length_pair_counts, pair_counts
from rlhf_jax.stages.stage import Need, Program, ints, score_shapes, text_shapes


@dataclasses.dataclass(frozen=True)
class RewardAccuracy(Evaluator):
    """The share of untied pairs in held-out rankings that a reward model orders as people did, and
    the share that the rule "the longer output is better" orders right, by source and overall.

    rankings    the stage that collected the rankings; None: the data source has them
    length      the most tokens of prompt and response; longer rankings are left out and counted
    outputs     the most outputs of a ranking
    batch_size  rankings per batch
    """

    judges: ClassVar = "score"
    asks: ClassVar = False
    length: int
    outputs: int = 9
    batch_size: int = 8  # rankings per batch
    rankings: str | None = None

    def __post_init__(self):
        super().__post_init__()
        for field in ("length", "batch_size"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")
        require(self.outputs >= 2, "outputs", self.outputs, "at least 2")

    @property
    def name(self):
        return "accuracy" if self.rankings is None else f"accuracy_on_{self.rankings}"

    def needs(self):
        return {} if self.rankings is None else {"rankings": Need(self.rankings, "rankings")}

    @property
    def _names(self) -> dict[str, str]:
        parts = ("longer_is_better", "difference", "pairs", "prompts", "over_long")
        return {"accuracy": self.name} | {part: f"{self.name}_{part}" for part in parts}

    def columns(self):
        about = {
            "accuracy": "share of held-out pairs that the model orders as people did",
            "longer_is_better": 'share that the rule "the longer output is better" orders right',
            "difference": "accuracy minus longer is better, paired",
            "pairs": "untied pairs of outputs",
            "prompts": "prompts with an untied pair",
            "over_long": "rankings left out because they are too long",
        }
        found = {
            "accuracy": Column("accuracy", about["accuracy"], better="higher", middle=0.5),
            "longer_is_better": Column(
                "longer is\nbetter", about["longer_is_better"], middle=0.5, drawn=False
            ),
            "difference": Column("difference", about["difference"], middle=0.0, drawn=False),
            "pairs": Column("pairs", about["pairs"], digits=0, drawn=False),
            "prompts": Column("prompts", about["prompts"], digits=0, drawn=False, shown=False),
            "over_long": Column("too long", about["over_long"], digits=0, drawn=False, shown=False),
        }
        return {self._names[part]: column for part, column in found.items()}

    def check(self, facts, grader):
        if (expected := facts.expected) is not None:
            most, whose = expected.most_outputs, f"the largest K of {self.rankings}"
            allowed = f"at least {expected.shortest}, for the shortest prompt of {self.rankings}"
            require(self.length >= expected.shortest, "length", self.length, allowed)
        else:
            most = max(ranking.outputs for ranking in facts.measured("rankings", "valid"))
            whose = f"the longest ranking of {facts.where('rankings', 'valid')}"
            facts.some("rankings", "valid", "length", self.length)
        require(self.outputs >= most, "outputs", self.outputs, f"at least {most}, {whose}")

    def check_shapes(self, build, asked):
        context = build.shapes["subject"].context
        require(self.length <= context, "length", self.length, f"<= a context of {context}")

    def programs(self, build, asked):
        model, shape = build.shapes["subject"], (self.batch_size, self.outputs)
        batch = text_shapes(*shape, self.length) | {"ranks": ints(*shape)}
        count = functools.partial(count_pairs, model)
        return {"count": Program(count, (score_shapes(model), batch), whole=True)}

    def rows(self, subject):
        rankings, start, parts = list(subject.records("rankings", "valid")), 0, []
        for source, count in subject.sources("rankings", "valid").items():
            parts.append(self._of_source(subject, source, rankings[start : start + count]))
            start += count
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _of_source(self, subject, source: str, rankings: Sequence[Ranking]) -> dict:
        """One row per prompt: pairs that the model orders right, pairs that longer-is-better orders
        right, all pairs, and rankings that are too long."""
        tokenizer, close = subject.tokenizer, subject.build.ending.close
        longest = lambda r: max(len(ids) for ids, _ in tokenised_ranking(r, tokenizer, close)[0])
        fits = np.array([longest(ranking) <= self.length for ranking in rankings], bool)
        prompts, of = np.unique([ranking.prompt for ranking in rankings], return_inverse=True)
        total = lambda counts, of: np.bincount(of, np.asarray(counts, float), len(prompts))
        none = np.zeros(len(prompts))
        rows = {
            "id": np.array([f"{source} {i}" for i in range(len(prompts))], dtype=object),
            "group": np.full(len(prompts), source, dtype=object),
            "correct": none,
            "longer": none,
            "pairs": none,
            "over_long": total(~fits, of),
        }
        if not fits.any():
            return rows
        batches = ranking_pass(
            [ranking for ranking, kept in zip(rankings, fits, strict=True) if kept],
            tokenizer,
            batch_size=self.batch_size,
            length=self.length,
            outputs=self.outputs,
            close=close,
        )
        model, count = subject.build.shapes["subject"], subject.programs["count"]
        correct, pairs = pair_counts(model, subject.params, batches, count)
        longer, _ = length_pair_counts(batches)
        counts = {"correct": correct, "longer": longer, "pairs": pairs}
        return rows | {name: total(x[: fits.sum()], of[fits]) for name, x in counts.items()}

    def summary(self, rows, seed):
        columns = (rows[name] for name in ("correct", "longer", "pairs"))
        found = pair_accuracy(*columns, seed) | {"over_long": int(rows["over_long"].sum())}
        return {self._names[part]: value for part, value in found.items()}

    def parts(self, rows):
        correct, longer, pairs = (rows[name] for name in ("correct", "longer", "pairs"))
        totals = {"accuracy": correct, "longer_is_better": longer, "difference": correct - longer}
        return {self._names[part]: (total, pairs) for part, total in totals.items()}

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
            f"{part['prompts']} prompts ordered as people did, {verdict}."
        )

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
    """Share of pairs that the reward model orders as people did, and share of longer-is-better.

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
