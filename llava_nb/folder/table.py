"""The rows of a table of captions: what one is, where it stands while a run goes on, and its files.

While a run goes on its rows are lines of JSON in a journal beside the table, on the disk before
the next batch is begun. When it ends, however it ends, the journal becomes the table. A killed run
leaves the journal, and the next one goes on from the table and the journal.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import importlib.util
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import LlavaNbError, plain, storable
from ..files import flush_names, safe_cell, written_beside


@dataclass(frozen=True, slots=True)
class Row:
    """One picture and its caption."""

    file: str
    caption: str = ""
    prompt: str = ""
    model: str = ""
    seconds: float = 0.0  # from the beginning of its batch to its own last token
    tokens: int = 0  # new ones
    finish: str = "failed"  # or "eos", "limit"; a failed row has no caption
    error: str = ""  # what to do; beside a caption, why there is no newer one
    sha256: str = ""  # of the file's bytes; "" if they could not be read
    bytes: int | None = None
    modified: str = ""  # ISO 8601 in UTC, "" for an address

    def __post_init__(self) -> None:
        for name in TEXTS:
            object.__setattr__(self, name, storable(getattr(self, name)))

    @classmethod
    def of(cls, outcome: Any, **known: Any) -> Row:
        """Return the row of an `Answer`, or of the error in place of one, and of what is known."""
        error = outcome if isinstance(outcome, Exception) else outcome.error
        if error is not None:
            known["error"] = f"{type(error).__name__}: {error}"
        if error is outcome:
            return cls(**known)
        seconds = round(outcome.seconds, 3)
        words = {"caption": outcome.text, "tokens": outcome.tokens, "finish": outcome.finish}
        return cls(**known, **words, seconds=seconds)

    @property
    def failed(self) -> bool:
        """Whether there is no caption."""
        return self.finish == "failed"

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a row of: of each file, prompt and model there is one."""
        return self.file, self.prompt, self.model


COLUMNS = tuple(each.name for each in fields(Row))
NUMBERS = {"seconds": float, "tokens": int, "bytes": int}
TEXTS = tuple(each.name for each in fields(Row) if each.type == "str")
NEEDED = {"file", "caption", "prompt", "model", "finish"}  # what makes a table one of captions


