"""What is written to a file: whole or not at all, safe in a spreadsheet, and as a page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# How a page that is saved begins. The policy lets no script run and nothing be fetched, whatever
# text came from outside.
PAGE_BEGINNING = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""
# A cell that begins so is a formula to some spreadsheet: OWASP, "CSV Injection".
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it becomes `path` when the block ends without error.

    So whoever reads `path`, also after a kill, finds the old file or the new one, whole. If the
    block raises, what was written is deleted and `path` stays as it was. Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with open(beside, "r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        flush_names(path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def flush_names(folder: Path) -> None:
    """Wait until a folder's list of names is on the disk, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def safe_cell(value: Any) -> Any:
    """Return a value for CSV; text that a spreadsheet would run begins with an apostrophe."""
    runs = isinstance(value, str) and value.lstrip(" ").startswith(FORMULA_STARTS)
    return f"'{value}" if runs else value
