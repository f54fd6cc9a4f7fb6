"""A contact sheet: pictures with their captions under them, as an HTML page and as a PNG.

The page needs nothing else and runs nothing, whatever files and captions are called. The PNG is
for slides and reports; its one font has no Hangul and no emoji, the page shows them all. Not
covered: which pictures (`result.py`).
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..errors import LlavaNbError, plain
from ..files import PAGE_BEGINNING
from ..panel.pictures import data_uri
from .entries import Entry
from .journal import partial
from .reader import read_picture
from .rows import Row

THUMBNAIL, MARGIN, LINE, LINES, LETTERS = 160, 8, 14, 6, 11  # pixels; lines; height of letters
PAPER, INK, EMPTY = "white", "black", (225, 225, 225)
PAGE = (
    PAGE_BEGINNING
    + """<title>Pictures and captions</title>
<style>
:root {{ color-scheme: light dark; font-family: system-ui, sans-serif; }}
main {{ display: grid; gap: 1em; grid-template-columns: repeat(auto-fill, minmax(11em, 1fr)); }}
figure {{ margin: 0; overflow-wrap: anywhere; }}
img {{ max-width: 100%; }}
small {{ opacity: 0.75; }}
figcaption {{ white-space: pre-wrap; }}
</style>
</head>
<body>
<h1>Pictures and captions</h1>
<p>{shown} of {total} pictures</p>
<main>
"""
)
FIGURE = """<figure>{image}<figcaption>{text}
<small>{name}</small></figcaption></figure>
"""
END = "</main>\n</body>\n</html>\n"


@dataclass(frozen=True)
class ContactSheet:
    """Where the page and the PNG are, and how many of the pictures they show."""

    html: Path
    png: Path
    shown: int
    total: int
    _pixels: bytes = field(default=b"", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.shown:,} of {self.total:,} pictures in {self.html} and {self.png}"

    def _repr_png_(self) -> bytes:
        return self._pixels


def sheet_path(output: Path) -> Path:
    """Return where the PNG of a table is written."""
    return output.with_name(f"{output.stem}.sheet.png")


def draw_sheet(
    rows: Sequence[Row], entries: Sequence[Entry], png: Path, *, columns: int, limit: int
) -> ContactSheet:
    """Write the PNG and the page beside it, each whole or not at all. Raises LlavaNbError."""
    if columns < 1 or limit < 1:
        raise LlavaNbError("A contact sheet has one column and one picture or more: columns=5.")
    if not rows:
        raise LlavaNbError("There are no captions yet: run caption_folder to its end first.")
    shown = rows[:limit]
    places = {entry.name: entry for entry in entries}
    lines = -(-len(shown) // columns)
    width, height = THUMBNAIL + MARGIN, THUMBNAIL + LINES * LINE + 2 * MARGIN
    paper = Image.new("RGB", (min(columns, len(shown)) * width + MARGIN, lines * height), PAPER)
    page = png.with_suffix(".html")
    try:
        with open(partial(page), "w", encoding="utf-8") as file:
            file.write(PAGE.format(shown=len(shown), total=len(rows)))
            for number, row in enumerate(shown):
                small = _thumbnail(places[row.file])
                file.write(_figure(row, small))
                left, top = number % columns * width + MARGIN, number // columns * height + MARGIN
                _draw_cell(paper, left, top, row, small)
            file.write(END)
        partial(page).replace(page)
        pixels = io.BytesIO()
        paper.save(pixels, "PNG")
        partial(png).write_bytes(pixels.getvalue())
        partial(png).replace(png)
    except OSError as error:
        raise LlavaNbError(
            f"The contact sheet cannot be written to '{plain(page.parent)}' "
            f"({error.strerror or error}). Give another place: contact_sheet('/tmp/sheet')."
        ) from error
    return ContactSheet(page, png, len(shown), len(rows), pixels.getvalue())


def _thumbnail(entry: Entry) -> Image.Image | None:
    """The picture small, or None if it cannot be read (any more)."""
    picture = read_picture(entry).picture
    if picture is not None:
        picture.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
    return picture


def _text(row: Row) -> str:
    return row.error if row.failed else row.caption


def _figure(row: Row, small: Image.Image | None) -> str:
    image = ""
    if small is not None:
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=85)
        image = f'<img src="{data_uri(jpeg.getvalue())}" alt="{html.escape(row.file)}">'
    return FIGURE.format(image=image, text=html.escape(_text(row)), name=html.escape(row.file))


def _draw_cell(
    paper: Image.Image, left: int, top: int, row: Row, small: Image.Image | None
) -> None:
    pen = ImageDraw.Draw(paper)
    if small is None:
        pen.rectangle((left, top, left + THUMBNAIL, top + THUMBNAIL), fill=EMPTY)
    else:
        inside = (THUMBNAIL - small.width) // 2, (THUMBNAIL - small.height) // 2
        paper.paste(small, (left + inside[0], top + inside[1]))
        pen.rectangle((left - 1, top - 1, left + THUMBNAIL, top + THUMBNAIL), outline=EMPTY)
    font = ImageFont.load_default(LETTERS)
    for number, line in enumerate(_wrapped(_text(row), font)):
        pen.text((left, top + THUMBNAIL + 4 + number * LINE), line, INK, font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Iterator[str]:
    """Break a text into lines as wide as a thumbnail, and end it with dots if it is too long."""
    line, count = "", 1
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > THUMBNAIL:
            if count == LINES:
                yield f"{line} ..."
                return
            yield line
            line, count = "", count + 1
        line = f"{line} {word}" if line else word[:40]
    yield line
