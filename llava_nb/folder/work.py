"""The rows of many pictures: a batch at a time on this machine, or several models by Ray."""

from __future__ import annotations

import concurrent.futures
import logging
import math
import os
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import llava_nb

from ..errors import LlavaNbError, ModelError
from .sources import Entry
from .table import Row

BATCH_PIXELS = 100_000_000  # a batch of large pictures ends there, at 0.3 GB in RGB
WAIT_SECONDS = 0.2  # how soon a stop is seen while a download, or a worker, is waited for
RETRIES = 1  # how often the batch of a worker of Ray that died is done again
Asked = dict[str, Any]  # the arguments of `Llava.ask_batch`: prompts, batch_size and others
Rows = Generator[list[Row], None, None]


def rows_of(llava: Any, batch: Sequence[tuple[dict[str, Any], Any]], asked: Asked) -> list[Row]:
    """Return the rows of pictures as `Entry.read` gives them, readable or not."""
    pictures = [picture for _, picture in batch if not isinstance(picture, Exception)]
    answers = iter(_answers(llava, pictures, asked) if pictures else [])
    return [
        Row.of(picture if isinstance(picture, Exception) else next(answers), **facts)
        for facts, picture in batch
    ]


def _answers(llava: Any, pictures: list[Any], asked: Asked) -> list[Any]:
    """Answer all at once; if that fails as a whole, one by one, an error where one fails alone."""
    try:
        return llava.ask_batch(pictures, **asked)
    except LlavaNbError:  # a closed model, settings that mean nothing
        raise
    except Exception as error:  # a picture that the processor or the model cannot take
        if len(pictures) == 1:
            return [error]
        answers = [_answers(llava, [picture], asked)[0] for picture in pictures]
        if all(isinstance(answer, Exception) for answer in answers):
            raise  # then it is not the pictures
        return answers


def rows_here(
    llava: Any, entries: Sequence[Entry], asked: Asked, is_over: Callable[[], bool]
) -> Rows:
    """Give the rows of one batch after the other, in the order of the entries, until `is_over`.

    A thread reads the pictures of the next batch meanwhile. Raises what `Llava.ask_batch` raises
    for settings, or for a model that does not work at all.
    """
    waiting, ended = iter(entries), threading.Event()

    def read_batch() -> list[Any]:
        batch, pixels = [], 0
        while len(batch) < asked["batch_size"] and pixels < BATCH_PIXELS:
            entry = next(waiting, None)
            if entry is None or ended.is_set():
                break
            batch.append(entry.read())
            pixels += math.prod(getattr(batch[-1][1], "size", (0,)))  # an error has none
        return batch

    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="llava_nb-reader")
    try:
        coming = pool.submit(read_batch)
        while not is_over():
            done, _ = concurrent.futures.wait([coming], timeout=WAIT_SECONDS)
            if not done:
                continue
            batch = coming.result()
            if not batch:
                return
            coming = pool.submit(read_batch)
            yield rows_of(llava, batch, asked)
            del batch  # so that two batches are in memory, not three
    finally:
        ended.set()
        pool.shutdown(wait=False)  # a download may take long, and is not waited for


class Worker:
    """An actor of Ray: one model, which lives as long as the actor does."""

    def __init__(self, asked: Asked, model: dict[str, Any]) -> None:
        self._asked, self._model, self._llava = asked, model, None

    def rows(self, batch: Sequence[Entry]) -> list[Row]:
        """Return the rows of some pictures."""
        if self._llava is None:  # not in __init__, whose errors Ray takes for a death
            self._llava = llava_nb.load(**self._model)
        return rows_of(self._llava, [entry.read() for entry in batch], self._asked)


def rows_by_ray(
    llava: Any,
    entries: Sequence[Entry],
    asked: Asked,
    is_over: Callable[[], bool],
    *,
    workers: int | None,
) -> Rows:
    """Give the rows of one batch after the other, as the workers finish them, until `is_over`.

    Each worker loads the model of `llava` by its name; `llava` itself is not used and may be
    closed. Ray replaces a worker that dies, which does its batch once more. On a cluster the
    pictures have to be at the same path everywhere. Raises LlavaNbError if Ray is missing,
    ModelError if a worker cannot work.
    """
    try:
        import ray
    except ImportError as error:
        raise LlavaNbError(
            'engine="ray" needs Ray: pip install ray. One machine with one GPU needs none of it: '
            'engine="local".'
        ) from error
    if not ray.is_initialized():  # the cluster of RAY_ADDRESS, or one here
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    has = ray.cluster_resources()
    kind = "GPU" if has.get("GPU", 0) >= 1 else "CPU"
    room = int(has.get(kind, 0))
    if not 1 <= (workers or 1) <= room:
        raise LlavaNbError(
            f"workers is {workers}, and Ray has room for {room}, one a {kind}. What Ray has is set "
            "when it starts, such as by ray.init(num_cpus=2)."
        )
    model = {"model": llava.source or llava.name, "quantization": llava.quantization}
    options = {f"num_{kind.lower()}s": 1, "max_restarts": -1, "max_task_retries": RETRIES}
    make = ray.remote(**options)(Worker)
    idle, running = [make.remote(asked, model) for _ in range(workers or room)], {}
    size, waiting = asked["batch_size"], list(entries)
    for place, entry in enumerate(waiting):
        if not entry.is_address:
            waiting[place] = replace(entry, place=os.path.abspath(entry.place))
    while (waiting or running) and not is_over():
        while waiting and idle:
            batch, waiting, worker = waiting[:size], waiting[size:], idle.pop()
            running[worker.rows.remote(batch)] = worker, batch
        done, _ = ray.wait(list(running), timeout=WAIT_SECONDS)
        for future in done:
            worker, batch = running.pop(future)
            idle.append(worker)
            try:
                yield ray.get(future)
            except ray.exceptions.RayTaskError as error:
                told = f"{type(error.cause).__name__}: {error.cause}"
                raise ModelError(f"A worker of Ray cannot go on. {told}") from error
            except ray.exceptions.RayError:
                died = LlavaNbError(
                    f"The worker died on the batch of this picture, {RETRIES + 1} times. Run "
                    "again with batch_size=1 to find the picture; most likely the worker ran "
                    "out of memory."
                )
                yield [Row.of(died, **entry.facts()) for entry in batch]
