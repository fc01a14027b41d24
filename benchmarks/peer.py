"""The works of benchmarks/speed.py by PyTorch and Hugging Face's GPT-2, tuned; its Python needs
torch and transformers. speed.py calls it: peer.py WORK SIZE NUMBER...

On a GPU: torch.compile, scaled_dot_product_attention, autocast to bfloat16, fused AdamW; generation
in bfloat16 with a static cache, compiled. On a CPU: eager attention, autocast, no compilation.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# layers, width, heads, context, vocabulary
SIZES = {
    "tiny": (4, 256, 4, 128, 8192),
    "small": (12, 768, 12, 1024, 50257),
    "1b3": (24, 2048, 16, 2048, 50257),
}


def model_of(size: str) -> GPT2LMHeadModel:
    layers, width, heads, context, vocabulary = SIZES[size]
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=heads, n_positions=context, vocab_size=vocabulary,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, activation_function="gelu_pytorch_tanh",
        attn_implementation="sdpa" if ON_GPU else "eager", use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).to(DEVICE)


def synchronised() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def random_tokens(size: str, *shape: int) -> torch.Tensor:
    return torch.randint(4, SIZES[size][4], shape, device=DEVICE)


def sft(size: str, rows: int, length: int):
    model, tokens = model_of(size), random_tokens(size, rows, length)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )

    def loss_of(tokens):
        with torch.autocast(DEVICE, torch.bfloat16):
            logits = model(input_ids=tokens).logits
        flat = logits[:, :-1].float().flatten(0, 1)
        return F.cross_entropy(flat, tokens[:, 1:].flatten())

    compiled = torch.compile(loss_of) if ON_GPU else loss_of

    def once():
        started = synchronised()
        loss = compiled(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"step": synchronised() - started}

    return once


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


def main() -> None:
    work, size, *shape = sys.argv[1:]
    torch.backends.cuda.matmul.allow_tf32 = True
    started = time.perf_counter()
    once = {"sft": sft, "generation": generation}[work](size, *map(int, shape[:3]))
    for _ in range(2):
        once()
    memory = torch.cuda.max_memory_allocated() if ON_GPU else 0
    spent = time.perf_counter() - started
    print(json.dumps({"memory": memory, "compile_seconds": spent}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": [once() for _ in range(int(line))]}), flush=True)


if __name__ == "__main__":
    main()
