"""The pictures of a folder through several models at once, spread by Ray Data.

Ray starts a model on every GPU of the machine or cluster, or on every processor where there is
none; it hands out the batches, replaces a worker that dies, and gives its batch to another one
once more. The rows come back to this process, which keeps them as it keeps its own. On a
cluster the pictures have to be at the same path everywhere, on a shared disk, or at addresses.

Covered: what a worker is and does. Not covered: scheduling, which is Ray's; the rows of a batch
(`local.py`). Needs `pip install "llava_nb[ray]"`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import LlavaNbError, ModelError
from .entries import Entry, FileEntry
from .forms import JsonForm
from .local import batch_rows
from .reader import read_picture
from .resume import Task
from .rows import Row, failed_row
from .stop import Stop

if TYPE_CHECKING:
    from ..llava import Llava

RETRIES = 1  # how often the batch of a worker that died is done again


class Captioner:
    """A worker: one model, which lives as long as the worker does."""

    def __init__(
        self,
        entries: Sequence[Entry],
        task: Task,
        batch_size: int,
        settings: dict[str, Any],
        model: tuple[str, str | None],
    ) -> None:
        from ..loading import load

        self._entries, self._task, self._batch_size = entries, task, batch_size
        self._settings, self._form = settings, JsonForm()
        self._llava = load(model[0], quantization=model[1])

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the rows of the entries at these places, or the error that ends the run."""
        read = [read_picture(self._entries[place]) for place in batch["place"]]
        try:
            rows = batch_rows(self._llava, read, self._task, self._batch_size, self._settings)
        except Exception as error:
            return {"row": [b""], "error": [f"{type(error).__name__}: {error}"]}
        return {"row": [self._form.encode(row) for row in rows], "error": [""] * len(rows)}


def rows_of_workers(
    llava: Llava,
    entries: Sequence[Entry],
    *,
    task: Task,
    batch_size: int,
    settings: dict[str, Any],
    workers: int | None,
    asked: Stop,
) -> Generator[list[Row], None, None]:
    """Give the rows of one batch after the other, as the workers finish them, until `asked`.

    Each worker loads the model of `llava` by its name; `llava` itself is not used and may be
    closed. Raises LlavaNbError if Ray is missing, ModelError if no worker can work.
    """
    ray = start_ray()
    places = [_for_everywhere(entry) for entry in entries]
    worker = {
        "entries": places,
        "task": task,
        "batch_size": batch_size,
        "settings": settings,
        "model": (getattr(llava, "source", llava.name), llava.quantization),
    }
    left = {entry.name: entry for entry in entries}
    with _quiet(ray) as data:
        each, number = resources(ray.cluster_resources(), workers)
        blocks = data.from_items(
            [{"place": place} for place in range(len(places))],
            override_num_blocks=-(-len(places) // batch_size),
        )
        captions = blocks.map_batches(
            Captioner,
            fn_constructor_kwargs=worker,
            batch_size=batch_size,
            compute=data.ActorPoolStrategy(size=number),
            max_restarts=-1,
            max_task_retries=RETRIES,
            **each,
        )
        for batch in captions.iter_batches(batch_size=None, batch_format="numpy"):
            if any(batch["error"]):
                raise ModelError(
                    f"A worker of Ray cannot go on. {next(filter(None, batch['error']))}"
                )
            rows = [JsonForm().decode(record) for record in batch["row"]]
            for row in rows:
                del left[row.file]
            yield rows
            if asked.is_set():
                return
    if left:
        yield [_given_up(entry, task) for entry in left.values()]


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


def resources(cluster: dict[str, float], workers: int | None) -> tuple[dict[str, int], int]:
    """Return what each worker takes of a cluster, and how many there are.

    Raises LlavaNbError if more are wanted than the cluster has room for.
    """
    kind, what = ("GPU", "num_gpus") if cluster.get("GPU", 0) >= 1 else ("CPU", "num_cpus")
    room = int(cluster.get(kind, 0))
    wanted = room if workers is None else workers
    if not 1 <= wanted <= room:
        raise LlavaNbError(
            f"workers is {workers}, and Ray has {room} {kind}(s): take 1 to {max(room, 1)}, or "
            "None for all. What Ray has is set when it starts: ray.init(num_cpus=2)."
        )
    return {what: 1}, wanted


def _for_everywhere(entry: Entry) -> Entry:
    """The entry with a path that does not depend on where a worker runs."""
    if isinstance(entry, FileEntry):
        return replace(entry, path=os.path.abspath(os.path.expanduser(entry.path)))
    if hasattr(entry, "archive"):
        return replace(entry, archive=os.path.abspath(entry.archive))
    return entry


def _given_up(entry: Entry, task: Task) -> Row:
    """The row of a picture of a batch whose worker died, and died again."""
    error = LlavaNbError(
        f"The worker died on the batch of this picture, {RETRIES + 1} times. Run again with "
        "batch_size=1 to find the picture; most likely the worker ran out of memory."
    )
    return failed_row(entry.name, error, task.prompt, task.model, ("", *entry.stamp()))


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
