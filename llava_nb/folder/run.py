"""One run over some pictures: what is done already, what is done now, and what became of it.

Covered: the order of things that makes a run safe to kill at any moment. Not covered: the call
and its checks (`call.py`).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import LlavaNbError, plain
from . import parquet as folder_parquet
from .entries import Entry
from .journal import Journal
from .resume import Task, drop, look_through, put_in_order
from .rows import Row
from .stop import Asked, Stop
from .texts import Texts

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Batches(Protocol):
    """What makes the rows: batch after batch, until `asked` is set."""

    def __call__(self, entries: Sequence[Entry], asked: Stop) -> Generator[list[Row], None, None]:
        """Give the rows of one batch after the other."""


class Run:
    """Counts of a run: `kept` from before, `captioned` and `failed` now, `remaining`."""

    def __init__(
        self, journal: Journal, entries: Sequence[Entry], task: Task, texts: Texts | None
    ) -> None:
        self._journal, self._entries, self._task, self._texts = journal, entries, task, texts
        self._pending: list[Entry] = []
        self._ordered = True
        self.kept = self.captioned = self.failed = 0

    @property
    def remaining(self) -> int:
        """Pictures that have no row yet."""
        return len(self._entries) - self.kept - self.captioned - self.failed

    def begin(self) -> None:
        """Find out what is done, and drop what no longer holds. Raises LlavaNbError."""
        found = look_through(self._journal, self._entries, self._task)
        self.kept, self._ordered = len(found.done), found.ordered
        self._pending = [entry for entry in self._entries if entry.name not in found.done]
        with self._saving():
            if self._texts is not None:
                self._texts.remove(found.stale)  # while their rows still say what they may hold
            drop(self._journal, found.stale, self._task)
            if self._texts is not None:
                self._texts.write(row for row in self._journal.rows() if self._task.owns(row))

    def work(self, make: Batches, asked: Asked, progress: bool) -> None:
        """Caption what is left, each batch on the disk before the next. Raises LlavaNbError."""
        batches = make(self._pending, asked)
        try:
            with self._bar(progress) as bar, contextlib.closing(batches):
                while self._pending and not asked.is_set():
                    rows = next(batches, None)
                    if rows is None:
                        break
                    self._save(rows)
                    if bar is not None:
                        bar.update(len(rows))
        except KeyboardInterrupt:  # a second one: the batch in hand is given up
            asked.set()

    def _bar(self, progress: bool) -> contextlib.AbstractContextManager[Any]:
        """A progress bar, or None in its place where none is wanted.

        A bar that is only told to be invisible still starts a thread, and takes a lock that it
        shares with every fork: one that is killed while it holds the lock stops all others.
        """
        if not progress or not self._pending:
            return contextlib.nullcontext()
        from tqdm.auto import tqdm

        return tqdm(
            total=len(self._entries),
            initial=self.kept,
            desc="Captions",
            unit=" pictures",
            smoothing=0.1,
        )

    def _save(self, rows: list[Row]) -> None:
        with self._saving():
            self._journal.append(rows)
        self.failed += sum(row.failed for row in rows)
        self.captioned += sum(not row.failed for row in rows)
        if self._texts is not None:
            with self._saving():
                self._texts.write(rows)

    def end(self, output: Path) -> None:
        """Put the table in order and in its place. Raises LlavaNbError."""
        with self._saving():
            if self.captioned or self.failed or not self._ordered:
                put_in_order(self._journal, self._entries, self._task)
            if output != self._journal.path:
                folder_parquet.put_in_place(self._journal, output)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turn a disk that takes no more into an error that says what is saved."""
        try:
            yield
        except OSError as error:
            full = error.errno in DISK_FULL
            why = "The disk is full" if full else f"Writing failed ({error.strerror or error})"
            total = len(self._entries)
            saved = total - self.remaining
            raise LlavaNbError(
                f"{why}: {saved:,} of {total:,} pictures are saved in "
                f"'{plain(self._journal.path)}', {self.remaining:,} are still to be done. "
                f"{'Make room' if full else 'Put that right'} and make the same call again: it "
                "goes on from there."
            ) from error
