"""caption_folder(): a folder of pictures becomes a table, and nothing that is done is lost."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import html
import os
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import LlavaNbError, PromptError, plain
from ..files import PAGE_BEGINNING, written_beside
from ..inference.answer import (
    MAX_NEW_TOKENS,
    Settings,
    Stop,
    check_batch_size,
    shown,
    whole_number,
)
from ..prompts import DEFAULT_PROMPT, check_question
from .sources import Entry, find_pictures, rows_by_ray, rows_here, text_files_of
from .table import Row, Table, check_output, frame, only_one_run

SHOWN_ERRORS = 10
THUMBNAIL = 160  # pixels
STYLE = "display: grid; gap: 1em; grid-template-columns: repeat(auto-fill, minmax(11em, 1fr))"
FIGURE = (
    '<figure style="margin: 0; overflow-wrap: anywhere">{image}<figcaption style="white-space: '
    'pre-wrap">{text}\n<small>{name}</small></figcaption></figure>\n'
)


def caption_folder(
    llava: Any,
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
    """Caption every picture and keep the captions in a table: `output`, such as "captions.csv".

    `folder` is a folder (`recursive`: and all below it), a pattern such as "photos/*.jpg", one
    picture, or paths and addresses: a list, a pandas Series, a generator. The ending of `output`
    says what the table is to be: .csv, .jsonl and others. `text_files` also writes `<name>.txt`
    beside each picture. `engine="ray"` spreads the work over `workers` models (None: one for each
    GPU, or processor without one) on one machine or a cluster.

    The same call again goes on where the last one ended, however it ended: pictures captioned
    with this model and this prompt are not done again, those that changed or failed are. An
    address that has a caption is not fetched again. `recaption=True` asks about all of them. A
    picture that cannot be read has a row with its `error`; if it has a caption from before, that
    stays, as it does wherever there is no better one, and the result says so. While it runs, rows
    are in `<output>.jsonl`. Stop in a notebook, Ctrl-C, or `stop` being set end the run.

    Raises LlavaNbError if there are no pictures, if the table cannot be written or another run
    is writing it, or if the disk is full; PromptError for settings that mean nothing.
    """
    if not callable(getattr(llava, "ask_batch", None)) or not hasattr(llava, "name"):
        raise PromptError(
            f"The first argument is of type {type(llava).__name__}; it is the model, as load() "
            "returns it: caption_folder(load(), 'photos', 'captions.csv')."
        )
    check_question(prompt)
    settings = Settings(max_new_tokens, temperature, top_p, stop)
    asked = {
        "prompts": prompt,
        "batch_size": check_batch_size(batch_size),
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    if workers is not None and (workers := whole_number(given := workers)) is None:
        raise PromptError(
            f"workers is {shown(given)}; it is a whole number from 1 on, or None for all that "
            "there is room for."
        )
    flags = {"recursive": recursive, "text_files": text_files, "recaption": recaption}
    for name, value in {**flags, "progress": progress}.items():
        if not isinstance(value, bool):
            raise PromptError(f"{name} is {shown(value)}; it is True or False.")
    engines = {"local": rows_here, "ray": partial(rows_by_ray, workers=workers)}
    if not isinstance(engine, str) or engine not in engines:
        raise LlavaNbError(f"engine is {shown(engine)}; take 'local', or 'ray' for several models.")
    path, entries = check_output(output), find_pictures(folder, recursive=recursive)
    texts = text_files_of(entries) if text_files else {}
    is_over = stop.is_set if stop is not None else lambda: False
    started = time.perf_counter()
    with only_one_run(path):
        run = Run(Table(path, prompt, llava.name), entries, texts)
        try:
            run.begin(settings.max_new_tokens, recaption)
            run.work(engines[engine](llava, run.remaining, asked, is_over), progress)
        finally:
            run.end()
    names = ("kept", "captioned", "failed", "not_looked_at", "not_redone")
    counts = {name: list(run.outcomes.values()).count(name) for name in names}
    counts["kept"] += counts["not_looked_at"] + counts["not_redone"]
    return FolderResult(
        path,
        prompt,
        llava.name,
        **counts,
        seconds=time.perf_counter() - started,
        remaining_captioned=sum(run.table.caption(e.name) is not None for e in run.remaining),
        texts_left_alone=len(run.texts_left_alone),
        total=len(entries),
        entries=tuple(entries),
    )


class Run:
    """One run: what became of each picture is in `outcomes`, by its name, as FolderResult has it.

    `texts` are the files for the captions beside pictures, by the pictures' names.
    """

    def __init__(self, table: Table, entries: list[Entry], texts: dict[str, Path]) -> None:
        self.table, self._entries, self._texts = table, entries, texts
        self.outcomes: dict[str, str] = {}
        self.texts_left_alone: set[Path] = set()

    @property
    def remaining(self) -> list[Entry]:
        """The pictures still to be done."""
        return [entry for entry in self._entries if entry.name not in self.outcomes]

    def begin(self, max_new_tokens: int, recaption: bool) -> None:
        """Find out what is done. Raises LlavaNbError."""
        self.table.take_other_spellings([entry.name for entry in self._entries])
        fresh = []
        for entry in self._entries:
            row = self.table.row(entry.name)
            if row is None or row.failed:
                continue
            facts = entry.facts()
            if facts["bytes"] is None and not entry.is_address:
                self.outcomes[entry.name] = "not_looked_at"
                continue
            cut_off = row.finish == "limit" and row.tokens < max_new_tokens
            if not (recaption or cut_off) and _is_of(row, entry, facts):
                self.outcomes[entry.name] = "kept"
                # What an earlier run could not do is not wanted any more; the next need not hash.
                fresh.append(replace(row, modified=facts["modified"], error=""))
        fresh = [row for row in fresh if row != self.table.row(row.file)]
        with self._saving():
            if fresh:
                self.table.add(fresh)
            self._write_texts(self._texts)

    def work(self, batches: Generator[list[Row], None, None], progress: bool) -> None:
        """Caption what is left, each batch on the disk before the next. Raises LlavaNbError."""
        total, done = len(self._entries), len(self.outcomes)
        if done == total:
            return
        with self._saving():
            self.table.add([])  # tries the disk before the model is asked: that takes long
        bar: Any = contextlib.nullcontext()
        if progress:
            # Not merely made invisible by disable=True: it would still take the lock that all bars
            # share with every fork, and one killed while it holds the lock stops all others.
            from tqdm.auto import tqdm

            bar = tqdm(total=total, initial=done, desc="Captions", unit=" pictures", smoothing=0.1)
        with bar, contextlib.suppress(KeyboardInterrupt), contextlib.closing(batches):
            for rows in batches:
                self._save(rows)
                if progress:
                    bar.update(len(rows))

    def _save(self, rows: list[Row]) -> None:
        better, outcomes = [], {}
        for row in rows:
            outcomes[row.file] = "failed" if row.failed else "captioned"
            before = self.table.row(row.file)
            if row.failed and before is not None and not before.failed:
                # An ImageError is about the picture, any other about asking.
                unseen = row.error.startswith("ImageError")
                outcomes[row.file] = "not_looked_at" if unseen else "not_redone"
                row = replace(before, error=row.error)
            better.append(row)
        with self._saving():
            self.table.add(better)
            self.outcomes |= outcomes
            self._write_texts(outcomes)

    def _write_texts(self, names: Iterable[str]) -> None:
        """Write captions beside their pictures, over no text of somebody's own. Raises OSError."""
        for name in names:
            path, caption = self._texts.get(name), self.table.caption(name)
            if path is None or caption is None or self.outcomes.get(name) == "not_looked_at":
                continue
            try:
                found = path.read_bytes().decode("utf-8", "backslashreplace")
            except FileNotFoundError:
                found = None
            except OSError:
                found = ""  # a folder, or not ours to read
            if found == caption:
                continue
            if found is None or found in self.table.replaced.get(name, ()):
                with written_beside(path) as beside:
                    beside.write_bytes(caption.encode())
            else:
                self.texts_left_alone.add(path)

    def end(self) -> None:
        """Put the table in order and in its place. Raises LlavaNbError."""
        with self._saving(f", in '{plain(self.table.journal)}' until then"):
            self.table.write(entry.name for entry in self._entries)

    @contextlib.contextmanager
    def _saving(self, where: str = "") -> Iterator[None]:
        """Turn a disk that takes no more into an error that says what is saved."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "The disk is full" if full else f"Writing failed ({error.strerror or error})"
            total, done = len(self._entries), len(self.outcomes)
            raise LlavaNbError(
                f"{why}: {done:,} of {total:,} pictures are saved{where}, {total - done:,} are "
                f"still to be done. {'Make room' if full else 'Put that right'} and make the same "
                "call again: it goes on from there."
            ) from error


def _is_of(row: Row, entry: Entry, facts: dict[str, Any]) -> bool:
    """Whether a row is of the picture as it is now."""
    if entry.is_address or (row.bytes, row.modified) == (facts["bytes"], facts["modified"]):
        return True
    try:  # only touched, or copied
        same_size = row.bytes == facts["bytes"]
        return same_size and hashlib.sha256(entry.content().data).hexdigest() == row.sha256
    except LlavaNbError:
        return False  # reading it again says why, beside its caption


@dataclass(frozen=True)
class ContactSheet:
    """Where the page is, and how many of the pictures it shows."""

    path: Path
    shown: int
    total: int
    _figures: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.shown:,} of {self.total:,} pictures in {self.path}"

    def _repr_html_(self) -> str:
        return f'<div style="{STYLE}">{self._figures}</div>'


@dataclass(frozen=True)
class FolderResult:
    """A run's counts, and where its table is.

    Of `total` pictures `kept` have a caption from before, `captioned` have one from now, `failed`
    have none (their rows say why), and `remaining` are still to be done, of which
    `remaining_captioned` keep the captions they had till then. Of those kept, `not_looked_at`
    could not be looked at (a drive that is away, a damaged file), and `not_redone` could not be
    captioned again. `seconds` is what the run took. `texts_left_alone` are texts beside pictures
    that were there before and say something else.
    """

    output: Path
    prompt: str
    model: str
    total: int
    kept: int
    captioned: int
    failed: int
    seconds: float
    not_looked_at: int = 0
    not_redone: int = 0
    remaining_captioned: int = 0
    texts_left_alone: int = 0
    entries: tuple[Entry, ...] = field(default=(), repr=False, compare=False)

    @property
    def remaining(self) -> int:
        """Pictures that the run did not come to."""
        return self.total - self.kept - self.captioned - self.failed

    @property
    def interrupted(self) -> bool:
        """Whether the run was told to stop before all was done."""
        return self.remaining > 0

    @property
    def pictures_per_second(self) -> float:
        """How fast this run was, reading and writing included."""
        return (self.captioned + self.failed) / self.seconds if self.seconds else 0.0

    def rows(self) -> list[Row]:
        """Read the rows of these pictures, in their order. Raises LlavaNbError."""
        if not self.output.exists():
            raise LlavaNbError(
                f"The table '{plain(self.output)}' is not there. If it was moved, make the same "
                "call with its new place: nothing is done twice."
            )
        table = Table(self.output, self.prompt, self.model)
        return [row for entry in self.entries if (row := table.row(entry.name)) is not None]

    @property
    def table(self) -> Any:
        """The rows as a pandas DataFrame."""
        return frame(self.rows())

    def contact_sheet(
        self, path: str | os.PathLike | None = None, *, limit: int = 100
    ) -> ContactSheet:
        """Write a page with the first `limit` pictures and their captions; it needs nothing else.

        It is beside the table, as `captions.sheet.html`, or at `path`, which ends in .html. Raises
        LlavaNbError if it cannot be written.
        """
        number = whole_number(limit)
        if number is None:
            raise LlavaNbError(f"limit is {shown(limit)}; it is 1 picture or more.")
        rows, entries = self.rows(), {entry.name: entry for entry in self.entries}
        if not rows:
            raise LlavaNbError("There are no captions yet: run caption_folder to its end first.")
        figures = "".join(_figure(row, entries[row.file]) for row in rows[:number])
        try:
            page = self.output.with_name(f"{self.output.stem}.sheet.html")
            if path is not None:
                page = Path(path).expanduser().with_suffix(".html")
            with written_beside(page) as beside:
                beside.write_text(
                    f"{PAGE_BEGINNING}<title>Pictures and captions</title>\n<style>:root "
                    "{ color-scheme: light dark; font-family: system-ui, sans-serif; }</style>\n"
                    f'</head>\n<body>\n<h1>Pictures and captions</h1>\n<main style="{STYLE}">\n'
                    f"{figures}</main>\n</body>\n</html>\n",
                    "utf-8",
                )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise LlavaNbError(
                f"The contact sheet cannot be written to '{plain(path or page.parent)}' "
                f"({plain(error)}). Give another place: contact_sheet('/tmp/sheet.html')."
            ) from error
        return ContactSheet(page, min(number, len(rows)), len(rows), figures)

    def __str__(self) -> str:
        before = self.kept - self.not_looked_at - self.not_redone
        parts = {
            "captioned before": before,
            "kept, could not be looked at": self.not_looked_at,
            "kept, could not be captioned again": self.not_redone,
            "failed (column 'error' says why)": self.failed,
        }
        others = "".join(f", {number:,} {what}" for what, number in parts.items() if number)
        lines = [
            f"{self.output}: {self.total:,} pictures, {self.captioned:,} captioned{others}; "
            f"{self.seconds:.1f} s, {self.pictures_per_second:.1f} pictures/s"
        ]
        if self.remaining:
            old = f" {self.remaining_captioned:,} of them keep the captions they had."
            lines.append(
                f"Interrupted: {self.remaining:,} are still to be done. The same call again does "
                f"them.{old if self.remaining_captioned else ''}"
            )
        if self.texts_left_alone:
            lines.append(f"{self.texts_left_alone:,} texts were there before and are left alone.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        said = html.escape(str(self)).replace("\n", "<br>")
        some = self.failed or self.not_looked_at or self.not_redone
        errors = [row for row in self.rows() if row.error] if some else []
        lines = [
            f"<tr><td>{html.escape(row.file)}</td><td>{html.escape(row.error)}</td></tr>"
            for row in errors[:SHOWN_ERRORS]
        ]
        if len(errors) > SHOWN_ERRORS:
            lines.append(f"<tr><td>and {len(errors) - SHOWN_ERRORS:,} more</td></tr>")
        return f"<div>{said}</div>" + (f"<table>{''.join(lines)}</table>" if lines else "")


def _figure(row: Row, entry: Entry) -> str:
    """A picture small, if it can be read (any more), and its text."""
    name, uri = html.escape(row.file), entry.thumbnail(THUMBNAIL)
    image = f'<img src="{uri}" alt="{name}" style="max-width: 100%">' if uri else ""
    text = html.escape(row.error if row.failed else row.caption)
    return FIGURE.format(image=image, text=text, name=name)
