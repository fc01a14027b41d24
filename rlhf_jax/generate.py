"""`rlhf-jax generate`: a finished model's response to each line of standard input. Nothing is
trained or written."""

import dataclasses
import sys
from collections.abc import Iterable

from rlhf_jax.durable.model_files import has_model
from rlhf_jax.errors import UserError
from rlhf_jax.experiment import Experiment
from rlhf_jax.run import EXPERIMENT, Run
from rlhf_jax.strict_json import read_json

POLICIES = ("pretrain", "sft", "ppo", "ppo_ptx", "dpo")  # the stages that end with a policy


def generate(config: Experiment, stage: str | None, insist: bool = False) -> None:
    """Prints a response to each line of standard input, as one line each.

    stage: whose model answers; None: the last of pretrain, sft, ppo, ppo_ptx that has finished.
    config.seed draws the responses; the model is that of the run, whatever the run's own seed.

    Raises UserError where that stage has not finished, or where a prompt, named by its line, leaves
    no room for a response.
    """
    if config.parallel.coordinator is not None:
        raise UserError("generate reads standard input: it runs in one process")
    stage = finished_stage(config, stage)
    prompts = read_prompts(sys.stdin.buffer)
    run = Run(dataclasses.replace(config, seed=seed_of(config, stage)), insist=insist)
    room = config.model.context - run.ppo_of(stage).response_length
    for number, prompt in enumerate(prompts, 1):
        tokens = 1 + len(run.tokenizer.encode(prompt))
        if tokens > room:
            raise UserError(f"line {number}: {tokens} tokens leave no room for a response: a "
                            f"prompt has {room} at most")  # fmt: skip
    sampling, purpose = config.evaluation.sampling, f"generate/responses/{config.seed}"
    responses = run.sample(stage, run.model(stage), prompts, sampling, purpose)
    print(f"generate: the model of {stage} in {config.directory}", file=sys.stderr)
    for response in responses:
        print(response.text.replace("\n", "\\n"))


def seed_of(config: Experiment, stage: str) -> int:
    """The seed of the run in which a finished stage was trained; config.seed if it does not say."""
    file = config.directory / stage / EXPERIMENT
    if not file.is_file():
        return config.seed
    told = read_json(file)
    seed = told.get("seed") if isinstance(told, dict) else None
    if not isinstance(seed, int):
        raise UserError(f"{file}: seed: expected a whole number, got {seed!r}")
    return seed


def finished_stage(config: Experiment, stage: str | None) -> str:
    """The stage whose model answers; raises UserError where it has not finished."""
    directory = config.directory
    finished = [name for name in POLICIES if has_model(directory / name / "model")]
    if not finished or not (directory / "data" / "counts.json").is_file():
        raise UserError(f"{directory}: no stage has finished whose model could answer, and "
                        "generate trains none")  # fmt: skip
    if stage is None:
        return [name for name in finished if name != "dpo"][-1]
    if stage not in finished:
        raise UserError(f"{directory}: {stage} has not finished, and generate trains nothing; "
                        f"finished are {', '.join(finished)}")  # fmt: skip
    return stage


def read_prompts(lines: Iterable[bytes]) -> list[str]:
    """A prompt a line, in which \\n stands for a line break.

    Raises UserError, which names the line, where it is not UTF-8, and where there is none.
    """
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"line {number}: byte {line[error.start]:#04x} at {error.start + 1} is "
                            "not UTF-8")  from None  # fmt: skip
        prompts.append(text.rstrip("\r\n").replace("\\n", "\n"))
    if not prompts:
        raise UserError("generate reads prompts from standard input, one a line: there was none")
    return prompts
