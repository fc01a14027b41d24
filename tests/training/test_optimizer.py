"""Adam's two epsilons against NumPy in float64; schedules against hand-made numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.errors import ConfigError
from rlhf_jax.models import transformer
from rlhf_jax.models.config import SIZES
from rlhf_jax.training.optimizer import OptimizerConfig, learning_rate_at, make_optimizer


def _numpy_adam(config, gradients, x):
    """Five lines of either form of Adam, in float64."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        m, v = config.b1 * m + (1 - config.b1) * g, config.b2 * v + (1 - config.b2) * g**2
        c1, c2 = 1 - config.b1**t, 1 - config.b2**t
        if config.epsilon_placement == "tensorflow":
            x = x - config.learning_rate * np.sqrt(c2) / c1 * m / (np.sqrt(v) + config.epsilon)
        else:
            x = x - config.learning_rate * (m / c1) / (np.sqrt(v / c2) + config.epsilon)
    return x


def _run(config, gradients, x):
    optimizer = make_optimizer(config, total_steps=100)
    params = {"w": jnp.asarray(x, jnp.float32)}
    state = optimizer.init(params)
    for g in gradients:
        updates, state = optimizer.update({"w": jnp.asarray(g, jnp.float32)}, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["w"])


@pytest.mark.parametrize("b2", [0.95, 0.999])
def test_both_epsilon_placements_follow_numpy_and_differ(b2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3))
    gradients = rng.normal(size=(12, 4, 3)) * 1e-4  # so small that epsilon matters
    ends = {}
    for placement in ("standard", "tensorflow"):
        config = OptimizerConfig(
            learning_rate=0.1,
            b2=b2,
            epsilon=1e-5,
            epsilon_placement=placement,
            max_grad_norm=None,
        )
        ends[placement] = _run(config, gradients, x)
        np.testing.assert_allclose(
            ends[placement], _numpy_adam(config, gradients, x), rtol=1e-4, atol=1e-5
        )
    assert np.abs(ends["standard"] - ends["tensorflow"]).max() > 1e-2


def test_the_defaults_are_adam_with_b1_of_9_and_b2_of_95_hundredths():
    gradients = np.random.default_rng(0).normal(size=(5, 4)) * 0.1
    m, v, x = np.zeros(4), np.zeros(4), np.ones(4)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        x = x - 0.01 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    ours = _run(OptimizerConfig(learning_rate=0.01), gradients, np.ones(4))
    np.testing.assert_allclose(ours, x, rtol=1e-5)


def _numpy_lion(config, gradients, x):
    m = np.zeros_like(x)
    for g in gradients:
        x = x - config.learning_rate * np.sign(config.b1 * m + (1 - config.b1) * g)
        m = config.b2 * m + (1 - config.b2) * g
    return x


def _numpy_adafactor(config, gradients, x):
    """Shazeer & Stern 2018, algorithm 4 with relative steps left out: rows and columns alone."""
    rows, columns = np.zeros(x.shape[0]), np.zeros(x.shape[1])
    for t, g in enumerate(gradients, 1):
        decay = 1 - t**-0.8
        rows = decay * rows + (1 - decay) * (g**2 + 1e-30).mean(1)
        columns = decay * columns + (1 - decay) * (g**2 + 1e-30).mean(0)
        update = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        x = x - config.learning_rate * update / max(1.0, np.sqrt((update**2).mean()))
    return x


@pytest.mark.parametrize("method, oracle", [("lion", _numpy_lion), ("adafactor", _numpy_adafactor)])
def test_the_other_methods_follow_numpy(method, oracle):
    rng = np.random.default_rng(0)
    x, gradients = rng.normal(size=(128, 130)), rng.normal(size=(4, 128, 130))
    config = OptimizerConfig(learning_rate=0.1, method=method, max_grad_norm=None)
    np.testing.assert_allclose(
        _run(config, gradients, x), oracle(config, gradients, x), rtol=1e-4, atol=1e-5
    )


