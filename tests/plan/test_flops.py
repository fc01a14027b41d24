"""FLOPs three ways: the formula, the jaxpr, and XLA where no loop deceives it."""

import dataclasses

import jax
import pytest

from rlhf_jax.jaxprs import count_flops
from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.plan.flops import forward_flops, matrix_parameters
from rlhf_jax.plan.programs import build_for, programs_of
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.stages.stage import ints, policy_shapes

GPT = TransformerConfig(
    vocab_size=500, layers=3, width=64, heads=4, context=32, compute_dtype="float32",
    scan_layers=False,
)  # fmt: skip
LLAMA = dataclasses.replace(
    GPT, kv_heads=2, head_size=24, window=8, mlp_width=96, positions="rotary", norm="rms",
    activation="swiglu", biases=False, tied_embeddings=False,
)  # fmt: skip
ROWS, TIME = 4, 32


def products(function, *arguments):
    return count_flops(function, *arguments, products_only=True)


def forward(model):
    def run(params, tokens, segments):
        states = transformer.hidden(model, params, tokens, segments)
        return transformer.logits(model, params, states)

    return run


def arguments(model):
    return policy_shapes(model), ints(ROWS, TIME), ints(ROWS, TIME)


@pytest.mark.parametrize("model", [GPT, LLAMA], ids=["gpt", "llama"])
@pytest.mark.parametrize("scan", [False, True])
def test_the_formula_is_what_the_jaxpr_multiplies(model, scan):
    model = dataclasses.replace(model, scan_layers=scan)
    counted = products(forward(model), *arguments(model))
    assert counted == forward_flops(model, ROWS, TIME, TIME)


def test_parameters_of_the_matrices():
    params = policy_shapes(LLAMA)["blocks"]
    sizes = {name: leaf.size for name, leaf in params.items() if hasattr(leaf, "size")}
    assert matrix_parameters(LLAMA) == sum(sizes[n] for n in ("qkv", "out", "up", "gate", "down"))


def test_xla_counts_the_same_and_a_little_where_layers_are_unrolled():
    compiled = jax.jit(forward(GPT)).lower(*arguments(GPT)).compile()
    ours = forward_flops(GPT, ROWS, TIME, TIME)
    assert ours <= compiled.cost_analysis()["flops"] <= 1.1 * ours


def test_a_training_step_takes_three_times_as_much_and_recomputation_one_more():
    def gradient(model):
        total = lambda *a: forward(model)(*a).sum()
        return products(jax.value_and_grad(total), *arguments(model))

    once = forward_flops(GPT, ROWS, TIME, TIME)
    assert gradient(GPT) == 3 * once
    again = gradient(dataclasses.replace(GPT, remat="full")) - 3 * once
    last = GPT.layers * 2 * ROWS * TIME * GPT.width * GPT.feed_forward_width
    assert again == forward_flops(GPT, ROWS, TIME, 0) - last  # no gradient needs a layer's last
    attention = 4 * ROWS * TIME**2 * GPT.layers * GPT.width
    assert gradient(dataclasses.replace(GPT, remat="dots")) - 3 * once == attention


def by_hand(model, tokens: int, logits: int, times: int = 1, columns: int = 2048) -> float:
    """2 a token and parameter of the blocks, 12 L D^2; attention to columns; the logits.
    times: 3 with gradients."""
    blocks = 12 * model.layers * model.width**2
    attention = 2 * columns * model.layers * model.width
    head = model.vocab_size * model.width
    return times * 2.0 * (tokens * (blocks + attention) + logits * head)


SIZES = [("1b3", 1.3), *(pytest.param(*size, marks=pytest.mark.slow)
                         for size in [("6b", 6.7), ("175b", 175)])]  # fmt: skip


@pytest.mark.parametrize("size, billions", SIZES)
def test_the_programs_of_instructgpt_take_what_a_hand_count_says(size, billions):
    config = load_experiment(f"experiments/instructgpt_{size}.py")
    policy = config.model
    value = config.stages["reward"].shape(build_for(config, "reward"))
    assert by_hand(policy, 1, 1, columns=0) / 2e9 == pytest.approx(billions, rel=0.02)
    rows = {stage: 2048 * config.stages[stage].batch_size for stage in ("pretrain", "sft")}
    episodes, text, responses = 512 * 2048, 8 * 512 * 2048, 512 * 1024
    scored = by_hand(policy, episodes, responses) + by_hand(value, episodes, 0)
    expected = {
        ("pretrain", "update"): by_hand(policy, rows["pretrain"], rows["pretrain"], 3),
        ("sft", "update"): by_hand(policy, rows["sft"], rows["sft"], 3),
        ("ppo_ptx", "rollout"): (
            by_hand(policy, episodes // 2, 0, columns=1024)
            + by_hand(policy, episodes // 2, responses)
        ),
        ("ppo_ptx", "experience"): 2 * scored,
        ("ppo_ptx", "update"): 3 * scored + by_hand(policy, text, text, 3),
    }
    for planned in programs_of(config, ("pretrain", "sft", "ppo_ptx"), recomputed=False):
        p = planned.program
        counted = count_flops(p.function, *p.arguments, products_only=True, while_turns=p.turns)
        told = expected[planned.stage, planned.name]
        # A prefill leaves most of its last layer out, 1.6 % of a rollout of 24 layers.
        assert counted == pytest.approx(told, rel=0.02), planned.name
