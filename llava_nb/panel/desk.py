"""Pictures on the desk: chosen, opened, framed, and talked about anew.

Every picture that is put on the desk gets a new key, and with it a new conversation. Not
covered: opening (`pictures.py`), questions (`talk.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .data import ANSWERING, IDLE, OPENING, STOPPING, PanelState, Subject
from .events import Choose, Clear, Opened, OpenPictures, Reframe
from .talk import Step, ask, busy, say


def choose(state: PanelState, event: Choose) -> Step:
    """Have pictures opened; while an answer is under way, they come after it."""
    if state.phase in (ANSWERING, STOPPING):
        later = f"{event.what} comes as soon as this answer has ended."
        return say(replace(state, waiting=event), later[:1].upper() + later[1:], "busy"), None
    job = state.job + 1
    state = replace(state, phase=OPENING, job=job, waiting=None, then_ask=event.then_ask)
    return say(state, f"Opening {event.what} ...", "busy"), OpenPictures(job, event.sources)


def opened(state: PanelState, event: Opened) -> Step:
    """Put what was opened on the desk; if nothing was, the desk stays as it is."""
    if event.job != state.job or state.phase != OPENING:
        return state, None  # given up, or something else was chosen since
    question, state = state.then_ask, replace(state, phase=IDLE, then_ask=None)
    problems = "\n".join(event.problems)
    if not event.pictures:
        return say(state, problems or "No picture arrived: choose it again.", "error"), None
    state = _put(state, event.pictures)
    state = replace(state, draft=state.draft or state.opening, notice=None)
    effect = None
    if question is not None:
        state, effect = ask(state, question)
    return (say(state, problems, "error") if problems else state), effect


def reframe(state: PanelState, event: Reframe) -> Step:
    """Show the model more or less of the pictures, which begins new conversations."""
    if event.crop == state.crop:
        return state, None
    if state.phase != IDLE:
        return busy(state)
    talked = bool(state.talk)
    state = _put(replace(state, crop=event.crop, notice=None), _pictures(state))
    if talked:
        state = say(state, "The model sees another part of the picture: a new conversation.")
    return state, None


def clear(state: PanelState, event: Clear) -> Step:
    """Begin new conversations about the same pictures."""
    if state.phase != IDLE:
        return busy(state)
    state = replace(state, draft=state.draft or state.opening, notice=None)
    return _put(state, _pictures(state)), None


def _pictures(state: PanelState) -> tuple[Any, ...]:
    return tuple(subject.picture for subject in state.subjects)


def _put(state: PanelState, pictures: tuple[Any, ...]) -> PanelState:
    framed = [picture.framed(state.crop) for picture in pictures]
    first = state.next_key
    subjects = tuple(Subject(first + at, picture) for at, picture in enumerate(framed))
    return replace(state, subjects=subjects, next_key=first + len(subjects), talk=())