class Table:
    """The rows of an output, of which those of one prompt and model are asked for."""

    def __init__(self, output: Path, prompt: str, model: str) -> None:
        """Read the table and the journal. Raises LlavaNbError if they are not ours."""
        self.output, self.journal = output, output.with_name(f"{output.name}.jsonl")
        self.replaced: dict[str, set[str]] = {}  # captions that others have taken the place of
        self._task = storable(prompt), storable(model)
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._changed, self._file = self.journal.exists(), None
        for row in read_table(output) + read_table(self.journal):
            self._take(row)

    def row(self, name: str) -> Row | None:
        """Return the row of a picture, if it has one."""
        return self._rows.get((name, *self._task))

    def caption(self, name: str) -> str | None:
        """Return the caption of a picture, if it has one."""
        row = self.row(name)
        return None if row is None or row.failed else row.caption

    def take_other_spellings(self, names: Iterable[str]) -> None:
        """Give rows the names of these pictures where only the Unicode form differs."""
        spellings: dict[str, list[str]] = {}
        for name in names:
            spellings.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        for row in list(self._rows.values()):
            found = spellings.get(unicodedata.normalize("NFC", row.file), [])
            if len(found) == 1 and (found[0], row.prompt, row.model) not in self._rows:
                del self._rows[row.key]
                self._take(replace(row, file=found[0]))
                self._changed = True

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows of this prompt and model, on the disk when this returns. Raises OSError.

        A row that failed never takes the place of one with a caption.
        """
        prompt, model = self._task
        rows = [replace(row, prompt=prompt, model=model) for row in rows]
        for row in rows:  # first, so that what an interrupt keeps from the disk is in the table
            self._take(row)
        self._changed = True
        if self._file is None:
            self._file = open(self.journal, "ab", buffering=0)
            self._file.truncate(self.journal.read_bytes().rfind(b"\n") + 1)  # what a kill tore
            flush_names(self.journal.parent)
        end, rest = os.fstat(self._file.fileno()).st_size, _lines(rows)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]  # an almost full disk takes a part
            os.fsync(self._file.fileno())
        except BaseException:  # an interrupt too
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def _take(self, row: Row) -> None:
        before = self._rows.get(row.key)
        if before is not None and not before.failed:
            if row.failed:
                return
            if row.key[1:] == self._task:
                self.replaced.setdefault(row.file, set()).add(before.caption)
        self._rows[row.key] = row

    def write(self, names: Iterable[str]) -> None:
        """Write the table, whole or not at all, and delete the journal. Raises OSError.

        The rows of these pictures stand in their order, behind those of others.
        """
        if self._file is not None:
            self._file.close()
        places = {(name, *self._task): place for place, name in enumerate(names)}
        rows = sorted(self._rows.values(), key=lambda row: places.get(row.key, -1))
        if self._changed or rows != list(self._rows.values()) or not self.output.exists():
            for leftover in self.output.parent.glob(f".{glob.escape(self.output.name)}.*.part"):
                leftover.unlink(missing_ok=True)  # of a run that was killed as it wrote
            with written_beside(self.output) as beside:
                FORMATS[self.output.suffix.lower()][0](beside, rows)
        self.journal.unlink(missing_ok=True)


# How rows are written to a file of each form, and read from it as dicts.


def _lines(rows: Iterable[Row]) -> bytes:
    lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode()


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    ours = f'{{"{COLUMNS[0]}": "'.encode()
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            torn = not line.endswith(b"\n") and (number or ours.startswith(line[: len(ours)]))
            try:
                values = json.loads(line)
                _check_columns(values)
            except (ValueError, TypeError) as error:
                if torn:
                    return  # by a kill
                raise ValueError(f"line {number + 1}: {error}") from error
            yield values


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    # With the mark at the start by which Excel knows UTF-8.
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            # What looks marked already gets a second mark, so that one can be taken off.
            texts = {name: getattr(row, name) for name in TEXTS}
            safe = {n: f"'{t}" if t != _unmarked(t) else safe_cell(t) for n, t in texts.items()}
            writer.writerow(asdict(row) | safe)


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        # A spreadsheet may have written it again, with what its language puts between cells.
        between = max(",;\t", key=head.count)
        names = next(csv.reader([head], delimiter=between), [])
        _check_columns(names)
        records = csv.DictReader(file, names, delimiter=between)
        for values in records:
            if None in values.values() and next(records, None) is None:
                return  # the end is missing: a copy that was broken off
            if None in values or None in values.values():
                raise ValueError(f"line {records.line_num + 1} has not {len(names)} cells")
            yield {name: _unmarked(text) for name, text in values.items()}


def _unmarked(text: str) -> str:
    bare = text.lstrip("'")
    return text[1:] if text != bare and bare != safe_cell(bare) else text


def _read_parquet(path: Path) -> Iterable[dict[str, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        _check_columns(file.schema_arrow.names)
        return file.read().to_pylist()


# What writes a form of table, what reads it, and the library that has to be there.
FORMATS = {
    ".csv": (_write_csv, _read_csv, "csv"),
    ".jsonl": (lambda path, rows: path.write_bytes(_lines(rows)), _read_lines, "json"),
    ".parquet": (
        lambda path, rows: frame(rows).to_parquet(path, index=False),
        _read_parquet,
        "pyarrow",
    ),
}


def read_table(path: Path) -> list[Row]:
    """Return the rows of a table, none if there is none; one that is torn at the end ends before.

    Raises LlavaNbError.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return []
        _, read, _ = FORMATS[path.suffix.lower()]
        return [_row(values) for values in read(path)]
    except OSError as error:
        raise LlavaNbError(
            f"'{plain(path)}' cannot be read ({error.strerror or plain(error)}). Put that right, "
            "or give another output."
        ) from error
    except (ValueError, TypeError, OverflowError, csv.Error) as error:  # pyarrow's is a ValueError
        raise LlavaNbError(
            f"'{plain(path)}' is no table of captions that can be continued ({plain(error)}). It "
            "is left as it is: give another output."
        ) from error


