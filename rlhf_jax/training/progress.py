"""How far a stage is: a rich bar on a terminal, a plain line every few seconds elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0


class ProgressLine:
    """Shows stage, step / total, tokens/s, time left and a few metrics.

    show: names of the metrics to show; empty: the first three that a step gives.
    """

    def __init__(self, name: str, step: int, total: int, show: tuple[str, ...] = ()):
        self._console = Console()
        self._name, self._total, self._show = name, total, show
        self._first, self._started, self._last = step, time.monotonic(), -PLAIN_SECONDS
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

    def update(self, step: int, tokens_per_second: float, metrics: dict[str, float]) -> None:
        """`metrics` as Python numbers."""
        names = [name for name in self._show or list(metrics)[:3] if name in metrics]
        figures = f"{tokens_per_second:,.0f} tokens/s"
        figures += "".join(f"  {name} {metrics[name]:.4g}" for name in names)
        if self._bar:
            self._bar.update(self._task, completed=step, figures=figures)
            return
        now = time.monotonic()
        if now - self._last < PLAIN_SECONDS and step < self._total:
            return
        self._last = now
        seconds = (now - self._started) / max(step - self._first, 1) * (self._total - step)
        left = f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f}:{seconds % 60:02.0f} left"
        print(f"{self._name}  {step}/{self._total}  {left}  {figures}", flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
