"""Collects rankings: outputs of a policy for each prompt, ranked by simulated labelers."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.batches import Finite
from rlhf_jax.data.pipeline import prompt_pass
from rlhf_jax.data.records import Ranking
from rlhf_jax.errors import UserError, require
from rlhf_jax.feedback.collect import output_counts, rankings_of
from rlhf_jax.feedback.labelers import SimulatedLabeler, calibrate_noise
from rlhf_jax.feedback.pools import LabelerPool
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.generation.decode import TOGETHER, DecodingConfig, generate
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.stages.facts import Expected
from rlhf_jax.stages.stage import KEY, Need, Program, Stage, policy_shapes, prompt_shapes
from rlhf_jax.training.loop import Task


class Collecting(NamedTuple):
    """Everything that changes from step to step."""

    step: jax.Array
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class SimulatedFeedback(Stage):
    """Samples K outputs of a policy for each prompt, one batch per step, and ranks them by the data
    source's grader with noise. The first tenth of the rankings is held out.

    policy     the stage whose policy is sampled
    outputs    the smallest and the largest number of outputs per prompt, K
    agreement  the fraction of pairs on which two labelers agree (Ouyang et al. 2022, section 3.4)
    prompts    the data source's split of prompts
    pool       labelers who differ, of whom one ranks all outputs of a prompt and is named in the
               record; None: they differ by noise alone
    decoding   how the outputs of a step are decoded
    """

    ends: ClassVar = "rankings"
    prompt_length: int  # maximum number of tokens; longer prompts are left out and counted
    response_length: int  # maximum number of tokens of an output
    outputs: tuple[int, int] = (4, 9)
    agreement: float = 0.726
    temperature: float = 1.0  # divides the logits in sampling
    batch_size: int = 64  # outputs sampled per step
    prompts: str = "feedback"
    policy: str = dataclasses.field(kw_only=True)
    pool: LabelerPool | None = dataclasses.field(default=None, kw_only=True, metadata=ADDED_LATER)
    decoding: DecodingConfig = dataclasses.field(
        default=TOGETHER, kw_only=True, metadata=ADDED_LATER
    )

    def __post_init__(self):
        for field in ("prompt_length", "response_length", "temperature", "batch_size"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")
        fewest, most = self.outputs
        require(2 <= fewest <= most, "outputs", self.outputs, "(fewest, most), at least 2")
        require(0 < self.agreement < 1, "agreement", self.agreement, "in (0, 1)")

    def needs(self):
        return {"policy": Need(self.policy, "policy")}

    def shape(self, build):
        return build.shapes["policy"]

    def check_shapes(self, build):
        total, context = self.prompt_length + self.response_length, build.shapes["policy"].context
        field = "prompt_length + response_length"
        require(total <= context, field, total, f"<= the context of {self.policy} = {context}")
        build.ending.check(self.response_length)

    def check(self, facts):
        longest = max(prompt.tokens for prompt in facts.measured("prompts", self.prompts))
        facts.fits("prompts", self.prompts, "prompt_length", self.prompt_length, longest)

    def expects(self, facts):
        lengths = [prompt.tokens for prompt in facts.measured("prompts", self.prompts)]
        return Expected(len(lengths), min(lengths) + 1, self.outputs[1])

    def steps(self, examples):
        return None  # depends on the number of prompts

    def programs(self, build, steps):
        model = build.shapes["policy"]

        def sample(policy, tokens, segments, key):
            return generate(
                model,
                policy,
                tokens,
                segments,
                key,
                sampling=SamplingConfig(self.temperature),
                response_length=self.response_length,
                ending=build.ending,
                decoding=self.decoding,
            )

        prompts = prompt_shapes(self.batch_size, self.prompt_length)
        arguments = (policy_shapes(model), prompts["tokens"], prompts["segments"], KEY)
        turns = self.decoding.turns(self.batch_size, self.response_length)
        return {"sample": Program(sample, arguments, whole=True, turns=turns)}

    def task(self, inputs):
        prompts, counts = self._asked(inputs)
        repeated = [p for p, count in zip(prompts, counts, strict=True) for _ in range(count)]
        asked = prompt_pass(
            repeated, inputs.tokenizer, batch_size=self.batch_size, length=self.prompt_length
        )
        policy = inputs.model("policy")
        sample = inputs.compile(self.programs(inputs.build, len(asked)))["sample"]
        ending, tokenizer = inputs.build.ending, inputs.tokenizer

        def step(state, batch):
            key = jax.random.fold_in(state.key, state.step)
            rollout = sample(policy, batch["tokens"], batch["segments"], key)
            real = batch["index"] >= 0
            if sick := int(np.asarray(rollout.sick)[real].sum()):
                raise UserError(f"{sick} of {real.sum()} outputs were drawn from logits that are "
                                "not finite: the policy is damaged")  # fmt: skip

            def responses():
                found = ending.responses(rollout.tokens[real], rollout.mask[real], tokenizer)
                return [[response.text, response.ended] for response in found]

            written = inputs.on_host("outputs", int(state.step), responses)
            tokens = rollout.mask[real].sum(axis=1).mean()
            ended = float(np.mean([ended for _, ended in written]))
            metrics = {"outputs": len(written), "response_tokens": tokens, "ended": ended}
            return state._replace(step=state.step + 1), metrics

        initial = lambda key: Collecting(jnp.zeros((), jnp.int32), key)
        return Task(
            name=inputs.build.name,
            state=inputs.runner.create(initial, inputs.key("outputs")),
            step=step,
            batches=Finite(asked),
            total_steps=len(asked),
            tokens_per_step=self.batch_size * self.response_length,
            show=("response_tokens", "ended"),
            updates=0,
            model=lambda state: None,
        )

    def finish(self, params, inputs):
        started = time.monotonic()
        prompts, counts = self._asked(inputs)
        outputs = [output for step in inputs.host_results("outputs") for output in step]
        if len(outputs) != sum(counts):
            raise UserError(
                f"{inputs.build.name}: {inputs.directory} holds {len(outputs)} outputs, but the "
                f"config asks for {sum(counts)}: it was started with another config; remove that "
                "directory to collect them again"
            )
        unranked, grade = rankings_of(prompts, counts, outputs), inputs.grader()
        score = lambda prompt, text: grade(prompt, text).score
        # Equal outputs always tie, so agreement is calibrated on different outputs.
        different = [list(dict.fromkeys(r.responses)) for r in unranked]
        scores = [
            [score(r.prompt, text) for text in texts]
            for r, texts in zip(unranked, different, strict=True)
            if len(texts) > 1
        ]
        noise = calibrate_noise(scores, self.agreement)
        ranked = self._ranked(unranked, score, noise, inputs.shuffle("labelers"))
        tied, held = sum(ranking.tied for ranking in ranked), max(1, len(ranked) // 10)
        print(f"{inputs.build.name}: {tied} of {len(ranked)} rankings are wholly tied", flush=True)
        inputs.tell(tied=tied, noise=noise, ranking_seconds=time.monotonic() - started)
        return {"train": ranked[held:], "valid": ranked[:held]}

    def _ranked(
        self,
        unranked: Sequence[Ranking],
        score: Callable[[str, str], float],
        noise: float,
        seed: int,
    ) -> list[Ranking]:
        """The rankings by a labeler, or each by one of the pool."""
        scored = lambda r: [score(r.prompt, text) for text in r.responses]
        if self.pool is None:
            labeler = SimulatedLabeler(noise, seed=seed)
            return [
                dataclasses.replace(r, ranks=labeler.rank(r.prompt, r.responses, scored(r)))
                for r in unranked
            ]
        found = []
        for r, name in zip(unranked, self.pool.assigned(len(unranked), seed), strict=True):
            ranks = self.pool.rank(name, r.prompt, r.responses, scored(r), noise, seed)
            found.append(dataclasses.replace(r, ranks=ranks, labeler=name))
        return found

    def _asked(self, inputs) -> tuple[list[str], list[int]]:
        """The prompts, and how many outputs each gets."""
        prompts = [record.prompt for record in inputs.records("prompts", self.prompts)]
        return prompts, output_counts(len(prompts), *self.outputs, inputs.shuffle("counts"))
