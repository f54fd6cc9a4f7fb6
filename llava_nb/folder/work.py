"""The rows of many pictures: a batch at a time on this machine, or several models by Ray."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import os
import threading
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..errors import LlavaNbError, ModelError
from ..images import MAX_PIXELS
from ..inference.answer import Answer, Stop
from .sources import Entry, Read, read_picture
from .table import Row, Task, printable

if TYPE_CHECKING:
    from ..inference.llava import Llava

BATCH_PIXELS = MAX_PIXELS  # 100 million: a batch of large pictures ends there, at 0.3 GB in RGB
WAIT_SECONDS = 0.2  # how soon a stop is seen while a download is waited for
RETRIES = 1  # how often the batch of a worker of Ray that died is done again


def rows_of(
    llava: Llava, entries: Sequence[Entry], *, task: Task, settings: dict[str, Any], stop: Stop
) -> Generator[list[Row], None, None]:
    """Give the rows of one batch after the other, in the order of the entries, until `stop`.

    `settings` are those of `Llava.ask_batch`. Raises what that raises for settings, or for a
    model that does not work at all.
    """
    with contextlib.closing(_read_ahead(entries, settings["batch_size"], stop)) as batches:
        for batch in batches:
            yield batch_rows(llava, batch, task, settings)
            del batch  # let go before the next is waited for


def _read_ahead(
    entries: Sequence[Entry], size: int, stop: Stop
) -> Generator[list[Read], None, None]:
    """Give up to `size` pictures at a time, while a thread reads the next; none once `stop`."""
    waiting, over = iter(entries), threading.Event()

    def read_batch() -> list[Read]:
        batch: list[Read] = []
        pixels = 0
        while len(batch) < size and pixels < BATCH_PIXELS and not over.is_set():
            entry = next(waiting, None)
            if entry is None:
                break
            batch.append(read_picture(entry))
            picture = batch[-1].picture
            pixels += picture.width * picture.height if picture is not None else 0
        return batch

    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="llava_nb-reader")
    try:
        coming = pool.submit(read_batch)
        while not stop.is_set():
            done, _ = concurrent.futures.wait([coming], timeout=WAIT_SECONDS)
            if not done:
                continue
            batch = coming.result()
            if not batch:
                return
            coming = pool.submit(read_batch)
            yield batch
            del batch  # so that two batches are in memory, not three
    finally:
        over.set()
        pool.shutdown(wait=False)  # a download may take long, and is not waited for


def batch_rows(
    llava: Llava, batch: Sequence[Read], task: Task, settings: dict[str, Any]
) -> list[Row]:
    """Return the rows of the pictures of one batch, readable or not."""
    pictures = [read.picture for read in batch if read.picture is not None]
    answers = iter(_answers(llava, pictures, task.prompt, settings))
    return [
        _row(read, read.error if read.picture is None else next(answers), task) for read in batch
    ]


def _answers(
    llava: Llava, pictures: list[Any], prompt: str, settings: dict[str, Any]
) -> list[Answer | Exception]:
    """Answer all at once; if that fails as a whole, one by one."""
    if not pictures:
        return []
    try:
        return list(llava.ask_batch(pictures, prompt, **settings))
    except LlavaNbError:  # a closed model, settings that mean nothing
        raise
    except Exception as error:  # a picture that the processor or the model cannot take
        if len(pictures) == 1:
            return [error]
        answers: list[Answer | Exception] = []
        for picture in pictures:
            try:
                answers += llava.ask_batch([picture], prompt, **settings)
            except Exception as alone:
                answers.append(alone)
        if all(isinstance(answer, Exception) for answer in answers):
            raise  # then it is not the pictures
        return answers


def _row(read: Read, outcome: Answer | Exception | None, task: Task) -> Row:
    answer = outcome if isinstance(outcome, Answer) else None
    error = outcome if answer is None else answer.error
    name, prompt, model = task.key(read.name)
    return Row(
        file=name,
        caption=printable(answer.text) if answer is not None else "",
        prompt=prompt,
        model=model,
        seconds=round(answer.seconds, 3) if answer is not None else 0.0,
        tokens=answer.tokens if answer is not None else 0,
        finish=answer.finish if answer is not None else "failed",
        error="" if error is None else f"{type(error).__name__}: {printable(str(error))}",
        sha256=read.stamp[0],
        bytes=read.stamp[1],
        modified=read.stamp[2],
    )


class Captioner:
    """A worker of Ray: one model, which lives as long as the worker does."""

    def __init__(
        self, entries: Sequence[Entry], task: Task, settings: dict[str, Any], model: dict[str, Any]
    ) -> None:
        from ..loading.load import load

        self._entries, self._task, self._settings = entries, task, settings
        self._llava = load(**model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Return the rows of the entries at these places, or the error that ends the run."""
        read = [read_picture(self._entries[place]) for place in batch["place"]]
        try:
            rows = batch_rows(self._llava, read, self._task, self._settings)
        except Exception as error:
            return {"row": [""], "error": [f"{type(error).__name__}: {error}"]}
        return {"row": [json.dumps(asdict(row)) for row in rows], "error": [""] * len(rows)}


