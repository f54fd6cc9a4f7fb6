"""The panel's state as HTML: the desk, the conversations, a notice, the links to the record.

Everything that came from outside (names, questions, answers, errors) is escaped here and shown
as the characters it has. There are no colours of its own for text, so that it reads in light and
dark themes; columns wrap on a narrow page. Not covered: the widgets (`box.py`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..catalog import known_models
from ..sizes import IN_WORDS
from .data import ANSWERING, Entry, Notice, PanelState, Subject
from .pictures import data_uri
from .record import FORMS, encoded

if TYPE_CHECKING:
    from ..inference.llava import Llava

COLUMNS = "display: flex; flex-wrap: wrap; gap: 0.5em 1.5em; line-height: 1.45"
COLUMN = "flex: 1 1 15em; min-width: 0; max-width: 60em; overflow-wrap: anywhere"
TEXT = "white-space: pre-wrap; margin: 0.2em 0; font-size: 1.1em"
QUESTION = "white-space: pre-wrap; margin: 0.8em 0 0; font-weight: bold"
FIGURES = "opacity: 0.75; font-size: 0.9em"
EDGES = {
    "info": "hsl(210, 60%, 55%)",
    "busy": "hsl(45, 80%, 50%)",
    "error": "hsl(0, 70%, 55%)",
}
# The text comes from the page itself, never from here: nothing is put into this line. Where
# copying is not allowed, the text is left selected for Ctrl+C.
COPY = (
    "const r=document.createRange();r.selectNodeContents(this.previousElementSibling);"
    "const s=getSelection();s.removeAllRanges();s.addRange(r);"
    "this.textContent=document.execCommand('copy')?'Copied':'Selected: press Ctrl+C'"
)
BUTTON = (
    "font: inherit; color: inherit; background: transparent; border: 1px solid; "
    "border-radius: 3px; padding: 0 0.6em; opacity: 0.75; cursor: pointer"
)
# The legend of the memory bar beside itself instead of below: it is the least important thing.
STYLE = (
    "<style>.llava-memory table, .llava-memory tbody {display: flex; flex-wrap: wrap} "
    ".llava-memory tr {display: flex; margin-right: 1.2em; background: transparent !important} "
    ".llava-memory td {padding: 0 0.3em}</style>"
)
MIMES = {"csv": "text/csv", "jsonl": "application/jsonl", "html": "text/html"}


def model_line(llava: Llava) -> str:
    """Say which model answers, and what it knows if it is one of the catalog."""
    if llava.closed:
        return f"<b>{escape(llava.name)}</b> has been closed."
    about = f"{IN_WORDS.get(llava.quantization, '')}, on {llava.device}"
    known = {model.name: model.note for model in known_models()}
    note = known.get(llava.name, "")
    note = f" It is {note}." if note else ""
    said = f"Answers come from <b>{escape(llava.name)}</b> {escape(about)}.{escape(note)}"
    return f'<div style="line-height: 1.4">{said}</div>'


def memory(report: str) -> str:
    """Return a memory report so that it takes little room."""
    return f"{STYLE}{report}"


def example_card(name: str, thumbnail: bytes) -> str:
    """Return a bundled picture for the gallery."""
    style = "max-width: 6em; max-height: 6em; display: block; margin: 0 auto"
    return f'<img src="{data_uri(thumbnail)}" alt="{escape(name)}" style="{style}">'


def notice(said: Notice | None) -> str:
    """Return a notice that screen readers hear of; empty without one."""
    if said is None:
        return ""
    role = "alert" if said.kind == "error" else "status"
    style = (
        f"border-left: 4px solid {EDGES[said.kind]}; padding: 0.2em 0.6em; "
        "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.45"
    )
    return f'<div role="{role}" style="{style}">{escape(said.text)}</div>'


def desk(subjects: Sequence[Subject]) -> str:
    """Return the pictures on the desk: thumbnail, name, size, what was done."""
    if not subjects:
        return '<div style="opacity: 0.75">No picture yet: upload one, or click an example.</div>'
    columns = []
    for subject in subjects:
        picture = subject.picture
        image = (
            f'<img src="{data_uri(picture.thumbnail)}" alt="{escape(picture.name)}" '
            'style="max-width: 100%; max-height: 16em; display: block">'
        )
        caption = f"<b>{escape(picture.name)}</b> <small>{escape(picture.notes)}</small>"
        columns.append(f'<div style="{COLUMN}">{image}{caption}</div>')
    return f'<div style="{COLUMNS}">{"".join(columns)}</div>'


def talk(state: PanelState) -> str:
    """Return the conversations side by side, with the answer under way in its place."""
    columns = []
    for subject in state.subjects:
        shown = [_entry(entry) for entry in _without_replaced(state, subject)]
        shown += _under_way(state, subject)
        if shown:
            several = len(state.subjects) > 1
            name = f"<small>{escape(subject.picture.name)}</small>" if several else ""
            columns.append(f'<div style="{COLUMN}">{name}{"".join(shown)}</div>')
    if not columns:
        return ""
    busy = "true" if state.todo else "false"
    return f'<div aria-live="polite" aria-busy="{busy}" style="{COLUMNS}">{"".join(columns)}</div>'


def _without_replaced(state: PanelState, subject: Subject) -> list[Entry]:
    """What is shown of a conversation; an answer that is being made anew is not."""
    entries = state.entries(subject.key)
    live = state.todo[0] if state.todo else None
    if live and live.subject.key == subject.key and live.entry.how != "ask":
        return state.told(subject.key)[:-1]
    return entries


def _under_way(state: PanelState, subject: Subject) -> list[str]:
    for place, task in enumerate(state.todo):
        if task.subject.key == subject.key:
            said = task.entry.text + state.live_text if place == 0 else ""
            wait = "looking at the picture ..." if state.phase == ANSWERING else "stopping ..."
            wait = wait if place == 0 else "comes next ..."
            return [
                _question(task.entry.prompt),
                _text(said),
                f'<div style="{FIGURES}">{wait}</div>' if not said else "",
            ]
    return []


def _question(prompt: str) -> str:
    return f'<div dir="auto" style="{QUESTION}">{escape(prompt)}</div>'


def _text(text: str) -> str:
    return f'<div dir="auto" class="llava-answer" style="{TEXT}">{escape(text)}</div>'


def _entry(entry: Entry) -> str:
    figures = entry.answer.summary if entry.answer else entry.error
    if entry.unfinished:
        figures += " (Continue goes on)"
    copy = f'<button type="button" style="{BUTTON}" onclick="{COPY}">Copy</button>'
    copy = copy if entry.text else ""
    return (
        f"{_question(entry.prompt)}{_text(entry.text)}{copy} "
        f'<span style="{FIGURES}">{escape(figures)}</span>'
    )


def links(entries: Sequence[Entry], name: str) -> str:
    """Return links that hold the record themselves, for a page that is far from the disk."""
    made = []
    for form in FORMS:
        packed = base64.b64encode(encoded(form, entries)).decode()
        file = escape(f"{name}.{form}")
        made.append(f'<a download="{file}" href="data:{MIMES[form]};base64,{packed}">{file}</a>')
    return f"Download: {' · '.join(made)}"
