"""What comes back from captioning a folder: counts, the table, a page with the pictures."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LlavaNbError, plain
from ..files import PAGE_BEGINNING, written_beside
from .sources import Entry, read_picture
from .table import Row, Task, frame, read_table

SHOWN_ERRORS = 10
THUMBNAIL = 160  # pixels
STYLE = "display: grid; gap: 1em; grid-template-columns: repeat(auto-fill, minmax(11em, 1fr))"
FIGURE = (
    '<figure style="margin: 0; overflow-wrap: anywhere">{image}<figcaption style="white-space: '
    'pre-wrap">{text}\n<small>{name}</small></figcaption></figure>\n'
)


@dataclass(frozen=True)
class ContactSheet:
    """Where the page is, and how many of the pictures it shows."""

    path: Path
    shown: int
    total: int
    _figures: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.shown:,} of {self.total:,} pictures in {self.path}"

    def _repr_html_(self) -> str:
        return f'<div style="{STYLE}">{self._figures}</div>'


@dataclass(frozen=True)
class FolderResult:
    """A run's counts, and where its table is.

    Of `total` pictures `kept` have a caption from before, `captioned` have one from now, `failed`
    have none (their rows say why), and `remaining` are still to be done, of which
    `remaining_captioned` keep the captions they had till then. Of those kept, `not_looked_at`
    could not be looked at (a drive that is away, a damaged file), and `not_redone` could not be
    captioned again. `seconds` is what the run took. `texts_left_alone` are texts beside pictures
    that were there before and say something else.
    """

    output: Path
    prompt: str
    model: str
    total: int
    kept: int
    captioned: int
    failed: int
    seconds: float
    not_looked_at: int = 0
    not_redone: int = 0
    remaining_captioned: int = 0
    texts_left_alone: int = 0
    entries: tuple[Entry, ...] = field(default=(), repr=False, compare=False)

    @property
    def remaining(self) -> int:
        """Pictures that the run did not come to."""
        return self.total - self.kept - self.captioned - self.failed

    @property
    def interrupted(self) -> bool:
        """Whether the run was told to stop before all was done."""
        return self.remaining > 0

    @property
    def pictures_per_second(self) -> float:
        """How fast this run was, reading and writing included."""
        return (self.captioned + self.failed) / self.seconds if self.seconds else 0.0

    def rows(self) -> list[Row]:
        """Read the rows of these pictures, this model and this prompt, in the pictures' order.

        Raises LlavaNbError if the table is no longer there.
        """
        if not self.output.exists():
            raise LlavaNbError(
                f"The table '{plain(self.output)}' is not there. If it was moved, make the same "
                "call with its new place: nothing is done twice."
            )
        task, rows = Task(self.prompt, self.model), {}
        for row in read_table(self.output):
            rows[row.key] = row
        keys = [task.key(entry.name) for entry in self.entries]
        return [rows[key] for key in keys if key in rows]

    @property
    def table(self) -> Any:
        """The rows as a pandas DataFrame. Raises LlavaNbError if pandas is missing."""
        return frame(self.rows())

    def contact_sheet(
        self, path: str | os.PathLike | None = None, *, limit: int = 100
    ) -> ContactSheet:
        """Write a page with the first `limit` pictures and their captions.

        It is written beside the table, as `captions.sheet.html`, or at `path`, which ends in
        .html; it needs nothing else and runs nothing. Raises LlavaNbError if it cannot be written.
        """
        if not isinstance(limit, int) or limit < 1:
            raise LlavaNbError(f"limit is {plain(repr(limit), 60)}; it is 1 picture or more.")
        rows = self.rows()
        if not rows:
            raise LlavaNbError("There are no captions yet: run caption_folder to its end first.")
        try:
            page = self.output.with_name(f"{self.output.stem}.sheet.html")
            if path is not None:
                page = Path(path).expanduser().with_suffix(".html")
            figures = "".join(self._figures(rows[:limit]))
            with written_beside(page) as beside:
                beside.write_text(
                    f"{PAGE_BEGINNING}<title>Pictures and captions</title>\n<style>:root "
                    "{ color-scheme: light dark; font-family: system-ui, sans-serif; }</style>\n"
                    f'</head>\n<body>\n<h1>Pictures and captions</h1>\n<main style="{STYLE}">\n'
                    f"{figures}</main>\n</body>\n</html>\n",
                    "utf-8",
                )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise LlavaNbError(
                f"The contact sheet cannot be written to '{plain(path or page.parent)}' "
                f"({plain(error)}). Give another place: contact_sheet('/tmp/sheet.html')."
            ) from error
        return ContactSheet(page, min(limit, len(rows)), len(rows), figures)

    def _figures(self, rows: list[Row]) -> Iterator[str]:
        """Each picture small, without it where it cannot be read (any more), and its text."""
        entries = {entry.name: entry for entry in self.entries}
        for row in rows:
            name, image = html.escape(row.file), ""
            picture = read_picture(entries[row.file]).picture
            if picture is not None:
                picture.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
                jpeg = io.BytesIO()
                picture.save(jpeg, "JPEG", quality=85)
                uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
                image = f'<img src="{uri}" alt="{name}" style="max-width: 100%">'
            text = html.escape(row.error if row.failed else row.caption)
            yield FIGURE.format(image=image, text=text, name=name)

    def __str__(self) -> str:
        before = self.kept - self.not_looked_at - self.not_redone
        parts = [f"{self.captioned:,} captioned"]
        parts += [f"{before:,} captioned before"] if before else []
        parts += [f"{self.not_looked_at:,} kept, could not be looked at"] * bool(self.not_looked_at)
        parts += [f"{self.not_redone:,} kept, could not be captioned again"] * bool(self.not_redone)
        parts += [f"{self.failed:,} failed (column 'error' says why)"] if self.failed else []
        lines = [
            f"{self.output}: {self.total:,} pictures, {', '.join(parts)}; {self.seconds:.1f} s, "
            f"{self.pictures_per_second:.1f} pictures/s"
        ]
        if self.remaining:
            old = f" {self.remaining_captioned:,} of them keep the captions they had."
            lines.append(
                f"Interrupted: {self.remaining:,} are still to be done. The same call again does "
                f"them.{old if self.remaining_captioned else ''}"
            )
        if self.texts_left_alone:
            lines.append(f"{self.texts_left_alone:,} texts were there before and are left alone.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        said = html.escape(str(self)).replace("\n", "<br>")
        some = self.failed or self.not_looked_at or self.not_redone
        errors = [row for row in self.rows() if row.error] if some else []
        lines = [
            f"<tr><td>{html.escape(row.file)}</td><td>{html.escape(row.error)}</td></tr>"
            for row in errors[:SHOWN_ERRORS]
        ]
        if len(errors) > SHOWN_ERRORS:
            lines.append(f"<tr><td>and {len(errors) - SHOWN_ERRORS:,} more</td></tr>")
        return f"<div>{said}</div>" + (f"<table>{''.join(lines)}</table>" if lines else "")
