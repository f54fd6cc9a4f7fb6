"""The rows of a table of captions: what one is, where it stands while a run goes on, and its files.

While a run goes on its rows are lines of JSON in a journal beside the table, on the disk before
the next batch is begun. When it ends, however it ends, the journal becomes the table. A killed run
leaves the journal, and the next one goes on from the table and the journal.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import importlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import LlavaNbError, plain
from ..files import flush_names, safe_cell, written_beside

ENDINGS = (".csv", ".jsonl", ".parquet")
LIBRARIES = {".csv": ("pandas",), ".parquet": ("pandas", "pyarrow")}
Key = tuple[str, str, str]  # file, prompt, model: of each there is one row


@dataclass(frozen=True, slots=True)
class Row:
    """One picture and its caption.

    `seconds` run from the beginning of its batch to its own last token, `tokens` are the new
    ones, `finish` is "eos", "limit" or "failed". A failed row has no caption, and its `error`
    says what to do; a caption with an `error` is of the picture as it was before, and the error
    says why there is no newer one. `sha256` is the hash of the file's bytes ("" if they could not
    be read), `bytes` its size, `modified` when it was changed: ISO 8601 in UTC, "" for an address.
    """

    file: str
    caption: str
    prompt: str
    model: str
    seconds: float
    tokens: int
    finish: str
    error: str = ""
    sha256: str = ""
    bytes: int | None = None
    modified: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no caption."""
        return self.finish == "failed"

    @property
    def key(self) -> Key:
        """What it is a row of."""
        return self.file, self.prompt, self.model


COLUMNS = tuple(each.name for each in fields(Row))
NEEDED = {"file", "caption", "prompt", "model", "finish"}  # what makes a table one of captions
NUMBERS: dict[str, tuple[Callable[[float], Any], Any]] = {  # how to read them; where there is none
    "seconds": (float, 0.0),
    "tokens": (int, 0),
    "bytes": (int, None),
}


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked about every picture of a run."""

    prompt: str
    model: str
    max_new_tokens: int = 0

    def key(self, name: str) -> Key:
        """The key of the row of a picture."""
        return name, printable(self.prompt), printable(self.model)


def printable(text: str) -> str:
    """Return text that any file can hold: halves of characters, and NUL, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class Table:
    """The rows of an output, by their keys; what is added is on the disk when `add` returns."""

    def __init__(self, output: Path) -> None:
        """Read the table and the journal. Raises LlavaNbError if they are not ours."""
        self.output, self.journal = output, Journal(output.with_name(f"{output.name}.jsonl"))
        self.rows: dict[Key, Row] = {}
        self.earlier: dict[Key, set[str]] = {}  # captions that others have taken the place of
        self.changed = self.journal.path.exists()
        for row in read_table(output) + read_table(self.journal.path):
            self._take(row)
        for leftover in output.parent.glob(f".{glob.escape(output.name)}.*.part"):
            with contextlib.suppress(OSError):
                leftover.unlink()  # of a run that was killed while it wrote the table

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows, each in the place of an earlier one of its key. Raises OSError.

        A row that failed never takes the place of one with a caption.
        """
        rows = list(rows)
        self.changed = True
        self.journal.append(rows)
        for row in rows:
            self._take(row)

    def rename(self, row: Row, name: str) -> None:
        """Call the picture of a row by another spelling of its name."""
        self.changed = True
        del self.rows[row.key]
        self._take(Row(**asdict(row) | {"file": name}))

    def _take(self, row: Row) -> None:
        before = self.rows.get(row.key)
        if before is not None and not before.failed:
            if row.failed:
                return
            self.earlier.setdefault(row.key, set()).add(before.caption)
        self.rows[row.key] = row

    def write(self, order: dict[Key, int]) -> None:
        """Write the table, whole or not at all, and delete the journal. Raises OSError.

        The rows of `order` stand in that order, behind those of other pictures, prompts and models.
        """
        for row in read_table(self.journal.path):
            self._take(row)  # an interrupt may have come between the file and the memory
        keys = sorted(self.rows, key=lambda key: order.get(key, -1))
        if self.changed or keys != list(self.rows) or not self.output.exists():
            with written_beside(self.output) as beside:
                _write(beside, self.output.suffix.lower(), [self.rows[key] for key in keys])
        self.journal.delete()


class Journal:
    """Rows appended to a file of JSON lines; what a kill tore off at its end is cut."""

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._end = path, -1, 0

    def open(self) -> None:
        """Open the file, or make it, and cut off a torn row. Raises OSError."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        content = self.path.read_bytes()
        self._end = content.rfind(b"\n") + 1
        os.ftruncate(self._file, self._end)
        flush_names(self.path.parent)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows and wait until they are on the disk; if that fails, none stays in the file."""
        if self._file < 0:
            self.open()
        rest = data = memoryview(b"".join(map(_line, rows)))
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]  # an almost full disk takes a part
            os.fsync(self._file)
        except BaseException:  # an interrupt too
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end += len(data)

    def delete(self) -> None:
        """Delete the file: its rows are in the table."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def check_output(output: Any) -> Path:
    """Return where the table is to be. Raises LlavaNbError for what cannot be one."""
    if not isinstance(output, str | os.PathLike):
        raise LlavaNbError(
            f"output is of type {type(output).__name__}; it is the path of the table to be "
            "written, such as 'captions.csv'."
        )
    text = os.fsdecode(output)
    path = Path(os.path.expanduser(text))
    if path.suffix.lower() not in ENDINGS:
        raise LlavaNbError(
            f"'{plain(text)}' does not say what the table is to be: end its name in "
            f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, such as 'captions.csv'."
        )
    if path.suffix.lower() == ".jsonl" and Path(path.stem).suffix.lower() in ENDINGS:
        raise LlavaNbError(
            f"'{plain(text)}' is the name that a run's rows have until '{plain(path.stem)}' is "
            f"written. Give '{plain(path.stem)}': it goes on from those rows."
        )
    if os.path.isdir(path):
        raise LlavaNbError(f"'{plain(text)}' is a folder: give a name in it, as 'captions.csv'.")
    for library in LIBRARIES.get(path.suffix.lower(), ()):
        _import(library, "Or let the table end in .jsonl.")
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def frame(rows: Iterable[Row]) -> Any:
    """Return rows as a pandas DataFrame. Raises LlavaNbError if pandas is missing."""
    pandas = _import("pandas", "Without it: result.rows().")
    table = pandas.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    return table.astype({"seconds": "float64", "tokens": "int64", "bytes": "Int64"})


