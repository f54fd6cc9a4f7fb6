"""Being told to stop in the middle of a run: by Stop in a notebook, Ctrl-C, SIGTERM, or `stop`.

The first signal lets the batch in hand finish; a second one does not. Signals can be taken in
the main thread only; elsewhere the caller's own `stop` is all there is.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol


class Stop(Protocol):
    """Whatever can say that it is enough, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Return True once the run should end."""


class Asked(threading.Event):
    """Set when a signal came, or when the caller's own stop is set."""

    def __init__(self, other: Stop | None) -> None:
        super().__init__()
        self._other, self._signal = other, "stop"

    def is_set(self) -> bool:
        """Return True once the run should end."""
        return super().is_set() or (self._other is not None and self._other.is_set())

    def take(self, number: int, _frame: Any) -> None:
        """Be the handler of a signal: note it the first time, interrupt the second."""
        if super().is_set():
            raise KeyboardInterrupt  # the batch in hand is not waited for
        self._signal = signal.Signals(number).name
        self.set()

    @property
    def name(self) -> str:
        """What asked: "SIGINT", "SIGTERM" or "stop"."""
        return self._signal


@contextlib.contextmanager
def listening(stop: Stop | None) -> Iterator[Asked]:
    """Take SIGINT and SIGTERM while the block runs, and give them back afterwards."""
    asked = Asked(stop)
    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, asked.take)
        yield asked
    finally:
        for number, handler in before.items():
            # None: it was set outside Python, and cannot be set back from here.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
