"""Counts of applied, skipped and empty updates, and of gradient norms far above the usual."""

import logging
import math

SPIKE = 10.0  # a norm above so many times the running mean is a spike
MEMORY = 0.98  # decay of the running mean per step
USUAL_AFTER = 20  # the first so many norms are never spikes
LOG = logging.getLogger(__name__)


class Health:
    """Counts over a whole stage.

    saved: `state`, as a checkpoint stores it. updates: updates of parameters in each step.
    """

    def __init__(self, name: str, saved: dict | None = None, updates: int = 1):
        self._name, self._updates = name, updates
        counts = {"applied": 0, "skipped": 0, "empty": 0, "in_a_row": 0, "spikes": 0, "norms": {}}
        self._state = counts | (saved or {})
        self._norms = self._state["norms"] = dict(self._state["norms"])

    @property
    def state(self) -> dict:
        return self._state | {"norms": dict(self._norms)}

    @property
    def in_a_row(self) -> int:
        return self._state["in_a_row"]

    @property
    def nothing_learnt(self) -> str | None:
        """Why no update was applied, in words; None if some were applied."""
        applied, skipped, empty = (self._state[name] for name in ("applied", "skipped", "empty"))
        if applied or not skipped + empty:
            return None
        why = [f"{skipped} were not finite"] if skipped else []
        why += [f"{empty} had a batch without a token or a pair to learn from"] if empty else []
        return f"none of {skipped + empty} updates was applied: " + ", ".join(why)

    def count(self, step: int, numbers: dict) -> dict:
        """The metrics of a step, with the totals so far as skipped_steps, empty_steps and
        grad_norm_spikes.

        Metrics without skipped_steps, empty_steps and gradient norms are returned unchanged.
        """
        totals, state = {}, self._state
        left_out = numbers.get("skipped_steps", 0) + numbers.get("empty_steps", 0)
        state["applied"] += self._updates - left_out
        if empty := numbers.get("empty_steps", 0):
            LOG.warning(
                "%s: step %d changed nothing%s: no token or pair has weight",
                self._name, step, self._of_all(empty),
            )  # fmt: skip
        if "empty_steps" in numbers:
            state["empty"] += empty
            totals["empty_steps"] = state["empty"]
        if "skipped_steps" in numbers:
            skipped = numbers["skipped_steps"]
            state["in_a_row"] = self.in_a_row + 1 if skipped else 0
            state["skipped"] += skipped
            totals["skipped_steps"] = state["skipped"]
            if skipped:
                sick = ", ".join(k for k, v in numbers.items() if not math.isfinite(v))
                LOG.warning(
                    "%s: step %d changed nothing%s: not finite: %s",
                    self._name, step, self._of_all(skipped), sick or "a gradient",
                )  # fmt: skip
        norms = {name: v for name, v in numbers.items() if name.endswith("grad_norm")}
        for name, norm in norms.items():
            self._see(step, name, norm)
            totals["grad_norm_spikes"] = state["spikes"]
        return numbers | totals

    def _of_all(self, count: int) -> str:
        return "" if self._updates == 1 else f" in {count} of {self._updates} minibatches"

    def _see(self, step: int, name: str, norm: float) -> None:
        mean, seen = self._norms.get(name, (0.0, 0))
        if not math.isfinite(norm):
            return
        if seen >= USUAL_AFTER and norm > SPIKE * mean:
            self._state["spikes"] += 1
            LOG.warning(
                "%s: step %d: %s %.3g is %.0f times its running mean",
                self._name, step, name, norm, norm / max(mean, 1e-30),
            )  # fmt: skip
            norm = SPIKE * mean
        share = max(1 - MEMORY, 1 / (seen + 1))  # at first the plain mean of all norms
        self._norms[name] = [mean + share * (norm - mean), seen + 1]