def test_adafactor_holds_rows_and_columns_of_each_layer_s_matrix_only():
    """GPT-2: rows and columns of qkv, out, up and down, and biases and norms whole, a layer."""
    config = SIZES["gpt2"]
    params = jax.eval_shape(lambda: transformer.init(config, jax.random.key(0)))

    def numbers(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    def size(method):
        optimizer = make_optimizer(OptimizerConfig(method=method), 10)
        return numbers(jax.eval_shape(optimizer.init, params))

    matrices = (768 + 2304) + (768 + 768) + 2 * (768 + 3072)
    vectors = (2304 + 768 + 3072 + 768) + 4 * 768
    whole = (config.vocab_size + 768) + (1024 + 768) + 2 * 768
    held = size("adafactor")
    assert abs(held - (12 * (matrices + vectors) + whole)) < 30  # and counts, and a 0 a vector
    assert held < 0.01 * numbers(params)
    assert 1.99 < size("adam") / numbers(params) < 2.01 and size("lion") < 0.6 * size("adam")


@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "unstacked"])
def test_adafactor_steps_each_layer_as_optax_steps_its_matrix_alone(stacked):
    """GPT-2's qkv, a matrix of 768 x 2304 a layer; a bias and a small matrix. The second layer's
    gradients are 100 times the first's in the first step, so that a clip over both would show."""
    rng = np.random.default_rng(0)
    shapes = {"qkv": (768, 12, 3, 64), "up_bias": (3, 4), "up": (5, 7)}
    gradients = [
        {name: np.float32([1, 100 if step == 0 else 1]).reshape(2, *[1] * len(shape))
         * rng.normal(size=(2, *shape)).astype(np.float32) for name, shape in shapes.items()}
        for step in range(2)
    ]  # fmt: skip
    split = lambda tree: [{name: x[i] for name, x in tree.items()} for i in range(2)]
    tree = lambda x: {"blocks": x if stacked else split(x)}
    ours = make_optimizer(OptimizerConfig(learning_rate=1.0, method="adafactor",
                                          max_grad_norm=None), 10)  # fmt: skip
    theirs = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2), optax.clip_by_block_rms(1.0)
    )
    flat = lambda tree: {name: x.reshape(-1) if name == "up_bias" else x.reshape(len(x), -1)
                         for name, x in tree.items()}  # fmt: skip
    params = jax.tree.map(jnp.zeros_like, gradients[0])
    state, alone = ours.init(tree(params)), [theirs.init(flat(one)) for one in split(params)]
    for step in gradients:
        updates, state = jax.jit(ours.update)(tree(step), state)
        found = updates["blocks"]
        for i, one in enumerate(split(step)):
            expected, alone[i] = theirs.update(flat(one), alone[i], flat(one))
            mine = {name: x[i] for name, x in found.items()} if stacked else found[i]
            for name, x in flat(mine).items():
                np.testing.assert_allclose(-x, expected[name], rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("method", ["adam", "lion"])
def test_a_first_moment_in_bfloat16_stays_so_and_changes_little(method):
    rng = np.random.default_rng(0)
    x, gradients = rng.normal(size=(8, 8)), rng.normal(size=(6, 8, 8))
    ends = {}
    for dtype in ("float32", "bfloat16"):
        config = OptimizerConfig(learning_rate=0.01, method=method, moment_dtype=dtype)
        optimizer, params = make_optimizer(config, 10), {"w": jnp.zeros((8, 8))}
        before = optimizer.init(params)
        after = optimizer.update({"w": jnp.ones((8, 8))}, before, params)[1]
        for state in (before, after):
            (mu,) = [part.mu for part in state if hasattr(part, "mu")]
            assert mu["w"].dtype == dtype
        ends[dtype] = _run(config, gradients, x)
    difference = np.abs(ends["float32"] - ends["bfloat16"]).mean()
    assert difference < 2e-3 and (method == "lion" or difference > 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "sgd"},
        {"moment_dtype": "float16"},
        {"method": "lion", "epsilon": 1e-6},
        {"method": "adafactor", "b2": 0.99},
        {"epsilon_placement": "tensorflow", "moment_dtype": "bfloat16"},
    ],
)
def test_a_field_that_the_method_does_not_read_is_refused(wrong):
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        OptimizerConfig(**wrong)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant"}, {0: 1.0, 99: 1.0}),
        ({"schedule": "linear", "final_fraction": 0.0}, {0: 1.0, 50: 0.5, 99: 0.01}),
        ({"schedule": "linear", "final_fraction": 0.2}, {0: 1.0, 50: 0.6, 100: 0.2}),
        # InstructGPT's SFT and reward model: to a tenth of the peak.
        ({"schedule": "cosine"}, {0: 1.0, 50: 0.55, 100: 0.1}),
        # InstructGPT's PPO: ten steps from a tenth of the peak, then constant.
        ({"warmup_steps": 10}, {0: 0.1, 5: 0.55, 9: 0.91, 10: 1.0, 99: 1.0}),
        (
            {"schedule": "linear", "final_fraction": 0.0, "warmup_steps": 20, "warmup_from": 0.0},
            {0: 0.0, 10: 0.5, 20: 1.0, 60: 0.5, 99: 0.0125},
        ),
    ],
)
def test_schedules(fields, expected):
    config = OptimizerConfig(learning_rate=3e-4, **fields)
    for step, fraction in expected.items():
        np.testing.assert_allclose(
            learning_rate_at(config, step, 100), 3e-4 * fraction, rtol=1e-5, atol=1e-12
        )


