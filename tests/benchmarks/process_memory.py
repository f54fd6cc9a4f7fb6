"""What a fresh process holds in memory, watched from outside while it works.

`run_watched` starts `load_once.py` and reads /proc/PID/statm every few milliseconds: anonymous
memory (the kernel's RssAnon) and file-backed memory (RssFile and RssShmem), which the kernel can
give back at any time. The process stops at each mark, such as "imports" or "loaded", until the
reading there is taken. Watching from outside costs the process nothing and goes on while it holds
Python's lock; a thread of its own would miss just the long calls.

What it can miss: a peak shorter than the time between two readings. So two things are recorded
beside every peak: the longest gap, and how far the kernel's own high-water mark (VmHWM, of all
resident memory, set back at each mark) lies above the highest total read. Pages that were swapped
out are not counted while they are, so what is swapped at a mark is recorded as well. Memory of a
GPU is not in here, and neither is what the kernel keeps for the process, such as page tables; a
memory limit counts the latter. Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memory_limit import Limit

CHILD = Path(__file__).with_name("load_once.py")
INTERVAL_SECONDS = 0.005
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Reading:
    """Bytes that a process holds: anonymous, file-backed (shared memory included), and both."""

    anonymous: int = 0
    file: int = 0
    resident: int = 0

    def highest(self, other: Reading) -> Reading:
        """Return the larger of two readings, number by number."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Reading(*(max(pair) for pair in pairs))


def read_memory(pid: int | str = "self") -> Reading:
    """Return what a process holds now."""
    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_bytes().split()
    pages = (int(resident) - int(shared), int(shared), int(resident))
    return Reading(*(PAGE_BYTES * each for each in pages))


def read_status(pid: int | str = "self") -> tuple[int, int]:
    """Return the kernel's high-water mark of resident memory and what is swapped out, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    kib = dict(re.findall(r"^(VmHWM|VmSwap):\s+(\d+) kB", text, re.MULTILINE))
    return 1024 * int(kib.get("VmHWM", 0)), 1024 * int(kib.get("VmSwap", 0))


@dataclass(frozen=True)
class Mark:
    """The memory at a mark (`now`), and the most (`peak`) since the mark before, in bytes.

    `gap` is the longest time between two readings, in seconds; `unseen` the bytes by which the
    kernel's high-water mark lies above the highest reading of all resident memory; `swapped` what
    is swapped out at the mark.
    """

    now: Reading
    peak: Reading
    readings: int
    gap: float
    unseen: int
    swapped: int


class Watch(threading.Thread):
    """Reads a process's memory until it ends, or `stop()` is called."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self._lock, self._stopped = pid, threading.Lock(), threading.Event()
        self._begin()

    def _begin(self) -> None:
        self._peak, self._readings, self._gap = Reading(), 0, 0.0
        self._last = time.perf_counter()
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # sets VmHWM back to now

    def run(self) -> None:
        while not self._stopped.wait(INTERVAL_SECONDS):
            with contextlib.suppress(OSError), self._lock:  # it may be ending
                self._read()

    def _read(self) -> Reading:
        now = read_memory(self.pid)
        self._peak = self._peak.highest(now)
        self._readings += 1
        self._gap = max(self._gap, time.perf_counter() - self._last)
        self._last = time.perf_counter()
        return now

    def mark(self) -> Mark:
        """Return what was seen since the last mark, and begin anew."""
        with self._lock:
            now = self._read()
            high, swapped = read_status(self.pid)
            unseen = max(high - self._peak.resident, 0)
            seen = Mark(now, self._peak, self._readings, self._gap, unseen, swapped)
            self._begin()
            return seen

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@dataclass
class Run:
    """What a watched process did: its marks by name, its own facts, how it ended.

    `facts` is what the process said of itself; `killed` that the limit ended it; `charged` the
    most that the limit counted, page cache included.
    """

    marks: dict[str, Mark] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    code: int | None = None
    killed: bool = False
    charged: int | None = None
    said: str = ""

    @property
    def completed(self) -> bool:
        """Whether the process reached its end."""
        return self.code == 0 and "end" in self.marks

    @property
    def last_words(self) -> str:
        """The error that ended the process; empty for one that was killed."""
        errors = re.findall(r"^[\w.]+(?:Error|Exception)\b.*", self.said, re.MULTILINE)
        return errors[-1] if errors and not self.killed else ""


def run_watched(request: dict[str, Any], *, limit: Limit | None = None, child: Path = CHILD) -> Run:
    """Run `load_once.py`, or another `child`, with `request` in a fresh process.

    Under `limit` if given.
    """
    run = Run()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, str(child), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        if limit is not None:
            limit.add(process.pid)  # the process imports nothing before its first mark is taken
        watch = Watch(process.pid)
        watch.start()
        _follow(process, watch, run)
        watch.stop()
        run.code = process.wait()
        errors.seek(0)
        run.said = errors.read().strip()[-3000:]
    if limit is not None:
        run.killed, run.charged = limit.kills > 0, limit.peak_bytes
    return run


def _follow(process: subprocess.Popen, watch: Watch, run: Run) -> None:
    """Take a reading at every mark and let the process go on."""
    # A process that is killed at a mark leaves a pipe that nobody reads.
    with contextlib.suppress(BrokenPipeError), process.stdin, process.stdout:
        for line in process.stdout:
            told = json.loads(line)
            run.marks[told.pop("mark")] = watch.mark()
            run.facts |= told
            process.stdin.write("go on\n")
            process.stdin.flush()
