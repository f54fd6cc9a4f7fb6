"""The panel at work, still without widgets: events in, state out, the worker between.

Events come from callbacks and from the worker, in any thread; one lock puts them in a row.
Nothing raised in a callback or while showing is lost or leaves the panel stuck: it becomes a
notice, and a job whose thread is gone is ended. Not covered: what follows from an event
(`state.py`), the work itself (`worker.py`).
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import LlavaNbError, plain
from .data import IDLE, PanelState
from .events import Begin, Ended, Failed, Halt, Opened, OpenPictures, Stop, Tell
from .state import step
from .worker import Worker

if TYPE_CHECKING:
    from ..inference.llava import Llava

INTERRUPTED = "Interrupted. What the model was doing goes on; Stop ends it."


class Runner:
    """Keeps the state and calls `show(state)` after each event, one at a time.

    `pads` is whether the model pads pictures to a square. `faults` has the tracebacks of the
    last 20 errors that were not expected, as text: kept as they are, they would hold memory.
    """

    def __init__(self, llava: Llava, show: Callable[[PanelState], None], *, pads: bool) -> None:
        self.state = PanelState()
        self.faults: deque[str] = deque(maxlen=20)
        self._show, self._pads = show, pads
        self._changed = threading.Condition(threading.RLock())
        self._worker = Worker(llava, self.do, self.explain)

    @property
    def lock(self) -> threading.Condition:
        """Held while the state is changed and shown; a thread may take it again."""
        return self._changed

    def do(self, event: Any) -> None:
        """Let an event happen: the next state, what is to be done, and showing it."""
        with self._changed:
            try:
                self._step(event)
                if self.state.phase != IDLE and not self._worker.alive:
                    self._step(Ended(self.state.job))  # its thread is gone and said nothing
                self._show(self.state)
            finally:
                self._changed.notify_all()

    def _step(self, event: Any) -> None:
        before = self.state.subjects
        self.state, effect = step(self.state, event)
        if self.state.subjects is not before:
            self._worker.talks.keep({subject.key for subject in self.state.subjects})
        try:
            self._perform(effect)
        except BaseException as error:  # no thread can be started, or an interrupt came
            # Of these two the one that does not belong to the phase is ignored.
            message = self.explain(error)
            self._step(Opened(self.state.job, (), (message,)))
            self._step(Failed(self.state.job, message))

    def _perform(self, effect: Any) -> None:
        if isinstance(effect, OpenPictures):
            self._worker.open(effect, pads=self._pads)
        elif isinstance(effect, Begin):
            self._worker.answer(effect)
        elif isinstance(effect, Halt):
            self._worker.halt()

    def guarded(self, action: Callable[..., Any]) -> Callable[..., None]:
        """Return `action` as a callback: what it raises is told in the panel."""

        def call(*arguments: Any, **named: Any) -> None:
            try:
                action(*arguments, **named)
            except BaseException as error:  # an interrupt too: the widget library drops it
                self.do(Tell(self.explain(error), "error"))

        return call

    def explain(self, error: BaseException) -> str:
        """Return what to tell the person, and keep the traceback of what was not expected."""
        if isinstance(error, LlavaNbError):
            return str(error)
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        self.faults.append("".join(traceback.format_exception(error)))
        return (
            f"{type(error).__name__}: {plain(error, 300)}. Nothing is lost and the next question "
            "can be asked; panel.faults[-1] has the details for a report."
        )

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way; False after `timeout` seconds. An interrupt stops."""
        try:
            with self._changed:
                return self._changed.wait_for(lambda: self.state.phase == IDLE, timeout)
        except KeyboardInterrupt:
            self.do(Stop())
            raise
