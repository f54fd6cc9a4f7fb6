"""caption_folder(): a folder of pictures becomes a table, and nothing of it is lost.

Rows are on the disk batch by batch. Killed, stopped or out of disk, the same call again does
what is left. What a run holds in memory does not depend on how many pictures there are.

Covered: the call, its checks and its result. Not covered: what pictures there are
(`sources.py`), a run (`run.py`), the file (`journal.py`), what is done
already (`resume.py`), the work itself (`local.py`, `ray.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LlavaNbError, PromptError
from ..prompts import check_question
from ..settings import Settings
from . import parquet as folder_parquet
from .entries import Entry
from .forms import JsonForm, form_of
from .journal import Journal
from .local import rows_of
from .lock import only_one
from .result import FolderResult
from .resume import Task
from .run import Batches, Run
from .sources import find_pictures, leave_out_sheet
from .stop import Stop, listening
from .texts import Texts

if TYPE_CHECKING:
    from ..llava import Llava

PROMPT = "Describe this picture."


def caption_folder(
    llava: Llava,
    folder: Any,
    output: str | os.PathLike,
    *,
    prompt: str = PROMPT,
    batch_size: int = 8,
    recursive: bool = False,
    engine: str = "local",
    column: str | None = None,
    text_files: bool = False,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float | None = None,
    progress: bool = True,
    stop: Stop | None = None,
    workers: int | None = None,
) -> FolderResult:
    """Caption every picture and keep the captions in a table: `output`, a CSV, JSONL or Parquet.

    `folder` is a folder (`recursive`: and all below it), a pattern such as "photos/*.jpg", a
    list of paths and addresses, a CSV file with a `column` of them, or a zip. `text_files` also
    writes `<name>.txt` beside each picture. `engine="ray"` spreads the work over `workers`
    models (None: one for each GPU, or processor without one) on one machine or a cluster.

    The same call again goes on where the last one ended, however it ended: pictures captioned
    with this model and this prompt are not done again, those that changed or failed are. A
    picture that cannot be read has a row with its `error`. Stop in a notebook, Ctrl-C, SIGTERM,
    or `stop` being set end the run after the batch in hand; the result then says so.

    Raises LlavaNbError if there are no pictures, if the table cannot be written or another run
    is writing it, or if the disk is full; PromptError for settings that mean nothing.
    """
    settings = _checked(prompt, batch_size, max_new_tokens, temperature, top_p)
    engines: dict[str, Any] = {"local": partial(_local, llava), "ray": partial(_ray, llava)}
    if engine not in engines:
        raise LlavaNbError(f"engine is {engine!r}; take 'local', or 'ray' for several models.")
    path = Path(output).expanduser()
    form = form_of(path)
    entries = leave_out_sheet(find_pictures(folder, recursive=recursive, column=column), path)
    texts = Texts(entries) if text_files else None
    task = Task(prompt, llava.name, max_new_tokens)
    make: Batches = partial(
        engines[engine], task=task, batch_size=batch_size, settings=settings, workers=workers
    )
    started = time.perf_counter()
    with only_one(path), _rows_file(path, form) as journal:
        run = Run(journal, entries, task, texts)
        with listening(stop) as asked:
            run.begin()
            run.work(make, asked, progress)
            run.end(path)
    return FolderResult(
        output=path,
        prompt=prompt,
        model=llava.name,
        total=len(entries),
        kept=run.kept,
        captioned=run.captioned,
        failed=run.failed,
        seconds=time.perf_counter() - started,
        signal=asked.name if run.remaining else "",
        texts_left_alone=texts.left_alone if texts else 0,
        entries=tuple(entries),
    )


def _checked(
    prompt: str, batch_size: int, max_new_tokens: int, temperature: float, top_p: float | None
) -> dict[str, Any]:
    """Return the settings of `ask_batch`. Raises PromptError for what means nothing."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise PromptError(f"batch_size is {batch_size!r}; it is a whole number from 1 on, as 8.")
    check_question(prompt)
    Settings(max_new_tokens, temperature, top_p)
    return {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}


@contextlib.contextmanager
def _rows_file(output: Path, form: Any) -> Iterator[Journal]:
    """Open the file that the rows are written to: the output, or what Parquet is made of."""
    place = output
    if output.suffix.lower() == ".parquet":
        folder_parquet.check_pyarrow()
        folder_parquet.take_up(output)
        place, form = folder_parquet.rows_path(output), JsonForm()
    with Journal(place, form) as journal:
        yield journal


def _local(llava: Llava, entries: Sequence[Entry], asked: Stop, **options: Any) -> Iterator[Any]:
    options.pop("workers")
    return rows_of(llava, entries, asked=asked, **options)


def _ray(llava: Llava, entries: Sequence[Entry], asked: Stop, **options: Any) -> Iterator[Any]:
    from .ray import rows_of_workers  # loads ray

    return rows_of_workers(llava, entries, asked=asked, **options)
