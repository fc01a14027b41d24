"""The last stage: what each policy says to held-out prompts, and the report."""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_jax.data import arrays, pipeline
from rlhf_jax.data.records import Ranking
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.durable.model_files import has_model
from rlhf_jax.errors import require
from rlhf_jax.evaluation import human_report, report
from rlhf_jax.evaluation.policies import score_responses
from rlhf_jax.evaluation.report_summary import HALF, loss_difference
from rlhf_jax.evaluation.statistics import mean_interval, win_rate
from rlhf_jax.experiment import WorldData
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.parallel import processes
from rlhf_jax.run import PIPELINE, PPO_STAGES, STAGES, Run
from rlhf_jax.stages import reward_model
from rlhf_jax.stages.supervised import document_losses
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.metrics import SPEED, read_metrics
from rlhf_jax.worlds.instruction import InstructionWorld

STAGE_OF = {"base": "pretrain", "prompted": "pretrain", "sft": "sft", "ppo": "ppo",
            "ppo_ptx": "ppo_ptx"}  # fmt: skip
FLAGS = ("followed", "hallucinated", "harmful")
RESPONSES = "report/responses"  # one purpose, so the same noise for every policy


def policies_of(run: Run) -> dict[str, str]:
    """{name in the report: stage}; DPO's where it has been trained."""
    dpo = has_model(run.stage_directory("dpo") / "model")
    return STAGE_OF | ({"dpo": "dpo"} if dpo else {})


def judge(run: Run) -> dict:
    """Runs what is left of the stages, then writes and prints the report."""
    if isinstance(run.config.data, WorldData):
        check_room(run)
    run.check(PIPELINE, report=True)
    for stage in PIPELINE:
        run.finish(stage)
    if isinstance(run.config.data, WorldData):
        return judge_world(run)
    return judge_human(run)


def check_room(run: Run) -> None:
    """Raises ConfigError, before any training, where a test prompt behind its worked examples
    would leave no room for a response."""
    data, config = run.config.data, run.config
    world = InstructionWorld(data.world, config.seed)
    examples = world.few_shot(data.few_shot)
    longest = max(1 + len(run.tokenizer.encode(examples + p)) for p in world.prompts("test"))
    needed = longest + max(run.ppo_of(stage).response_length for stage in PPO_STAGES)
    require(
        needed <= config.model.context,
        "data.few_shot",
        data.few_shot,
        f"fewer, or model.context at least {needed}: the longest prompt has {longest} tokens",
    )


def judge_world(run: Run) -> dict:
    """Gold scores of all policies on the world's test prompts: report.json, .png and .html."""
    started = time.monotonic()
    world = InstructionWorld(run.config.data.world, run.config.seed)
    prompts = [record.prompt for record in run.corpora.read("prompts", "test")]
    few_shot = world.few_shot(run.config.data.few_shot)
    sampling = run.config.evaluation.sampling
    reference, results = run.model("sft"), []
    for name, stage in policies_of(run).items():
        params = reference if stage == "sft" else run.model(stage)
        prefix = few_shot if name == "prompted" else ""
        asked = [prefix + prompt for prompt in prompts]
        sampled = run.sample(stage, params, asked, sampling, RESPONSES)
        responses = [response.text for response in sampled]
        if prefix:  # the examples say that an answer ends with its line
            responses = [response.split("\n")[0] for response in responses]
        grades = [world.grade(p, r) for p, r in zip(prompts, responses, strict=True)]
        losses, tokens = text_losses(run, params)
        results.append(
            report.PolicyResult(
                name=name,
                prompts=tuple(prompts),
                responses=tuple(responses),
                scores=tuple(grade.score for grade in grades),
                **{flag: tuple(getattr(grade, flag) for grade in grades) for flag in FLAGS},
                kl=None if prefix else kl_to(run, stage, params, reference, prompts),
                text_losses=tuple(losses.tolist()),
                text_tokens=tuple(tokens.tolist()),
                training_kl=training_kl(run, stage),
            )
        )
    spent = {**seconds(run), "report": round(time.monotonic() - started, 1)}
    summary = report.summarise(results, spent, run.config.seed)
    if processes.is_first():
        report.write_report(summary, results, curves(run), run.directory)
    report.print_report(summary)
    print(f"{run.directory / 'report.html'}")
    return summary


def judge_human(run: Run) -> dict:
    """Held-out accuracy of the reward model, and its own scores of the policies: report.json.

    No gold grader exists here: the policies' scores are those of the model they were trained
    against, and say how far PPO moved it, not how good the responses are.
    """
    started = time.monotonic()
    accuracy = reward_accuracy(run)
    held_out = [record.prompt for record in run.corpora.read("prompts", "test")]
    room = min(run.ppo_of(stage).prompt_length for stage in PPO_STAGES)
    prompts = [p for p in held_out if 1 + len(run.tokenizer.encode(p)) <= room]
    reference, reward = run.model("sft"), run.model("reward")
    policies: dict[str, Any] = {}
    scores, texts = {}, {}
    for name, stage in policies_of(run).items():
        if name == "prompted":
            continue
        params = reference if stage == "sft" else run.model(stage)
        sampling = run.config.evaluation.sampling
        responses = run.sample(stage, params, prompts, sampling, RESPONSES)
        scores[name] = reward_scores(run, stage, reward, prompts, responses)
        policies[name] = {
            "reward_score": mean_interval(scores[name]).as_json(),
            "ended": sum(response.ended for response in responses) / len(responses),
            "kl": kl_to(run, stage, params, reference, prompts),
            "training_kl": training_kl(run, stage),
        }
        texts[name] = text_losses(run, params)
    compare_with_sft(policies, scores, texts)
    summary = {
        "reward_model": accuracy,
        "policies": policies,
        "findings": human_report.findings(accuracy, policies),
        "test_prompts": {"all": len(held_out), "short_enough": len(prompts)},
        "records": run.corpora.counts,
        "seconds": {**seconds(run), "report": round(time.monotonic() - started, 1)},
        "seed": run.config.seed,
    }
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    if processes.is_first():
        write_atomically(run.directory / "report.json", text.encode())
    human_report.print_human_report(summary)
    print(f"{run.directory / 'report.json'}")
    return summary


