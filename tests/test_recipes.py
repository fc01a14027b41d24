"""The InstructGPT experiments hold the numbers that the papers print.

Ouyang et al. 2022 (arXiv 2203.02155): section 3.4, table 6, appendix C; Brown et al. 2020
(arXiv 2005.14165): table 2.1, appendix B.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

from rlhf_jax.objectives.estimator import GAE, PPOClip
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import Experiment, load_experiment
from rlhf_jax.stages.simulated_feedback import SimulatedFeedback

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
ALL = {
    "data.demonstrations": 12_725,
    "data.rankings": 33_207,
    "model.vocab_size": 50_257,
    "model.context": 2048,
    "model.dropout": 0.2,
    "pretrain.length": 2048,
    "pretrain.optimizer.weight_decay": 0.1,
    "pretrain.optimizer.warmup_from": 0.0,
    "pretrain.optimizer.final_fraction": 0.1,
    "sft.epochs": 2,
    "sft.pretraining_fraction": 0.1,
    "sft.optimizer.schedule": "cosine",
    "sft.optimizer.final_fraction": 0.1,
    "sft.optimizer.warmup_steps": 0,
    "sft.optimizer.b1": 0.9,
    "sft.optimizer.b2": 0.95,
}
EACH_PPO = {
    "batch_size": 512,
    "minibatches": 8,
    "epochs": 1,
    "prompt_length": 1024,
    "response_length": 1024,
    "temperature": 1.0,
    "kl.coefficient": 0.02,
    "advantage": GAE(discount=1.0, lam=0.95),
    "surrogate": PPOClip(0.2),
    "aggregation": "token",
    "kl_in": "reward",
    "kl_estimator": "k1",
    "entropy_coefficient": 0.0,
    "group": 1,
    "ema_decay": 0.992,
    "zero_value_head": False,
    "policy_optimizer.schedule": "constant",
    "policy_optimizer.warmup_steps": 80,  # 10 iterations of 8 minibatches
    "policy_optimizer.warmup_from": 0.1,
    "policy_optimizer.b1": 0.9,
    "policy_optimizer.b2": 0.95,
    "value_optimizer.b2": 0.95,
    "start": "sft",
    "reference": "sft",
    "rewards": (LearnedReward("reward"),),
}
ALL |= {f"{stage}.{field}": x for stage in ("ppo", "ppo_ptx") for field, x in EACH_PPO.items()}
ALL |= {"ppo.ptx_coefficient": 0.0, "ppo_ptx.ptx_coefficient": 27.8, "ppo_ptx.ptx_ratio": 8}
ITS_MODEL = {"layers": 32, "width": 4096, "heads": 32, "context": 2048}  # of 6.7 billion
SIX_BILLION = {f"model.{field}": x for field, x in ITS_MODEL.items()} | {
    "reward.start": "sft",
    "reward.rankings": None,  # the labelers', among the data
    "reward.epochs": 1,
    "reward.batch_size": 64,
    "reward.outputs": 9,
    "reward.normalise": "shift",
    "reward.divide_by": "all_pairs",
    "reward.optimizer.learning_rate": 9e-6,
    "reward.optimizer.schedule": "cosine",
    "reward.optimizer.final_fraction": 0.1,
    "reward.optimizer.b2": 0.95,
}
OTHERS = {f"reward.model.{field}": x for field, x in ITS_MODEL.items()} | {
    "reward.run": "runs/instructgpt_6b",
    "reward.stage": "reward",
    "reward.ends": "score",
}
BY_SIZE = {
    "instructgpt_1b3": OTHERS | {
        "model.layers": 24, "model.width": 2048, "model.heads": 16,
        "pretrain.optimizer.learning_rate": 2e-4, "sft.optimizer.learning_rate": 5e-6,
        "sft.batch_size": 32, "ppo_ptx.value_optimizer.learning_rate": 9e-6,
    },
    "instructgpt_6b": SIX_BILLION | {
        "pretrain.optimizer.learning_rate": 1.2e-4, "sft.optimizer.learning_rate": 1.04e-5,
        "sft.batch_size": 32, "ppo_ptx.value_optimizer.learning_rate": 9e-6,
    },
    "instructgpt_175b": OTHERS | {
        "model.layers": 96, "model.width": 12288, "model.heads": 96,
        "pretrain.optimizer.learning_rate": 0.6e-4, "sft.optimizer.learning_rate": 2.45e-6,
        "sft.batch_size": 8, "ppo_ptx.value_optimizer.learning_rate": 5e-6,
        "ppo.value_optimizer.learning_rate": 5e-6,
    },
}  # fmt: skip


@functools.cache
def experiment(name: str) -> Experiment:
    return load_experiment(str(EXPERIMENTS / f"{name}.py"))


def value(config: Experiment, path: str):
    """Of a field of the experiment, or of one of its stages."""
    name, *fields = path.split(".")
    start = config.stages[name] if name in config.stages else getattr(config, name)
    return functools.reduce(getattr, fields, start)


@pytest.mark.parametrize("name", BY_SIZE)
def test_what_the_papers_print(name):
    wrong = {}
    for path, printed in (ALL | BY_SIZE[name]).items():
        found = value(experiment(name), path)
        if found != printed:
            wrong[path] = f"{found!r}, printed is {printed!r}"
    assert wrong == {}


@pytest.mark.parametrize(
    "name, million_tokens", [("instructgpt_1b3", 1.0), ("instructgpt_6b", 2.0),
                             ("instructgpt_175b", 3.2)]
)  # fmt: skip
def test_sums_that_the_papers_print(name, million_tokens):
    """Tokens of a batch of pretraining, its warm-up of 375 million tokens; 256,000 episodes."""
    stages = experiment(name).stages
    batch = stages["pretrain"].batch_size * stages["pretrain"].length
    assert abs(batch / 1e6 - million_tokens) < 0.1
    assert stages["pretrain"].optimizer.warmup_steps == round(375e6 / batch)
    for ppo in (stages["ppo"], stages["ppo_ptx"]):
        assert ppo.iterations * ppo.batch_size == 256_000
        assert ppo.policy_optimizer.warmup_steps == 10 * ppo.minibatches


@pytest.mark.parametrize(
    "name, rate", [("instructgpt_1b3", "9.65e-6"), ("instructgpt_6b", "9.65e-6"),
                   ("instructgpt_175b", "5.03e-6")]
)  # fmt: skip
def test_the_command_of_the_sft_baseline(name, rate):
    docstring = ast.get_docstring(ast.parse((EXPERIMENTS / f"{name}.py").read_text("utf-8")))
    command = docstring[docstring.index(f"rlhf-jax sft experiments/{name}.py") :]
    options = dict(re.findall(r"--sft\.([\w.-]+) (\S+)", command))
    assert options == {
        "epochs": "16",
        "optimizer.learning-rate": rate,
        "pretraining-fraction": "0",
    }


def test_simulated_labelers_are_those_of_the_paper():
    """4 to 9 outputs a prompt; 72.6 % of pairs alike."""
    stage = SimulatedFeedback(prompt_length=1, response_length=1, policy="sft")
    assert (stage.outputs, stage.agreement) == ((4, 9), 0.726)
