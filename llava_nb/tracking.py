"""`track_vram(label)`: how much memory a stretch of code took at its peak, and for how long.

VRAM is what torch has allocated, on all GPUs together; its peak is torch's own, so nothing
is missed. Without a GPU it is the RAM that belongs to this process alone (anonymous memory:
mapped weight files do not count), read by a thread every 5 milliseconds; a peak that is
shorter, or during which Python's lock is held, is missed. Where there is no /proc, RAM is
unknown.

Covered: `track_vram` and the `VramLog` of what it measured. Not covered: how peaks are
read (`peaks.py`), the figure (`timeline.py`), what is held at one moment (`vram.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .peaks import peak_here
from .sizes import format_gib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_open: list[track_vram] = []  # the trackers around whoever starts next


@dataclass(frozen=True)
class Track:
    """One stretch: bytes at its start, peak and end; None is unknown. `memory`: "VRAM" or "RAM".

    `started` is a reading of `time.perf_counter()`, `depth` the number of trackers around it.
    """

    label: str
    memory: str
    start_bytes: int | None
    peak_bytes: int | None
    end_bytes: int | None
    started: float
    seconds: float
    depth: int = 0

    def __str__(self) -> str:
        start, peak, end = map(format_gib, (self.start_bytes, self.peak_bytes, self.end_bytes))
        return (
            f"{self.label}: {start} of {self.memory} at the start, {peak} at the peak, "
            f"{end} at the end, {self.seconds:.1f} s"
        )


class VramLog:
    """The tracks of a session, in the order in which they ended; `log[0]`, `len(log)`, loops.

    `str()` is a table, `plot()` a timeline.
    """

    def __init__(self) -> None:
        self._tracks: list[Track] = []

    def add(self, track: Track) -> None:
        """Keep a track."""
        self._tracks.append(track)

    def __iter__(self) -> Iterator[Track]:
        return iter(tuple(self._tracks))

    def __len__(self) -> int:
        return len(self._tracks)

    def __getitem__(self, place: int) -> Track:
        return self._tracks[place]

    def __str__(self) -> str:
        if not self._tracks:
            return "Nothing tracked yet. Write: with track_vram('load'): ..."
        tracks = sorted(self._tracks, key=lambda track: track.started)
        labels = ["  " * track.depth + track.label for track in tracks]
        width = max(12, *(len(label) + 2 for label in labels))
        head = f"{tracks[0].memory:<{width}}{'start':>12}{'peak':>12}{'end':>12}{'seconds':>10}"
        lines = [head]
        for label, track in zip(labels, tracks, strict=True):
            counts = (track.start_bytes, track.peak_bytes, track.end_bytes)
            numbers = "".join(f"{format_gib(count):>12}" for count in counts)
            lines.append(f"{label:<{width}}{numbers}{track.seconds:>10.1f}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Return a matplotlib figure: a box for each track as high as its peak, over the seconds.

        The line in a box goes from what was held at the start to what was held at the end.
        """
        from .timeline import draw

        return draw(sorted(self._tracks, key=lambda track: track.started))


vram_log = VramLog()  # of this session: where tracks go that name no log


class track_vram(contextlib.ContextDecorator):  # in small letters: it is used like a function
    """Measure a stretch: `with track_vram("load") as track: ...`, then `track.peak_bytes`.

    Also a decorator: `@track_vram("load")`. `track` has `start_bytes` at once, and at the
    end `result`, a `Track`, which is also added to `log` (this session's `vram_log`
    unless given). What goes wrong inside is passed on, and measured too.
    """

    def __init__(self, label: str, log: VramLog | None = None) -> None:
        self.label, self._log = label, vram_log if log is None else log
        self.result: Track | None = None

    def _recreate_cm(self) -> track_vram:
        return track_vram(self.label, self._log)  # a decorated function may call itself

    def __enter__(self) -> track_vram:
        self._peak = peak_here().__enter__()
        self._depth = len(_open)
        _open.append(self)
        self._started = time.perf_counter()
        self.start_bytes = self._peak.start
        return self

    def __exit__(self, *fault: object) -> None:
        seconds = time.perf_counter() - self._started
        self._peak.__exit__(*fault)
        _open.remove(self)
        self.result = Track(
            label=self.label,
            memory=self._peak.memory,
            start_bytes=self._peak.start,
            peak_bytes=self._peak.highest,
            end_bytes=self._peak.end,
            started=self._started,
            seconds=seconds,
            depth=self._depth,
        )
        self._log.add(self.result)

    def __getattr__(self, name: str) -> Any:
        """Give `peak_bytes`, `end_bytes`, `seconds` and the rest of the result."""
        result = self.__dict__.get("result")
        if result is None:
            raise AttributeError(f"{name}: the stretch has not ended, or there is no such number")
        return getattr(result, name)

    def __str__(self) -> str:
        return str(self.result) if self.result else f"{self.label}: not ended"
