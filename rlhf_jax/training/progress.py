"""How far a stage is: a rich bar on a terminal, a plain line every few seconds elsewhere."""

import collections
import datetime
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 5.0  # between two plain lines
WINDOW = 20  # steps whose mean speed is shown


class ProgressLine:
    """Shows stage, step / total, time left, tokens/s and a few metrics.

    tokens: tokens of one step. show: names of the metrics to show; empty: the first three.
    Speed and time left are those of the last steps that compiled nothing; "compiling" stands where
    there is none yet.
    """

    def __init__(self, name: str, step: int, total: int, tokens: int, show: tuple[str, ...] = ()):
        self._console = Console()
        self._name, self._total, self._tokens, self._show = name, total, tokens, show
        self._times = collections.deque(maxlen=WINDOW)  # (step, when it ended), none compiled since
        self._compilations = None
        self._printed = time.monotonic()
        self._bar = None
        if not self._console.is_terminal:
            self._print(step, "compiling", "")
            return
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
        )
        self._task = self._bar.add_task(
            name, total=total, completed=step, left="compiling", figures=""
        )
        self._bar.start()

    def update(self, step: int, metrics: dict[str, float], compilations: int) -> None:
        """`metrics` of the step as Python numbers; `compilations` so far, of all steps."""
        now = time.monotonic()
        if compilations != self._compilations:
            self._times.clear()
            self._compilations = compilations
        self._times.append((step, now))
        names = [name for name in self._show or list(metrics)[:3] if name in metrics]
        figures = [f"{name} {metrics[name]:.4g}" for name in names]
        left = "compiling" if step < self._total else "0:00:00 left"
        first, then = self._times[0]
        if step > first:
            seconds_per_step = max(now - then, 1e-9) / (step - first)
            seconds = round(seconds_per_step * (self._total - step))
            left = f"{datetime.timedelta(seconds=seconds)} left"
            figures.insert(0, f"{self._tokens / seconds_per_step:,.0f} tokens/s")
        if self._bar:
            self._bar.update(self._task, completed=step, left=left, figures="  ".join(figures))
        elif now - self._printed >= PLAIN_SECONDS or step == self._total:
            self._printed = now
            self._print(step, left, "  ".join(figures))

    def _print(self, step: int, left: str, figures: str) -> None:
        print(f"{self._name}  {step}/{self._total}  {left}  {figures}".rstrip(), flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
