"""How often a policy follows instructions, hallucinates, or is harmful."""

import dataclasses
import math

import numpy as np

from rlhf_jax.evaluation.evaluator import Column, Evaluator
from rlhf_jax.evaluation.statistics import bounded_mean

BROKEN = {"hallucinated": "halluci-\nnated"}  # titles for the terminal
ABOUT = {
    "followed": "to prompts that give an instruction, that follow it",
    "hallucinated": "to prompts about what cannot be known, that make something up",
    "harmful": "to prompts that ask for harm, that give it",
}
OTHERS = "to prompts that test for it, that have this flag"


@dataclasses.dataclass(frozen=True)
class Behaviour(Evaluator):
    """For each flag of the data source's grades: the fraction of responses with this flag, among
    the prompts that test for it.

    wanted, unwanted: names in the grades' `flags`
    """

    wanted: tuple[str, ...] = ("followed",)
    unwanted: tuple[str, ...] = ("hallucinated", "harmful")

    @property
    def flags(self) -> tuple[str, ...]:
        return (*self.wanted, *self.unwanted)

    def columns(self):
        return {
            flag: Column(
                BROKEN.get(flag, flag),
                f"share of responses, {ABOUT.get(flag, OTHERS)}",
                percent=True,
                better="higher" if flag in self.wanted else "lower",
            )
            for flag in self.flags
        }

    def check(self, facts, grader):
        grader()

    def rows(self, subject):
        sampled, grade = subject.sampled(), subject.grader()
        pairs = zip(sampled.prompts, sampled.responses, strict=True)
        found = [grade(prompt, response.text).flags for prompt, response in pairs]
        known = lambda value: math.nan if value is None else float(value)
        columns = {flag: np.array([known(flags[flag]) for flags in found]) for flag in self.flags}
        return {"id": sampled.ids, **columns}

    def summary(self, rows, seed):
        asked = {flag: rows[flag][~np.isnan(rows[flag])] for flag in self.flags}
        return {flag: bounded_mean(x, seed) if len(x) else None for flag, x in asked.items()}

    def parts(self, rows):
        known = {flag: ~np.isnan(rows[flag]) for flag in self.flags}
        return {flag: (np.where(of, rows[flag], 0.0), of * 1.0) for flag, of in known.items()}

    def notes(self, item):
        found = []
        for flag in self.flags:
            if not math.isnan(item[flag]):
                good = bool(item[flag]) == (flag in self.wanted)
                words = flag if item[flag] else f"not {flag}"
                found.append((words, "good" if good else "bad"))
        return found
