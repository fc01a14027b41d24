"""What a test computes by itself from saved models and ids: float64 from the hidden states on."""

import functools

import jax
import numpy as np

from rlhf_jax.models import transformer
from rlhf_jax.models.config import TransformerConfig

ROWS = 16


@functools.partial(jax.jit, static_argnums=0)
def _hidden(model, params, tokens, segments):
    return transformer.hidden(model, params, tokens, segments)


def states(model: TransformerConfig, params, sequences) -> list[np.ndarray]:
    """Hidden states [T, D] of each list of ids, right padded to the model's context."""
    found = []
    for start in range(0, len(sequences), ROWS):
        part = sequences[start : start + ROWS]
        tokens = np.zeros((ROWS, model.context), np.int32)
        segments = np.zeros_like(tokens)
        for b, ids in enumerate(part):
            tokens[b, : len(ids)], segments[b, : len(ids)] = ids, 1
        rows = np.asarray(_hidden(model, params, tokens, segments), np.float64)
        found += [rows[b, : len(ids)] for b, ids in enumerate(part)]
    return found


def distributions(model, params, sequences, temperature=1.0) -> list[np.ndarray]:
    """log p [T, V] of every token after each token of each list of ids."""
    matrix = np.asarray(params["tokens"], np.float64)
    found = []
    for rows in states(model, params, sequences):
        scaled = rows @ matrix.T / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        found.append(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))
    return found


def log_probs(model, params, sequences, temperature=1.0) -> list[np.ndarray]:
    """log p(token t | tokens before it), t = 1..., of each list of ids."""
    rows = distributions(model, params, sequences, temperature)
    return [row[np.arange(len(ids) - 1), ids[1:]] for row, ids in zip(rows, sequences, strict=True)]


def scores(model, params, sequences) -> list[np.ndarray]:
    """The scalar head at each token of each list of ids."""
    head = {name: np.asarray(x, np.float64) for name, x in params["score"].items()}
    return [rows @ head["weights"] + head["bias"] for rows in states(model, params, sequences)]


def pieces(batch) -> list[tuple[list[int], list[float]]]:
    """(ids, weights) of every document of a batch of tokens, segments and weights [..., T]."""
    found = []
    flat = lambda name: batch[name].reshape(-1, batch[name].shape[-1])
    for ids, segments, weights in zip(*map(flat, ("tokens", "segments", "weights")), strict=True):
        for number in range(1, segments.max() + 1):
            here = segments == number
            found.append((ids[here].tolist(), weights[here].tolist()))
    return found


def mean_loss(model, params, documents) -> float:
    """Mean of -log p over the targets of (ids, weights) of documents."""
    rows = log_probs(model, params, [ids for ids, _ in documents])
    total = sum(
        -(row * weights[1:]).sum() for row, (_, weights) in zip(rows, documents, strict=True)
    )
    return total / sum(sum(weights[1:]) for _, weights in documents)