def test_the_rate_in_the_metrics_is_the_rate_of_the_update():
    # A constant gradient makes every Adam update the learning rate itself.
    config = OptimizerConfig(
        learning_rate=1e-2, schedule="cosine", warmup_steps=3, max_grad_norm=None
    )
    optimizer = make_optimizer(config, total_steps=9)
    params = {"w": jnp.ones((2, 2))}
    state = optimizer.init(params)
    for step in range(9):
        updates, state = optimizer.update({"w": jnp.ones((2, 2))}, state, params)
        rate = jax.jit(lambda s: learning_rate_at(config, s, 9))(step)
        np.testing.assert_allclose(-updates["w"][0, 0], rate, rtol=1e-4)


def test_decay_is_decoupled_and_spares_vectors():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5)
    params = {"w": jnp.full((2, 2), 4.0), "bias": jnp.full((2,), 4.0), "gain": jnp.asarray(4.0)}
    optimizer = make_optimizer(config, 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1 * 0.5 * 4.0, rtol=1e-6)
    assert not np.any(updates["bias"]) and updates["gain"] == 0


def test_decay_spares_the_stacked_biases_and_scales_of_layers():
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5)
    stacked = ("up", "up_bias", "scale")
    params = {"blocks": {name: jnp.full((3, 4), 4.0) for name in stacked}}
    optimizer = make_optimizer(config, 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates = optimizer.update(zeros, optimizer.init(params), params)[0]["blocks"]
    np.testing.assert_allclose(updates["up"], -0.1 * 0.5 * 4.0, rtol=1e-6)
    assert not np.any(updates["up_bias"]) and not np.any(updates["scale"])


@pytest.mark.parametrize(("limit", "norm"), [(1.0, 1.0), (7.0, 5.0), (None, 5.0)])
def test_the_whole_gradient_is_clipped_before_adam(limit, norm):
    config = OptimizerConfig(b1=0.0, b2=0.0, epsilon=1e6, learning_rate=1.0, max_grad_norm=limit)
    params = {"a": jnp.zeros((1,)), "b": jnp.zeros((1,))}
    optimizer = make_optimizer(config, 10)
    gradients = {"a": jnp.full((1,), 3.0), "b": jnp.full((1,), 4.0)}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # With a vast epsilon and no memory, Adam divides by it and keeps the gradient's length.
    np.testing.assert_allclose(optax.tree.norm(updates) * 1e6, norm, rtol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"schedule": "exponential"},
        {"final_fraction": 1.5},
        {"warmup_steps": -1},
        {"warmup_from": -0.1},
        {"b1": 1.0},
        {"b2": 1.0},
        {"epsilon": 0.0},
        {"epsilon_placement": "outside"},
        {"weight_decay": -0.1},
        {"max_grad_norm": 0.0},
    ],
)
def test_bad_fields_are_named(fields):
    with pytest.raises(ConfigError, match=f"^{next(iter(fields))} = "):
        OptimizerConfig(**fields)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match="warmup_steps = 10"):
        make_optimizer(OptimizerConfig(warmup_steps=10), total_steps=10)
