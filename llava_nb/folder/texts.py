"""`<name>.txt` beside each picture, which is what tools for training on pictures read.

A text that is there already and says something else is somebody's work: it is left alone.
Not covered: the table (`journal.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import LlavaNbError
from .entries import Entry, FileEntry
from .rows import Row


class Texts:
    """Writes the captions beside their pictures; `left_alone` counts texts of somebody else."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Raises LlavaNbError if none of the pictures is a file in a folder."""
        self._paths = {each.name: each.path for each in entries if isinstance(each, FileEntry)}
        self.left_alone = 0
        if not self._paths:
            raise LlavaNbError(
                "text_files=True writes a text beside each picture, and these are in a zip or at "
                "an address. Unpack or download them and give the folder, or leave it out."
            )

    def write(self, rows: Iterable[Row]) -> None:
        """Write the captions of rows, each text whole or not at all. Raises OSError."""
        for row in rows:
            if row.file not in self._paths or row.failed:
                continue
            path = self._text(row)
            found = _read(path)
            if found is None:
                beside = path.with_name(f".{path.name}.partial")
                beside.write_bytes(row.caption.encode("utf-8", "backslashreplace"))
                beside.replace(path)
            elif found != row.caption:
                self.left_alone += 1

    def remove(self, rows: Iterable[Row]) -> None:
        """Delete the texts of rows that no longer hold, if they say what the row says."""
        for row in rows:
            if row.file in self._paths and not row.failed:
                path = self._text(row)
                if _read(path) == row.caption:
                    path.unlink(missing_ok=True)

    def _text(self, row: Row) -> Path:
        return Path(os.path.expanduser(self._paths[row.file])).with_suffix(".txt")


def _read(path: Path) -> str | None:
    """The text there, None if there is none."""
    try:
        return path.read_bytes().decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""  # a folder, or not ours to read: leave it
