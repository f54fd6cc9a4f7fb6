"""`track_vram(label)`: how much memory a stretch of code took at its peak, and for how long.

VRAM is what torch has allocated, on all GPUs together; its peak is torch's own, so nothing
is missed. Without a GPU it is the RAM that belongs to this process alone (mapped weight files do
not count), read by a thread every 5 milliseconds; a peak that is shorter, or during which Python's
lock is held, is missed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import LlavaNbError, format_gib, plain
from ..machine import own_ram_bytes

if TYPE_CHECKING:
    import numpy
    from matplotlib.figure import Figure

INTERVAL_SECONDS = 0.005


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


class VramLog(Sequence):
    """The tracks of a session, in the order in which they ended; `log[0]`, `len(log)`, loops.

    `str()` is a table, `plot()` a timeline.
    """

    def __init__(self) -> None:
        self._tracks: list[Track] = []

    def add(self, track: Track) -> None:
        """Keep a track. Raises LlavaNbError for anything else."""
        if not isinstance(track, Track):
            kind = type(track).__name__
            raise LlavaNbError(f"A VramLog keeps what track_vram(...) measured, not {kind}.")
        self._tracks.append(track)

    def __len__(self) -> int:
        return len(self._tracks)

    def __getitem__(self, place: int) -> Track:
        return self._tracks[place]

    def _in_order(self) -> list[Track]:
        return sorted(self, key=lambda track: track.started)

    def __str__(self) -> str:
        tracks = self._in_order()
        if not tracks:
            return "Nothing tracked yet. Write: with track_vram('load'): ..."
        labels = ["  " * track.depth + track.label for track in tracks]
        width = max(12, *(len(label) + 2 for label in labels))
        lines = [f"{tracks[0].memory:<{width}}{'start':>12}{'peak':>12}{'end':>12}{'seconds':>10}"]
        for label, track in zip(labels, tracks, strict=True):
            counts = (track.start_bytes, track.peak_bytes, track.end_bytes)
            numbers = "".join(f"{format_gib(count):>12}" for count in counts)
            lines.append(f"{label:<{width}}{numbers}{track.seconds:>10.1f}")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Return a matplotlib figure: a box for each track as high as its peak, over the seconds.

        The line in a box goes from what was held at the start to what was held at the end.
        """
        known = [track for track in self._in_order() if track.peak_bytes is not None]
        figure, ((axes,),) = closed_figure((8, 3.5))
        zero = known[0].started if known else 0.0
        end = max((track.started + track.seconds - zero for track in known), default=1.0)
        highest = max((track.peak_bytes for track in known), default=0) / 2**30
        for number, track in enumerate(known):
            left, indent, colour = track.started - zero, "  " * track.depth, f"C{number % 10}"
            width = max(track.seconds, end / 200)  # or a short one could not be seen
            counts = (track.peak_bytes, track.start_bytes, track.end_bytes)
            peak, *line = (count / 2**30 for count in counts)
            axes.bar(left, peak, width, align="edge", color=colour, alpha=0.25, edgecolor=colour)
            axes.plot([left, left + width], line, color=colour, linewidth=2)
            text = f"{indent}{track.label}\n{indent}{peak:.2f} GiB"
            place = {"xytext": (2, 2), "textcoords": "offset points"}
            axes.annotate(text, (left, peak), **place, fontsize=8, parse_math=False)
        memory = known[0].memory if known else "memory"
        axes.set_xlim(0, end * 1.02 or 1.0)
        axes.set_ylim(0, highest * 1.25 or 1.0)  # room above for the labels
        axes.set_xlabel("seconds")
        axes.set_ylabel(f"GiB of {memory}")
        axes.set_title(f"Peak of {memory}" if known else "Nothing tracked yet")
        return figure


