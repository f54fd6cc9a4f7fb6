"""The pictures of a folder through one model, on this machine: a batch at a time.

Covered: the rows of a batch, a picture on which the model itself fails. Not covered: reading
ahead (`reader.py`), keeping the rows (`call.py`), several workers (`ray.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from ..answer import Answer
from ..errors import LlavaNbError
from .entries import Entry
from .reader import Read, batches
from .resume import Task
from .rows import Row, failed_row, row_of
from .stop import Stop

if TYPE_CHECKING:
    from ..llava import Llava


def rows_of(
    llava: Llava,
    entries: Sequence[Entry],
    *,
    task: Task,
    batch_size: int,
    settings: dict[str, Any],
    asked: Stop,
) -> Generator[list[Row], None, None]:
    """Give the rows of one batch after the other, in the order of the entries, until `asked`.

    `settings` are those of `Llava.ask_batch`. Raises what that raises for settings, or for a
    model that does not work at all.
    """
    with contextlib.closing(batches(entries, batch_size, asked)) as reading:
        for batch in reading:
            yield batch_rows(llava, batch, task, batch_size, settings)
            del batch  # let go before the next is waited for


def batch_rows(
    llava: Llava, batch: Sequence[Read], task: Task, batch_size: int, settings: dict[str, Any]
) -> list[Row]:
    """Return the rows of the pictures of one batch, readable or not."""
    pictures = [read.picture for read in batch if read.picture is not None]
    answers = iter(_answers(llava, pictures, task.prompt, batch_size, settings))
    rows = []
    for read in batch:
        outcome = read.error if read.picture is None else next(answers)
        make = row_of if isinstance(outcome, Answer) else failed_row
        rows.append(make(read.name, outcome, task.prompt, task.model, read.stamp))
    return rows


def _answers(
    llava: Llava, pictures: list[Any], prompt: str, batch_size: int, settings: dict[str, Any]
) -> list[Answer | Exception]:
    """Answer all at once; if that fails as a whole, one by one."""
    try:
        return _ask(llava, pictures, prompt, batch_size, settings)
    except LlavaNbError:  # a closed model, settings that mean nothing
        raise
    except Exception as error:  # a picture that the processor or the model cannot take
        if len(pictures) == 1:
            return [error]
        answers: list[Answer | Exception] = []
        for picture in pictures:
            try:
                answers += _ask(llava, [picture], prompt, 1, settings)
            except Exception as alone:
                answers.append(alone)
        if all(isinstance(answer, Exception) for answer in answers):
            raise  # then it is not the pictures
        return answers


def _ask(
    llava: Llava, pictures: list[Any], prompt: str, batch_size: int, settings: dict[str, Any]
) -> list[Any]:
    if not pictures:
        return []
    return list(llava.ask_batch(pictures, prompt, batch_size=batch_size, **settings))
