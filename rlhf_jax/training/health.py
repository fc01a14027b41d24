"""What a loop remembers of sick steps: those skipped, and gradient norms far above the usual."""

import logging
import math

SPIKE = 10.0  # times the running mean
MEMORY = 0.98  # of that mean, a step
USUAL_AFTER = 20  # norms, before which none is a spike
LOG = logging.getLogger(__name__)


class Health:
    """Counts over a whole stage. `saved` is the JSON value of `state` in a checkpoint."""

    def __init__(self, name: str, saved: dict | None = None):
        self._name = name
        saved = saved or {"skipped": 0, "in_a_row": 0, "spikes": 0, "norms": {}}
        self._skipped, self.in_a_row = saved["skipped"], saved["in_a_row"]
        self._spikes, self._norms = saved["spikes"], dict(saved["norms"])

    @property
    def state(self) -> dict:
        counts = {"skipped": self._skipped, "in_a_row": self.in_a_row, "spikes": self._spikes}
        return counts | {"norms": dict(self._norms)}

    def count(self, step: int, numbers: dict) -> dict:
        """The metrics of a step with running totals in them: skipped_steps, grad_norm_spikes.

        A step that reports neither skipped_steps nor a gradient norm comes back as it is.
        """
        totals = {}
        if "skipped_steps" in numbers:
            skipped = numbers["skipped_steps"]
            self.in_a_row = self.in_a_row + 1 if skipped else 0
            self._skipped += skipped
            totals["skipped_steps"] = self._skipped
            if skipped:
                sick = ", ".join(k for k, v in numbers.items() if not math.isfinite(v))
                LOG.warning(
                    "%s: step %d changed nothing%s: not finite: %s", self._name, step,
                    "" if skipped == 1 else f" in {skipped} minibatches", sick or "a gradient",
                )  # fmt: skip
        norms = {name: v for name, v in numbers.items() if name.endswith("grad_norm")}
        for name, norm in norms.items():
            self._see(step, name, norm)
            totals["grad_norm_spikes"] = self._spikes
        return numbers | totals

    def _see(self, step: int, name: str, norm: float) -> None:
        mean, seen = self._norms.get(name, (0.0, 0))
        if not math.isfinite(norm):
            return
        if seen >= USUAL_AFTER and norm > SPIKE * mean:
            self._spikes += 1
            LOG.warning(
                "%s: step %d: %s %.3g is %.0f times its running mean",
                self._name, step, name, norm, norm / max(mean, 1e-30),
            )  # fmt: skip
            norm = SPIKE * mean
        share = max(1 - MEMORY, 1 / (seen + 1))  # a plain mean at first
        self._norms[name] = [mean + share * (norm - mean), seen + 1]
