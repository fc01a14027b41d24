"""`rlhf-jax generate`: a finished model's response to each line of standard input. Nothing is
trained or written."""

import dataclasses
import sys
from collections.abc import Iterable

from rlhf_jax.durable.fingerprint import stored
from rlhf_jax.durable.model_files import has_model
from rlhf_jax.errors import UserError, require
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.runs.options import ReadOptions
from rlhf_jax.runs.run import Run


@dataclasses.dataclass(frozen=True)
class GenerateOptions(ReadOptions):
    """Of the command, beside the experiment's fields; `seed` is of the responses.

    stage: whose policy answers; None: the last in the experiment's order that has finished
    """

    stage: str | None = None


def generate(config: Experiment, options: GenerateOptions) -> None:
    """Prints a response to each line of standard input, as one line each.

    config.seed draws the responses; the model is that of the run, whatever the run's own seed.

    Raises UserError where that stage has not finished, or where a prompt, named by its line, is too
    long.
    """
    if config.parallel.coordinator is not None:
        raise UserError("generate reads standard input: it runs in one process")
    stage = finished_stage(config, options.stage)
    prompts = read_prompts(sys.stdin.buffer)
    run = Run(dataclasses.replace(config, seed=seed_of(config)), insist=options.insist)
    asked, before = run.evaluation.asked(stage), run.evaluation.prompting(stage).before
    for number, prompt in enumerate(prompts, 1):
        tokens, most = 1 + len(run.tokenizer.encode(before + prompt)), asked.prompt_length
        if tokens > most:
            raise UserError(f"line {number}: {tokens} tokens, a prompt of {stage} has {most} at "
                            "most (prompt_length)")  # fmt: skip
    context = config.stages[stage].shape(run.build(stage)).context
    total, allowed = asked.prompt_length + asked.response_length, f"<= its context {context}"
    require(total <= context, f"prompt_length + response_length of {stage}", total, allowed)
    key = run.key(f"generate/responses/{config.seed}")
    responses = run.evaluation.answers(stage, run.model(stage), prompts, key)
    print(f"generate: the model of {stage} in {config.directory}", file=sys.stderr)
    for response in responses:
        print(response.text.replace("\n", "\\n"))


def seed_of(config: Experiment) -> int:
    """The seed of the run, whose data were drawn by it; config.seed if they do not say."""
    directory = config.directory / "data"
    if not (directory / "config.json").is_file():
        return config.seed
    told = stored(directory)
    seed = told.get("seed") if isinstance(told, dict) else None
    if not isinstance(seed, int):
        raise UserError(f"{directory / 'config.json'}: seed: expected a whole number, got {seed!r}")
    return seed


def finished_stage(config: Experiment, stage: str | None) -> str:
    """The stage whose policy answers; raises UserError where it has not finished."""
    directory, policies = config.directory, [
        name for name, made in config.stages.items() if made.ends == "policy"
    ]  # fmt: skip
    finished = [name for name in policies if has_model(config.directory_of(name) / "model")]
    if stage is not None:
        allowed = f"one that ends with a policy: {', '.join(policies)}"
        require(stage in policies, "stage", stage, allowed)
    if not finished or not (directory / "data" / "counts.json").is_file():
        raise UserError(f"{directory}: no stage has finished whose model could answer, and "
                        "generate trains none")  # fmt: skip
    if stage is None:
        return finished[-1]
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
