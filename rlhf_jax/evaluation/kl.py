"""How far a policy is from another, on its own responses."""

import dataclasses
import math

import numpy as np

from rlhf_jax.errors import require
from rlhf_jax.evaluation.evaluator import Column, Evaluator
from rlhf_jax.evaluation.policies import Sampler, kl_program, sampling_program
from rlhf_jax.evaluation.statistics import Interval, mean_interval
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.stage import Need


@dataclasses.dataclass(frozen=True)
class KL(Evaluator):
    """KL(policy || the policy of the stage `to`), nats a response: the mean over responses of the
    policy to the test prompts of the summed KL of each token's full distribution.

    Of a policy that is asked behind worked examples it is not known.

    temperature  of both distributions, and of the sampling
    in_training  the metric of training whose last value stands beside it, where the stage's
                 reference, or else its start, is `to` too: that is of the weights as they were, not
                 of an average that may have stayed nearer
    """

    to: str
    temperature: float = 1.0
    in_training: str = "kl"

    def __post_init__(self):
        super().__post_init__()
        require(self.temperature > 0, "temperature", self.temperature, "positive")

    @property
    def name(self):
        return f"kl_to_{self.to}"

    def needs(self):
        return {"to": Need(self.to, "policy")}

    def columns(self):
        last = f"{self.name}_in_training"
        about = f"KL to {self.to}, nats per response, on the policy's own responses"
        return {
            self.name: Column(
                f"KL to\n{self.to}, in\ntraining",
                f"{about}; below, of the weights that sampled in training's last iteration",
                digits=2,
                below=last,
            ),
            last: Column("KL of training's last iteration", digits=2, drawn=False),
        }

    def check_shapes(self, build, asked):
        model, other = build.shapes["subject"], build.shapes["to"]
        same, words = other.vocab_size == model.vocab_size, f"a policy of {model.vocab_size} tokens"
        require(same, "to", self.to, words)

    def programs(self, build, asked):
        model, reference = build.shapes["subject"], build.shapes["to"]
        sampling = SamplingConfig(self.temperature)
        return {
            "sample": sampling_program(model, sampling, build.ending, **asked.shape),
            "kl": kl_program(model, reference, self.temperature, **asked.shape),
        }

    def rows(self, subject):
        nats = np.zeros(len(subject.ids))
        if subject.behind:
            nats += math.nan
        elif subject.stage != self.to:
            nats = self._nats(subject)
        return {
            "id": subject.ids,
            "nats": nats,
            "in_training": np.full(len(nats), self._last(subject)),
        }

    def _last(self, subject) -> float:
        """Of training; NaN where that has none, or its KL was to another policy."""
        was_to = subject.needs.get("reference") or subject.needs.get("start")
        last = [row.get(self.in_training) for row in subject.metrics()[-1:]]
        known = was_to is not None and was_to.stage == self.to and last and last[0] is not None
        return last[0] if known else math.nan

    def _nats(self, subject) -> np.ndarray:
        build, sampling = subject.build, SamplingConfig(self.temperature)
        policy = build.shapes["subject"], subject.tokenizer, sampling, build.ending
        sampler = Sampler(*policy, **subject.asked.shape, **subject.programs)
        return sampler.kl(subject.params, subject.model("to"), subject.prompts, subject.key("kl"))

    def summary(self, rows, seed):
        name, last = self.columns()
        known = rows["in_training"][0]
        in_training = None if math.isnan(known) else float(known)
        return {name: self._mean(rows["nats"]), last: in_training}

    def parts(self, rows):
        known = np.isfinite(rows["nats"]).all()
        return {self.name: (rows["nats"], np.ones(len(rows["nats"])))} if known else {}

    def _mean(self, nats: np.ndarray):
        if not nats.any():  # of the policy to itself, by definition
            return Interval(0.0, 0.0, 0.0)
        return mean_interval(nats) if np.isfinite(nats).all() else math.nan
