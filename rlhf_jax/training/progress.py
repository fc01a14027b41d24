"""How far a stage is: a rich bar on a terminal, a plain line every few seconds elsewhere."""

import collections
import datetime
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0  # between two plain lines
WINDOW = 20  # steps whose mean speed is shown


class ProgressLine:
    """Shows stage, step / total, tokens/s, time left and a few metrics.

    tokens: tokens of one step. show: names of the metrics to show; empty: the first three.
    """

    def __init__(self, name: str, step: int, total: int, tokens: int, show: tuple[str, ...] = ()):
        self._console = Console()
        self._name, self._total, self._tokens, self._show = name, total, tokens, show
        self._times = collections.deque([(step, time.monotonic())], maxlen=WINDOW)
        self._printed = -PLAIN_SECONDS
        self._bar = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(name, total=total, completed=step, figures="")
            self._bar.start()

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """`metrics` as Python numbers. Speed is the mean of the last steps."""
        now = time.monotonic()
        self._times.append((step, now))
        first, then = self._times[0]
        seconds_per_step = max(now - then, 1e-9) / (step - first)
        names = [name for name in self._show or list(metrics)[:3] if name in metrics]
        figures = f"{self._tokens / seconds_per_step:,.0f} tokens/s"
        figures += "".join(f"  {name} {metrics[name]:.4g}" for name in names)
        if self._bar:
            self._bar.update(self._task, completed=step, figures=figures)
            return
        if now - self._printed < PLAIN_SECONDS and step < self._total:
            return
        self._printed = now
        seconds = round(seconds_per_step * (self._total - step))
        left = datetime.timedelta(seconds=seconds)
        print(f"{self._name}  {step}/{self._total}  {left} left  {figures}", flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
