"""What comes back from captioning a folder: counts, the table, a picture of it.

The captions themselves stay in the file; they are read when they are asked for. Not covered:
drawing the contact sheet (`sheet.py`).
"""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LlavaNbError
from . import parquet as folder_parquet
from .entries import Entry
from .forms import form_of
from .resume import Task
from .rows import COLUMNS, Row
from .sheet import ContactSheet, draw_sheet, sheet_path

SHOWN_FAILURES = 10


@dataclass(frozen=True)
class FolderResult:
    """A run's counts, and where its table is.

    Of `total` pictures `kept` had been captioned before, `captioned` were now, `failed` could
    not be (their rows say why), and `remaining` are still to be done. `seconds` is what the run
    took. `signal` says what interrupted it: "SIGINT", "SIGTERM", "stop", or "" if nothing did.
    `texts_left_alone` are texts beside pictures that were there before and say something else.
    """

    output: Path
    prompt: str
    model: str
    total: int
    kept: int
    captioned: int
    failed: int
    seconds: float
    signal: str = ""
    texts_left_alone: int = 0
    entries: tuple[Entry, ...] = field(default=(), repr=False, compare=False)

    @property
    def remaining(self) -> int:
        """Pictures that have no row yet."""
        return self.total - self.kept - self.captioned - self.failed

    @property
    def interrupted(self) -> bool:
        """Whether the run was told to stop before all was done."""
        return bool(self.signal)

    @property
    def pictures_per_second(self) -> float:
        """How fast this run was, reading and writing included."""
        return (self.captioned + self.failed) / self.seconds if self.seconds else 0.0

    def rows(self) -> list[Row]:
        """Read the rows of these pictures, this model and this prompt, in the pictures' order.

        Raises LlavaNbError if the table is no longer there.
        """
        names = {entry.name: place for place, entry in enumerate(self.entries)}
        task = Task(self.prompt, self.model)
        try:
            rows = [row for row in _read(self.output) if row.file in names and task.owns(row)]
        except OSError as error:
            raise LlavaNbError(
                f"The table '{self.output}' cannot be read ({error.strerror or error}). If it was "
                "moved, make the same call with its new place: nothing is done twice."
            ) from error
        return sorted(rows, key=lambda row: names[row.file])

    @property
    def table(self) -> Any:
        """The rows as a pandas DataFrame. Raises LlavaNbError if pandas is missing."""
        try:
            import pandas
        except ImportError as error:
            raise LlavaNbError(
                "The table needs pandas: pip install pandas. Without it: result.rows(), or the "
                f"file itself, '{self.output}'."
            ) from error
        return pandas.DataFrame([asdict(row) for row in self.rows()], columns=list(COLUMNS))

    def contact_sheet(
        self, path: str | os.PathLike | None = None, *, columns: int = 5, limit: int = 100
    ) -> ContactSheet:
        """Draw the first `limit` pictures with their captions: an HTML page and a PNG.

        They are written beside the table, as `captions.sheet.html` and `.png`, or at `path` with
        those endings. Raises LlavaNbError if they cannot be written.
        """
        if path is None:
            png = sheet_path(self.output)
        else:
            png = Path(path).expanduser().with_suffix(".png")
        return draw_sheet(self.rows(), self.entries, png, columns=columns, limit=limit)

    def __str__(self) -> str:
        parts = [f"{self.captioned:,} captioned"]
        parts += [f"{self.kept:,} captioned before"] if self.kept else []
        parts += [f"{self.failed:,} failed (column 'error' says why)"] if self.failed else []
        lines = [
            f"{self.output}: {self.total:,} pictures, {', '.join(parts)}; {self.seconds:.1f} s, "
            f"{self.pictures_per_second:.1f} pictures/s"
        ]
        if self.remaining:
            lines.append(
                f"Interrupted ({self.signal or 'stopped'}): {self.remaining:,} are still to be "
                "done. The same call again does them."
            )
        if self.texts_left_alone:
            lines.append(f"{self.texts_left_alone:,} texts were there before and are left alone.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        told = html.escape(str(self)).replace("\n", "<br>")
        failures = [row for row in self.rows() if row.failed] if self.failed else []
        lines = [
            f"<tr><td>{html.escape(row.file)}</td><td>{html.escape(row.error)}</td></tr>"
            for row in failures[:SHOWN_FAILURES]
        ]
        if len(failures) > SHOWN_FAILURES:
            lines.append(f"<tr><td>and {len(failures) - SHOWN_FAILURES:,} more</td></tr>")
        return f"<div>{told}</div>" + (f"<table>{''.join(lines)}</table>" if lines else "")


def _read(output: Path) -> Iterator[Row]:
    """Give the rows of a table; one that is being written may end in a torn row."""
    if output.suffix.lower() == ".parquet":
        yield from folder_parquet.read_rows(output)
        return
    form = form_of(output)
    with open(output, "rb") as file:
        for record in form.records(file):
            if form.is_whole(record) and not form.is_head(record):
                yield form.decode(record)