def rows_by_ray(
    llava: Llava,
    entries: Sequence[Entry],
    *,
    task: Task,
    settings: dict[str, Any],
    stop: Stop,
    workers: int | None,
) -> Generator[list[Row], None, None]:
    """Give the rows of one batch after the other, as the workers finish them, until `stop`.

    Each worker loads the model of `llava` by its name; `llava` itself is not used and may be
    closed. Ray Data hands out the batches, replaces a worker that dies, and gives its batch to
    another once more. On a cluster the pictures have to be at the same path everywhere. Raises
    LlavaNbError if Ray is missing, ModelError if no worker can work.
    """
    ray = start_ray()
    kind, number = resources(ray.cluster_resources(), workers)
    worker = {
        "entries": [
            entry if entry.is_address else replace(entry, place=os.path.abspath(entry.place))
            for entry in entries
        ],
        "task": task,
        "settings": settings,
        "model": {
            "model": getattr(llava, "source", None) or llava.name,
            "quantization": llava.quantization,
        },
    }
    size, left = settings["batch_size"], {entry.name: entry for entry in entries}
    with _quiet(ray) as data:
        blocks = data.from_items(
            [{"place": place} for place in range(len(entries))],
            override_num_blocks=-(-len(entries) // size),
        )
        captions = blocks.map_batches(
            Captioner,
            fn_constructor_kwargs=worker,
            batch_size=size,
            compute=data.ActorPoolStrategy(size=number),
            max_restarts=-1,
            max_task_retries=RETRIES,
            **{kind: 1},
        )
        for batch in captions.iter_batches(batch_size=None, batch_format="numpy"):
            if any(batch["error"]):
                told = next(filter(None, batch["error"]))
                raise ModelError(f"A worker of Ray cannot go on. {told}")
            rows = [Row(**json.loads(row)) for row in batch["row"]]
            for row in rows:
                del left[row.file]
            yield rows
            if stop.is_set():
                return
    if not left:
        return
    died = LlavaNbError(
        f"The worker died on the batch of this picture, {RETRIES + 1} times. Run again with "
        "batch_size=1 to find the picture; most likely the worker ran out of memory."
    )
    yield [_row(Read(each.name, ("", *each.stamp())), died, task) for each in left.values()]


def start_ray() -> Any:
    """Return Ray, connected to the cluster of RAY_ADDRESS or started here. Raises LlavaNbError."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LlavaNbError(
            'engine="ray" needs Ray: pip install "ray[data]". One machine with one GPU needs none '
            'of it: engine="local".'
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    return ray


def resources(cluster: dict[str, float], workers: int | None) -> tuple[str, int]:
    """Return what a worker takes one of, as Ray calls it, and how many workers there are.

    Raises LlavaNbError if more are wanted than the cluster has room for.
    """
    kind, what = ("GPU", "num_gpus") if cluster.get("GPU", 0) >= 1 else ("CPU", "num_cpus")
    room = int(cluster.get(kind, 0))
    if room < 1:
        raise LlavaNbError("Ray has neither a GPU nor a processor: ray.init(num_cpus=1) gives it.")
    wanted = room if workers is None else workers
    if wanted > room:
        raise LlavaNbError(
            f"workers is {workers}, and Ray has {room} {kind}(s): take 1 to {room}, or None for "
            "all. What Ray has is set when it starts: ray.init(num_cpus=2)."
        )
    return what, wanted


@contextlib.contextmanager
def _quiet(ray: Any) -> Generator[Any, None, None]:
    """Ray Data without bars and logs of its own; a batch that is given up does not end the run."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.max_errored_blocks, logger.level
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    logger.setLevel(logging.CRITICAL)
    try:
        yield ray.data
    finally:
        context.enable_progress_bars, context.max_errored_blocks = before[:2]
        logger.setLevel(before[2])