def _check_columns(names: Iterable[str]) -> None:
    """Raise ValueError unless these are our columns; an index that pandas wrote is let through."""
    names = {str(each) for each in names if not str(each).startswith(("Unnamed:", "__index_level"))}
    missing, own = (", ".join(sorted(each)) for each in (NEEDED - names, names - {*COLUMNS, ""}))
    if missing:
        raise ValueError(f"it has no column {missing}")
    if own:
        raise ValueError(f"it has columns of its own, {own}, which would be lost")


def _row(values: dict[str, Any]) -> Row:
    """Return the row of a record's values. Raises ValueError if they are none."""
    made: dict[str, Any] = {name: str(values.get(name) or "") for name in COLUMNS}
    for name, kind in NUMBERS.items():
        # pandas may have made 12.0 of 12, and a spreadsheet 0,5 of 0.5.
        text = made.pop(name).replace(",", ".")
        if text:
            made[name] = kind(float(text))
    return Row(**made)


def frame(rows: Iterable[Row]) -> Any:
    """Return rows as a pandas DataFrame."""
    import pandas

    table = pandas.DataFrame(map(asdict, rows), columns=list(COLUMNS))
    return table.astype({"seconds": "float64", "tokens": "int64", "bytes": "Int64"})


def check_output(output: Any) -> Path:
    """Return where the table is to be. Raises LlavaNbError for what cannot be one."""
    if not isinstance(output, str | os.PathLike):
        raise LlavaNbError(
            f"output is of type {type(output).__name__}; it is the path of the table to be "
            "written, such as 'captions.csv'."
        )
    text = os.fsdecode(output)
    path = Path(os.path.expanduser(text))
    ending, (*others, last) = path.suffix.lower(), FORMATS
    if ending not in FORMATS:
        raise LlavaNbError(
            f"'{plain(text)}' does not say what the table is to be: end its name in "
            f"{', '.join(others)} or {last}, such as 'captions.csv'."
        )
    if ending == ".jsonl" and Path(path.stem).suffix.lower() in FORMATS:
        raise LlavaNbError(
            f"'{plain(text)}' is the name that a run's rows have until '{plain(path.stem)}' is "
            f"written. Give '{plain(path.stem)}': it goes on from those rows."
        )
    if os.path.isdir(path):
        raise LlavaNbError(f"'{plain(text)}' is a folder: give a name in it, as 'captions.csv'.")
    library = FORMATS[ending][2]
    if importlib.util.find_spec(library) is None:
        raise LlavaNbError(
            f"This needs {library}: pip install {library}. Or let the table end in .jsonl."
        )
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


@contextlib.contextmanager
def only_one_run(output: Path) -> Iterator[None]:
    """Hold the lock of an output, which the system lets go of however the process ends."""
    lock = FileLock(output.with_name(f".{output.name}.lock"), timeout=0)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(NotImplementedError):  # a disk that knows no locks
            lock.acquire()
    except Timeout as error:
        raise LlavaNbError(
            f"Another run is writing '{plain(output)}'. Wait until it is done, stop it, or give "
            "another output."
        ) from error
    except (OSError, ValueError) as error:
        raise LlavaNbError(
            f"'{plain(output)}' cannot be written ({getattr(error, 'strerror', None) or error}). "
            "Give an output in a folder where you may write, such as 'captions.csv'."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)  # while it is held, so that it is nobody else's
        lock.release()
