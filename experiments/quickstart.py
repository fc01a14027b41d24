"""InstructGPT in miniature, in the instruction world: no download, two CPU cores.

    make quickstart          or          rlhf-jax run experiments/quickstart.py [--seed N]

Cost, virtual environment included: 6 min 9 s on two cores with AMX (`make quickstart`, the machine
quiet).

Result: gold score (0 to 1) on 800 held-out prompts, mean and 95 % interval, by --seed; products in
bfloat16, with AMX:

       base               prompted           SFT                PPO                PPO-ptx
    0  .347 [.336, .358]  .356 [.348, .365]  .655 [.633, .676]  .732 [.714, .752]  .704 [.684, .724]
    1  .353 [.343, .364]  .361 [.353, .369]  .633 [.611, .655]  .734 [.716, .752]  .698 [.679, .718]
    2  .352 [.341, .362]  .379 [.371, .388]  .662 [.641, .682]  .722 [.702, .741]  .705 [.686, .722]

PPO > SFT > base with intervals apart, for each seed. PPO-ptx lies between: it holds the pretraining
loss down (nats a token, seeds 0, 1, 2: base .94, .94, .93; SFT 2.85, 2.92, 2.96; PPO 2.90, 3.02,
3.06; PPO-ptx 1.17, 1.17, 1.17), the alignment tax and its repair. A quarter of the demonstrations
are careless (`data.careless`), which SFT learns to imitate and the rankings tell apart.

The reward model has seen 2,000 prompts and is soon over-optimised: PPO's gold score by KL
coefficient, where SFT's is .683 (--seed 2 --data.world.test 400 --ppo.iterations 60
--ppo.kl.coefficient C; final KL in nats a response):

    C      .06   .1    .15   .2    .3    .5
    gold   .611  .664  .725  .727  .738  .748
    KL     4.46  3.00  1.86  1.23  .78   .63
"""

from rlhf_jax.experiment import EvaluationConfig, Experiment, WorldData
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.objectives.kl import FixedController
from rlhf_jax.stages.dpo import DPO, DPOConfig
from rlhf_jax.stages.ppo_config import PPOConfig
from rlhf_jax.stages.reward_model import RewardConfig
from rlhf_jax.stages.supervised import SupervisedConfig
from rlhf_jax.training.loop import LoopConfig
from rlhf_jax.training.optimizer import OptimizerConfig
from rlhf_jax.worlds.instruction import WorldConfig

VOCABULARY = 1024


def ppo(**changes) -> PPOConfig:
    return PPOConfig(
        policy_optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
        value_optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=10),
        iterations=40,
        batch_size=128,
        minibatches=4,
        prompt_length=32,
        response_length=24,
        ema_decay=0.9,
        kl=FixedController(0.4),
        ptx_ratio=1,
        ptx_length=48,
        **changes,
    )


config = Experiment(
    name="quickstart",
    data=WorldData(WorldConfig(sft=6000, feedback=3000, test=800)),
    model=TransformerConfig(
        vocab_size=VOCABULARY, layers=4, width=128, heads=4, context=160, scan_layers=False
    ),
    pretrain=SupervisedConfig(
        OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_steps=50),
        epochs=5,
        batch_size=8,
        length=128,
    ),
    sft=SupervisedConfig(
        OptimizerConfig(learning_rate=1.5e-3, schedule="cosine", warmup_steps=10),
        epochs=3,
        batch_size=8,
        length=96,
        packed=True,
    ),
    reward=RewardConfig(
        OptimizerConfig(learning_rate=5e-4, schedule="cosine", warmup_steps=5),
        epochs=1,
        batch_size=8,
        outputs=18,
        packed=True,
        length=48,
    ),
    ppo=ppo(),
    ppo_ptx=ppo(ptx_coefficient=1.0),
    dpo=DPOConfig(
        OptimizerConfig(learning_rate=5e-4, schedule="cosine", warmup_steps=5),
        objective=DPO(beta=0.1),
        epochs=1,
        batch_size=8,
        outputs=18,
        packed=True,
        length=48,
        micro_batches=1,
    ),
    evaluation=EvaluationConfig(batch_size=200),
    loop=LoopConfig(checkpoint_every=200, log_every=1),
)
