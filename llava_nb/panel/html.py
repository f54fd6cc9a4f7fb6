"""What the panel shows as HTML, and its record as CSV, JSON lines and a page.

Everything that came from outside (names, questions, answers, errors) stays text: it is escaped
here and shown as the characters it has, and a spreadsheet that opens the CSV runs no formula.
There are no colours of its own for text, so that it reads in light and dark themes; columns wrap
on a narrow page.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..catalog import known_models
from ..files import PAGE_BEGINNING, safe_cell, written_beside
from ..sizes import IN_WORDS
from .state import ANSWERING, Conversation, Entry, Notice, Session

COLUMNS = "display: flex; flex-wrap: wrap; gap: 0.5em 1.5em; line-height: 1.45"
COLUMN = "flex: 1 1 15em; min-width: 0; max-width: 60em; overflow-wrap: anywhere"
TEXT = "white-space: pre-wrap; margin: 0.2em 0; font-size: 1.1em"
QUESTION = "white-space: pre-wrap; margin: 0.8em 0 0; font-weight: bold"
FIGURES = "opacity: 0.75; font-size: 0.9em"
EXAMPLE = "max-width: 6em; max-height: 6em; display: block; margin: 0 auto"
PICTURE = "max-width: 100%; max-height: 16em; display: block"
NOTICE = (
    "border-left: 4px solid {colour}; padding: 0.2em 0.6em; white-space: pre-wrap; "
    "overflow-wrap: anywhere; line-height: 1.45"
)
EDGES = {"info": "hsl(210, 60%, 55%)", "busy": "hsl(45, 80%, 50%)", "error": "hsl(0, 70%, 55%)"}
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
MEMORY_STYLE = (
    "<style>.llava-memory table, .llava-memory tbody {display: flex; flex-wrap: wrap} "
    ".llava-memory tr {display: flex; margin-right: 1.2em; background: transparent !important} "
    ".llava-memory td {padding: 0 0.3em}</style>"
)


def model_line(llava: Any) -> str:
    """Say which model answers, and what it knows if it is one of the catalog."""
    if llava.closed:
        return f"<b>{escape(llava.name)}</b> has been closed."
    about = f"{IN_WORDS.get(llava.quantization, '')}, on {llava.device}."
    for model in known_models():
        if model.name == llava.name:
            about += f" It is {model.note}."
    text = f"Answers come from <b>{escape(llava.name)}</b> {escape(about)}"
    return f'<div style="line-height: 1.4">{text}</div>'


def picture(name: str, thumbnail: str, style: str = PICTURE) -> str:
    """Return a thumbnail, which is a data URI."""
    return f'<img src="{thumbnail}" alt="{escape(name)}" style="{style}">'


def notice(shown: Notice | None) -> str:
    """Return a notice that screen readers hear of; empty without one."""
    if shown is None:
        return ""
    role = "alert" if shown.kind == "error" else "status"
    style = NOTICE.format(colour=EDGES[shown.kind])
    return f'<div role="{role}" style="{style}">{escape(shown.text)}</div>'


def pictures(conversations: Sequence[Conversation], square: str) -> str:
    """Return the chosen pictures: thumbnail, name, size, what was done."""
    if not conversations:
        return '<div style="opacity: 0.75">No picture yet: upload one, or click an example.</div>'
    shown = [each.picture for each in conversations]
    return _side_by_side(
        f"{picture(each.name, each.thumbnail)}<b>{escape(each.name)}</b> "
        f"<small>{escape(each.notes(square))}</small>"
        for each in shown
    )


def answers(session: Session) -> str:
    """Return the conversations side by side, with the answer under way in its place."""
    columns = []
    for each in session.conversations:
        entries, under_way = each.entries, ""
        for question in session.todo:
            if question.key == each.key:
                under_way = _under_way(session, question)
                if question is session.todo[0] and question.how != "ask":
                    entries = each.answered[:-1]  # the last is being made anew or gone on with
        if entries or under_way:
            several = len(session.conversations) > 1
            name = f"<small>{escape(each.picture.name)}</small>" if several else ""
            columns.append(f"{name}{''.join(map(_entry, entries))}{under_way}")
    busy = "true" if session.todo else "false"
    return _side_by_side(columns, f'aria-live="polite" aria-busy="{busy}"') if columns else ""


def _side_by_side(columns: Iterable[str], attributes: str = "") -> str:
    shown = "".join(f'<div style="{COLUMN}">{column}</div>' for column in columns)
    return f'<div {attributes} style="{COLUMNS}">{shown}</div>'


def _under_way(session: Session, question: Entry) -> str:
    text, wait = "", "comes next ..."
    if question is session.todo[0]:
        text = question.text + session.live_text
        wait = "looking at the picture ..." if session.phase == ANSWERING else "stopping ..."
    return _asked(question.prompt, text) + ("" if text else f'<div style="{FIGURES}">{wait}</div>')


def _asked(prompt: str, text: str) -> str:
    return (
        f'<div dir="auto" style="{QUESTION}">{escape(prompt)}</div>'
        f'<div dir="auto" class="llava-answer" style="{TEXT}">{escape(text)}</div>'
    )


def _entry(entry: Entry) -> str:
    figures = entry.answer.summary if entry.answer else entry.error
    if entry.unfinished:
        figures += " (Continue goes on)"
    copy = f'<button type="button" style="{BUTTON}" onclick="{COPY}">Copy</button>'
    return (
        f"{_asked(entry.prompt, entry.text)}{copy if entry.text else ''} "
        f'<span style="{FIGURES}">{escape(figures)}</span>'
    )


# The record.

TEXTS = ("number", "asked_at", "model", "picture", "prompt", "answer", "finish", "error")
NUMBERS = ("tokens", "seconds", "first_token_seconds", "tokens_per_second", "peak_vram_bytes")
SETTINGS = ("max_new_tokens", "temperature", "top_p")


def row_of(entry: Entry) -> dict[str, Any]:
    """Return an entry as a flat row; figures that there are not are None."""
    row = {name: getattr(entry, "text" if name == "answer" else name) for name in TEXTS}
    for name in NUMBERS:
        figure = getattr(entry.answer, name, None)
        row[name] = round(figure, 3) if isinstance(figure, float) else figure
    return row | {name: entry.settings.get(name) for name in SETTINGS}


def to_csv(entries: Sequence[Entry]) -> str:
    """Return the table as CSV; text that a spreadsheet would run begins with an apostrophe."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [*TEXTS, *NUMBERS, *SETTINGS])
    writer.writeheader()
    for entry in entries:
        writer.writerow({name: safe_cell(value) for name, value in row_of(entry).items()})
    return file.getvalue()


