"""`rlhf-jax lm-eval`: EleutherAI's lm-evaluation-harness on a finished policy of a run, or on a
published model. It trains nothing.

The harness (lm_eval 0.4) gets a model object and reads tasks by name, also from a folder of own
task files, so that it runs without a network.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.benchmarks.model import LanguageModel
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.runs.measured import Named, of_folder, of_run
from rlhf_jax.runs.options import ReadOptions, parse
from rlhf_jax.runs.origin import experiment_of, is_experiment
from rlhf_jax.runs.reading import finished_stage, reading_run
from rlhf_jax.usage import ABOUT, leading_words

INSTALL = "pip install 'rlhf-jax[lm-eval]'"
KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p"}
ANSWERS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class LmEvalOptions(ReadOptions):
    """Options of the lm-eval command, besides the experiment's fields.

    stage        the stage whose policy is measured; None: the last that has finished
    tasks        names of the harness' tasks
    include      a folder with task files of your own; None: there is none
    shots        solved items before each item; None: as each task says
    limit        the maximum number of items of each task, its first ones; None: all
    batch_size   sequences per batch; changes no result
    most_tokens  the maximum number of tokens of an answer, where a task does not say it
    to           a JSON file for the results; None: they are printed only
    """

    stage: str | None = None
    tasks: tuple[str, ...] = ()
    include: Path | None = None
    shots: int | None = None
    limit: int | None = None
    batch_size: int = 16
    most_tokens: int = 256
    to: Path | None = None

    def __post_init__(self):
        for field in ("batch_size", "most_tokens"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")
        require(self.shots is None or self.shots >= 0, "shots", self.shots, "0 or more, or None")
        require(self.limit is None or self.limit > 0, "limit", self.limit, "positive, or None")
        folder = self.include is None or self.include.is_dir()
        require(folder, "include", str(self.include), "a folder with task files")


def lm_eval_command(arguments: Sequence[str]) -> int:
    """EXPERIMENT.py, a run or a published model, and options."""
    words = leading_words(arguments)
    if len(words) != 1:
        raise UserError("lm-eval needs EXPERIMENT.py, RUN or a published model, as in rlhf-jax "
                        "lm-eval experiments/quickstart.py --tasks lambada_openai")  # fmt: skip
    (source,) = words
    prog, options = f"rlhf-jax lm-eval {source}", LmEvalOptions()
    about = " ".join(ABOUT["lm-eval"].split())
    if is_experiment(source):
        config = experiment_of(source)
        hidden = {*config.stages, "evaluators", "loop"}
        config, options = parse([config, options], arguments[1:], prog, about, hidden)
        stage = finished_stage(config, options.stage, "policy")
        (named,) = of_run(reading_run(config, "lm-eval", options.insist), (stage,))
    else:
        (options,) = parse([options], arguments[1:], prog, about)
        require(options.stage is None, "stage", options.stage, "left out without an experiment")
        named = of_folder(source)
        require(named.ends == "policy", "model", source, "a policy, not a reward model")
    measure(named, options)
    return 0


def measure(named: Named, options: LmEvalOptions) -> Mapping[str, Any]:
    """The harness' results. Raises UserError where it is not installed or has no such task."""
    require(bool(options.tasks), "tasks", options.tasks, "one name of the harness' tasks or more")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import make_table
    except ImportError as error:
        raise UserError(f"lm-eval needs lm_eval, which cannot be imported ({error}): "
                        f"{INSTALL}") from None  # fmt: skip
    include = None if options.include is None else str(options.include)
    manager = TaskManager(include_path=include)
    if unknown := [name for name in options.tasks if name not in manager.all_tasks]:
        raise UserError(f"tasks: the harness has no task {unknown[0]!r} (lm_eval ls tasks lists "
                        "them; --include FOLDER adds your own)")  # fmt: skip
    model = harness_model(named.open(options.batch_size), options.most_tokens)
    found = simple_evaluate(
        model=model,
        tasks=list(options.tasks),
        num_fewshot=options.shots,
        limit=options.limit,
        task_manager=manager,
        bootstrap_iters=1000,
        log_samples=False,
    )
    print(f"lm-eval: {named.name} in {named.place}")
    print(make_table(found))
    results = {"model": named.name, "digest": named.digest, "results": found["results"],
               "items": found.get("n-samples", {})}  # fmt: skip
    if options.to is not None:
        text = json.dumps(results, indent=1, default=str) + "\n"
        write_atomically(options.to, text.encode())
    return results


def harness_model(policy: LanguageModel, most_tokens: int) -> Any:
    """The policy as an `lm_eval.api.model.LM`; the functions below answer its requests."""
    from lm_eval.api.model import LM

    class Harnessed(LM):
        tokenizer_name = "rlhf_jax"

        def loglikelihood(self, requests, disable_tqdm=False):
            return loglikelihood(policy, [request.args for request in requests])

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            return loglikelihood_rolling(policy, [request.args[0] for request in requests])

        def generate_until(self, requests, disable_tqdm=False):
            return generate_until(policy, [request.args for request in requests], most_tokens)

    return Harnessed()


def loglikelihood(
    policy: LanguageModel, requests: Sequence[tuple[str, str]]
) -> list[tuple[float, bool]]:
    """(log p of the continuation, whether it is the greedy one) of each (context, continuation).

    White space at the end of a context goes to the continuation, as the harness' own models do it,
    because a token begins with the space before a word.
    """
    moved = []
    for context, continuation in requests:
        kept = context.rstrip()
        moved.append((kept, context[len(kept) :] + continuation))
    return [(found.log_prob, found.greedy) for found in policy.likelihoods(moved)]


def loglikelihood_rolling(policy: LanguageModel, texts: Sequence[str]) -> list[float]:
    """log p of each whole text."""
    return [found.log_prob for found in policy.documents(texts)]


def generate_until(
    policy: LanguageModel, requests: Sequence[tuple[str, Mapping[str, Any]]], most_tokens: int
) -> list[str]:
    """An answer to each (context, how), which ends before the first of how["until"].

    Requests of one way of sampling are answered together. Raises UserError for an option that is
    not known.
    """
    ways: dict[tuple, list[int]] = {}
    for place, (_, how) in enumerate(requests):
        if unknown := sorted(set(how) - KNOWN):
            raise UserError(f"generate_until: {unknown[0]} = {how[unknown[0]]!r}: rlhf_jax knows "
                            f"{', '.join(sorted(KNOWN))} only")  # fmt: skip
        ways.setdefault(_way(how, most_tokens), []).append(place)
    found = [""] * len(requests)
    for (stops, most, sampling), places in ways.items():
        for some in _parts(places):
            answers = policy.answers([requests[i][0] for i in some], most_tokens=most,
                                     sampling=sampling, stops=stops,
                                     ids=[str(i) for i in some])  # fmt: skip
            for place, answer in zip(some, answers, strict=True):
                found[place] = answer.text
    return found


def _way(how: Mapping[str, Any], most_tokens: int) -> tuple[tuple[str, ...], int, SamplingConfig]:
    until = how.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    temperature = float(how.get("temperature") or 0.0) if how.get("do_sample", False) else 0.0
    sampling = SamplingConfig(
        temperature=temperature,
        top_k=int(how.get("top_k") or 0),
        top_p=float(how.get("top_p") or 1),
    )
    return (
        tuple(stop for stop in stops if stop),
        int(how.get("max_gen_toks", most_tokens)),
        sampling,
    )


def _parts(places: Sequence[int]) -> Iterable[Sequence[int]]:
    return (places[i : i + ANSWERS_AT_ONCE] for i in range(0, len(places), ANSWERS_AT_ONCE))
