"""The highest memory use of a stretch of code, of a GPU or of this process.

torch keeps one peak for each GPU, and setting it back loses what was there. So all
`Peak`s that are open are kept here, and before one of them sets torch's peak back, the
others get it. They may lie within each other or overlap, in any threads.

Covered: readings at the start, at the end, and the highest between. Not covered: labels,
tables and figures (`tracking.py`).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

STATM = Path("/proc/self/statm")
INTERVAL_SECONDS = 0.005

_lock = threading.RLock()
_open: list[Peak] = []


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
                _hand_over()
                for device in self.devices:
                    torch.cuda.reset_peak_memory_stats(device)
                self.start = self._now()
                _open.append(self)
        return self

    def __exit__(self, *fault: object) -> None:
        if self.devices:
            with _lock:
                _hand_over()
                _open.remove(self)
                self.end = self._now()

    def _now(self) -> int:
        import torch

        return sum(torch.cuda.memory_allocated(device) for device in self.devices)

    def take(self, device: int, peak: int) -> None:
        """Keep the peak of a GPU if it is the highest yet."""
        if device in self.devices:
            self._highest[device] = max(self._highest.get(device, 0), peak)


def _hand_over() -> None:
    """Give torch's peaks, as they stand, to everybody who is open."""
    import torch

    for device in {device for peak in _open for device in peak.devices}:
        highest = torch.cuda.max_memory_allocated(device)
        for peak in _open:
            peak.take(device, highest)


class RamPeak:
    """The most RAM of this process, its own alone, read by a thread every few milliseconds.

    Has what `Peak` has. All is None where there is no /proc.
    """

    memory = "RAM"

    def __init__(self) -> None:
        self.start: int | None = None
        self.end: int | None = None
        self.highest: int | None = None
        self._ended = threading.Event()

    def __enter__(self) -> RamPeak:
        self.start = self.highest = own_ram_bytes()[0]
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
        now = own_ram_bytes()[0] or 0
        self.highest = max(self.highest or 0, now)
        return now


def own_ram_bytes() -> tuple[int | None, int | None]:
    """Return what belongs to this process alone, and all that it has in RAM; None if unknown.

    The first is the kernel's RssAnon. The second has mapped files and shared memory too,
    which the kernel can take back.
    """
    try:
        _, resident, shared, *_ = STATM.read_bytes().split()
    except (OSError, ValueError):
        return None, None
    page = os.sysconf("SC_PAGE_SIZE")
    return page * (int(resident) - int(shared)), page * int(resident)


def peak_on(device: Any) -> Peak:
    """Return a `Peak` of one torch device, which measures nothing on a CPU."""
    return Peak((device.index or 0,) if device.type == "cuda" else ())


def peak_here() -> Peak | RamPeak:
    """Return a peak of all GPUs that torch can use, or of the RAM without one."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Peak(tuple(range(count))) if count else RamPeak()
