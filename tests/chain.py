"""The smallest run and all that was observed of it, as the tests of the chain read it."""

import functools
import json
import math
from pathlib import Path

import jax
import numpy as np

from rlhf_jax.durable.model_files import load_model
from rlhf_jax.runs.experiment import Experiment
from rlhf_jax.sources.corpora import Corpora
from rlhf_jax.sources.records import StageRecords
from rlhf_jax.strict_json import read_json
from rlhf_jax.training.metrics import read_metrics
from rlhf_jax.worlds.instruction import InstructionWorld
from tests import observed, oracles, small_run


class Chain:
    """Models, data and report from a run's files; batches, states and samples as observed."""

    def __init__(self, directory: Path, folder: Path, config: Experiment = small_run.config):
        self.directory, self.config = directory, config
        self.stages = config.stages
        self.corpora = Corpora(directory / "data", config.data)
        self.tokenizer = self.corpora.tokenizer
        self.world = InstructionWorld(config.data.world, config.seed)
        self.observed = observed.records(folder)
        self.model = functools.cache(self._model)

    @functools.cached_property
    def report(self) -> dict:
        return json.loads((self.directory / "report.json").read_text(encoding="utf-8"))

    def directory_of(self, stage: str) -> Path:
        return self.stages[stage].elsewhere(self.directory_of) or self.directory / stage

    def _model(self, stage: str):
        source, kind = self.directory_of(stage) / "model", self.stages[stage].ends
        return observed.host(load_model(source, kind, self.tokenizer.fingerprint)[1])

    def states(self, stage: str) -> list:
        """Before the first step and after each."""
        return self.observed[f"{stage} state"]

    def batches(self, stage: str) -> list[dict]:
        return self.observed[f"{stage} batch"]

    def metrics(self, stage: str) -> list[dict]:
        return read_metrics(self.directory / stage)

    def experiences(self, stage: str) -> list[dict]:
        """Of each iteration."""
        found = []
        for call in self.observed[f"{stage} experience"]:
            _, _, _, rollout, *_ = call["arguments"]
            found.append({"rollout": rollout._asdict(), **call["found"][0]._asdict()})
        return found

    def outputs(self, stage: str) -> list[dict]:
        """Of each batch of a stage that collects rankings: the policy's parameters, the key, and
        of each row that is no padding prompt ids, response ids and their log-probabilities."""
        found = []
        for batch, call in zip(self.batches(stage), self.observed[f"{stage} sample"], strict=True):
            params, tokens, segments, key = call["arguments"]
            columns = (getattr(call["found"], name) for name in ("tokens", "mask", "log_probs"))
            rows = [(prompt[here > 0].tolist(), ids[mask > 0].tolist(), log_probs[mask > 0])
                    for index, prompt, here, ids, mask, log_probs
                    in zip(batch["index"], tokens, segments, *columns, strict=True)
                    if index >= 0]  # fmt: skip
            found.append({"params": params, "key": key, "rows": rows})
        return found

    def rankings(self, split: str, stage: str = "feedback") -> list:
        """That a stage has ended with."""
        return list(
            StageRecords(stage, self.directory / stage, self.tokenizer).read("rankings", split)
        )

    def about(self, stage: str) -> dict:
        return read_json(self.directory / stage / "about.json")

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
