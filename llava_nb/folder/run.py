"""caption_folder(): a folder of pictures becomes a table, and nothing that is done is lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
import unicodedata
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..errors import LlavaNbError, PromptError, plain
from ..files import written_beside
from ..inference.answer import MAX_NEW_TOKENS, Settings, Stop
from ..prompts import DEFAULT_PROMPT, check_question
from .result import FolderResult
from .sources import Entry, find_pictures
from .table import Key, Row, Table, Task, check_output
from .work import rows_by_ray, rows_of

if TYPE_CHECKING:
    from ..inference.llava import Llava

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def caption_folder(
    llava: Llava,
    folder: Any,
    output: str | os.PathLike,
    *,
    prompt: str = DEFAULT_PROMPT,
    batch_size: int = 8,
    recursive: bool = False,
    engine: str = "local",
    text_files: bool = False,
    recaption: bool = False,
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 0.0,
    top_p: float | None = None,
    progress: bool = True,
    stop: Stop | None = None,
    workers: int | None = None,
) -> FolderResult:
    """Caption every picture and keep the captions in a table: `output`, a CSV, JSONL or Parquet.

    `folder` is a folder (`recursive`: and all below it), a pattern such as "photos/*.jpg", one
    picture, or paths and addresses: a list, a pandas Series, a generator. `text_files` also writes
    `<name>.txt` beside each picture. `engine="ray"` spreads the work over `workers` models (None:
    one for each GPU, or processor without one) on one machine or a cluster.

    The same call again goes on where the last one ended, however it ended: pictures captioned
    with this model and this prompt are not done again, those that changed or failed are. An
    address that has a caption is not fetched again. `recaption=True` asks about all of them. A
    picture that cannot be read has a row with its `error`; if it has a caption from before, that
    stays, as it does wherever there is no better one, and the result says so. While it runs, rows
    are in `<output>.jsonl`. Stop in a notebook, Ctrl-C, or `stop` being set end the run.

    Raises LlavaNbError if there are no pictures, if the table cannot be written or another run
    is writing it, or if the disk is full; PromptError for settings that mean nothing.
    """
    _check_model(llava)
    check_question(prompt)
    Settings(max_new_tokens, temperature, top_p)
    _check_number("batch_size", batch_size, "as 8")
    if workers is not None:
        _check_number("workers", workers, "or None for all that there is room for")
    for name, value in {
        "recursive": recursive,
        "text_files": text_files,
        "recaption": recaption,
        "progress": progress,
    }.items():
        if not isinstance(value, bool):
            raise PromptError(f"{name} is {plain(repr(value), 60)}; it is True or False.")
    if stop is not None and not callable(getattr(stop, "is_set", None)):
        raise PromptError(
            f"stop is of type {type(stop).__name__}; it is None or something with is_set(), such "
            "as a threading.Event."
        )
    engines: dict[Any, Any] = {"local": rows_of, "ray": partial(rows_by_ray, workers=workers)}
    if not isinstance(engine, str) or engine not in engines:
        raise LlavaNbError(
            f"engine is {plain(repr(engine), 60)}; take 'local', or 'ray' for several models."
        )
    path = check_output(output)
    entries = find_pictures(folder, recursive=recursive)
    texts = Texts(entries) if text_files else None
    make = partial(
        engines[engine],
        llava,
        settings={
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
        },
        stop=stop if stop is not None else threading.Event(),
    )
    started = time.perf_counter()
    with _only_one(path):
        run = Run(Table(path), entries, Task(prompt, llava.name, max_new_tokens), texts)
        try:
            run.begin(recaption)
            run.work(make, progress)
        finally:
            run.end()
    return FolderResult(
        output=path,
        prompt=prompt,
        model=llava.name,
        total=len(entries),
        kept=run.kept,
        captioned=run.captioned,
        failed=run.failed,
        seconds=time.perf_counter() - started,
        not_looked_at=run.not_looked_at,
        not_redone=run.not_redone,
        remaining_captioned=sum(run.has_caption(name) for name in run.pending),
        texts_left_alone=len(texts.left_alone) if texts else 0,
        entries=tuple(entries),
    )


def _check_model(llava: Any) -> None:
    if not callable(getattr(llava, "ask_batch", None)) or not hasattr(llava, "name"):
        raise PromptError(
            f"The first argument is of type {type(llava).__name__}; it is the model, as load() "
            "returns it: caption_folder(load(), 'photos', 'captions.csv')."
        )


def _check_number(name: str, value: Any, such: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PromptError(
            f"{name} is {plain(repr(value), 60)}; it is a whole number from 1 on, {such}."
        )


@contextlib.contextmanager
def _only_one(output: Path) -> Iterator[None]:
    """Hold the lock of an output, which the system lets go of however the process ends."""
    lock = FileLock(output.with_name(f".{output.name}.lock"), timeout=0)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise LlavaNbError(
            f"Another run is writing '{plain(output)}'. Wait until it is done, stop it, or give "
            "another output."
        ) from error
    except NotImplementedError:
        pass  # a disk that knows no locks
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


class Run:
    """One run: `kept` from before, `captioned` and `failed` now, `pending` what is left.

    Of those kept, `not_looked_at` are pictures that could not be looked at, and `not_redone`
    could not be captioned again.
    """

    def __init__(
        self, table: Table, entries: Sequence[Entry], task: Task, texts: Texts | None
    ) -> None:
        self._table, self._entries, self._task, self._texts = table, entries, task, texts
        self.pending: dict[str, Entry] = {}
        self.kept = self.captioned = self.failed = 0
        self.not_looked_at = self.not_redone = 0

    def has_caption(self, name: str) -> bool:
        """Whether there is a caption of a picture, from now or from before."""
        row = self._table.rows.get(self._task.key(name))
        return row is not None and not row.failed

    def begin(self, recaption: bool) -> None:
        """Find out what is done. Raises LlavaNbError."""
        self._take_other_spellings()
        seen_again = []
        for entry in self._entries:
            row = self._table.rows.get(self._task.key(entry.name))
            if row is None or row.failed:
                self.pending[entry.name] = entry
                continue
            size, modified = entry.stamp()
            if size is None and not entry.is_address:
                self.kept += 1
                self.not_looked_at += 1
            elif recaption or not self._holds(row, entry, size, modified):
                self.pending[entry.name] = entry
            else:
                self.kept += 1
                # What an earlier run could not do is not wanted any more; the next need not hash.
                fresh = replace(row, modified=modified, error="")
                seen_again += [fresh] if fresh != row else []
        with self._saving():
            if seen_again:
                self._table.add(seen_again)
            if self._texts is not None:
                self._texts.write(self._table, map(self._task.key, self._names()))

    def _names(self) -> Iterator[str]:
        return (entry.name for entry in self._entries)

    def _take_other_spellings(self) -> None:
        """Give rows the names of these pictures where only the Unicode form differs.

        A folder that moves from a Mac to another system, or back, may change it.
        """
        names: dict[str, set[str]] = {}
        for name in self._names():
            names.setdefault(unicodedata.normalize("NFC", name), set()).add(name)
        for row in list(self._table.rows.values()):
            spelled = names.get(unicodedata.normalize("NFC", row.file), ())
            if len(spelled) == 1 and row.file not in spelled:
                (name,) = spelled
                if (name, *row.key[1:]) not in self._table.rows:
                    self._table.rename(row, name)

    def _holds(self, row: Row, entry: Entry, size: int | None, modified: str) -> bool:
        """Whether a caption is of the picture as it is, and not cut off where there is room now."""
        if row.finish == "limit" and row.tokens < self._task.max_new_tokens:
            return False
        if entry.is_address or (size, modified) == (row.bytes, row.modified):
            return True
        if size != row.bytes:
            return False
        try:  # only touched, or copied
            return hashlib.sha256(entry.read().data).hexdigest() == row.sha256
        except LlavaNbError:
            return False  # reading it again says why, beside its caption

    def work(self, make: Any, progress: bool) -> None:
        """Caption what is left, each batch on the disk before the next. Raises LlavaNbError."""
        if not self.pending:
            return
        with self._saving():
            self._table.journal.open()  # before the model is asked: that takes long
        batches: Generator[list[Row], None, None]
        batches = make(entries=list(self.pending.values()), task=self._task)
        with (
            self._bar(progress) as bar,
            contextlib.suppress(KeyboardInterrupt),
            contextlib.closing(batches),
        ):
            for rows in batches:
                self._save(rows)
                if bar is not None:
                    bar.update(len(rows))

    def _bar(self, progress: bool) -> contextlib.AbstractContextManager[Any]:
        """A progress bar, or None in its place where none is wanted.

        A bar that is only told to be invisible still starts a thread, and takes a lock that it
        shares with every fork: one that is killed while it holds the lock stops all others.
        """
        if not progress:
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
        better = [self._better(row) for row in rows]
        with self._saving():
            self._table.add(better)
        for row, new in zip(rows, better, strict=True):
            del self.pending[row.file]
            self.captioned += not row.failed
            self.failed += new.failed
            if row.failed and not new.failed:
                self.kept += 1
                # An ImageError is about the picture, any other about asking.
                unseen = row.error.startswith("ImageError")
                self.not_looked_at += unseen
                self.not_redone += not unseen
        if self._texts is not None:
            with self._saving():
                self._texts.write(self._table, (row.key for row in better))

    def _better(self, row: Row) -> Row:
        """The row, or the earlier one with a caption where this one has none, and says why."""
        if row.failed and self.has_caption(row.file):
            return replace(self._table.rows[row.key], error=row.error)
        return row

    def end(self) -> None:
        """Put the table in order and in its place. Raises LlavaNbError."""
        order = {self._task.key(name): place for place, name in enumerate(self._names())}
        try:
            with self._saving(f", in '{plain(self._table.journal.path)}' until then"):
                self._table.write(order)
        finally:
            self._table.journal.close()

    @contextlib.contextmanager
    def _saving(self, where: str = "") -> Iterator[None]:
        """Turn a disk that takes no more into an error that says what is saved."""
        try:
            yield
        except OSError as error:
            full = error.errno in DISK_FULL
            why = "The disk is full" if full else f"Writing failed ({error.strerror or error})"
            total, left = len(self._entries), len(self.pending)
            raise LlavaNbError(
                f"{why}: {total - left:,} of {total:,} pictures are saved{where}, {left:,} are "
                f"still to be done. {'Make room' if full else 'Put that right'} and make the same "
                "call again: it goes on from there."
            ) from error


class Texts:
    """`<name>.txt` beside each picture, which is what tools for training on pictures read.

    A text that says something else than our captions is somebody's work: it is left alone.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Raises PromptError if none of the pictures is a file, or two would share a text."""
        self._places = {entry.name: entry.place for entry in entries if not entry.is_address}
        self.left_alone: set[Path] = set()
        if not self._places:
            raise PromptError(
                "text_files=True writes a text beside each picture, and these are all at "
                "addresses. Download them and give the folder, or leave it out."
            )
        names: dict[str, str] = {}
        for name, place in self._places.items():
            text = os.path.splitext(os.path.abspath(place))[0] + ".txt"
            other = names.setdefault(text, name)
            if os.path.abspath(self._places[other]) != os.path.abspath(place):
                raise PromptError(
                    f"'{plain(other)}' and '{plain(name)}' would both have their text in "
                    f"'{plain(os.path.basename(text))}'. Rename one of them, or leave out "
                    "text_files=True: the table has a row for each."
                )

    def write(self, table: Table, keys: Iterable[Key]) -> None:
        """Write the captions of rows, each text whole or not at all. Raises OSError."""
        for key in keys:
            row, place = table.rows.get(key), self._places.get(key[0], "")
            if row is None or row.failed or not os.path.exists(place):
                continue
            path = Path(os.path.splitext(place)[0] + ".txt")
            found = _text(path)
            if found == row.caption:
                continue
            if found is None or found in table.earlier.get(key, ()):
                with written_beside(path) as beside:
                    beside.write_bytes(row.caption.encode())
            else:
                self.left_alone.add(path)


def _text(path: Path) -> str | None:
    """The text there, None if there is none."""
    try:
        return path.read_bytes().decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""  # a folder, or not ours to read: leave it
