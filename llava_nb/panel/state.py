"""What the panel does next, as a function: no widgets, no threads, no model.

`step(state, event)` gives the next state and, at most, one thing to do. Whatever happens, in
whatever order, goes through it: clicks, pictures, pieces of text, faults. Three rules hold.
Every busy phase ends with the job that began it. A picture on the desk has a key of its own,
the conversation belongs to the key, and reports of an earlier job are ignored: so no answer
is ever shown for another picture. What was asked stays in `history`.

Covered: which event goes where, stopping, the end of a job. Not covered: the data
(`data.py`, `events.py`), pictures (`desk.py`), questions (`talk.py`),
doing it (`worker.py`), showing it (`html.py`, `box.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import desk, events, talk
from .data import ANSWERING, IDLE, OPENING, STOPPING, PanelState
from .talk import Step, say


def step(state: PanelState, event: Any) -> Step:
    """Return the state after an event, and what is to be done now (or None)."""
    return _HANDLERS[type(event)](state, event)


def _stop(state: PanelState, event: events.Stop) -> Step:
    if state.phase == OPENING:
        state = replace(state, phase=IDLE, job=state.job + 1, then_ask=None)
        return say(state, "Not opened. Choose a picture, or go on with what is here."), None
    if state.phase != ANSWERING:
        return state, None
    return say(replace(state, phase=STOPPING), "Stopping ...", "busy"), events.Halt()


def _ended(state: PanelState, event: events.Ended) -> Step:
    """The worker has done with a job, or is no longer there."""
    if event.job != state.job or state.phase == IDLE:
        return state, None
    if state.phase == OPENING:
        broken = ("The picture could not be opened: choose it again.",)
        return desk.opened(state, events.Opened(event.job, (), broken))
    if state.todo and (state.phase == ANSWERING or state.live_text):
        broken = "The answer broke off. Press Regenerate, or ask again."
        state, _ = talk.failed(state, events.Failed(event.job, broken))
    left = ", ".join(task.entry.picture for task in state.todo)
    not_asked = f" Not asked: {left}." if left else ""
    if state.phase == STOPPING and (state.notice is None or state.notice.kind != "error"):
        state = say(state, f"Stopped.{not_asked}")
    elif state.notice is not None and state.notice.kind == "busy":
        state = replace(state, notice=None)
    elif left:
        state = say(state, state.notice.text + not_asked, "error")
    waiting = state.waiting
    state = replace(state, phase=IDLE, todo=(), live_text="", waiting=None)
    return desk.choose(state, waiting) if waiting is not None else (state, None)


def _tell(state: PanelState, event: events.Tell) -> Step:
    return say(state, event.text, event.kind), None


def _displayed(state: PanelState, event: events.Displayed) -> Step:
    return state, None  # every view shows the same state


_HANDLERS = {
    events.Choose: desk.choose,
    events.Opened: desk.opened,
    events.Reframe: desk.reframe,
    events.Clear: desk.clear,
    events.Typed: talk.typed,
    events.Ask: talk.ask,
    events.Again: talk.again,
    events.More: talk.more,
    events.Piece: talk.piece,
    events.Answered: talk.answered,
    events.Failed: talk.failed,
    events.Stop: _stop,
    events.Ended: _ended,
    events.Tell: _tell,
    events.Displayed: _displayed,
}
