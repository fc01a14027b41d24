"""Stages that train nothing: a finished model of another run, a published model, and a policy
prompted with worked examples."""

import dataclasses

from etils.epath import Path

from rlhf_jax.errors import require
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.stages.stage import Ends, Need, Prompting, Stage


@dataclasses.dataclass(frozen=True)
class FromRun(Stage):
    """The finished model of a stage of another run.

    run    that run's directory
    stage  the stage's name there
    ends   "policy" or "score"
    model  its shape; None: the experiment's
    """

    run: str
    stage: str
    ends: Ends = dataclasses.field(default="score", kw_only=True)
    model: TransformerConfig | None = None

    def __post_init__(self):
        require(self.ends in ("policy", "score"), "ends", self.ends, "'policy' or 'score'")

    def elsewhere(self, directory_of):
        return Path(self.run) / self.stage

    def shape(self, build):
        return self.model or build.model


@dataclasses.dataclass(frozen=True)
class Published(Stage):
    """The published model that `pretrained` of the experiment names, read into this run."""

    def shape(self, build):
        return build.model

    def steps(self, examples):
        return 0

    def programs(self, build, steps):
        return {}

    def loaded(self, inputs):
        return inputs.pretrained()


@dataclasses.dataclass(frozen=True)
class FewShot(Stage):
    """The policy of the stage `start`, with worked examples of the data source before each prompt,
    as the prompted GPT-3 of Ouyang et al., 2022. Its answer is the first line that it writes."""

    examples: int = 3  # worked examples before each prompt
    prompt_length: int = 256  # tokens of examples and prompt together
    start: str = dataclasses.field(kw_only=True)  # the stage whose policy is asked

    def __post_init__(self):
        for field in ("examples", "prompt_length"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")

    def needs(self):
        return {"start": Need(self.start, "policy")}

    def elsewhere(self, directory_of):
        return directory_of(self.start)

    def check_shapes(self, build):
        length, context = self.prompt_length, build.shapes["start"].context
        allowed = f"below the context of {self.start} = {context}"
        require(length < context, "prompt_length", length, allowed)

    def prompting(self, source, seed):
        return Prompting(source.worked_examples(self.examples, seed), "\n", self.prompt_length)
