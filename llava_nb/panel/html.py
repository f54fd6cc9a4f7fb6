"""What the panel shows as HTML, and its record as CSV, JSON lines and a page.

Everything that came from outside (names, questions, answers, errors) stays text: it is escaped
here and shown as the characters it has, and a spreadsheet that opens the CSV runs no formula. Of
Markdown an answer may have what `markdown` makes, out of text that is escaped already.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..catalog import about_declining
from ..files import PAGE_BEGINNING, safe_cell, written_beside
from ..sizes import GIB
from ..vram.report import REMEMBERED
from .state import ANSWERING, Entry, Notice, Session

STYLE = f"<style>{Path(__file__).with_name('panel.css').read_text('utf-8')}</style>"
# The text comes from the page itself, never from here: nothing is put into this line. Where
# copying is not allowed, the text is left selected for Ctrl+C.
COPY = (
    "const r=document.createRange(),s=getSelection();"
    "r.selectNodeContents(this.closest('.llava-entry').querySelector('.llava-answer'));"
    "s.removeAllRanges();s.addRange(r);"
    "this.textContent=document.execCommand('copy')?this.dataset.done:this.dataset.byHand"
)


# Markdown: the little of it that models write. Each pattern is for escaped text.
_FENCED = re.compile(r"^```[^\n]*\n(.*?)(?:^```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_MARKED = re.compile(r"[ \t]*(?:(#{1,6})|([-*+•])|(\d{1,3})[.)])[ \t]+(.*)")
_INLINE = re.compile(
    r"`([^`\n]+)`|\*\*(?=\S)(.+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=\S)\*(?![\w*])"
    r"|\[([^\]\n]+)\]\((https?://[^\s()<>]+)\)"
)


def markdown(text: str) -> str:
    """Return an answer as HTML: paragraphs, lists, headings, bold, italic, code, http(s) links.

    All else, HTML above all, is shown as the characters that it is written with.
    """
    pieces = _FENCED.split(escape(text))
    shown = (f"<pre>{each}</pre>" if at % 2 else _blocks(each) for at, each in enumerate(pieces))
    return "".join(shown)


def _blocks(text: str) -> str:
    made = ""
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [(_MARKED.fullmatch(line), line) for line in block.split("\n") if line.strip()]
        for kind, same in itertools.groupby(lines, lambda each: _kind(each[0])):
            same = list(same)
            if kind == "p":
                made += f"<p>{_inline(chr(10).join(line for _, line in same))}</p>"
            elif kind == "h":
                made += "".join(f"<p><strong>{_inline(mark[4])}</strong></p>" for mark, _ in same)
            else:
                start = f' start="{int(same[0][0][3])}"' if kind == "ol" else ""
                items = "".join(f"<li>{_inline(mark[4])}</li>" for mark, _ in same)
                made += f"<{kind}{start}>{items}</{kind}>"
    return made


def _kind(mark: re.Match | None) -> str:
    if mark is None:
        return "p"
    return "h" if mark[1] else "ul" if mark[2] else "ol"


def _inline(text: str) -> str:
    def put(found: re.Match) -> str:
        code, bold, italic, label, address = found.groups()
        if code:
            return f"<code>{code}</code>"
        if address:  # escaped, so that no quote in it ends the attribute
            return f'<a href="{address}" target="_blank" rel="noopener noreferrer">{label}</a>'
        return f"<strong>{_inline(bold)}</strong>" if bold else f"<em>{_inline(italic)}</em>"

    return _INLINE.sub(put, text)


# What the panel shows. `texts` are those of its language.


def picture(name: str, thumbnail: str) -> str:
    """Return a thumbnail, which is a data URI."""
    return f'<img src="{thumbnail}" alt="{escape(name)}">'


def pictures(session: Session, square: str) -> str:
    """Return the chosen pictures: thumbnail, name, size, what was done."""
    shown = [each.picture for each in session.conversations]
    cells = (
        f"<figure>{picture(each.name, each.thumbnail)}<figcaption><b>{escape(each.name)}</b> "
        f"<span>{escape(each.notes(square))}</span></figcaption></figure>"
        for each in shown
    )
    return f'<div class="llava-figures">{"".join(cells)}</div>' if shown else ""


def how_made_square(llava: Any, texts: Mapping[str, str]) -> str:
    """Say what becomes of a picture that is not square, as the model was published."""
    image_processor = getattr(getattr(llava, "processor", None), "image_processor", None)
    if getattr(image_processor, "do_pad", False):
        return texts["padded"]
    return texts["cropped"] if getattr(image_processor, "do_center_crop", False) else ""


def notice(shown: Notice | None, texts: Mapping[str, str], more: str = "") -> str:
    """Return a notice that screen readers hear of, with more behind it; empty without one."""
    if shown is None:
        return ""
    about = shown.about or texts["picture"]
    text = texts[shown.text].format(about=about) if shown.text in texts else shown.text
    role = "alert" if shown.kind == "error" else "status"
    return f'<div role="{role}" class="llava-{shown.kind}">{escape(text)}{escape(more)}</div>'


def turns(session: Session, texts: Mapping[str, str]) -> dict[int, str]:
    """Return each question with the answers to it side by side, the one under way in its place."""
    asked: dict[int, dict[tuple[int, str], list[Entry]]] = {}
    kept = [entry for each in session.conversations for entry in each.entries]
    now = session.todo[0] if session.todo else None
    if now is not None and now.how in ("again", "more"):  # the last is made anew or gone on with
        where = (now.key, now.turn, now.variant)
        kept = [each for each in kept if (each.key, each.turn, each.variant) != where]
    for entry in (*kept, *session.todo):
        cells = asked.setdefault(entry.turn, {})
        cells.setdefault((entry.key, entry.variant), []).append(entry)
    order = [each.key for each in session.conversations]
    shown = {}
    for turn, cells in sorted(asked.items()):
        first = next(iter(cells.values()))[0]
        compared = any(variant for _, variant in cells)
        columns = ""
        for where in sorted(cells, key=lambda where: (order.index(where[0]), where[1])):
            entry = cells[where][0]
            label = [entry.picture] if len(order) > 1 else []
            warmth = {"temperature": f"{entry.settings.get('temperature', 0):g}"}
            label += [entry.variant or said_settings(warmth, texts)] if compared else []
            columns += _cell(" · ".join(label), cells[where], session, texts)
        busy = "true" if any(each.turn == turn for each in session.todo) else "false"
        shown[turn] = (
            f'<div class="llava-turn" aria-busy="{busy}"><div class="llava-q" dir="auto">'
            f'{escape(first.prompt)}</div><div class="llava-cells">{columns}</div></div>'
        )
    return shown


def _cell(label: str, entries: Sequence[Entry], session: Session, texts: Mapping[str, str]) -> str:
    """Return one answer, or what failed after it, under a label where there are others beside."""
    shown = f'<div class="llava-label">{escape(label)}</div>' if label else ""
    for entry in entries:
        under_way = any(entry is each for each in session.todo)
        shown += _under_way(entry, session, texts) if under_way else _entry(entry, texts)
    return f'<div class="llava-cell">{shown}</div>'


def said_settings(settings: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Name settings, to be read beside others, as far as the panel has words for them."""
    words = {"temperature": texts["temperature"].lower() + " {about}", "style": texts["style"]}
    said = (words.get(name, f"{name} {{about}}").format(about=it) for name, it in settings.items())
    return ", ".join(said)


