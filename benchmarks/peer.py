"""The works of benchmarks/speed.py by PyTorch and Hugging Face's GPT-2, tuned; its Python needs
torch and transformers, and for PPO trl 1.12.0. speed.py calls it: peer.py WORK SIZE NUMBER...

On a GPU: torch.compile, scaled_dot_product_attention, autocast to bfloat16, fused AdamW; generation
in bfloat16 with a static cache, compiled. On a CPU: eager attention, autocast, fused AdamW, no
compilation. PPO is trl's trainer as it is, with the same attention, autocast and optimizer; policy,
reference, reward model and value network are GPT-2 of one size, and no response ends early.
`ppo_by_default` is the same work with the defaults of trl and transformers: in float32, with
scaled_dot_product_attention and Hugging Face's own GELU.
"""

import functools
import json
import os
import sys
import tempfile
import threading
import time
import traceback

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# layers, width, heads, context, vocabulary
SIZES = {
    "tiny": (4, 256, 4, 128, 8192),
    "small": (12, 768, 12, 1024, 50257),
    "1b3": (24, 2048, 16, 2048, 50257),
}


def model_of(size: str, kind: type = GPT2LMHeadModel, seed: int = 0, tuned: bool = True):
    layers, width, heads, context, vocabulary = SIZES[size]
    tuning = {
        "activation_function": "gelu_pytorch_tanh", "use_cache": False,
        "attn_implementation": "sdpa" if ON_GPU else "eager",
    }  # fmt: skip
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=heads, n_positions=context, vocab_size=vocabulary,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, num_labels=1,
        bos_token_id=None, eos_token_id=None, **(tuning if tuned else {}),
    )  # fmt: skip
    torch.manual_seed(seed)
    return kind(config).to(DEVICE)


def synchronised() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def random_tokens(size: str, *shape: int) -> torch.Tensor:
    return torch.randint(4, SIZES[size][4], shape, device=DEVICE)


def autocast():
    return torch.autocast(DEVICE, torch.bfloat16)


def compiled(function):
    return torch.compile(function) if ON_GPU else function


