"""The smallest run and all that was observed of it, as the tests of the chain read it."""

import functools
import json
import math
from pathlib import Path

import jax
import numpy as np

from rlhf_jax.corpora import Corpora
from rlhf_jax.durable.model_files import load_model
from rlhf_jax.training.metrics import read_metrics
from rlhf_jax.worlds.instruction import InstructionWorld
from tests import observed, oracles, small_run


class Chain:
    """Models, data and report from the run's files; batches, states and samples as observed."""

    def __init__(self, directory: Path, folder: Path):
        self.directory, self.config = directory, small_run.config
        self.corpora = Corpora(directory / "data")
        self.tokenizer = self.corpora.tokenizer
        self.world = InstructionWorld(self.config.data.world, self.config.seed)
        self.observed = observed.records(folder)
        self.report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
        self.model = functools.cache(self._model)

    def _model(self, stage: str):
        kind = "score" if stage == "reward" else "policy"
        source = self.directory / stage / "model"
        return observed.host(load_model(source, kind, self.tokenizer.fingerprint)[1])

    def states(self, stage: str) -> list:
        """Before the first step and after each."""
        return self.observed[f"{stage} state"]

    def batches(self, stage: str) -> list[dict]:
        return self.observed[f"{stage} batch"]

    def metrics(self, stage: str) -> list[dict]:
        return read_metrics(self.directory / stage)

    def experiences(self, stage: str) -> list[dict]:
        """Of each iteration; "ppo" runs before "ppo_ptx"."""
        count, found = self.config.ppo.iterations, self.observed["experience"]
        assert len(found) == 2 * count
        return found[:count] if stage == "ppo" else found[count:]

    def records(self, name: str, split: str) -> list:
        return list(self.corpora.read(name, split))

    def ids(self, *texts: str, end: bool = True) -> list[int]:
        """[bos] texts [eos], each text encoded by itself."""
        tokenizer = self.tokenizer
        ids = [tokenizer.bos_id, *(i for text in texts for i in tokenizer.encode(text))]
        return [*ids, tokenizer.eos_id] if end else ids

    def sampled(self, stage: str, prompts: list[str]) -> list[list[tuple]]:
        """Every call of the sampler with the stage's model and these prompts: of each prompt the
        response's ids and their log-probabilities."""
        found = []
        for call in self.observed["sampled"]:
            if list(call["prompts"]) == prompts and same(call["params"], self.model(stage)):
                rows = sorted(call["rows"], key=lambda row: int(row[0]))
                assert [int(row[0]) for row in rows] == list(range(len(prompts)))
                found.append([(tokens[mask > 0].tolist(), log_probs[mask > 0])
                              for _, tokens, mask, log_probs, *_ in rows])  # fmt: skip
        return found


def same(one, other) -> bool:
    """Whether two trees hold the same bits."""
    equal = jax.tree.map(lambda a, b: np.array_equal(a, b), one, other)
    return all(jax.tree.leaves(equal))


def as_text(ids) -> str:
    """Ids as a string, to look for a piece of a document."""
    return "".join(map(chr, ids))


def assert_drawn_from(chain: Chain, params, prompts, rows, temperature: float) -> None:
    """The sampler's log-probabilities of rows of (response, log-probabilities) are the model's at
    the temperature, and so is the share of tokens beyond the three likeliest: no top-k.

    prompts: texts, or lists of ids.
    """
    starts = [chain.ids(p, end=False) if isinstance(p, str) else p for p in prompts]
    sequences = [start + ids for start, (ids, _) in zip(starts, rows, strict=True)]
    tables = oracles.distributions(chain.config.model, params, sequences, temperature)
    beyond, mass, count = 0, 0.0, 0
    for start, (ids, log_probs), table in zip(starts, rows, tables, strict=True):
        table = table[len(start) - 1 : -1]
        chosen = table[np.arange(len(ids)), ids]
        np.testing.assert_allclose(log_probs, chosen, rtol=1e-4, atol=1e-4)
        ordered = np.sort(table, axis=1)
        beyond += (chosen < ordered[:, -3]).sum()
        mass += np.exp(ordered[:, :-3]).sum()
        count += len(ids)
    # A sum of independent draws: its variance is at most count / 4.
    assert mass > 3 and abs(beyond - mass) < 4 * math.sqrt(count / 4) < mass