def gib(count: int) -> str:
    """Return bytes as GiB with one digit: here they are read at a glance."""
    return f"{count / GIB:.1f}"


def _under_way(entry: Entry, session: Session, texts: Mapping[str, str]) -> str:
    text, wait = "", texts["next"]
    if entry is session.todo[0]:
        text = entry.text + session.live_text
        wait = texts["looking"].format(about=int(session.seconds))
        if session.phase != ANSWERING:
            wait = texts["stopping"]
    said = _answer(text) if text else ""
    if not text or session.phase != ANSWERING:
        said += f'<div class="llava-wait">{escape(wait)}</div>'
    return f'<div class="llava-entry">{said}</div>'


def _answer(text: str) -> str:
    return f'<div dir="auto" class="llava-answer">{markdown(text)}</div>'


def _entry(entry: Entry, texts: Mapping[str, str]) -> str:
    shown = _answer(entry.text) if entry.text else ""
    if entry.failed:
        error = escape(texts.get(entry.error, entry.error))
        shown += f'<div class="llava-error" role="alert">{error}</div>'
    if about_declining(entry.model, entry.text):
        shown += f'<div class="llava-info">{escape(texts["drawings_only"])}</div>'
    figures = []
    if entry.answer is not None:
        seconds, rate = entry.answer.seconds, entry.answer.tokens_per_second
        figures = [texts["figures"].format(seconds=seconds, rate=rate)]
        figures.append(
            {"limit": texts["limit"], "stopped": texts["stopped_short"]}.get(entry.finish)
        )
    said = escape(" · ".join(filter(None, figures)))
    if entry.text:
        said += (
            f' <button type="button" class="llava-copy" data-done="{escape(texts["copied"])}" '
            f'data-by-hand="{escape(texts["copy_by_hand"])}" onclick="{COPY}">'
            f"{escape(texts['copy'])}</button>"
        )
    return f'<div class="llava-entry">{shown}<div class="llava-said">{said}</div></div>'


