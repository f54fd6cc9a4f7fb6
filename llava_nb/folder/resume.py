"""Which pictures are done: their rows are there, of this model and prompt, and still true.

A picture is known by size and time of change; where only the time differs, by the hash of its
bytes. Rows of other models, other prompts and other pictures are kept and never looked at.
Failed pictures are tried again, and so is an answer that was cut at a lower limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import LlavaNbError
from .entries import Entry
from .journal import Journal
from .rows import Row, printable


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked about every picture of a run."""

    prompt: str
    model: str
    max_new_tokens: int = 256

    def owns(self, row: Row) -> bool:
        """Whether a row answers this question, asked of this model."""
        return row.prompt == printable(self.prompt) and row.model == printable(self.model)


@dataclass(frozen=True, slots=True)
class Found:
    """What a file of rows holds of a run: names that are `done`, rows that are `stale`.

    `ordered` says whether the rows stand in the order of the pictures.
    """

    done: set[str]
    stale: list[Row]
    ordered: bool


def look_through(journal: Journal, entries: Sequence[Entry], task: Task) -> Found:
    """Look at every row once."""
    wanted = {entry.name: (place, entry) for place, entry in enumerate(entries)}
    done: set[str] = set()
    stale: list[Row] = []
    last, ordered = -1, True
    for row in journal.rows():
        if row.file not in wanted or not task.owns(row):
            continue
        place, entry = wanted[row.file]
        ordered, last = ordered and place > last, place
        if row.file not in done and _holds(row, entry, task):
            done.add(row.file)
        else:
            stale.append(row)
    done.difference_update(row.file for row in stale)  # of two rows neither is to be trusted
    return Found(done, stale, ordered)


def drop(journal: Journal, stale: Sequence[Row], task: Task) -> None:
    """Take rows out of the file, so that a picture never has two. Raises OSError."""
    names = {row.file for row in stale}
    if names:
        journal.keep(lambda row: not (task.owns(row) and row.file in names))


def put_in_order(journal: Journal, entries: Sequence[Entry], task: Task) -> None:
    """Put the rows of this run in the order of the pictures, if they are not. Raises OSError.

    What was redone, or came to the folder later, stands at the end till then. Rows of other
    models and prompts go in front.
    """
    places = {entry.name: place for place, entry in enumerate(entries)}
    others, ours = [], []
    for row, span in journal.spans():
        if row.file in places and task.owns(row):
            ours.append((places[row.file], span))
        else:
            others.append(span)
    if ours != sorted(ours):
        journal.rewrite([*others, *(span for _, span in sorted(ours))])


def _holds(row: Row, entry: Entry, task: Task) -> bool:
    if row.failed or (row.finish == "limit" and row.tokens < task.max_new_tokens):
        return False
    size, modified = entry.stamp()
    if (size, modified) == (row.bytes, row.modified):
        return True
    return size is not None and size == row.bytes and _hash(entry) == row.sha256


def _hash(entry: Entry) -> str:
    try:
        return hashlib.sha256(entry.read().data).hexdigest()
    except LlavaNbError:
        return ""
