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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import LlavaNbError, plain
from ..machine import own_ram_bytes
from ..sizes import GIB, format_gib

if TYPE_CHECKING:
    import numpy
    from matplotlib.axes import Axes
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


class VramLog:
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
        tracks = sorted(self._tracks, key=lambda track: track.started)
        known = [track for track in tracks if track.peak_bytes is not None]
        figure, ((axes,),) = closed_figure((8, 3.5))
        zero = min((track.started for track in known), default=0.0)
        end = max((track.started + track.seconds - zero for track in known), default=1.0)
        highest = max((track.peak_bytes for track in known), default=0) / GIB
        for number, track in enumerate(known):
            width = max(track.seconds, end / 200)  # or a short one could not be seen
            _box(axes, track, track.started - zero, width, f"C{number % 10}")
        memory = known[0].memory if known else "memory"
        axes.set_xlim(0, end * 1.02 or 1.0)
        axes.set_ylim(0, highest * 1.25 or 1.0)  # room above for the labels
        axes.set_xlabel("seconds")
        axes.set_ylabel(f"GiB of {memory}")
        axes.set_title(f"Peak of {memory}" if known else "Nothing tracked yet")
        return figure


def _box(axes: Axes, track: Track, left: float, width: float, colour: str) -> None:
    start, peak, end = (
        count / GIB for count in (track.start_bytes, track.peak_bytes, track.end_bytes)
    )
    axes.bar(left, peak, width, align="edge", color=colour, alpha=0.25, edgecolor=colour)
    axes.plot([left, left + width], [start, end], color=colour, linewidth=2)
    text = f"{'  ' * track.depth}{track.label}\n{'  ' * track.depth}{peak:.2f} GiB"
    axes.annotate(
        text, (left, peak), (2, 2), textcoords="offset points", fontsize=8, parse_math=False
    )


def closed_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, numpy.ndarray]:
    """Return a figure of `size` inches and its axes, (rows, columns).

    It is closed for pyplot, so a notebook shows it once, as a cell's result, and not a second time
    at the end of the cell. matplotlib is needed here only.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    pyplot.close(figure)
    return figure, axes


session_log = VramLog()  # where tracks go that name no log
_open: list[Tracking] = []  # the trackers around whoever starts next


class Tracking:
    """A stretch that is measured: `start_bytes` at once; after its end `result`, a `Track`.

    `peak_bytes`, `end_bytes`, `seconds` and the rest of the result can be had from here too.
    """

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

    Also a decorator: `@track_vram("load")`. What was measured is added to `log` too, by default
    to one of this session. What goes wrong inside is passed on, and measured.
    Raises LlavaNbError for a label that is no text, or a log that is no VramLog.
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
    peak, depth = peak_here(), len(_open)
    with contextlib.ExitStack() as ending:
        ending.enter_context(peak)
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


# torch keeps one peak for each GPU, and setting it back loses what was there. So all peaks that are
# under way are listed here, and before one of them sets torch's peak back, the others get it. They
# may lie within each other or overlap, in any threads.
_lock = threading.RLock()
_measuring: list[Peak] = []


class Peak:
    """The most that torch had allocated on some GPUs: `with Peak((0,)) as peak: ...`.

    `start`, `end` and `highest` are bytes, of all its GPUs together. Without any GPU
    all of them are None, and nothing is measured.
    """

    memory = "VRAM"

    def __init__(self, devices: tuple[int, ...]) -> None:
        self.devices = devices
        self.start: int | None = None
        self.end: int | None = None
        self._highest: dict[int, int] = {}

    @property
    def highest(self) -> int | None:
        """The most that was allocated, as far as is known by now."""
        return sum(self._highest.values()) if self._highest else None

    def __enter__(self) -> Peak:
        if self.devices:
            import torch

            torch.cuda.init()  # before it, torch knows no peak to set back
            with _lock:
                self._hand_over()
                for device in self.devices:
                    torch.cuda.reset_peak_memory_stats(device)
                self.start = self._now()
                _measuring.append(self)
        return self

    def __exit__(self, *fault: object) -> None:
        if self.devices:
            with _lock:
                self._hand_over()
                _measuring.remove(self)
                self.end = self._now()

    def _now(self) -> int:
        import torch

        return sum(torch.cuda.memory_allocated(device) for device in self.devices)

    @staticmethod
    def _hand_over() -> None:
        """Give torch's peaks, as they stand, to all that are under way."""
        import torch

        for peak in _measuring:
            for device in peak.devices:
                highest = torch.cuda.max_memory_allocated(device)
                peak._highest[device] = max(peak._highest.get(device, 0), highest)


class RamPeak:
    """The most RAM of this process, its own alone, read by a thread every few milliseconds.

    Has what `Peak` has. All is None where RAM is unknown.
    """

    memory = "RAM"

    def __init__(self) -> None:
        self.start = self.end = self.highest = None
        self._process = psutil.Process()
        self._ended = threading.Event()

    def __enter__(self) -> RamPeak:
        self.start = self.highest = own_ram_bytes(self._process)[0]
        if self.start is not None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        if self.start is not None:
            self._ended.set()
            self._thread.join()
            self.end = self._read()

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self._read()

    def _read(self) -> int:
        now = own_ram_bytes(self._process)[0] or 0
        self.highest = max(self.highest or 0, now)
        return now


def peak_on(device: Any) -> Peak:
    """Return a `Peak` of one torch device, which measures nothing on a CPU."""
    return Peak((device.index or 0,) if device.type == "cuda" else ())


def peak_here() -> Peak | RamPeak:
    """Return a peak of all GPUs that torch can use, or of the RAM without one."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Peak(tuple(range(count))) if count else RamPeak()
