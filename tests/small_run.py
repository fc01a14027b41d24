"""An experiment of a minute, and a driver that stops or kills it where it is told to.

    python -m tests.small_run DIRECTORY ACTION ACTION ...

Each ACTION is one process: "stop:2" is `pretrain --stop-after-steps 2`; "dpo" is that stage; a
place of PLACES, with a step where it has steps, is `run` until a SIGKILL there. One more `run` then
finishes. All are forked from here before jax starts its devices, so that everything is imported
once. With SMALL_RUN_OBSERVED=FOLDER what passes between the parts of the chain is written there
(tests/observed.py).
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

from rlhf_jax import cli, randomness
from rlhf_jax.evaluation.behaviour import Behaviour
from rlhf_jax.evaluation.gold_score import GoldScore
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.pretraining_loss import PretrainingLoss
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.sft_loss import SFTLoss
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.generation.ending import EndingConfig
from rlhf_jax.generation.sampling import SamplingConfig
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.estimator import GAE, PPOClip
from rlhf_jax.objectives.kl import AdaptiveController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs import inputs, report, run
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources import corpora, human, records
from rlhf_jax.sources.world import WorldData
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DirectPreference
from rlhf_jax.stages.elsewhere import FewShot
from rlhf_jax.stages.policy_gradient import PolicyGradient
from rlhf_jax.stages.pretrain import Pretrain
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback
from rlhf_jax.training import loop
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import WorldConfig
from tests import observed

RATE = OptimizerConfig(learning_rate=3e-3)
FAST = OptimizerConfig(learning_rate=1e-2)  # so that some responses end
# Smooth where gradients are rounding, so that an update can be computed again.
POLICY_RATE = OptimizerConfig(learning_rate=3e-3, epsilon=1e-4)
VALUE_RATE = OptimizerConfig(learning_rate=2e-3, epsilon=1e-4)


def ppo(**changes) -> PolicyGradient:
    """No value is a default's or neutral: a stage that forgets one shows."""
    stage = presets.ppo(
        policy_optimizer=POLICY_RATE,
        value_optimizer=VALUE_RATE,
        iterations=3,
        advantage=GAE(0.95, 0.9),
        surrogate=PPOClip(0.01),
        batch_size=8,
        minibatches=2,
        prompt_length=56,
        response_length=8,
        kl=AdaptiveController(0.1, target=0.1, horizon=40),
        temperature=0.8,
        value_clip=0.05,
        ema_decay=0.7,
        ptx_ratio=3,
        ptx_length=16,
        start="sft",
        rewards=(LearnedReward("reward"),),
    )
    return dataclasses.replace(stage, **changes)


config = Experiment(
    name="small",
    data=WorldData(
        WorldConfig(
            sft=60, feedback=20, ppo=20, valid=10, test=10, documents=1000, valid_documents=10
        )
    ),
    model=TransformerConfig(
        vocab_size=400, layers=2, width=32, heads=2, context=160, compute_dtype="float32"
    ),
    stages={
        "pretrain": Pretrain(FAST, epochs=0.035, batch_size=4, length=32),
        "prompted": FewShot(examples=1, prompt_length=140, start="pretrain"),
        "sft": SFT(FAST, epochs=5.0, batch_size=8, length=80, packed=True, start="pretrain"),
        "feedback": SimulatedFeedback(
            prompt_length=56,
            response_length=8,
            outputs=(2, 3),
            agreement=0.5,  # much noise, so that many pairs are decided
            temperature=0.8,
            batch_size=10,
            policy="sft",
        ),
        "reward": RewardModel(
            RATE, batch_size=6, outputs=3, length=80, start="sft", rankings="feedback"
        ),
        "ppo": ppo(),
        "ppo_ptx": ppo(minibatches=1, epochs=2, ptx_coefficient=2.5),
        "dpo": DirectPreference(
            RATE,
            batch_size=6,
            outputs=3,
            length=80,
            divide_by="untied_pairs",
            start="sft",
            rankings="feedback",
        ),
    },
    ending=EndingConfig(missing_eos_score=-0.5),
    evaluation=EvaluationConfig(
        prompt_length=56, response_length=8, sampling=SamplingConfig(0.9), batch_size=10
    ),
    evaluators=(
        GoldScore(above=(("ppo", "sft"),)),
        WinRate("sft"),
        Behaviour(),
        KL("sft", temperature=0.8),
        PretrainingLoss(
            length=32,
            batch_size=4,
            against="sft",
            tax=("ppo", "ppo_ptx"),
            every=6,
            within=("pretrain",),
        ),
        SFTLoss(length=80, batch_size=8, every=8, within=("sft",)),
        RewardAccuracy(length=80, outputs=3, batch_size=6, rankings="feedback", every=2),
        PreferenceAccuracy(
            length=80,
            outputs=3,
            batch_size=6,
            rankings="feedback",
            reference="sft",
            divide_by="untied_pairs",
            every=2,
            only=("sft", "dpo"),
        ),
        Samples(3),
    ),
    loop=loop.LoopConfig(checkpoint_every=2, log_every=1),
    seed=1,  # not the default: a seed that is not passed on shows
)


def kill_if(here: bool) -> None:
    if here:
        os.kill(os.getpid(), signal.SIGKILL)


def before(module, name: str, condition) -> None:
    """Replaces module.name by itself behind a kill where condition(*arguments)."""
    function = getattr(module, name)

    def killing(*arguments, **named):
        kill_if(condition(*arguments))
        return function(*arguments, **named)

    setattr(module, name, killing)


def tell_host() -> None:
    """Prints a line for each result that is asked of the host."""
    on_host = inputs.StageInputs.on_host

    def told(given, name, step, function, *arguments):
        def asked(*given):
            print(f"host: {name} {step}", flush=True)  # a kill may come soon
            return function(*given)

        return on_host(given, name, step, asked, *arguments)

    inputs.StageInputs.on_host = told


def tell_purposes() -> None:
    """Prints a line for each purpose that a random number is asked for."""

    def telling(function):
        def told(seed, purpose):
            print(f"random: {purpose}")
            return function(seed, purpose)

        return told

    for module in (inputs, run):
        module.random_key = telling(randomness.random_key)
    for module in (corpora, human, inputs):
        module.shuffle_seed = telling(randomness.shuffle_seed)


def kill_at(place: str) -> None:
    """Arranges the SIGKILL: "prepare", "STAGE:STEP", "records" or "report"."""
    if place == "prepare":
        before(corpora.Corpora, "write", lambda corpora, name, splits: name == "prompts")
    elif place == "records":  # the rankings are there, the word that they are is not
        before(records, "write_atomically", lambda path, content: path.name == records.WHOLE)
    elif place == "report":
        before(report, "page", lambda *_: True)
    else:
        stage, step = place.split(":")
        before(loop._Log, "write", lambda log, at, *_: (log._task.name, str(at)) == (stage, step))


def main(directory: str, actions: list[str]) -> None:
    if folder := os.environ.get("SMALL_RUN_OBSERVED"):
        observed.observe(Path(folder))
    for action in [*actions, None]:
        child = os.fork()
        if child == 0:
            command, options = "run", []
            if action and action.startswith("stop:"):
                command, options = "pretrain", ["--stop-after-steps", action.split(":")[1]]
            elif action == "dpo":
                command = action
            elif action:
                kill_at(action)
            tell_purposes()
            tell_host()
            cli.command([command, __file__, "--out", directory, *options])
            sys.stdout.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("ended", action, code, flush=True)
        if code not in (0, -signal.SIGKILL):
            sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
