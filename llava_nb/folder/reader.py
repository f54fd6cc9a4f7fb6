"""Pictures read, hashed and decoded in a thread, one batch ahead of the model.

At most two batches are in memory, and a batch of large pictures ends early: what a run holds
depends neither on how many pictures there are nor on how large they are. Not covered: what is
asked about them (`local.py`).
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..images import MAX_PIXELS, decode
from .entries import Entry
from .stop import Stop

BATCH_PIXELS = MAX_PIXELS  # 100 million: 0.3 GB in RGB
WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Read:
    """A picture as it was read: `picture`, or the `error` that says why not.

    `stamp` is the hash of the file's bytes, its size, and when it was changed.
    """

    name: str
    stamp: tuple[str, int | None, str]
    picture: Image.Image | None = field(default=None, repr=False)
    error: Exception | None = None


def read_picture(entry: Entry) -> Read:
    """Read, hash and decode one picture; whatever goes wrong is in the result."""
    size, modified = entry.stamp()  # before reading: a change meanwhile is seen the next time
    digest = ""
    try:
        content = entry.read()
        digest = hashlib.sha256(content.data).hexdigest()
        size = len(content.data)
        picture = decode(
            content.data, content.shown, max_pixels=MAX_PIXELS, content_type=content.content_type
        )
        return Read(entry.name, (digest, size, modified), picture)
    except Exception as error:  # one picture, whatever it holds, does not end the run
        return Read(entry.name, (digest, size, modified), error=_without_frames(error))


def _without_frames(error: Exception) -> Exception:
    """An error that does not hold on to the bytes that its frames had read."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def batches(entries: Sequence[Entry], size: int, asked: Stop) -> Generator[list[Read], None, None]:
    """Give up to `size` pictures at a time, while a thread reads the next; none once `asked`."""
    ready: queue.Queue[list[Read] | BaseException | None] = queue.Queue(maxsize=1)
    over = threading.Event()
    reader = threading.Thread(
        target=_read_ahead, args=(entries, size, ready, over), name="llava_nb-reader", daemon=True
    )
    reader.start()
    try:
        while not asked.is_set():  # a download may take long, and is not waited for then
            try:
                batch = ready.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                continue
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            yield batch
            del batch  # so that two batches are in memory, not three
    finally:
        over.set()


def _read_ahead(
    entries: Sequence[Entry], size: int, ready: queue.Queue, over: threading.Event
) -> None:
    try:
        batch: list[Read] = []
        pixels = 0
        for entry in entries:
            if over.is_set():
                return
            batch.append(read_picture(entry))
            picture = batch[-1].picture
            pixels += picture.width * picture.height if picture is not None else 0
            if len(batch) == size or pixels >= BATCH_PIXELS:
                _hand_over(batch, ready, over)
                batch, pixels = [], 0
        if batch:
            _hand_over(batch, ready, over)
        _hand_over(None, ready, over)
    except BaseException as error:  # the other thread would wait for ever
        _hand_over(error, ready, over)


def _hand_over(
    batch: list[Read] | BaseException | None, ready: queue.Queue, over: threading.Event
) -> None:
    """Wait until the batch before has been taken, or nobody takes any more."""
    while not over.is_set():
        try:
            return ready.put(batch, timeout=WAIT_SECONDS)
        except queue.Full:
            continue
