"""The record of a panel as a table: CSV, JSON lines, and one HTML page with thumbnails.

Whatever was typed or answered stays text: the page escapes it and runs nothing, and a
spreadsheet that opens the CSV runs no formula. Not covered: what is entered (`talk.py`).
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import LlavaNbError, plain
from ..files import PAGE_BEGINNING, safe_cell, written_beside
from .data import Entry
from .pictures import data_uri

FIGURES = ("tokens", "seconds", "first_token_seconds", "tokens_per_second", "peak_vram_bytes")
SETTINGS = ("max_new_tokens", "temperature", "top_p", "crop")
COLUMNS = ("number", "asked_at", "model", "picture", "prompt", "answer", "finish", "error")


def row_of(entry: Entry) -> dict[str, Any]:
    """Return an entry as a flat row; figures that there are not are None."""
    row: dict[str, Any] = {
        name: getattr(entry, "text" if name == "answer" else name) for name in COLUMNS
    }
    for name in FIGURES:
        figure = getattr(entry.answer, name, None)
        row[name] = round(figure, 3) if isinstance(figure, float) else figure
    return row | {name: entry.settings.get(name) for name in SETTINGS}


def to_csv(entries: Sequence[Entry]) -> str:
    """Return the table as CSV; text that a spreadsheet would run begins with an apostrophe."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [*COLUMNS, *FIGURES, *SETTINGS])
    writer.writeheader()
    for entry in entries:
        writer.writerow({name: safe_cell(value) for name, value in row_of(entry).items()})
    return file.getvalue()


def to_jsonl(entries: Sequence[Entry]) -> str:
    """Return the table as JSON, one object a line, every text as it was."""
    return "".join(json.dumps(row_of(entry), ensure_ascii=False) + "\n" for entry in entries)


PAGE = (
    PAGE_BEGINNING
    + """<title>Pictures and answers</title>
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; }}
body {{ margin: 1em auto; max-width: 60em; padding: 0 1em; }}
article {{ display: flex; flex-wrap: wrap; gap: 1em; padding: 1em 0; border-top: 1px solid; }}
article > div {{ flex: 1 1 18em; min-width: 0; overflow-wrap: anywhere; }}
img {{ max-width: 12em; max-height: 12em; align-self: flex-start; }}
p {{ white-space: pre-wrap; margin: 0.4em 0; }}
small {{ opacity: 0.75; }}
</style>
</head>
<body>
<h1>Pictures and answers</h1>
{articles}
</body>
</html>
"""
)
ARTICLE = """<article>
<img src="{thumbnail}" alt="{picture}">
<div><small>{number}. {picture}</small><p><b>{prompt}</b></p><p>{text}</p><small>{about}</small>
</div>
</article>"""


def to_html(entries: Sequence[Entry]) -> str:
    """Return one page that needs nothing else: pictures small, answers, figures."""
    return PAGE.format(articles="\n".join(map(_article, entries)))


def _article(entry: Entry) -> str:
    settings = ", ".join(
        f"{name} {value}" for name, value in entry.settings.items() if value not in (None, False)
    )
    summary = entry.answer.summary if entry.answer else entry.error
    about = "; ".join(filter(None, [summary, entry.model, settings, entry.asked_at]))
    texts = {
        "picture": entry.picture,
        "prompt": entry.prompt,
        "text": entry.text,
        "about": about,
    }
    escaped = {name: html.escape(text) for name, text in texts.items()}
    return ARTICLE.format(thumbnail=data_uri(entry.thumbnail), number=entry.number, **escaped)


FORMS: dict[str, Callable[[Sequence[Entry]], str]] = {
    "csv": to_csv,
    "jsonl": to_jsonl,
    "html": to_html,
}


def encoded(form: str, entries: Sequence[Entry]) -> bytes:
    """Return the record in a form of `FORMS`, as UTF-8; CSV with the mark that Excel needs."""
    encoding = "utf-8-sig" if form == "csv" else "utf-8"
    return FORMS[form](entries).encode(encoding, "backslashreplace")


def save(entries: Sequence[Entry], folder: str | os.PathLike, name: str) -> list[Path]:
    """Write `name`.csv, .jsonl and .html into a folder, each whole or not at all.

    Replaces files of these names. Raises LlavaNbError if something cannot be written.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise LlavaNbError(
            f"The folder for the record is a {type(folder).__name__}; it is a path: "
            'panel.save("my-captions").'
        )
    paths = []
    try:
        place = Path(folder).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        for form in FORMS:
            path = place / f"{name}.{form}"
            with written_beside(path) as beside:
                beside.write_bytes(encoded(form, entries))
            paths.append(path)
    except (OSError, RuntimeError, ValueError) as error:
        why = plain(getattr(error, "strerror", None) or error)
        raise LlavaNbError(
            f"The record cannot be written to '{plain(folder)}' ({why}). Choose "
            'another folder: panel.save("/tmp").'
        ) from error
    return paths
