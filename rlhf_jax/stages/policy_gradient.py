"""The policy-gradient stage: what it reads, its programs, and its task for the loop."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.buckets import shared_length
from rlhf_jax.data.records import to_json
from rlhf_jax.errors import inside, require
from rlhf_jax.models import parts
from rlhf_jax.models.attention import fused
from rlhf_jax.parallel.runner import Runner
from rlhf_jax.stages import feeds
from rlhf_jax.stages.adapters import model_at_start, repeated, trunk_at_start
from rlhf_jax.stages.experience import Experiences, Frozen, Shapes, make_rollout
from rlhf_jax.stages.fitting import WHOLE, Fitting
from rlhf_jax.stages.iteration import Host, Iteration
from rlhf_jax.stages.policy_gradient_config import PolicyGradientConfig
from rlhf_jax.stages.policy_update import (
    frozen_of,
    initial_state,
    make_update,
    minibatch_rows,
)
from rlhf_jax.stages.stage import (
    KEY,
    Build,
    Need,
    Program,
    Rows,
    Stage,
    divisor,
    floats,
    ints,
    policy_shapes,
    prompt_shapes,
    score_shapes,
    text_shapes,
)
from rlhf_jax.training.loop import Task


@dataclasses.dataclass(frozen=True)
class PolicyGradient(PolicyGradientConfig, Stage):
    """Policy gradient against a reward. The settings of PPO, GRPO and others are in
    rlhf_jax/stages/presets.py.

    start      the stage whose policy is trained further
    reference  the stage whose policy is the reference of the KL penalty; None: `start`
    value      the stage whose scorer the value network starts from; None: the first scorer that the
               rewards read, or without any the trunk of `start`
    prompts    the data source's split of prompts
    """

    scores_responses: ClassVar = True
    start: str = dataclasses.field(kw_only=True)
    reference: str | None = dataclasses.field(default=None, kw_only=True)
    value: str | None = dataclasses.field(default=None, kw_only=True)
    prompts: str = dataclasses.field(default="ppo", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        ok = self.value is None or self.advantage.critic
        allowed = f"None: {type(self.advantage).__name__} reads no value network"
        require(ok, "value", self.value, allowed)

    @property
    def scorers(self) -> dict[str, str]:
        """{role: stage} of the reward's models."""
        stages = dict.fromkeys(stage for term in self.rewards for stage in term.scorers())
        return {f"rewards {stage}": stage for stage in stages}

    def needs(self):
        found = {
            "start": Need(self.start, "policy"),
            "reference": Need(self.reference or self.start, "policy"),
        }
        found |= {role: Need(stage, "score") for role, stage in self.scorers.items()}
        value = self.value or next(iter(self.scorers.values()), None)
        if self.advantage.critic and value is not None:
            found["value"] = Need(value, "score")
        return found

    def shape(self, build):
        return self._shapes(build).policy

    def check_shapes(self, build):
        model = build.shapes["start"]
        words = model.vocab_size
        for role, (stage, _) in self.needs().items():
            found = build.shapes[role].vocab_size
            allowed = f"a stage whose model has {words} tokens, as {self.start}; it has {found}"
            require(found == words, role, stage, allowed)
        context = min(shape.context for shape in build.shapes.values())
        total = self.prompt_length + self.response_length
        allowed = f"<= {context}, the shortest context of the models"
        require(total <= context, "prompt_length + response_length", total, allowed)
        allowed = f"<= the context of {self.start} = {model.context}"
        fits = self.ptx_coefficient == 0 or self.ptx_length <= model.context
        require(fits, "ptx_length", self.ptx_length, allowed)
        build.ending.check(self.response_length)
        shapes = self._shapes(build)
        if self.train_policy:
            parts.split(policy_shapes(shapes.policy), self.train_policy, "train_policy")
        if self.train_value:
            parts.split(score_shapes(shapes.value), self.train_value, "train_value")

    def batches(self):
        rows, steps = self.batch_size, self.minibatches
        found = [
            Rows("batch_size", rows, self.rollout_micro_batches),
            Rows("batch_size", rows, steps * self.micro_batches),
        ]
        if self.decoding.slots is not None:
            found.append(Rows("decoding.slots", self.decoding.slots, 1))
        if self.ptx_coefficient > 0:
            pieces = steps * self.text_pieces
            found.append(Rows("batch_size x ptx_ratio", rows * self.ptx_ratio, pieces))
        return found

    def check(self, facts):
        if self.ptx_coefficient > 0:
            facts.there("text", "train")
        facts.some("prompts", self.prompts, "prompt_length", self.prompt_length)
        for number, term in enumerate(self.rewards):
            with inside(f"rewards.{number}"):
                term.check()

    def steps(self, examples):
        return self.iterations

    def saved(self):
        if self.ema_decay is None:
            return None
        return (
            f"the moving average of its weights over {self.iterations} iterations, ema_decay = "
            f"{self.ema_decay}; {self.start_share:.1%} of it is the policy at the start. Its KL in "
            "training is of the weights that sampled, not of the average"
        )

    def programs(self, build, steps):
        shapes, size = self._shapes(build), self.batch_size
        scorers = {stage: score_shapes(shape) for stage, shape in shapes.scorers.items()}
        policy, reference = policy_shapes(shapes.policy), policy_shapes(shapes.reference)
        value = score_shapes(shapes.value) if "value" in build.shapes else None
        frozen = jax.eval_shape(
            functools.partial(frozen_of, self), policy, reference, scorers, value
        )
        shared = repeated(self._models(build, frozen))
        prompts = prompt_shapes(size, self.prompt_length)
        experiences = Experiences(self, shapes, build.ending)
        rollout = make_rollout(self, shapes.policy, build.ending, self.decoding)
        sampled = jax.eval_shape(rollout, policy, KEY, prompts)
        found = {number: floats(size) for number in self._functions}
        drawn = prompts, sampled, found
        state = jax.eval_shape(functools.partial(initial_state, self), policy, value, KEY)
        programs = {
            "rollout": Program(
                rollout,
                (policy, KEY, prompts),
                rows=(2,),
                returns_rows=True,
                beside=(state._replace(policy=None), frozen),
                turns=self.decoding.turns(size // self.rollout_micro_batches, self.response_length),
                shared=(*shared, frozen.fixed["policy"]),
            )
        }
        if self.max_draws > 1:
            programs["scores"] = Program(
                experiences.scores, (frozen, *drawn), rows=(1, 2, 3), returns_rows=True,
                shared=shared,
            )  # fmt: skip
        fresh = state, frozen, *drawn, WHOLE
        experience = Program(experiences.fresh, fresh, rows=(2, 3, 4), shared=shared)
        if self.stale:
            queue = experiences.queue(state, frozen, *drawn)
            programs["push"] = Program(
                experiences.push, (queue, state, frozen, ints(), *drawn), rows=(4, 5, 6),
                donates=True, shared=shared,
            )  # fmt: skip
            state = state._replace(queue=queue)
            experience = Program(experiences.stale, (state, frozen), shared=shared)
        episodes, moved, _ = jax.eval_shape(experience.function, *experience.arguments)
        text = None
        if self.ptx_coefficient > 0:
            text = text_shapes(size * self.ptx_ratio, self.ptx_length)
        update = Program(
            make_update(self, shapes),
            (state, episodes, moved, text, frozen.fixed, WHOLE),
            rows=(3,),
            donates=True,
            beside=(frozen._replace(fixed=None),),
            shared=shared,
        )
        return programs | {"experience": experience, "update": update}

    def task(self, inputs):
        name, runner, build = inputs.build.name, inputs.runner, inputs.build
        if warning := self.average_warning:
            print(f"{name}: {warning}", flush=True)
        policy = model_at_start(inputs, "start", self.lora)
        reference = policy if self._refers_to_start else inputs.model("reference")
        scorers = {stage: inputs.model(role) for role, stage in self.scorers.items()}
        has = "value" in build.shapes
        scorer = model_at_start(inputs, "value", self.lora) if has else None
        batches = self._batches(inputs)
        frozen = frozen_of(self, policy, reference, scorers, scorer)
        planned = self.programs(build, self.iterations)
        host = Host(self._asks(inputs), inputs.fetch_rows, inputs.place_rows)
        step = Iteration(
            self, inputs.compile(planned), frozen, batches, host,
            build.shapes["start"].compute_dtype, self._fitting(runner, build),
        )  # fmt: skip
        queue = planned["push"].arguments[0] if self.stale else None
        empty = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), queue)
        initial = lambda *a: initial_state(self, *a, queue=empty())

        def model(state):
            trained = state.policy if state.ema is None else state.ema
            return parts.merge(frozen.fixed["policy"], trained)

        return Task(
            name=name,
            state=runner.create(initial, policy, scorer, inputs.key("training")),
            step=step,
            batches=batches,
            total_steps=self.iterations,
            tokens_per_step=self.batch_size * self.response_length,
            show=("score", "kl", "response_tokens"),
            updates=self.epochs * self.minibatches,
            whole=batches.whole,
            size=lambda batch: step.size,
            best="score",
            model=model,
        )

    def with_micro_batches(self, times, groups):
        rows = self.batch_size // self.minibatches
        return dataclasses.replace(
            self,
            micro_batches=divisor(max(1, rows // groups), self.micro_batches * times),
            ptx_micro_batches=divisor(
                max(1, rows * self.ptx_ratio // groups), self.text_pieces * times
            ),
            rollout_micro_batches=divisor(
                max(1, self.batch_size // groups), self.rollout_micro_batches * times
            ),
        )

    def _shapes(self, build: Build) -> Shapes:
        shapes = build.shapes
        own = lambda role: dataclasses.replace(shapes[role], lora=self.lora)
        policy = own("start")
        scorers = {stage: shapes[role] for role, stage in self.scorers.items()}
        reference = policy if self._refers_to_start else shapes["reference"]
        return Shapes(policy, reference, own("value") if "value" in shapes else policy, scorers)

    def _models(self, build: Build, frozen: Frozen) -> list[tuple[str, Any]]:
        """Of each fixed model the name of its trunk, and its parameters."""
        start = trunk_at_start(build, "start", self.lora)
        refers = self._refers_to_start
        value = trunk_at_start(build, "value", self.lora) if "value" in build.shapes else start
        scorers = [
            (build.trunk(role).name, frozen.scorers[stage]) for role, stage in self.scorers.items()
        ]
        return [
            (start, frozen.fixed["policy"]),
            (start if refers else build.trunk("reference").name, frozen.reference),
            *scorers,
            (value, frozen.fixed["value"]),
        ]

    def _fitting(self, runner: Runner, build: Build) -> Fitting | None:
        if self.bucket_count == 1:
            return None
        longest, length = self.prompt_length + self.response_length, None
        kernel = any(fused(shape, longest) for shape in build.shapes.values())
        if runner.layout.mesh.size == 1 and not kernel:
            context = min(shape.context for shape in build.shapes.values())
            length = shared_length(longest, context)
        orders = functools.partial(minibatch_rows, self)
        return Fitting(self, orders, self.bucket_count, length)

    @property
    def _refers_to_start(self) -> bool:
        """Whether the reference is the policy with which the stage begins, of the same arrays."""
        return self.reference in (None, self.start)

    def _batches(self, inputs) -> feeds.Prompted:
        prompts = feeds.prompts(
            inputs, self.prompts, self.batch_size, self.prompt_length, self.group
        )
        found, rows = {"prompts": prompts}, {"prompts": self.batch_size}
        if self.ptx_coefficient > 0:
            rows["text"] = self.batch_size * self.ptx_ratio
            found["text"] = feeds.text(inputs, rows["text"], self.ptx_length, "text")
        return feeds.Prompted(inputs.runner, found, rows)

    @property
    def _functions(self) -> list[str]:
        """The numbers of the reward terms that call a Python function on the host."""
        return [str(number) for number, term in enumerate(self.rewards) if term.on_host]

    def _asks(self, inputs):
        """ask(iteration, draw, indices of the prompts, rollout) -> {number of a term: its results,
        as rows}."""
        functions = {n: self.rewards[int(n)].function(inputs) for n in self._functions}
        if not functions:
            return lambda *_: {}
        records, ending = inputs.records("prompts", self.prompts), inputs.build.ending

        def ask(number, draw, places, rollout):
            fetched = inputs.fetch_rows((places, rollout.tokens, rollout.mask))
            places, tokens, mask = (np.asarray(x) for x in fetched)
            responses = ending.responses(tokens, mask, inputs.tokenizer)
            texts, found = [response.text for response in responses], {}
            asked = [to_json(records[place]) for place in places.tolist()]
            for term, function in functions.items():
                name = f"reward_{term}" if draw == 0 else f"reward_{term}_{draw}"
                values = inputs.rows_on_host(name, int(number), function, asked, texts)
                found[term] = np.array(values, np.float32)  # NaN where a call failed
            return inputs.place_rows(found)

        return ask
