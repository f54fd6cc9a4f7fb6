"""How a row is written: as a line of CSV or as a line of JSON, and read back.

Whatever a file is called and whatever a model says stays text: a spreadsheet that opens the
CSV runs no formula, and what is read back is what was written. Not covered: Parquet
(`parquet.py`).
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import LlavaNbError
from ..files import safe_cell
from .rows import COLUMNS, Row, printable


def _row_from(values: dict[str, Any]) -> Row:
    """Return the row of a record's values. Raises ValueError, TypeError if they are none."""
    size = values["bytes"]
    return Row(
        **{name: str(values[name] or "") for name in COLUMNS}
        | {
            "seconds": float(values["seconds"]),
            "tokens": int(values["tokens"]),
            "bytes": None if size in ("", None) else int(size),
        }
    )


class CsvForm:
    """A record is one row of CSV, in UTF-8 with the mark that Excel needs."""

    def head(self) -> bytes:
        """Return what a new file begins with."""
        return codecs.BOM_UTF8 + self._line(COLUMNS)

    def encode(self, row: Row) -> bytes:
        """Return one record; text that a spreadsheet would run begins with an apostrophe."""
        values = asdict(row).values()
        return self._line("" if value is None else _marked(value) for value in values)

    def decode(self, record: bytes) -> Row:
        """Return the row of a record. Raises ValueError if it is none."""
        values = next(csv.reader(io.StringIO(record.decode(), newline="")), [])
        if len(values) != len(COLUMNS):
            raise ValueError(f"{len(values)} cells, not {len(COLUMNS)}")
        return _row_from(dict(zip(COLUMNS, map(_unmarked, values), strict=True)))

    def records(self, file: BinaryIO) -> Iterator[bytes]:
        """Give the records; a cell may hold line breaks. The last may lack its end."""
        parts, quotes = [], 0
        for line in file:
            parts.append(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0:  # else the line break is inside a cell
                yield b"".join(parts)
                parts, quotes = [], 0
        if parts:
            yield b"".join(parts)

    def is_whole(self, record: bytes) -> bool:
        """Whether a record was written to its end."""
        return record.endswith(b"\n") and record.count(b'"') % 2 == 0

    def is_head(self, record: bytes) -> bool:
        """Whether a record is the line of column names."""
        return record.removeprefix(codecs.BOM_UTF8).strip() == self._line(COLUMNS).strip()

    @staticmethod
    def _line(values: Iterable[Any]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerow(values)
        return text.getvalue().encode()


def _marked(value: Any) -> Any:
    """A safe cell. What looks marked already gets a second mark, so that one can be taken off."""
    if isinstance(value, str) and value != _unmarked(value):
        return f"'{value}"
    return safe_cell(value)


def _unmarked(value: str) -> str:
    bare = value.lstrip("'")
    return value[1:] if value != bare and bare != safe_cell(bare) else value


class JsonForm:
    """A record is one JSON object on a line of its own, in UTF-8, every text as it is."""

    def head(self) -> bytes:
        """Return what a new file begins with."""
        return b""

    def encode(self, row: Row) -> bytes:
        """Return one record."""
        return json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n"

    def decode(self, record: bytes) -> Row:
        """Return the row of a record. Raises ValueError if it is none."""
        try:
            return _row_from(json.loads(record))
        except (KeyError, TypeError) as error:
            raise ValueError(f"no row of captions ({error})") from error

    def records(self, file: BinaryIO) -> Iterator[bytes]:
        """Give the records. The last may lack its end."""
        yield from file

    def is_whole(self, record: bytes) -> bool:
        """Whether a record was written to its end."""
        return record.endswith(b"\n")

    def is_head(self, record: bytes) -> bool:
        """There is none."""
        return False


Form = CsvForm | JsonForm
ENDINGS = (".csv", ".jsonl", ".parquet")


def form_of(path: Path) -> Form:
    """Return how the rows are written while a run goes on. Raises LlavaNbError."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise LlavaNbError(
            f"'{printable(path.name)}' does not say what the table is to be: end its name in "
            f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, such as 'captions.csv'."
        )
    return CsvForm() if ending == ".csv" else JsonForm()
