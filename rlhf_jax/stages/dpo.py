"""Direct preference optimisation: a policy from rankings, without reward model or rollouts."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rlhf_jax.errors import require
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives import preferences
from rlhf_jax.objectives.likelihood import sequence_log_prob
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.reward_models import over_pairs, ranked_accuracy
from rlhf_jax.parallel.runner import Compile, one_device
from rlhf_jax.stages.log_probs import log_probs_of
from rlhf_jax.stages.reward_model import ranking_by_ranking
from rlhf_jax.training.micro_batches import in_pieces
from rlhf_jax.training.optimizer import OptimizerConfig


class Response(NamedTuple):
    """log p of whole responses, under the policy and under the reference."""

    log_probs: jax.Array
    ref_log_probs: jax.Array


@dataclasses.dataclass(frozen=True)
class DPO:
    """Rafailov et al. 2023; label_smoothing > 0, the rate of wrong labels, is cDPO."""

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self):
        require(self.beta > 0, "beta", self.beta, "positive")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, "label_smoothing", smoothing, "in [0, 0.5)")

    def loss(self, better: Response, worse: Response) -> jax.Array:
        logs = better.log_probs, worse.log_probs, better.ref_log_probs, worse.ref_log_probs
        return preferences.dpo(*logs, self.beta, self.label_smoothing)


@dataclasses.dataclass(frozen=True)
class IPO:
    """Azar et al. 2023: a margin to reach, 1 / (2 beta) nats, and not to pass."""

    beta: float = 0.1

    def __post_init__(self):
        require(self.beta > 0, "beta", self.beta, "positive")

    def loss(self, better: Response, worse: Response) -> jax.Array:
        logs = better.log_probs, worse.log_probs, better.ref_log_probs, worse.ref_log_probs
        return preferences.ipo(*logs, self.beta)


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """The reward model's batches: all pairs of a prompt in one batch element."""

    optimizer: OptimizerConfig
    objective: DPO | IPO = DPO()
    epochs: float = 1.0
    batch_size: int = 64  # prompts
    outputs: int = 9  # of a batch element; at least the largest K
    packed: bool = False  # several rankings in a batch element
    length: int = 2048  # tokens of prompt and response; longer outputs are dropped and counted
    micro_batches: int = 1

    def __post_init__(self):
        for field in ("epochs", "batch_size", "length", "micro_batches"):
            value = getattr(self, field)
            require(value > 0, field, value, "positive")
        require(self.outputs >= 2, "outputs", self.outputs, "at least 2")
        require(
            self.batch_size % self.micro_batches == 0,
            "micro_batches",
            self.micro_batches,
            f"a divisor of batch_size = {self.batch_size}",
        )


def response_log_probs(model: TransformerConfig, params: Any, batch: dict) -> jax.Array:
    """log p(response, eos | prompt) of every output, nats: [B, K] of a ranking batch.

    A sum over the tokens of weight 1; 0 where an output is absent.
    """
    shape = batch["tokens"].shape
    flat = lambda name: batch[name].reshape(-1, shape[-1])
    states = transformer.hidden(model, params, flat("tokens"), flat("segments"))
    log_probs = log_probs_of(model, params, states[:, :-1], flat("tokens")[:, 1:])
    return sequence_log_prob(log_probs, flat("weights")[:, 1:]).reshape(shape[:-1])


def make_reference(
    model: TransformerConfig, micro_batches: int, compile: Compile = one_device
) -> Callable:
    """The compiled refer(reference, batch): the batch with the reference's log-probabilities."""

    def log_probs(reference, batch):
        evaluate = lambda piece: response_log_probs(model, reference, piece)
        return in_pieces(evaluate, micro_batches, (batch,))

    log_probs = compile(log_probs, rows=(1,), returns_rows=True)

    def refer(reference, batch: dict) -> dict:
        sequences = {name: batch[name] for name in ("tokens", "segments", "weights")}
        return batch | {"ref_log_probs": log_probs(reference, sequences)}

    return refer


def preference_loss(objective: DPO | IPO, model: TransformerConfig) -> Callable:
    """loss(params, batch, key): mean over prompts of the objective's mean over their pairs.

    batch: a ranking batch with ref_log_probs [B, K]; one forward pass an output, each prompt
    weighted alike, ties dropped. Metrics: `accuracy` over pairs of the implicit reward log p / ref;
    its `margin` in nats and the log-ratio of the better and of the worse output, as the loss is.
    """

    def loss(params, batch, key=None):
        del key
        log_probs = response_log_probs(model, params, batch)
        response, ranks = [], None
        for values in (log_probs, batch["ref_log_probs"]):
            values, ranks = ranking_by_ranking(values, batch["ranks"])
            response.append(values)
        response = Response(*response)
        mean = WeightedMean.of(*over_pairs(objective.loss, ranks, response))
        ratio = jax.lax.stop_gradient(response.log_probs - response.ref_log_probs)
        correct, pairs = ranked_accuracy(ratio, ranks)
        of_pairs = lambda f: WeightedMean.of(*over_pairs(f, ranks, ratio))
        return mean, {
            "loss": mean,
            "accuracy": WeightedMean(correct.sum(), pairs.sum()),
            "margin": of_pairs(lambda better, worse: better - worse),
            "better_log_ratio": of_pairs(lambda better, worse: better),
            "worse_log_ratio": of_pairs(lambda better, worse: worse),
        }

    return loss