def closed_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, numpy.ndarray]:
    """Return a figure of `size` inches and its axes, (rows, columns)."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    pyplot.close(figure)  # a notebook would show it again at the end of the cell
    return figure, axes


session_log = VramLog()  # where tracks go that name no log
_open: list[Tracking] = []  # the trackers around whoever starts next


class Tracking:
    """A stretch that is measured; after its end it has all that its `result`, a `Track`, has."""

    def __init__(self, label: str, start_bytes: int | None) -> None:
        self.label, self.start_bytes = label, start_bytes
        self.result: Track | None = None

    def __getattr__(self, name: str) -> Any:
        result = self.__dict__.get("result")
        if result is None:
            raise AttributeError(f"{name}: the stretch has not ended, or there is no such number")
        return getattr(result, name)

    def __str__(self) -> str:
        return str(self.result) if self.result else f"{self.label}: not ended"


def track_vram(
    label: str, log: VramLog | None = None
) -> contextlib.AbstractContextManager[Tracking]:
    """Measure a stretch: `with track_vram("load") as track: ...`, then `track.peak_bytes`.

    Also a decorator: `@track_vram("load")`. What was measured is added to `log` too, by default to
    one of this session. What goes wrong inside is passed on, and measured. Raises LlavaNbError for
    a label that is no text, or a log that is no VramLog.
    """
    if not isinstance(label, str):
        kind = "the function itself" if callable(label) else type(label).__name__
        raise LlavaNbError(
            f'track_vram() takes a label, not {kind}: with track_vram("load"): ... '
            'or @track_vram("load").'
        )
    if log is not None and not isinstance(log, VramLog):
        raise LlavaNbError(f"log is a VramLog, not {type(log).__name__}: log = VramLog().")
    return _tracking(plain(label), session_log if log is None else log)


@contextlib.contextmanager
def _tracking(label: str, log: VramLog) -> Iterator[Tracking]:
    import torch

    depth, gpus = len(_open), torch.cuda.device_count() if torch.cuda.is_available() else 0
    with contextlib.ExitStack() as ending:
        peak = ending.enter_context(_peak_on_gpus(range(gpus)) if gpus else _peak_in_ram())
        tracking = Tracking(label, peak.start)
        _open.append(tracking)
        started = time.perf_counter()
        try:
            yield tracking
        finally:
            seconds = time.perf_counter() - started
            _open.remove(tracking)
            ending.close()  # the peak's end is known from here on
            counts = (peak.start, peak.highest, peak.end)
            tracking.result = Track(label, peak.memory, *counts, started, seconds, depth)
            log.add(tracking.result)


@dataclass(eq=False)
class Peak:
    """The most memory in use in a stretch, known at its end; None is unknown."""

    memory: str  # "VRAM" or "RAM"
    start: int | None = None
    end: int | None = None
    highest: int | None = None


def peak_on(device: Any) -> contextlib.AbstractContextManager[Peak]:
    """Measure the peak of one torch device; of a CPU nothing is measured."""
    if device.type != "cuda":
        return contextlib.nullcontext(Peak("VRAM"))
    return _peak_on_gpus((device.index or 0,))


# torch keeps one peak for each GPU, and setting it back loses what was there. So the peaks that are
# under way are listed here, by GPU, and before one of them sets torch's back, the others get it.
# They may lie within each other or overlap, in any threads.
_lock = threading.RLock()
_measuring: list[dict[int, int]] = []


@contextlib.contextmanager
def _peak_on_gpus(devices: Sequence[int]) -> Iterator[Peak]:
    """Measure the most that torch has allocated on some GPUs, all of them together."""
    import torch

    def allocated() -> int:
        return sum(torch.cuda.memory_allocated(device) for device in devices)

    def hand_over() -> None:
        """Give torch's peaks, as they stand, to all that are under way."""
        for highest in _measuring:
            for device in highest:
                reading = torch.cuda.max_memory_allocated(device)
                highest[device] = max(highest[device], reading)

    torch.cuda.init()  # before it, torch knows no peak to set back
    peak, highest = Peak("VRAM"), dict.fromkeys(devices, 0)
    with _lock:
        hand_over()
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        peak.start = allocated()
        _measuring.append(highest)
    try:
        yield peak
    finally:
        with _lock:
            hand_over()
            # By identity: equal readings are not the same stretch.
            _measuring[:] = [each for each in _measuring if each is not highest]
            peak.end, peak.highest = allocated(), sum(highest.values())


@contextlib.contextmanager
def _peak_in_ram() -> Iterator[Peak]:
    """Measure the most RAM of this process, its own alone, read by a thread."""
    peak, process, ended = Peak("RAM"), psutil.Process(), threading.Event()

    def read() -> int | None:
        now = own_ram_bytes(process)[0]
        if now is not None:
            peak.highest = max(peak.highest or 0, now)
        return now

    def watch() -> None:
        while not ended.wait(INTERVAL_SECONDS):
            read()

    peak.start = read()
    watcher = threading.Thread(target=watch, daemon=True)
    if peak.start is not None:
        watcher.start()
    try:
        yield peak
    finally:
        if peak.start is not None:
            ended.set()
            watcher.join()
            peak.end = read()
