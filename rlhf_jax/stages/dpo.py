"""Direct preference optimisation: a policy from rankings, without reward model or rollouts.

An objective is a small frozen dataclass with three members: `loss(better, worse)` of a pair of
responses; `reward(response)`, by which the policy ranks responses; and `reference`, whether it
needs the reference's log-probabilities.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.errors import require, require_form
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives import preferences
from rlhf_jax.objectives.reductions import WeightedMean
from rlhf_jax.objectives.reward_models import DivideBy, over_pairs, ranked_accuracy
from rlhf_jax.stages.adapters import model_at_start
from rlhf_jax.stages.outputs import sums
from rlhf_jax.stages.rankings import RankingStage
from rlhf_jax.stages.reward_model import ranking_by_ranking
from rlhf_jax.stages.stage import Program, policy_shapes
from rlhf_jax.stages.supervised import log_probs_of
from rlhf_jax.training.gradients import in_pieces


class Response(NamedTuple):
    """Numbers of whole responses: log p under the policy, tokens, and log p under the reference
    (None for an objective without a reference)."""

    log_probs: jax.Array
    tokens: jax.Array
    ref_log_probs: jax.Array | None = None

    @property
    def log_ratio(self) -> jax.Array:
        return self.log_probs - self.ref_log_probs

    @property
    def per_token(self) -> jax.Array:
        """The mean log p per token; 0 for a response without tokens."""
        return self.log_probs / jnp.maximum(self.tokens, 1)


def _logs(better: Response, worse: Response) -> tuple[jax.Array, ...]:
    return better.log_probs, worse.log_probs, better.ref_log_probs, worse.ref_log_probs


@dataclasses.dataclass(frozen=True)
class DPO:
    """DPO of Rafailov et al. 2023.

    label_smoothing: the assumed rate of wrong labels; above 0 it is cDPO
    """

    beta: float = 0.1  # strength of the pull to the reference
    label_smoothing: float = 0.0
    reference: ClassVar[bool] = True

    def __post_init__(self):
        require(self.beta > 0, "beta", self.beta, "positive")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, "label_smoothing", smoothing, "in [0, 0.5)")

    def loss(self, better: Response, worse: Response) -> jax.Array:
        return preferences.dpo(*_logs(better, worse), self.beta, self.label_smoothing)

    def reward(self, response: Response) -> jax.Array:
        return response.log_ratio


@dataclasses.dataclass(frozen=True)
class IPO:
    """IPO of Azar et al. 2023: pulls the margin between log-ratios to 1 / (2 beta) nats.

    per_token: log-ratios are means over a response's tokens, as in trl, instead of sums, as in the
    paper
    """

    beta: float = 0.1  # strength of the pull to the reference
    per_token: bool = False
    reference: ClassVar[bool] = True

    def __post_init__(self):
        require(self.beta > 0, "beta", self.beta, "positive")

    def loss(self, better: Response, worse: Response) -> jax.Array:
        return preferences.ipo(*_logs(self._counted(better), self._counted(worse)), self.beta)

    def reward(self, response: Response) -> jax.Array:
        return self._counted(response).log_ratio

    def _counted(self, response: Response) -> Response:
        if not self.per_token:
            return response
        tokens = jnp.maximum(response.tokens, 1)
        means = (response.log_probs / tokens, response.ref_log_probs / tokens)
        return Response(means[0], response.tokens, means[1])


@dataclasses.dataclass(frozen=True)
class SimPO:
    """SimPO of Meng et al. 2024: the mean log p per token replaces the log-ratio; with a margin."""

    beta: float = 2.0  # factor of the difference of the mean log p
    margin: float = 1.0  # gamma: how far the better response should be ahead
    reference: ClassVar[bool] = False

    def __post_init__(self):
        require(self.beta > 0, "beta", self.beta, "positive")
        require(self.margin >= 0, "margin", self.margin, ">= 0")

    def loss(self, better: Response, worse: Response) -> jax.Array:
        return preferences.simpo(better.per_token, worse.per_token, self.beta, self.margin)

    def reward(self, response: Response) -> jax.Array:
        return response.per_token


@dataclasses.dataclass(frozen=True)
class ORPO:
    """ORPO of Hong et al. 2024: -mean log p of the better response + coefficient x odds-ratio
    loss."""

    coefficient: float = 0.1  # of the odds-ratio loss
    reference: ClassVar[bool] = False

    def __post_init__(self):
        require(self.coefficient > 0, "coefficient", self.coefficient, "positive")

    def loss(self, better: Response, worse: Response) -> jax.Array:
        odds = preferences.orpo(better.per_token, worse.per_token)
        return -better.per_token + self.coefficient * odds

    def reward(self, response: Response) -> jax.Array:
        return response.per_token


Preference = DPO | IPO | SimPO | ORPO


@dataclasses.dataclass(frozen=True)
class DirectPreference(RankingStage):
    """Trains a policy on rankings with a preference loss (DPO, IPO, SimPO or ORPO). The policy of
    `start` is the reference."""

    objective: Preference = DPO()

    def __post_init__(self):
        super().__post_init__()
        ok, allowed = hasattr(self.objective, "loss"), "an objective, such as DPO(beta=0.1)"
        require_form(ok, "objective", self.objective, allowed)

    def programs(self, build, steps):
        model, row_length = self.shape(build), self.row_length(build)
        batch, share = self.batch_shapes(row_length), row_length is not None
        reference = policy_shapes(model)
        loss = preference_loss(self.objective, model, self.divide_by, share)
        if not self.objective.reference:
            return {"update": self.update_program(loss, reference, batch, steps)}
        sequences = {name: batch[name] for name in ("tokens", "segments", "weights")}
        refer = reference_log_probs(model, self.micro_batches, self.outputs, share)
        referred = batch | {"ref_log_probs": jax.eval_shape(refer, reference, sequences)}
        update = self.update_program(loss, reference, referred, steps)
        return {
            "reference": Program(
                refer,
                (reference, sequences),
                rows=(1,),
                returns_rows=True,
                beside=update.arguments[:1],
            ),
            "update": dataclasses.replace(update, beside=(reference,), shared=update.arguments[2:]),
        }

    def task(self, inputs):
        reference = model_at_start(inputs, "start", self.lora)

        def refer(programs, batch):
            if not self.objective.reference:
                return batch
            sequences = {name: batch[name] for name in ("tokens", "segments", "weights")}
            return batch | {"ref_log_probs": programs["reference"](reference, sequences)}

        show = ("loss", "accuracy", "margin")
        batches = self._batches(inputs)
        return self.training(inputs, reference, batches, self.tokens_per_step, show, refer)


def response_log_probs(
    model: TransformerConfig,
    params: Any,
    batch: dict,
    outputs: int | None = None,
    share_rows: bool = False,
) -> jax.Array:
    """log p(response, eos | prompt) of every output of a ranking batch [B, M, T], in nats: [B, K].

    The sum over tokens of weight 1; 0 where an output is absent.
    outputs: K; None: M. share_rows: whether several outputs may lie in a row, which excludes
    the fused attention kernel.
    """
    shape = batch["tokens"].shape
    flat = lambda name: batch[name].reshape(-1, shape[-1])
    states = transformer.hidden(model, params, flat("tokens"), flat("segments"), packed=share_rows)
    log_probs = log_probs_of(model, params, states[:, :-1], flat("tokens")[:, 1:])
    log_probs = jnp.where(flat("weights")[:, 1:] != 0, log_probs, 0)
    return of_outputs(log_probs.reshape(*shape[:-1], -1), batch, outputs or shape[1])


def of_outputs(values: jax.Array, batch: dict, outputs: int) -> jax.Array:
    """The sum of values [B, M, T - 1], of all tokens but the first, over each output: [B, K]."""
    return sums(values, batch["segments"][..., 1:], outputs)


def reference_log_probs(
    model: TransformerConfig,
    micro_batches: int,
    outputs: int | None = None,
    share_rows: bool = False,
) -> Callable:
    """log_probs(reference, sequences): `response_log_probs` of the reference, [B, K]."""

    def log_probs(reference, sequences):
        evaluate = lambda piece: response_log_probs(model, reference, piece, outputs, share_rows)
        return in_pieces(evaluate, micro_batches, (sequences,))

    return log_probs


def preference_loss(
    objective: Preference,
    model: TransformerConfig,
    divide_by: DivideBy = "all_pairs",
    share_rows: bool = False,
) -> Callable:
    """loss(params, batch, key): mean over prompts of the objective over their untied pairs.

    divide_by: as in `objectives.reward_models.over_pairs`. share_rows: as in `response_log_probs`.
    batch: a ranking batch, with ref_log_probs [B, K] if the objective has a reference. Each output
    takes one forward pass.

    Metrics use the objective's reward: nats per response, or nats per token without a reference.
    `accuracy` is over all untied pairs. `margin`, `better_reward` and `worse_reward` are means over
    prompts of the mean over each prompt's untied pairs.
    """

    def loss(params, batch, key=None):
        del key
        count = batch["ranks"].shape[-1]
        of_output = {
            "log_probs": response_log_probs(model, params, batch, count, share_rows),
            "tokens": of_outputs(batch["weights"][..., 1:], batch, count),
        }
        if objective.reference:
            of_output["ref_log_probs"] = batch["ref_log_probs"]
        ranked = {name: ranking_by_ranking(x, batch["ranks"]) for name, x in of_output.items()}
        response = Response(**{name: values for name, (values, _) in ranked.items()})
        _, ranks = ranked["log_probs"]
        mean = WeightedMean.of(*over_pairs(objective.loss, ranks, response, divide_by))
        reward = jax.lax.stop_gradient(objective.reward(response))
        correct, pairs = ranked_accuracy(reward, ranks)
        of_pairs = lambda f: WeightedMean.of(*over_pairs(f, ranks, reward, "untied_pairs"))
        return mean, {
            "loss": mean,
            "accuracy": WeightedMean(correct.sum(), pairs.sum()),
            "margin": of_pairs(lambda better, worse: better - worse),
            "better_reward": of_pairs(lambda better, worse: better),
            "worse_reward": of_pairs(lambda better, worse: worse),
        }

    return loss
