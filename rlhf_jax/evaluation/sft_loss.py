"""The SFT loss of a policy on the responses of held-out demonstrations."""

import dataclasses
import math

import numpy as np

from rlhf_jax.data.pipeline import supervised_pass
from rlhf_jax.evaluation.evaluator import Column
from rlhf_jax.evaluation.statistics import mean_interval
from rlhf_jax.evaluation.token_losses import TokenLosses


@dataclasses.dataclass(frozen=True)
class SFTLoss(TokenLosses):
    """Nats per token of the responses of the data source's held-out demonstrations, including their
    end tokens. This is the loss of SFT on records that it does not train on.

    A policy that is prompted with worked examples has no such loss.

    length      maximum number of tokens of prompt and response; longer demonstrations are left out
                and counted
    batch_size  demonstrations per batch
    """

    def columns(self):
        about = "nats per token of the responses of held-out demonstrations"
        return {self.name: Column("SFT\nloss", about, better="lower", drawn=False, range=(0, None))}

    def check(self, facts, grader):
        facts.some("demonstrations", "valid", "length", self.length)

    def rows(self, subject):
        encode, prompt_ids = subject.tokenizer.encode, subject.tokenizer.prompt_ids
        tokens = lambda d: 1 + len(prompt_ids(d.prompt)) + len(encode(d.response))
        records = list(subject.records("demonstrations", "valid"))
        fits, length = self.fitting([tokens(record) for record in records])
        kept = np.flatnonzero(fits)
        batches = supervised_pass(
            [records[i] for i in kept],
            subject.tokenizer,
            batch_size=self.batch_size,
            length=length,
        )
        nats, count = [], []
        for batch in batches:
            weights = batch["weights"][:, 1:]
            losses = np.asarray(subject.programs["losses"](subject.params, batch), np.float64)
            nats.append(np.where(weights > 0, losses, 0).sum(axis=1))
            count.append(weights.sum(axis=1))
        of_records = lambda parts: np.concatenate(parts)[: len(kept)]
        known = math.nan if subject.behind else 1.0
        return {
            "id": np.array([f"demonstration {i}" for i in kept]),
            "nats": known * of_records(nats),
            "tokens": of_records(count).astype(np.float64),
        }

    def summary(self, rows, seed):
        nats = rows["nats"]
        finite = np.isfinite(nats).all()
        return {self.name: mean_interval(nats, rows["tokens"]) if finite else math.nan}

    def parts(self, rows):
        known = np.isfinite(rows["nats"]).all()
        return {self.name: (rows["nats"], rows["tokens"])} if known else {}
