"""An answer in pieces: generation in a thread of its own, its text and its faults passed on.

Covered: starting and ending the thread. Not covered: which text is ready
(`generation.py`), generating (`llava.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from .generation import AnswerStream
from .settings import EitherStop, Stop


def pieces(
    stream: AnswerStream, run: Callable[[AnswerStream, Stop], Any], stop: Stop | None
) -> Iterator[str]:
    """Yield the text that `run(stream, stop)` makes as it grows; raise whatever goes wrong there.

    Nothing runs before the first piece is asked for. Leaving the loop early ends the
    generation, and waits for it.
    """
    stream.listen()
    left = EitherStop(stop)
    worker = threading.Thread(target=stream.work, args=(lambda: run(stream, left),), daemon=True)
    worker.start()
    try:
        yield from stream.pieces()
    finally:
        left.set()
        worker.join()
