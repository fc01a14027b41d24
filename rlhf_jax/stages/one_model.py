"""The common part of stages that train one model by gradient steps on batches: all but PPO."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from rlhf_jax.data.batches import Batches
from rlhf_jax.data.buckets import bucket_count, check_buckets
from rlhf_jax.errors import inside, require, require_a
from rlhf_jax.fields import ADDED_LATER
from rlhf_jax.models import parts, transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.lora import TRAINED
from rlhf_jax.stages import supervised
from rlhf_jax.stages.stage import KEY, Inputs, Program, Rows, Stage, divisor, policy_shapes
from rlhf_jax.training.loop import Task
from rlhf_jax.training.optimizer import OptimizerConfig, make_optimizer


@dataclasses.dataclass(frozen=True)
class OneModelStage(Stage):
    """A stage that trains one model.

    train: names of parameters, or branches of the tree of parameters, that are trained, such as
    ("score",); none: all are trained. The other parameters stay fixed, without optimizer state.
    """

    optimizer: OptimizerConfig
    epochs: float = 1.0  # passes over the records; may be a fraction
    batch_size: int = 32  # rows per step; for rankings, prompts
    length: int = 1024  # tokens per row; longer records are left out and counted
    micro_batches: int = 1  # parts of a batch whose gradients are added one by one, for memory
    train: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self):
        require_a(OptimizerConfig, "optimizer", self.optimizer)
        for field in ("epochs", "batch_size", "length", "micro_batches"):
            value = getattr(self, field)
            require(value > 0, field, value, "positive")
        require(
            self.batch_size % self.micro_batches == 0,
            "micro_batches",
            self.micro_batches,
            f"a divisor of batch_size = {self.batch_size}",
        )
        ok = self.lora is None or not self.train
        require(ok, "train", self.train, "(): with `lora`, the adapter is trained")

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the trained parameters, for models/parts.py."""
        return self.train if self.lora is None else TRAINED[self.ends]

    def shape(self, build):
        return dataclasses.replace(build.shapes.get("start", build.model), lora=self.lora)

    def parameters(self, model: TransformerConfig) -> Any:
        """The shapes of all parameters of the model that is trained."""
        return policy_shapes(model)

    def check_shapes(self, build):
        if self.trained:
            parts.split(self.parameters(self.shape(build)), self.trained)

    def batches(self):
        return (Rows("batch_size", self.batch_size, self.micro_batches),)

    def with_micro_batches(self, times: int, groups: int) -> Stage:
        pieces = divisor(max(1, self.batch_size // groups), self.micro_batches * times)
        return dataclasses.replace(self, micro_batches=pieces)

    def update_program(self, loss: Callable, params: Any, batch: dict, steps: int) -> Program:
        """The training step of a loss. params, batch: shapes of all parameters and of a batch,
        which has segments."""
        fixed, trained = parts.split(params, self.trained)
        with inside("optimizer"):
            counted = supervised.with_padding(loss)
            update, optimizer = supervised.make_update(counted, self, steps, as_written)
        initial = lambda trained, key: supervised.initial_state(trained, optimizer, key)
        state = jax.eval_shape(initial, trained, KEY)
        return Program(update, (state, batch, fixed), rows=(1,), donates=True)

    def training(
        self,
        inputs: Inputs,
        params: Any,
        batches: Batches,
        tokens_per_step: int,
        show: tuple[str, ...],
        prepare: Callable[[dict, dict], dict] = lambda programs, batch: batch,
    ) -> Task:
        """The task that calls the program "update" on every batch.

        prepare(programs, batch): adds further arrays that the loss reads to a batch on the devices.
        """
        steps, runner = max(1, round(self.epochs * batches.steps_per_epoch)), inputs.runner
        with inside("optimizer"):
            optimizer = make_optimizer(self.optimizer, steps)
        programs = inputs.compile(self.programs(inputs.build, steps))
        initial = lambda trained, key: supervised.initial_state(trained, optimizer, key)
        fixed, trained = parts.split(params, self.trained)
        place = lambda batch: runner.rows(batch, self.batch_size)
        return Task(
            name=inputs.build.name,
            state=runner.create(initial, trained, inputs.key("training")),
            step=lambda state, batch: programs["update"](
                state, prepare(programs, place(batch)), fixed
            ),
            batches=batches,
            total_steps=steps,
            tokens_per_step=tokens_per_step,
            show=show,
            whole=lambda batch: runner.gather(batch, self.batch_size),
            model=lambda state: parts.merge(fixed, state.params),
        )


@dataclasses.dataclass(frozen=True)
class CutToLength(OneModelStage):
    """A stage whose records have different lengths. Each of its batches is cut to its longest row.

    buckets: the number of lengths, in equal steps up to `length`, to one of which a batch is cut;
    a program is compiled for each that occurs. 1: no batch is cut. None: 4, or 1 where `length` is
    at most 64.
    """

    buckets: int | None = dataclasses.field(default=None, kw_only=True, metadata=ADDED_LATER)

    def __post_init__(self):
        super().__post_init__()
        check_buckets(self.buckets)

    @property
    def bucket_count(self) -> int:
        return bucket_count(self.buckets, self.length)


def new_policy(inputs: Inputs) -> Any:
    """The parameters of the experiment's model, drawn at random."""
    model = inputs.build.model
    return inputs.runner.create(lambda key: transformer.init(model, key), inputs.key("initialise"))


def as_written(function: Callable, **how: Any) -> Callable:
    """A `Compile` that returns the function unchanged: the runner compiles it later."""
    del how
    return function
