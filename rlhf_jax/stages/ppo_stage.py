"""PPO as a stage: what it reads, its programs, and the loop's task."""

import dataclasses

import jax

from rlhf_jax.errors import require
from rlhf_jax.models import parts
from rlhf_jax.stages import feeds, ppo
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.stages.stage import (
    KEY,
    Need,
    Program,
    Rows,
    Stage,
    divisor,
    policy_shapes,
    prompt_shapes,
    score_shapes,
    text_shapes,
)
from rlhf_jax.training.loop import Task


@dataclasses.dataclass(frozen=True)
class PPO(PPOConfig, Stage):
    """PPO, and PPO-ptx where `ptx_coefficient` is not 0.

    start      the stage whose policy it starts from
    reference  the stage whose policy the KL penalty is to; None: `start`
    reward     the stage whose scorer gives the reward, and starts the value function
    prompts    the data source's split of prompts
    """

    start: str = dataclasses.field(kw_only=True)
    reward: str = dataclasses.field(kw_only=True)
    reference: str | None = dataclasses.field(default=None, kw_only=True)
    prompts: str = dataclasses.field(default="ppo", kw_only=True)

    def needs(self):
        return {
            "start": Need(self.start, "policy"),
            "reference": Need(self.reference or self.start, "policy"),
            "reward": Need(self.reward, "score"),
        }

    def check_shapes(self, build):
        model = build.shapes["start"]
        words = model.vocab_size
        for role in ("reference", "reward"):
            found, stage = build.shapes[role].vocab_size, self.needs()[role].stage
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
        if self.train_policy:
            parts.split(policy_shapes(model), self.train_policy, "train_policy")
        if self.train_value:
            parts.split(score_shapes(build.shapes["reward"]), self.train_value, "train_value")

    def batches(self):
        rows, steps = self.batch_size, self.minibatches
        found = [
            Rows("batch_size", rows, self.rollout_micro_batches),
            Rows("batch_size", rows, steps * self.micro_batches),
        ]
        if self.ptx_coefficient > 0:
            pieces = steps * self.text_pieces
            found.append(Rows("batch_size x ptx_ratio", rows * self.ptx_ratio, pieces))
        return found

    def check(self, facts):
        facts.some("prompts", self.prompts, "prompt_length", self.prompt_length)

    def steps(self, examples):
        return self.iterations

    def programs(self, build, steps):
        model, scorer = build.shapes["start"], build.shapes["reward"]
        policy, reward = policy_shapes(model), score_shapes(scorer)
        reference = policy_shapes(build.shapes["reference"])
        frozen = jax.eval_shape(lambda *a: ppo.frozen_of(self, *a), policy, reference, reward)
        state = jax.eval_shape(lambda *a: ppo.initial_state(self, *a), policy, reward, KEY)
        prompts = prompt_shapes(self.batch_size, self.prompt_length)
        functions = ppo.functions(self, model, build.ending, scorer, build.shapes["reference"])
        sampled = jax.eval_shape(functions.rollout, policy, KEY, prompts)
        episodes, metrics = jax.eval_shape(functions.experience, state, frozen, prompts, sampled)
        text = None
        if self.ptx_coefficient > 0:
            text = text_shapes(self.batch_size * self.ptx_ratio, self.ptx_length)
        return {
            "rollout": Program(
                functions.rollout,
                (policy, KEY, prompts),
                rows=(2,),
                returns_rows=True,
                beside=(state._replace(policy=None), frozen),
                turns=self.response_length - 1,
            ),
            "experience": Program(
                functions.experience, (state, frozen, prompts, sampled), rows=(2, 3)
            ),
            "update": Program(
                functions.update,
                (state, episodes, metrics["kl"], text, frozen.fixed),
                rows=(3,),
                donates=True,
                beside=(frozen._replace(fixed=None),),
            ),
        }

    def task(self, inputs):
        name, runner = inputs.build.name, inputs.runner
        policy, reward = inputs.model("start"), inputs.model("reward")
        if warning := self.average_warning:
            print(f"{name}: {warning}", flush=True)
        batches = self._batches(inputs)
        frozen = ppo.frozen_of(self, policy, inputs.model("reference"), reward)
        programs = ppo.Programs(**inputs.compile(self.programs(inputs.build, self.iterations)))
        step = ppo.make_iteration(programs, frozen, inputs.build.shapes["start"].compute_dtype)
        initial = lambda *a: ppo.initial_state(self, *a)

        def model(state):
            trained = state.policy if state.ema is None else state.ema
            return parts.merge(frozen.fixed["policy"], trained)

        return Task(
            name=name,
            state=runner.create(initial, policy, reward, inputs.key("training")),
            step=lambda state, batch: step(state, batches.place(batch)),
            batches=batches,
            total_steps=self.iterations,
            tokens_per_step=self.batch_size * self.response_length,
            show=("score", "kl", "response_tokens"),
            updates=self.epochs * self.minibatches,
            whole=batches.whole,
            best="score",
            model=model,
        )

    def _batches(self, inputs) -> feeds.Together:
        prompts = feeds.prompts(inputs, self.prompts, self.batch_size, self.prompt_length)
        if prompts.dropped:
            about = f"prompts: {prompts.left_out} (length = {self.prompt_length})"
            print(f"{inputs.build.name}: {about}")
        found, rows = {"prompts": prompts}, {"prompts": self.batch_size}
        if self.ptx_coefficient > 0:
            rows["text"] = self.batch_size * self.ptx_ratio
            found["text"] = feeds.text(inputs, rows["text"], self.ptx_length, "text")
        return feeds.Together(inputs.runner, found, rows)

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
