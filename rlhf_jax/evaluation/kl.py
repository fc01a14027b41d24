"""The KL divergence of a policy from another policy, on its own responses."""

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
    """KL(policy || policy of the stage `to`) in nats per response.

    It is the mean over the policy's responses to the test prompts of the sum over tokens of the KL
    of the full distributions. It is not known for a policy that is prompted with worked examples.

    temperature  divides the logits of both policies, in the sampling too
    in_training  the training metric whose last value is shown below, if `to` is the stage's
                 reference (or start). It belongs to the weights of the last iteration; a saved
                 moving average may be nearer to the reference
    """

    to: str  # the stage of the other policy
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
                f"{about}; below, of the weights that sampled in the last iteration of training",
                digits=2,
                below=last,
                range=(0, None),
            ),
            last: Column(
                "KL of training's last iteration",
                f"KL to {self.to} of the weights that sampled in the last iteration of training, "
                "nats per response",
                digits=2,
                drawn=False,
                range=(0, None),
            ),
        }

    def check_shapes(self, build, asked):
        model, other = build.shapes["subject"], build.shapes["to"]
        same, words = other.vocab_size == model.vocab_size, f"a policy of {model.vocab_size} tokens"
        require(same, "to", self.to, words)

    def programs(self, build, asked):
        model, reference = build.shapes["subject"], build.shapes["to"]
        sampling = SamplingConfig(self.temperature)
        return {
            "sample": sampling_program(
                model, sampling, build.ending, decoding=asked.decoding, **asked.shape
            ),
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
        """The last KL of training; NaN if there is none or it was to another policy."""
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
        return {self.name: (rows["nats"], np.ones(len(rows["nats"])))}

    def _mean(self, nats: np.ndarray):
        if not nats.any():  # the KL of a policy to itself is 0 by definition
            return Interval(0.0, 0.0, 0.0)
        return mean_interval(nats) if np.isfinite(nats).all() else math.nan