def step_of(model: torch.nn.Module, loss_of):
    """A step on the loss, which is called without arguments."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )

    def once():
        started = synchronised()
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"step": synchronised() - started}

    return once


def sft(size: str, rows: int, length: int):
    model, tokens = model_of(size), random_tokens(size, rows, length)
    losses = compiled(lambda tokens: token_losses(model, tokens).mean())
    return step_of(model, lambda: losses(tokens))


def token_losses(model: GPT2LMHeadModel, tokens: torch.Tensor) -> torch.Tensor:
    """-log p of every token but the first: [B, T - 1]."""
    with autocast():
        logits = model(input_ids=tokens).logits
    flat = logits[:, :-1].float().flatten(0, 1)
    losses = F.cross_entropy(flat, tokens[:, 1:].flatten(), reduction="none")
    return losses.view(len(tokens), -1)


def over_pairs(values: torch.Tensor) -> torch.Tensor:
    """The mean of -log sigmoid(better - worse) over all pairs of values [E, K], best first."""
    better, worse = torch.triu_indices(values.shape[1], values.shape[1], 1, device=DEVICE)
    return -F.logsigmoid(values[:, better] - values[:, worse]).mean()


def reward(size: str, elements: int, outputs: int, length: int):
    model = model_of(size, GPT2ForSequenceClassification)
    tokens = random_tokens(size, elements * outputs, length)

    @compiled
    def loss_of(tokens):
        with autocast():
            states = model.transformer(input_ids=tokens).last_hidden_state
        return over_pairs(model.score(states[:, -1].float()).view(elements, outputs))

    return step_of(model, lambda: loss_of(tokens))


def dpo(size: str, elements: int, outputs: int, length: int):
    model, reference = model_of(size), model_of(size).requires_grad_(False)
    tokens = random_tokens(size, elements * outputs, length)

    @compiled
    def reference_losses(tokens):
        with torch.no_grad():
            return token_losses(reference, tokens).sum(1)

    @compiled
    def loss_of(tokens, of_reference):
        log_ratio = of_reference - token_losses(model, tokens).sum(1)
        return over_pairs(0.1 * log_ratio.view(elements, outputs))

    return step_of(model, lambda: loss_of(tokens, reference_losses(tokens)))


def generation(size: str, rows: int, prompt: int, response: int):
    model = model_of(size).to(torch.bfloat16).eval()
    model.config.use_cache = True
    tokens = random_tokens(size, rows, prompt)
    how = {"cache_implementation": "static"} if ON_GPU else {}
    sampling = {
        "do_sample": True, "top_k": 0, "min_new_tokens": response, "max_new_tokens": response,
        "pad_token_id": 0, "attention_mask": torch.ones_like(tokens), "eos_token_id": None,
    }  # fmt: skip

    @torch.inference_mode()
    def once():
        started = synchronised()
        model.generate(tokens, **sampling, **how)
        return {"generation": synchronised() - started}

    return once


def ppo(
    size: str,
    rows: int,
    prompt: int,
    response: int,
    minibatches: int,
    epochs: int,
    tuned: bool = True,
):
    """An iteration of trl's PPOTrainer. Its `train` runs in a thread that waits between two
    iterations; what it does after a step counts in the next one."""
    precision = "bf16" if tuned else "no"
    tuning = {"bf16": False, "local_rollout_forward_batch_size": rows} if tuned else {}
    # PPOConfig(bf16=True) does nothing.
    os.environ |= {"ACCELERATE_MIXED_PRECISION": precision, "TRL_EXPERIMENTAL_SILENCE": "1"}
    from transformers import PrinterCallback, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Turns(TrainerCallback):
        def on_train_begin(self, *_, **__):
            go.acquire()

        def on_step_end(self, *_, **__):
            done.release()
            go.acquire()

    class Words:  # the tokenizer: ids that are in no response end none
        pad_token_id = eos_token_id = SIZES[size][4]

    policy, reference, scorer, value = models_of_ppo(size, tuned)
    seconds = {}
    time_generation(policy, seconds, (rows, prompt + response))
    config = PPOConfig(
        output_dir=tempfile.gettempdir(), save_strategy="no", report_to="none", disable_tqdm=True,
        num_sample_generations=0, total_episodes=10**6 * rows, per_device_train_batch_size=rows,
        gradient_accumulation_steps=1, num_mini_batches=minibatches, num_ppo_epochs=epochs,
        response_length=response, temperature=1.0, learning_rate=1e-6, adam_beta2=0.95,
        use_cpu=not ON_GPU, **tuning,
    )  # fmt: skip
    trainer = PPOTrainer(
        config, Words(), policy, reference, scorer, list(random_tokens(size, rows, prompt).cpu()),
        value, lambda queries: {"input_ids": torch.stack(queries)}, callbacks=[Turns()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    assert trainer.accelerator.mixed_precision == precision
    threading.Thread(target=train, args=(trainer,), daemon=True).start()

    def once():
        started = synchronised()
        go.release()
        done.acquire()
        spent = synchronised() - started
        return seconds | {"scoring and update": spent - seconds["generation"]}

    return once


def models_of_ppo(size: str, tuned: bool):
    """(policy, reference, reward model, value network). The trainer's autocast holds in the update;
    in tuned models it also holds in the rollout, where weights are then cast once, and in
    scoring."""
    policy, scorer, value, reference = models = (
        model_of(size, tuned=tuned),
        model_of(size, GPT2ForSequenceClassification, 1, tuned),
        model_of(size, GPT2ForSequenceClassification, 2, tuned),
        model_of(size, tuned=tuned).requires_grad_(False),
    )
    policy.generation_config.use_cache = True
    if tuned:
        for model in models:
            model.transformer.forward = autocast()(model.transformer.forward)
        reference.forward = autocast()(reference.forward)
        policy.generate = autocast()(policy.generate)
    return policy, reference, scorer, value


def time_generation(policy, seconds: dict[str, float], shape: tuple[int, int]) -> None:
    """Each `generate` writes its seconds; its sequences must have this shape."""
    generate = policy.generate

    def timed_generate(*arguments, **options):
        started = synchronised()
        found = generate(*arguments, **options)
        seconds["generation"] = synchronised() - started
        assert found.sequences.shape == shape
        return found

    policy.generate = timed_generate


def train(trainer) -> None:
    """Ends the process afterwards, because it waits for an iteration that does not come."""
    try:
        trainer.train()
    except BaseException:
        traceback.print_exc()
    os._exit(1)


WORKS = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo,
    "generation": generation,
    "ppo": ppo,
    "ppo_by_default": functools.partial(ppo, tuned=False),
}


def main() -> None:
    work, size, *shape = sys.argv[1:]
    torch.backends.cuda.matmul.allow_tf32 = True
    started = time.perf_counter()
    once = WORKS[work](size, *map(int, shape))
    for _ in range(2):
        once()
    memory = torch.cuda.max_memory_allocated() if ON_GPU else 0
    spent = time.perf_counter() - started
    print(json.dumps({"memory": memory, "compile_seconds": spent}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": [once() for _ in range(int(line))]}), flush=True)


if __name__ == "__main__":
    main()