def compare_with_sft(policies: dict, scores: dict, texts: dict) -> None:
    """Adds to each policy its wins over sft by `scores` [prompts], its loss on `texts`, (summed
    losses, tokens) of documents, and how far that is from sft's."""
    for name, policy in policies.items():
        losses, tokens = texts[name]
        loss, same = float(losses.sum() / tokens.sum()), name == "sft"
        wins = HALF if same else win_rate(scores[name], scores["sft"])
        difference = None if same else loss_difference(losses, texts["sft"][0], tokens)
        policy["reward_wins_vs_sft"] = wins.as_json()
        policy["pretraining_loss"] = loss if np.isfinite(loss) else None
        policy["pretraining_loss_vs_sft"] = difference and difference.as_json()


def reward_accuracy(run: Run) -> dict:
    """human_report.pair_accuracy of all held-out rankings and of each source, and how many of
    them are over-long and left out."""
    rankings, start = list(run.rankings("valid")), 0
    parts, over_long = {}, {}
    for source, count in run.corpora.counts["heldout"].items():
        *parts[source], over_long[source] = pairs_by_prompt(run, rankings[start : start + count])
        start += count
    whole = [np.concatenate(columns) for columns in zip(*parts.values(), strict=True)]
    parts, over_long = {"all": whole} | parts, {"all": sum(over_long.values())} | over_long
    return {
        source: human_report.pair_accuracy(*columns, run.config.seed)
        | {"over_long": over_long[source]}
        for source, columns in parts.items()
    }


def pairs_by_prompt(run: Run, rankings: Sequence[Ranking]) -> tuple:
    """Pairs that the reward model has right, that longer-is-better has right, and all: [N] each,
    a prompt each; and the number of rankings that are over-long and left out."""
    config, tokenizer, close = run.config.reward, run.tokenizer, run.ending("sft").close
    fits = lambda ranking: all(
        len(ids) <= config.length
        for ids, _ in arrays.tokenised_ranking(ranking, tokenizer, close)[0]
    )
    kept = [ranking for ranking in rankings if fits(ranking)]
    if not kept:
        return *(np.zeros(0) for _ in range(3)), len(rankings)
    most = max(len(ranking.responses) for ranking in kept)
    batches = pipeline.ranking_pass(
        kept,
        tokenizer,
        batch_size=max(1, config.batch_size * config.outputs // most),
        length=config.length,
        outputs=most,
        close=close,
    )
    correct, pairs = reward_model.pair_counts(
        run.config.scorer, run.model("reward"), batches, run.runner.evaluate
    )
    longer, _ = reward_model.length_pair_counts(batches)
    _, prompt = np.unique([ranking.prompt for ranking in kept], return_inverse=True)
    total = lambda counts: np.bincount(prompt, np.asarray(counts, np.float64)[: len(kept)])
    return total(correct), total(longer), total(pairs), len(rankings) - len(kept)


def kl_to(run: Run, stage: str, params: Any, reference: Any, prompts: Sequence[str]) -> float:
    """KL to the reference, nats a response, at the temperature of the stage's PPO sampling."""
    if params is reference:
        return 0.0
    sampler = run.sampler(stage, prompts, SamplingConfig(run.ppo_of(stage).temperature))
    return sampler.kl(params, reference, prompts, run.key("report/kl"))


def training_kl(run: Run, stage: str) -> float | None:
    """KL to SFT of the last iteration of a PPO stage, nats a response; None of other stages."""
    rows = read_metrics(run.stage_directory(stage)) if stage in PPO_STAGES else []
    return rows[-1]["kl"] if rows else None


def text_losses(run: Run, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Summed loss, in nats, and number of tokens of each held-out document."""
    config = run.config.pretrain
    text = pipeline.text_pass(
        run.corpora.read("text", "valid"),
        run.tokenizer,
        batch_size=config.batch_size,
        length=config.length,
    )
    return document_losses(run.config.model, params, text, run.runner.evaluate)


def reward_scores(run: Run, stage: str, params: Any, prompts, responses) -> np.ndarray:
    """What a stage's PPO would score its responses, a missing end included."""
    model, config = run.config.scorer, run.ppo_of(stage)
    return score_responses(
        lambda params, tokens, segments: reward_model.score_sequences(
            model, params, tokens, segments
        ),
        params,
        prompts,
        responses,
        run.tokenizer,
        missing=config.missing_eos_score,
        batch_size=run.config.evaluation.batch_size,
        length=config.prompt_length + config.response_length,
        compile=run.runner.evaluate,
    )


def seconds(run: Run) -> dict[str, float]:
    """What each stage took, over all calls that led to its end."""
    spent = {
        stage: round(read_metrics(run.stage_directory(stage), SPEED)[-1]["seconds"], 1)
        for stage in STAGES
        if has_model(run.stage_directory(stage) / "model")
    }
    labelers = run.stage_directory("feedback") / "labelers.json"
    if labelers.is_file():
        about = read_json(labelers)
        spent["feedback"] = round(about["seconds"], 1)
    return spent


def curves(run: Run) -> dict[str, list[dict]]:
    """The metrics of PPO's and PPO-ptx's iterations."""
    return {stage: read_metrics(run.stage_directory(stage)) for stage in ("ppo", "ppo_ptx")}
