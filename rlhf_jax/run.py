"""The chain of stages of one experiment, each resumable, each run once.

<out>/data          records, tokenizer
<out>/<stage>       checkpoints, metrics, and the finished model
<out>/report.*      the figures
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from rlhf_jax import corpora, feeds
from rlhf_jax.data import pipeline
from rlhf_jax.data.arrays import told
from rlhf_jax.durable import manifest
from rlhf_jax.durable.files import write_atomically
from rlhf_jax.durable.fingerprint import check_fingerprint, fingerprint_of
from rlhf_jax.durable.lock import lock
from rlhf_jax.durable.model_files import has_model, load_model, save_model
from rlhf_jax.durable.signals import SIGNALS
from rlhf_jax.errors import UserError, inside, require
from rlhf_jax.evaluation.policies import Sampler
from rlhf_jax.experiment import Experiment, WorldData
from rlhf_jax.feedback.collect import collect_rankings, output_counts
from rlhf_jax.feedback.labelers import SimulatedLabeler, calibrate_noise
from rlhf_jax.fitness import Fitness
from rlhf_jax.generation.ending import Ending, Response
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models import score, transformer
from rlhf_jax.models.config import TransformerConfig, different_fields
from rlhf_jax.parallel import processes
from rlhf_jax.parallel.runner import Runner, make_runner
from rlhf_jax.randomness import random_key, shuffle_seed
from rlhf_jax.stages import dpo, ppo, reward_model, supervised
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.training import loop
from rlhf_jax.worlds.instruction import InstructionWorld

PIPELINE = ("pretrain", "sft", "reward", "ppo", "ppo_ptx")  # InstructGPT's
STAGES = (*PIPELINE, "dpo")
BUILDS_ON = {"pretrain": (), "sft": PIPELINE[:1], "reward": PIPELINE[:2], "ppo": PIPELINE[:3],
             "ppo_ptx": PIPELINE[:3], "dpo": PIPELINE[:2]}  # fmt: skip
PPO_STAGES = ("ppo", "ppo_ptx")
EXPERIMENT = "experiment.json"  # in a stage's directory: the whole config that it was trained with
SHARED = ("seed", "data", "model")  # config fields that every stage depends on


class Stopped(Exception):
    """A stage ended early, with a checkpoint: --stop-after-steps, or a signal."""


class Run:
    """One experiment and its directory. Every method does its work once: a second call, in this
    process or a later one, finds it done or goes on where it was."""

    def __init__(
        self,
        config: Experiment,
        stop_after_steps: int | None = None,
        insist: bool = False,
        stages: Sequence[str] = (),
    ):
        """stages: those that are to run, refused here, before data are built, where their rows do
        not fit the devices."""
        self.config, self.stop_after_steps, self.insist = config, stop_after_steps, insist
        self.directory = config.directory
        self.runner = make_runner(config.parallel)
        self.check_rows(stages)
        data = config.data, self.directory / "data", config.model.vocab_size, config.seed
        prepare = lambda: corpora.prepare(*data)
        processes.first_alone(prepare, "data")
        self.corpora = corpora.Corpora(data[1]) if processes.is_first() else prepare()
        self.tokenizer = self.corpora.tokenizer
        words, vocabulary = self.tokenizer.vocab_size, config.model.vocab_size
        require(
            vocabulary >= words, "model.vocab_size", vocabulary, f"the tokenizer's {words} or more"
        )
        self.feeds = feeds.Feeds(self.corpora, self.tokenizer, self.runner, config.seed)
        self._samplers: dict[tuple, Sampler] = {}
        for stage in PPO_STAGES:
            self.ending(stage)
        self.fitness = Fitness(config, self.corpora, self.tokenizer, self.ending("sft").close)

    def check(self, stages: Sequence[str], report: bool = False) -> None:
        """Raises UserError, before any compute, where a batch of a stage that is not finished does
        not fit the mesh, or the records leave such a stage, or the report, nothing."""
        left = self.check_rows(stages)
        self.fitness.check([*left, "report"] if report else left)
        if processes.is_first():
            self.corpora.keep("left_out", self.fitness.left_out)

    def check_rows(self, stages: Sequence[str]) -> list[str]:
        """Those of the stages that are yet to run here. Raises ConfigError where a batch of one of
        them does not fit the mesh."""
        elsewhere = {"reward"} if self.config.reward_from is not None else set()
        done = {stage for stage in stages if has_model(self.stage_directory(stage) / "model")}
        left = [stage for stage in stages if stage not in elsewhere | done]
        for stage in left:
            check_rows(self.runner, self.config, stage)
        return left

    def key(self, purpose: str) -> jax.Array:
        """The random key of a purpose (randomness.py)."""
        return random_key(self.config.seed, purpose)

    def stage_directory(self, stage: str) -> Path:
        return self.directory / stage

    def model(self, stage: str) -> Any:
        """The parameters that a stage ends with; the stage runs first where it has not."""
        if stage != "reward" or self.config.reward_from is None:
            self.finish(stage)
        if stage == "reward":
            return self._reward_model()
        source = self.stage_directory(stage) / "model"
        return self._load(source, "policy", self.config.model, "model")

    def _reward_model(self) -> Any:
        """This run's own, or the one that reward_from names.

        Raises UserError where that is of another tokenizer or shape than the config says.
        """
        source = Path(self.config.reward_from or self.directory) / "reward" / "model"
        return self._load(source, "score", self.config.scorer, "reward_model")

    def _load(self, source: Path, kind: str, shape: TransformerConfig, field: str) -> Any:
        found, params = load_model(source, kind, self.tokenizer.fingerprint, self.runner.layout)
        if differ := different_fields(found, shape):
            name, about = differ[0], source / "model.json"
            there, here = (getattr(c, name) for c in (found, shape))
            raise UserError(f"{about}: {name}: expected {here!r} ({field}), got {there!r}")
        return params

    def finish(self, stage: str) -> None:
        """Runs a stage to its end, those that it builds on first.

        Raises Stopped where stop_after_steps comes before the end.
        """
        require(stage in STAGES, "stage", stage, f"one of {STAGES}")
        if stage == "dpo" and self.config.dpo is None:
            raise UserError(f"dpo: the experiment {self.config.name!r} has no such stage")
        self.check((*BUILDS_ON[stage], stage))
        directory = self.stage_directory(stage)
        if stage == "reward" and self.config.reward_from is not None:
            self._reward_model()
            print(f"reward: the model of {self.config.reward_from}", flush=True)
            return
        if has_model(directory / "model"):
            self._same_config(stage)
            return
        print(f"{stage}: {directory}", flush=True)
        started = time.monotonic()
        with lock(self.directory) if processes.is_first() else contextlib.nullcontext():
            params = getattr(self, f"_{stage}")()
            kind = "score" if stage == "reward" else "policy"
            fingerprint = self.tokenizer.fingerprint
            shape = self.config.scorer if stage == "reward" else self.config.model
            save_model(directory / "model", shape, params, kind, fingerprint)
        print(f"{stage}: done, {time.monotonic() - started:.0f} s", flush=True)

    def _fingerprint(self, stage: str) -> dict:
        """The config of a stage and of all that it depends on, upstream stages included."""
        fields, source = (*SHARED, *BUILDS_ON[stage], stage), self.config.reward_from
        scored = "reward" in fields  # a reward model is trained or read
        elsewhere = scored and source is not None
        if elsewhere:  # this run's own takes no part
            fields = (*SHARED, *BUILDS_ON["reward"], stage)
        found = {name: fingerprint_of(getattr(self.config, name)) for name in fields}
        if scored and self.config.reward_model is not None:
            found["reward_model"] = fingerprint_of(self.config.reward_model)
        if elsewhere:
            digest = manifest.digest(Path(source) / "reward" / "model")
            found["reward_from"] = {"path": source, "model": digest}
        ranked = stage == "dpo" or (scored and not elsewhere)
        if ranked and isinstance(self.config.data, WorldData):
            ppo, evaluation = self.config.ppo, self.config.evaluation
            found["feedback"] = {  # what the ranked outputs depend on, beside the SFT model
                "temperature": ppo.temperature,
                "response_length": ppo.response_length,
                "batch_size": evaluation.batch_size,
            }
        if ranked and self.config.ppo.stop_token is not None:  # rankings end there
            found["ending"] = [self.config.ppo.stop_token, self.config.ppo.stop_after]
        return found

    def _same_config(self, stage: str) -> None:
        check_fingerprint(self.stage_directory(stage), self._fingerprint(stage), self.insist)

    def _train(self, stage: str, task: loop.Task) -> Any:
        if processes.is_first():
            self._same_config(stage)
            text = json.dumps(fingerprint_of(self.config), indent=1)
            write_atomically(self.stage_directory(stage) / EXPERIMENT, text.encode())
        state = loop.run(
            task,
            self.stage_directory(stage),
            self.config.loop,
            fingerprint=self._fingerprint(stage),
            stop_after_steps=self.stop_after_steps,
            insist=self.insist,
        )
        place = f"at step {int(state.step)} of {task.total_steps}"
        if signal := SIGNALS.received:
            raise Stopped(f"{stage}: {signal}: saved {place}; the same command goes on from there")
        if int(state.step) < task.total_steps:
            raise Stopped(f"{stage}: stopped {place}; the same command without "
                          "--stop-after-steps goes on")  # fmt: skip
        return state

    def _train_one_model(
        self, stage, loss, params, batches, tokens_per_step, show, prepare=lambda batch: batch
    ) -> Any:
        """Trains one network by gradient steps on batches: all stages but PPO.

        prepare: adds to a batch, on the devices, what the loss reads beside it.
        """
        config = getattr(self.config, stage)
        if batches.dropped:
            print(f"{stage}: {batches.left_out} (length = {config.length})")
        steps = max(1, round(config.epochs * batches.steps_per_epoch))
        with inside(f"{stage}.optimizer"):
            update, optimizer = supervised.make_update(loss, config, steps, self.runner.compile)
        initial = lambda params, key: supervised.initial_state(params, optimizer, key)
        place = lambda batch: self.runner.rows(batch, config.batch_size)
        task = loop.Task(
            name=stage,
            state=self.runner.create(initial, params, self.key(f"{stage}/training")),
            step=lambda state, batch: update(state, prepare(place(batch))),
            batches=batches,
            total_steps=steps,
            tokens_per_step=tokens_per_step,
            show=show,
            whole=lambda batch: self.runner.gather(batch, config.batch_size),
        )
        return self._train(stage, task).params

    def _pretrain(self) -> Any:
        config, model = self.config.pretrain, self.config.model
        batches = self.feeds.text(config.batch_size, config.length, "pretrain/text")
        initial = lambda key: transformer.init(model, key)
        params = self.runner.create(initial, self.key("pretrain/initialise"))
        loss = supervised.likelihood_loss(model)
        tokens = config.batch_size * config.length
        return self._train_one_model("pretrain", loss, params, batches, tokens, ("loss",))

    def _sft(self) -> Any:
        config, model = self.config.sft, self.config.model
        base, batches = self.model("pretrain"), self.feeds.demonstrations(config)
        loss = supervised.likelihood_loss(model)
        tokens = config.batch_size * config.length
        return self._train_one_model("sft", loss, base, batches, tokens, ("loss",))

    def ppo_of(self, stage: str) -> PPOConfig:
        """The PPO config by which a stage's policy is sampled and scored: where responses end, how
        long they get, what a missing end scores.

        PPO-ptx has its own. All other policies go by `ppo`, and so do the rankings: where ppo_ptx
        has another stop token, its reward model was trained on responses that end in ppo's.
        """
        return self.config.ppo_ptx if stage == "ppo_ptx" else self.config.ppo

    def ending(self, stage: str) -> Ending:
        """Where responses of a stage's policy end. Raises UserError where that is not one token."""
        config, name = self.ppo_of(stage), "ppo_ptx" if stage == "ppo_ptx" else "ppo"
        return Ending.of(self.tokenizer, config.stop_token, config.stop_after, f"{name}.stop_token")

    def sampler(self, stage: str, prompts: Sequence[str], sampling: SamplingConfig) -> Sampler:
        """A sampler for a stage's policy, wide enough for the longest prompt that leaves room for a
        response."""
        response, ending = self.ppo_of(stage).response_length, self.ending(stage)
        longest = max(1 + len(self.tokenizer.encode(prompt)) for prompt in prompts)
        length = min(longest, self.config.model.context - response)
        shape = length, response, ending, sampling
        if shape not in self._samplers:  # each compiles its own programs
            self._samplers[shape] = Sampler(
                self.config.model,
                self.tokenizer,
                sampling,
                ending,
                prompt_length=length,
                response_length=response,
                batch_size=self.config.evaluation.batch_size,
                compile=self.runner.evaluate,
            )
        return self._samplers[shape]

    def sample(
        self,
        stage: str,
        params: Any,
        prompts: Sequence[str],
        sampling: SamplingConfig,
        purpose: str,
    ) -> list[Response | None]:
        """One response to each prompt; None where the model's context has no room for it."""
        sampler = self.sampler(stage, prompts, sampling)
        return sampler.responses(params, prompts, self.key(purpose))

    def rankings(self, split: str):
        """Ranked outputs: the human ones, or the SFT model's ranked by simulated labelers."""
        if isinstance(self.config.data, WorldData):
            self._collect_feedback()
        return self.corpora.read("rankings", split)

    def _collect_feedback(self) -> None:
        marker = self.stage_directory("feedback") / "labelers.json"
        if marker.is_file():
            return
        data, seed, started = self.config.data, self.config.seed, time.monotonic()
        world, policy = InstructionWorld(data.world, seed), self.model("sft")
        prompts = [record.prompt for record in self.corpora.read("prompts", "feedback")]
        counts = output_counts(len(prompts), *data.outputs, shuffle_seed(seed, "feedback/counts"))
        sampling = SamplingConfig(self.config.ppo.temperature)
        print(f"feedback: {sum(counts)} outputs of {len(prompts)} prompts", flush=True)
        unranked = collect_rankings(
            prompts,
            counts,
            lambda repeated: self.sample("sft", policy, repeated, sampling, "feedback/outputs"),
            lambda prompt, outputs: [0] * len(outputs),
        )
        # Equal outputs tie for every labeler: agreement is a matter of different ones.
        different = [list(dict.fromkeys(r.responses)) for r in unranked]
        scores = [
            [world.grade(r.prompt, text).score for text in texts]
            for r, texts in zip(unranked, different, strict=True)
            if len(texts) > 1
        ]
        noise = calibrate_noise(scores, data.agreement)
        labeler = SimulatedLabeler(noise, seed=shuffle_seed(seed, "feedback/labelers"))
        ranked = [
            dataclasses.replace(r, ranks=world.rank(r.prompt, r.responses, labeler))
            for r in unranked
        ]
        held, tied = max(1, len(ranked) // 10), sum(ranking.tied for ranking in ranked)
        print(f"feedback: {tied} of {len(ranked)} rankings are wholly tied", flush=True)
        about = {"tied": tied, "noise": labeler.noise, "seconds": time.monotonic() - started}

        def write():
            self.corpora.write("rankings", {"train": ranked[held:], "valid": ranked[:held]})
            marker.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(marker, json.dumps(about).encode())

        processes.first_alone(write, "feedback")

    def _reward(self) -> Any:
        config, model = self.config.reward, self.config.scorer
        policy = self.model("sft")
        batches = self.feeds.rankings(
            self.rankings("train"), config, "reward/rankings", self.ending("sft").close
        )
        params = score.with_score_head(policy, self.key("reward/head"))
        tokens = config.batch_size * config.outputs * config.length
        loss = reward_model.reward_loss(model, config.divide_by)
        if config.normalise == "gain_and_bias":  # before training too (Ziegler et al. 2019)
            params = self._normalise_reward(params)
        params = self._train_one_model(
            "reward", loss, params, batches, tokens, ("loss", "accuracy")
        )
        return self._normalise_reward(params)

    def _normalise_reward(self, params: Any) -> Any:
        config = self.config.reward
        demonstrations = pipeline.supervised_pass(
            self.corpora.read("demonstrations", "train"),
            self.tokenizer,
            batch_size=config.batch_size,
            length=config.length,
            close=self.ending("sft").close,
        )
        if config.normalise != "none" and demonstrations.dropped:
            counted = told(demonstrations.dropped)
            print(f"reward: demonstrations: {counted} (length = {config.length})")
        return reward_model.normalise(
            self.config.scorer, params, demonstrations, config.normalise, self.runner.evaluate
        )

    def _dpo(self) -> Any:
        config, model = self.config.dpo, self.config.model
        policy = self.model("sft")
        batches = self.feeds.rankings(
            self.rankings("train"), config, "dpo/rankings", self.ending("sft").close
        )
        refer = dpo.make_reference(model, config.micro_batches, self.runner.compile)
        return self._train_one_model(
            "dpo",
            dpo.preference_loss(config.objective, model, config.divide_by),
            policy,
            batches,
            config.batch_size * config.outputs * config.length,
            ("loss", "accuracy", "margin"),
            prepare=lambda batch: refer(policy, batch) if config.objective.reference else batch,
        )

    def _ppo(self) -> Any:
        return self._run_ppo("ppo")

    def _ppo_ptx(self) -> Any:
        return self._run_ppo("ppo_ptx")

    def _run_ppo(self, stage: str) -> Any:
        config, model = getattr(self.config, stage), self.config.model
        policy, reward = self.model("sft"), self.model("reward")
        if warning := config.average_warning:
            print(f"{stage}: {warning}", flush=True)
        batches = feeds.PPOBatches(self.feeds, config, stage)
        ending = self.ending(stage)
        frozen, compile = ppo.Frozen(policy, reward), self.runner.compile
        step = ppo.make_iteration(config, model, ending, frozen, self.config.scorer, compile)
        initial = lambda policy, reward, key: ppo.initial_state(config, policy, reward, key)
        task = loop.Task(
            name=stage,
            state=self.runner.create(initial, policy, reward, self.key(f"{stage}/training")),
            step=lambda state, batch: step(state, batches.place(batch)),
            batches=batches,
            total_steps=config.iterations,
            tokens_per_step=config.batch_size * config.response_length,
            show=("score", "kl", "response_tokens"),
            updates=config.epochs * config.minibatches,
            whole=batches.whole,
            best="score",
        )
        state = self._train(stage, task)
        return state.policy if state.ema is None else state.ema


def check_rows(runner: Runner, config: Experiment, stage: str) -> None:
    """Raises ConfigError where a batch of the stage cannot be cut over the runner's devices."""
    settings = getattr(config, stage)
    check, field, rows = runner.check_rows, f"{stage}.batch_size", settings.batch_size
    if not stage.startswith("ppo"):
        check(field, rows, settings.micro_batches)
        return
    check(field, rows, settings.rollout_micro_batches)
    check(field, rows, settings.minibatches * settings.micro_batches)
    if settings.ptx_coefficient > 0:
        pieces = settings.minibatches * settings.text_pieces
        check(f"{field} x ptx_ratio", rows * settings.ptx_ratio, pieces)
