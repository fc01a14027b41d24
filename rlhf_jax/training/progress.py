"""How far a stage or a report is: a rich bar on a terminal, a plain line every few seconds
elsewhere."""

import collections
import contextlib
import datetime
import itertools
import math
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rlhf_jax.parallel.processes import is_first

PLAIN_SECONDS = 5.0  # between two plain lines
WINDOW = 20  # steps whose mean speed is shown


class Line:
    """Shows a name, done / total, and two texts. Without a terminal it prints a line at the first
    call of `show`, at the end and every PLAIN_SECONDS."""

    def __init__(self, name: str, total: int):
        self._name, self._total = name, total
        self._printed, self._bar = -math.inf, None
        console = Console()
        if not console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._bar.add_task(name, total=total, told="", figures="")

    def show(self, done: int, told: str, figures: str = "") -> None:
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._task, completed=done, told=told, figures=figures)
            self._bar.start()  # nothing, from the second call on
        elif now - self._printed >= PLAIN_SECONDS or done == self._total:
            self._printed = now
            line = f"{self._name}  {done}/{self._total}  {told}  {figures}"
            print(line.rstrip(), flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


class ProgressLine:
    """Shows stage, step / total, time left, tokens/s and a few metrics.

    tokens: tokens of one step. show: names of the metrics to show; empty: the first three.
    Speed and time left are those of the last steps that compiled nothing; "compiling" stands where
    there is none yet.
    """

    def __init__(self, name: str, step: int, total: int, tokens: int, show: tuple[str, ...] = ()):
        self._total, self._tokens, self._show = total, tokens, show
        self._times = collections.deque(maxlen=WINDOW)  # (step, when it ended), none compiled since
        self._compilations = None
        self._line = Line(name, total)
        self._line.show(step, "compiling")

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
        self._line.show(step, left, "  ".join(figures))

    def close(self) -> None:
        self._line.close()


@contextlib.contextmanager
def counted(name: str, total: int) -> Iterator[Callable[[str], None]]:
    """begin(what): called before each of `total` pieces of work. The first process shows what has
    begun, and how many pieces are done."""
    if not (is_first() and total):
        yield lambda what: None
        return
    done = itertools.count()
    with contextlib.closing(Line(name, total)) as line:
        yield lambda what: line.show(next(done), what)
        line.show(total, "")