def model_line(llava: Any, report: Any, texts: Mapping[str, str]) -> str:
    """Say in one line which model answers, on what, and how much of the memory is taken."""
    if llava is None:
        return f"<span>{escape(texts['no_model_yet'])}</span>"
    if llava.closed:
        return f"<span>{escape(texts['closed'].format(about=llava.name))}</span>"
    is_ram = report.memory == "RAM"
    where = texts["on"].format(about=texts["cpu"] if is_ram else report.owner)
    line = f"<b>{escape(llava.name)}</b> {escape(texts[str(llava.quantization)])} {escape(where)}"
    if None not in (report.total_bytes, report.free_bytes):
        taken = {"used": gib(report.total_bytes - report.free_bytes)}
        taken |= {"total": gib(report.total_bytes), "about": report.memory}
        line += f" · {escape(texts['memory'].format(**taken))}"
    return f"<span>{line}</span>"


def memory_bar(report: Any, texts: Mapping[str, str]) -> str:
    """Return a bar of what matters: the model, what it keeps, what is free; the rest is grey."""
    if not report.total_bytes or report.free_bytes is None:
        return ""
    kept = report.parts.get(REMEMBERED, 0)
    parts = {"part_model": sum(report.parts.values()) - kept, "part_kept": kept}
    parts["part_other"] = max(report.total_bytes - report.free_bytes - sum(parts.values()), 0)
    parts["part_free"] = report.free_bytes
    bar = legend = ""
    for name, count in parts.items():
        share = f"width: {100 * count / max(sum(parts.values()), 1):.2f}%"
        said = f"{escape(texts[name])} {gib(count)} GiB"
        bar += f'<span class="llava-{name}" style="{share}"></span>'
        legend += f'<span><i class="llava-{name}"></i>{said}</span>'
    bar = f'<div class="llava-bar" aria-hidden="true">{bar}</div>'
    return f'{bar}<div class="llava-legend">{legend}</div>'


# The record.

TEXTS = (
    "number",
    "asked_at",
    "model",
    "picture",
    "prompt",
    "variant",
    "answer",
    "finish",
    "error",
)
NUMBERS = ("tokens", "seconds", "first_token_seconds", "tokens_per_second", "peak_vram_bytes")
SETTINGS = ("max_new_tokens", "temperature", "top_p", "style")


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
article { display: flex; flex-wrap: wrap; gap: 1em; padding: 1em 0; border-top: 1px solid; }
article > div { flex: 1 1 20em; min-width: 0; overflow-wrap: anywhere; }
img { max-width: 100%; max-height: 16em; }
p { white-space: pre-wrap; margin: 0.2em 0; }
</style>
</head>
<body>
<h1>Pictures and answers</h1>
"""


def to_page(entries: Sequence[Entry]) -> str:
    """Return one page that needs nothing else: pictures small, answers, figures."""
    talks = itertools.groupby(entries, lambda each: (each.key, each.picture))
    articles = (_article(list(talk)) for _, talk in talks)
    return f"{PAGE_BEGINNING}{PAGE_HEAD}{''.join(articles)}</body>\n</html>\n"


def _article(entries: Sequence[Entry]) -> str:
    """Return what was asked about one picture, with the picture once."""
    name, rows = entries[0].picture, "".join(map(_row, entries))
    shown = f"<div>{picture(name, entries[0].thumbnail)}<p>{escape(name)}</p></div>"
    return f"<article>{shown}<div>{rows}</div></article>\n"


def _row(entry: Entry) -> str:
    chosen = [f"{name} {value}" for name, value in entry.settings.items() if value is not None]
    summary = entry.answer.summary if entry.answer else entry.error
    about = (summary, entry.model, entry.variant, ", ".join(chosen), entry.asked_at)
    return (
        f'<p dir="auto"><b>{entry.number}. {escape(entry.prompt)}</b></p>'
        f'<p dir="auto">{escape(entry.text)}</p>'
        f"<small>{escape('; '.join(filter(None, about)))}</small>"
    )


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