def to_jsonl(entries: Sequence[Entry]) -> str:
    """Return the table as JSON, one object a line, every text as it was."""
    rows = (json.dumps(row_of(entry), ensure_ascii=False, default=str) for entry in entries)
    return "".join(f"{row}\n" for row in rows)


PAGE_HEAD = """<title>Pictures and answers</title>
<style>
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 1em auto; max-width: 60em; padding: 0 1em; }
article { padding: 1em 0; border-top: 1px solid; }
</style>
</head>
<body>
<h1>Pictures and answers</h1>
"""


def to_page(entries: Sequence[Entry]) -> str:
    """Return one page that needs nothing else: pictures small, answers, figures."""
    return f"{PAGE_BEGINNING}{PAGE_HEAD}{''.join(map(_article, entries))}</body>\n</html>\n"


def _article(entry: Entry) -> str:
    chosen = [f"{name} {value}" for name, value in entry.settings.items() if value is not None]
    summary = entry.answer.summary if entry.answer else entry.error
    about = "; ".join(filter(None, [summary, entry.model, ", ".join(chosen), entry.asked_at]))
    texts = (
        f"<small>{entry.number}. {escape(entry.picture)}</small>"
        f'{_asked(entry.prompt, entry.text)}<span style="{FIGURES}">{escape(about)}</span>'
    )
    columns = [picture(entry.picture, entry.thumbnail), texts]
    return f"<article>{_side_by_side(columns)}</article>\n"


# By the file's ending. utf-8-sig begins with the mark by which Excel knows UTF-8.
FORMS = {"csv": (to_csv, "utf-8-sig"), "jsonl": (to_jsonl, "utf-8"), "html": (to_page, "utf-8")}


def save_record(entries: Sequence[Entry], folder: Path, name: str) -> list[Path]:
    """Write `name`.csv, .jsonl and .html into a folder, each whole or not at all. Raises OSError.

    Replaces files of these names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{form}" for form in FORMS]
    for path, (text_of, encoding) in zip(paths, FORMS.values(), strict=True):
        with written_beside(path) as beside:
            beside.write_bytes(text_of(entries).encode(encoding, "backslashreplace"))
    return paths
