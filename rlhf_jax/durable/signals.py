"""On SIGTERM or SIGINT the step is finished, a checkpoint is saved, and the exit code is 0."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

AGAIN = 0.2  # seconds
INTERRUPTED = 130  # the exit code of a second SIGINT


class Preempted(BaseException):
    """A signal arrived outside the training loop, where nothing has to be saved."""


class Signals:
    """Notes signals; the training loop asks after each step whether one has arrived."""

    def __init__(self):
        self.received: str | None = None
        self._in_loop = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles SIGTERM and SIGINT; in another thread than the main thread it does nothing.

        Outside of `deferred` the first signal raises Preempted. A second SIGINT ends the process at
        once, even while XLA compiles, when Python's own handlers would wait.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.received = None
        read, write = os.pipe()
        os.set_blocking(write, False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        # With several processes, jax's own SIGTERM handler informs all of them.
        alone = not jax.distributed.is_initialized()
        mine = [signal.SIGINT, signal.SIGTERM] if alone else [signal.SIGINT]
        before = {number: signal.signal(number, self._handle) for number in mine}
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        hook, sys.unraisablehook = sys.unraisablehook, self._again
        try:
            yield
        finally:
            sys.unraisablehook = hook
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(write)  # ends the thread

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is noted and raises nothing."""
        self._in_loop = True
        try:
            yield
        finally:
            self._in_loop = False

    def stop_at(self, step: int) -> bool:
        """Whether to save and stop at this step; all processes get the same answer."""
        if jax.process_count() > 1:
            if multihost_utils.reached_preemption_sync_point(step):
                self.received = self.received or "SIGTERM"
                return True
            return False
        return self.received is not None

    def _handle(self, number, frame) -> None:
        if jax.process_count() > 1 and number == signal.SIGINT:
            os.kill(os.getpid(), signal.SIGTERM)
        self.received = self.received or signal.Signals(number).name
        if not self._in_loop:
            raise Preempted(self.received)

    def _again(self, ignored) -> None:
        """Where Python ignores an exception (in a callback of jax, or __del__), and it is
        Preempted: sends the signal again a little later, and prints no traceback."""
        if not isinstance(ignored.exc_value, Preempted):
            sys.__unraisablehook__(ignored)
            return
        later = threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGTERM))
        later.daemon = True
        later.start()

    def _watch(self, read: int) -> None:
        interrupts = 0
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while numbers := pipe.read(16):
                interrupts += numbers.count(signal.SIGINT)
                if interrupts == 1 and signal.SIGINT in numbers:
                    os.write(2, b"\nsaving at the end of this step; again: exit at once\n")
                elif interrupts > 1:
                    os._exit(INTERRUPTED)


SIGNALS = Signals()
