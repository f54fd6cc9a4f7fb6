"""A file of rows that grows batch by batch, and is whole whenever the process is killed.

Rows are appended and are on the disk before the next batch begins. A kill leaves at most one
torn row at the end; opening the file again cuts that off. Whatever else changes is written
beside the file and renamed. Not covered: what a record looks like (`forms.py`), who may
write (`lock.py`), which rows are still good (`resume.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import LlavaNbError, plain
from ..replacing import flush_names
from .forms import Form
from .rows import COLUMNS, Row


class Journal:
    """The rows in a file, and the one way to add to them. Close it, or use it in a `with`."""

    def __init__(self, path: Path, form: Form) -> None:
        """Open the file, or make one. Raises LlavaNbError if it cannot be, or is not ours."""
        self.path, self.form = path, form
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial(path).unlink(missing_ok=True)  # of a run that was killed
            self._file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115
            try:
                self.end = self._repair()
            except BaseException:
                self._file.close()
                raise
            flush_names(path.parent)
        except OSError as error:
            raise LlavaNbError(
                f"'{plain(path)}' cannot be written ({error.strerror or error}). Give another "
                "output, such as caption_folder(llava, folder, 'captions.csv')."
            ) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; all is on the disk already."""
        self._file.close()

    def rows(self) -> Iterator[Row]:
        """Give the rows in their order."""
        for row, _ in self.spans():
            yield row

    def spans(self) -> Iterator[tuple[Row, tuple[int, int]]]:
        """Give each row with the bytes from which to which it stands."""
        for record, start in _records(self.path, self.form):
            if start or not self.form.head():
                yield self.form.decode(record), (start, start + len(record))

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows and wait until they are on the disk.

        If that fails nothing of them stays in the file. Raises OSError.
        """
        data = b"".join(map(self.form.encode, rows))
        try:
            self._write(data)
            os.fsync(self._file.fileno())
        except BaseException:  # an interrupt too
            with contextlib.suppress(OSError):
                self._file.truncate(self.end)
            raise
        self.end += len(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]  # an almost full disk takes a part

    def keep(self, choose: Callable[[Row], bool]) -> None:
        """Drop the rows that are not chosen; the file is exchanged as a whole. Raises OSError."""
        self.rewrite(span for row, span in self.spans() if choose(row))

    def rewrite(self, spans: Iterable[tuple[int, int]]) -> None:
        """Leave these rows, in this order; the file is exchanged as a whole. Raises OSError."""
        beside = partial(self.path)
        try:
            with open(self.path, "rb") as old, open(beside, "wb") as new:
                new.write(self.form.head())
                for start, end in spans:
                    old.seek(start)
                    new.write(old.read(end - start))
                new.flush()
                os.fsync(new.fileno())
                end = new.tell()
            beside.replace(self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        flush_names(self.path.parent)
        self._file.close()
        self._file, self.end = open(self.path, "a+b", buffering=0), end  # noqa: SIM115

    def _repair(self) -> int:
        """Cut off a row that a kill left unfinished; return where the file ends then."""
        end, number = 0, 0
        for number, (record, start) in enumerate(_records(self.path, self.form), start=1):
            if not self.form.is_whole(record):
                self._check_begun(record, number)
                break  # a torn record is the last
            self._check(record, number)
            end = start + len(record)
        self._file.truncate(end)
        if end == 0:
            self._write(self.form.head())
            os.fsync(self._file.fileno())
        return end or len(self.form.head())

    def _check(self, record: bytes, number: int) -> None:
        """Raise LlavaNbError unless a whole record is one of ours."""
        if number == 1 and self.form.head():
            if not self.form.is_head(record):
                raise self._not_ours(number, "it does not name the columns")
            return
        try:
            self.form.decode(record)
        except ValueError as error:
            raise self._not_ours(number, str(error)) from error

    def _check_begun(self, record: bytes, number: int) -> None:
        """Raise LlavaNbError if a file of one torn record did not begin as ours do."""
        head = self.form.head() or f'{{"{COLUMNS[0]}": "'.encode()
        shorter = min(len(head), len(record))
        if number == 1 and head[:shorter] != record[:shorter]:
            raise self._not_ours(number, "it is cut off")

    def _not_ours(self, number: int, why: str) -> LlavaNbError:
        return LlavaNbError(
            f"'{plain(self.path)}' is no table of captions that can be continued: line {number} "
            f"is not as it was written ({plain(why)}). It is left as it is: give another output."
        )


def partial(path: Path) -> Path:
    """Return the name under which a file is written before it takes its place."""
    return path.with_name(f".{path.name}.partial")


def _records(path: Path, form: Form) -> Iterator[tuple[bytes, int]]:
    """Give each record of a file and where it starts."""
    with open(path, "rb") as file:
        start = 0
        for record in form.records(file):
            yield record, start
            start += len(record)