def _import(library: str, otherwise: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise LlavaNbError(f"This needs {library}: pip install {library}. {otherwise}") from error


def _write(path: Path, ending: str, rows: list[Row]) -> None:
    if ending == ".jsonl":
        path.write_bytes(b"".join(map(_line, rows)))
    elif ending == ".csv":  # with the mark at the start by which Excel knows UTF-8
        table = frame(rows)
        for name in set(COLUMNS) - set(NUMBERS):
            table[name] = table[name].map(_marked)
        table.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")
    else:
        frame(rows).to_parquet(path, engine="pyarrow", index=False)


def _line(row: Row) -> bytes:
    return json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n"


def read_table(path: Path) -> list[Row]:
    """Return the rows of a table, none if there is none; one that is torn at the end ends before.

    Raises LlavaNbError if the file cannot be read, or is no table of captions.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return []
        read = {".csv": _rows_of_csv, ".jsonl": _rows_of_lines, ".parquet": _rows_of_parquet}
        return list(read[path.suffix.lower()](path))
    except OSError as error:
        raise LlavaNbError(
            f"'{plain(path)}' cannot be read ({error.strerror or plain(error)}). Put that right, "
            "or give another output."
        ) from error


def _rows_of_lines(path: Path) -> Iterator[Row]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _row(json.loads(line))
            except (ValueError, TypeError, AttributeError) as error:
                begun = f'{{"{COLUMNS[0]}": "'.encode()
                ours = number > 1 or line[: len(begun)] == begun[: len(line)]
                if ours and not line.endswith(b"\n"):
                    return  # a kill tore it
                raise _not_ours(path, f"line {number}: {error}") from error


def _rows_of_csv(path: Path) -> Iterator[Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            # A spreadsheet may have written it again, with what its language puts between cells.
            between = max(",;\t", key=head.count)
            names = next(csv.reader([head], delimiter=between), [])
            _check_columns(names)
            for cells in csv.reader(file, delimiter=between):
                if len(cells) < len(names) and not file.read(1):
                    return  # the end is missing: a copy that was broken off
                if cells:
                    values = zip(names, map(_unmarked, cells), strict=True)
                    yield _row(dict(values))
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise _not_ours(path, str(error)) from error


def _rows_of_parquet(path: Path) -> Iterator[Row]:
    pandas = _import("pandas", "It reads the table that is there.")
    try:
        table = pandas.read_parquet(path, engine="pyarrow")
        _check_columns(table.columns)
        for values in table.astype(object).where(table.notna(), None).to_dict("records"):
            yield _row(values)
    except (ValueError, TypeError) as error:  # what pyarrow raises is a ValueError
        raise _not_ours(path, str(error)) from error


def _check_columns(names: Iterable[str]) -> None:
    """Raise ValueError unless these are our columns; an index that pandas wrote is let through."""
    names = [name for name in names if not str(name).startswith(("Unnamed:", "__index_level"))]
    own = sorted(set(filter(None, names)) - set(COLUMNS))
    if NEEDED - set(names):
        raise ValueError(f"it has no column {', '.join(sorted(NEEDED - set(names)))}")
    if own:
        raise ValueError(f"it has columns of its own, {', '.join(own)}, which would be lost")


def _row(values: dict[str, Any]) -> Row:
    """Return the row of a record's values. Raises ValueError if they are none."""
    if not NEEDED <= set(values):
        raise ValueError(f"there is no {', '.join(sorted(NEEDED - set(values)))}")
    made = {name: str(values.get(name) or "") for name in COLUMNS}
    numbers = {}
    for name, (kind, otherwise) in NUMBERS.items():
        # pandas may have made 12.0 of 12, and a spreadsheet 0,5 of 0.5.
        text = made[name].replace(",", ".")
        numbers[name] = kind(float(text)) if text else otherwise
    return Row(**made | numbers)


def _marked(text: str) -> str:
    """A safe cell. What looks marked already gets a second mark, so that one can be taken off."""
    return f"'{text}" if text != _unmarked(text) else safe_cell(text)


def _unmarked(text: str) -> str:
    bare = text.lstrip("'")
    return text[1:] if text != bare and bare != safe_cell(bare) else text


def _not_ours(path: Path, why: str) -> LlavaNbError:
    return LlavaNbError(
        f"'{plain(path)}' is no table of captions that can be continued ({plain(why)}). It is "
        "left as it is: give another output."
    )
