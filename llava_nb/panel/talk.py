"""Questions and answers: from a click to tasks for the worker, from its reports to entries.

The conversations as shown and those that the model has (`worker.Talks`) go in step:
what failed is shown, and the model was not told of it. Not covered: pictures
(`desk.py`), when a job ends (`state.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .data import ANSWERING, IDLE, OPENING, STOPPING, Entry, Notice, PanelState, Subject, Task
from .events import Again, Answered, Ask, Begin, Failed, More, Piece, Typed

Step = tuple[PanelState, Any]  # the next state, and what is to be done or None


def say(state: PanelState, text: str, kind: str = "info") -> PanelState:
    """Return the state with something to say."""
    return replace(state, notice=Notice(kind, text))


def busy(state: PanelState) -> Step:
    """Say that this has to wait; nothing else changes."""
    return say(state, "Still at work: wait for the end, or press Stop first.", "busy"), None


def typed(state: PanelState, event: Typed) -> Step:
    """Keep what is in the question box."""
    return replace(state, draft=event.text), None


def ask(state: PanelState, event: Ask) -> Step:
    """Ask each picture on the desk; while one is being opened, as soon as it is there."""
    if event.question is not None:
        state = replace(state, draft=event.question)
    if state.phase == OPENING:
        return replace(state, then_ask=replace(event, question=state.draft)), None
    if state.phase != IDLE:
        return busy(state)
    question = state.draft.strip()
    if not state.subjects:
        return say(state, "Choose a picture first: upload one, or click an example."), None
    if not question:
        return say(state, "Write a question first, or choose one from the list."), None
    if not state.talk:
        state = replace(state, opening=question)
    state = replace(state, draft="")
    return _begin(state, [_task(subject, question, event) for subject in state.subjects])


def again(state: PanelState, event: Again) -> Step:
    """Ask the last question again; what failed is tried again as it was."""
    if state.phase != IDLE:
        return busy(state)
    tasks = []
    for subject in state.subjects:
        shown = state.entries(subject.key)
        if shown:
            how = shown[-1].how if shown[-1].failed else "again"
            before = state.told(subject.key)[-1] if how == "more" else None
            tasks.append(_task(subject, shown[-1].prompt, event, how, before))
    return _begin(state, tasks) if tasks else (say(state, "Nothing was asked yet."), None)


def more(state: PanelState, event: More) -> Step:
    """Go on with each last answer that was cut short."""
    if state.phase != IDLE:
        return busy(state)
    tasks = [
        _task(subject, told[-1].prompt, event, "more", told[-1])
        for subject in state.subjects
        if (told := state.told(subject.key)) and told[-1].unfinished
    ]
    return _begin(state, tasks) if tasks else (say(state, "No answer was cut short."), None)


def _task(
    subject: Subject, question: str, event: Ask, how: str = "ask", before: Entry | None = None
) -> Task:
    """One question about one picture; `before` is the answer that is gone on with."""
    entry = Entry(
        key=subject.key,
        picture=subject.picture.name,
        thumbnail=subject.picture.thumbnail,
        model=event.model,
        prompt=question,
        settings=dict(event.settings),
        asked_at=event.at,
        how=how,
    )
    if before is not None:
        entry = replace(entry, number=before.number, text=before.text, answer=before.answer)
    return Task(subject, entry)


def _begin(state: PanelState, tasks: list[Task]) -> Step:
    job = state.job + 1
    state = replace(state, phase=ANSWERING, job=job, todo=tuple(tasks), live_text="", notice=None)
    return state, Begin(job, tuple(tasks))


def _live(state: PanelState, event: Any) -> Task | None:
    """The task that a report of the worker is about, or None if that is over."""
    if event.job != state.job or state.phase not in (ANSWERING, STOPPING) or not state.todo:
        return None
    return state.todo[0]


def piece(state: PanelState, event: Piece) -> Step:
    """Show the answer so far."""
    return (replace(state, live_text=event.text) if _live(state, event) else state), None


def answered(state: PanelState, event: Answered) -> Step:
    """Enter the answer; one made again or gone on with takes the place of the one before."""
    task = _live(state, event)
    if task is None:
        return state, None
    entry, answer = task.entry, event.answer
    if entry.how == "more":  # its tokens are those of both parts, so its seconds are too
        first, both = entry.answer.first_token_seconds, entry.answer.seconds + answer.seconds
        answer = replace(answer, seconds=both, first_token_seconds=first)
    entry = replace(entry, text=answer.text, finish=answer.finish, answer=answer)
    history = list(state.history)
    if entry.number:
        history[entry.number - 1] = entry
    else:
        entry = replace(entry, number=len(history) + 1)
        history.append(entry)
    others = [each for each in state.talk if each.key != entry.key]
    told = state.told(entry.key)
    told = told if entry.how == "ask" else told[:-1]
    state = replace(state, history=tuple(history), talk=(*others, *told, entry))
    return replace(state, todo=state.todo[1:], live_text=""), None


def failed(state: PanelState, event: Failed) -> Step:
    """Enter what came of it and the repair; the question goes back into the box."""
    task = _live(state, event)
    if task is None:
        return state, None
    entry = replace(
        task.entry,
        number=len(state.history) + 1,
        text=task.entry.text + state.live_text,
        finish="failed",
        error=event.message,
        answer=None,
    )
    kept = [each for each in state.talk if not (each.failed and each.key == entry.key)]
    draft = state.draft or (entry.prompt if entry.how == "ask" else "")
    state = replace(state, history=(*state.history, entry), talk=(*kept, entry), draft=draft)
    return replace(say(state, event.message, "error"), todo=state.todo[1:], live_text=""), None
