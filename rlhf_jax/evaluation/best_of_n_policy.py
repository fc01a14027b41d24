"""Best-of-n of a policy by a reward model, as a policy in the report."""

import dataclasses

import numpy as np

from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.best_of_n import best_of_n, best_of_n_kl
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.policies import Sampler, sampling_program, score_responses
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.statistics import bounded_mean, mean_interval


@dataclasses.dataclass(frozen=True)
class BestOfN(RewardScore):
    """The best of n responses of a policy to each test prompt by the reward model of the stage
    `by`: its score, the grade that the data source gives it, and the most KL divergence that it
    costs, log n - (n - 1) / n. All n are measured from the same `samples` responses of a prompt
    without bias (evaluation/best_of_n.py).

    n        numbers of responses of which the best is taken
    samples  responses to each prompt
    graded   whether the data source's grader grades the responses
    """

    n: tuple[int, ...] = (1, 4, 16)
    samples: int = 16
    graded: bool = True

    def __post_init__(self):
        super().__post_init__()
        ok = bool(self.n) and all(1 <= n <= self.samples for n in self.n)
        require(ok, "n", self.n, f"numbers from 1 to samples = {self.samples}")
        allowed = "stages whose policies are not prompted with examples"
        require(bool(self.only), "only", self.only, allowed)

    @property
    def name(self):
        return f"best_of_n_by_{self.by}"

    def _named(self, n: int, what: str) -> str:
        return f"best_of_{n}_by_{self.by}_{what}"

    def columns(self):
        found = {}
        for n in self.n:
            best = f"best of {n}\nby {self.by}"
            found[self._named(n, "score")] = Column(
                f"{best},\nscore", f"mean score by {self.by} of the best of {n} responses",
                better="higher", drawn=False,
            )  # fmt: skip
            if self.graded:
                found[self._named(n, "grade")] = Column(
                    f"{best},\ngrade", f"mean grade of the best of {n} responses by {self.by}",
                    better="higher", range=(0, 1), over=self._named(n, "kl"),
                )  # fmt: skip
            found[self._named(n, "kl")] = Column(
                f"{best},\nKL at most", f"log n - (n - 1) / n, an upper bound in nats of the KL of "
                f"the best of {n} to the policy", drawn=False, range=(0, None),
            )  # fmt: skip
        return found

    def check(self, facts, grader):
        if self.graded:
            grader()

    def programs(self, build, asked):
        model = build.shapes["subject"]
        sample = sampling_program(
            model, asked.sampling, build.ending, decoding=asked.decoding, **asked.shape
        )
        return super().programs(build, asked) | {"sample": sample}

    def rows(self, subject):
        if subject.behind:
            raise UserError(f"{self.name}: {subject.stage} is prompted with examples: leave it out "
                            "of `only`")  # fmt: skip
        count, prompts = len(subject.prompts), subject.prompts
        asked, ending = subject.asked, subject.build.ending
        sampler = Sampler(subject.build.shapes["subject"], subject.tokenizer, asked.sampling,
                          ending, **asked.shape, sample=subject.programs["sample"])  # fmt: skip
        repeated = [prompt for prompt in prompts for _ in range(self.samples)]
        responses = sampler.responses(subject.params, repeated, subject.key("best_of_n"))
        scores = score_responses(
            subject.programs["score"], subject.model("by"), repeated, responses, subject.tokenizer,
            missing=ending.missing, batch_size=asked.batch_size, length=self._length(asked),
        ).astype(np.float64).reshape(count, self.samples)  # fmt: skip
        rows = {"id": subject.ids}
        rows |= {f"score {n}": best_of_n(scores, scores, n) for n in self.n}
        if self.graded:
            grade = subject.grader()
            pairs = zip(repeated, responses, strict=True)
            grades = np.array([grade(prompt, response.text).score for prompt, response in pairs])
            grades = grades.astype(np.float64).reshape(scores.shape)
            rows |= {f"grade {n}": best_of_n(scores, grades, n) for n in self.n}
        return rows

    def summary(self, rows, seed):
        found = {}
        for n in self.n:
            found[self._named(n, "score")] = mean_interval(rows[f"score {n}"])
            if self.graded:
                grades = np.clip(rows[f"grade {n}"], 0, 1)  # of rounding
                found[self._named(n, "grade")] = bounded_mean(grades, seed)
            found[self._named(n, "kl")] = best_of_n_kl(n)
        return found

    def parts(self, rows):
        ones = np.ones(len(rows["id"]))
        kinds = ("score", "grade") if self.graded else ("score",)
        return {self._named(n, kind): (rows[f"{kind} {n}"], ones) for n in self.n for kind in kinds}

    def findings(self, found, seed):
        return []

    def notes(self, item):
        return []
