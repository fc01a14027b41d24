"""The score of a policy's responses by a reward model."""

import dataclasses

import numpy as np

from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Column, Evaluator
from rlhf_jax.evaluation.policies import score_program, score_responses
from rlhf_jax.evaluation.statistics import mean_interval
from rlhf_jax.stages.stage import Need


@dataclasses.dataclass(frozen=True)
class RewardScore(Evaluator):
    """The mean score of the responses to the test prompts by the reward model of the stage `by`. A
    response that does not end scores as in PPO (`Experiment.ending.missing_eos_score`)."""

    by: str  # the stage of the reward model

    @property
    def name(self):
        return f"{self.by}_score"

    def needs(self):
        return {"by": Need(self.by, "score")}

    def columns(self):
        about = f"mean score of a response by {self.by}"
        return {self.name: Column(f"score by\n{self.by}", about, better="higher")}

    def check_shapes(self, build, asked):
        scorer, model = build.shapes["by"], build.shapes["subject"]
        same = scorer.vocab_size == model.vocab_size
        require(same, "by", self.by, f"a scorer of {model.vocab_size} tokens, as the policy")
        total, field = self._length(asked), "evaluation.prompt_length + response_length"
        require(total <= scorer.context, field, total, f"<= the context of {self.by}")

    def programs(self, build, asked):
        shape = {"batch_size": asked.batch_size, "length": self._length(asked)}
        return {"score": score_program(build.shapes["by"], **shape)}

    def rows(self, subject):
        sampled = subject.sampled()
        scores = score_responses(
            subject.programs["score"],
            subject.model("by"),
            sampled.prompts,
            sampled.responses,
            subject.tokenizer,
            missing=subject.build.ending.missing,
            batch_size=subject.asked.batch_size,
            length=self._length(subject.asked),
        )
        return {"id": sampled.ids, "score": scores.astype(np.float64)}

    def summary(self, rows, seed):
        return {self.name: mean_interval(rows["score"])}

    def parts(self, rows):
        return {self.name: (rows["score"], np.ones(len(rows["score"])))}

    def findings(self, found, seed):
        return [
            f"Training against {self.by} raises the scores by {self.by}. They show how far this "
            "training went, not whether people would prefer the responses."
        ]

    def notes(self, item):
        return [(f"{self.by} {item['score']:.2f}", "")]

    def _length(self, asked) -> int:
        return asked.prompt_length + asked.response_length
