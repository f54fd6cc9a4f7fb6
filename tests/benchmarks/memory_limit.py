"""A memory limit on one process, by a cgroup of its own: version 1 or 2, where it may be made.

A limit counts the process's anonymous memory, the page cache it brings in and the kernel's memory
for it. Page cache is given back before a limit is enforced; what is over it then ends the process.
Swap is ruled out where the kernel lets us. Not covered: making it possible. Where no cgroup can
be made, `limited` says why, and nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUP, PROC = Path("/sys/fs/cgroup"), Path("/proc")


class NoLimitError(Exception):
    """No memory cgroup can be made here."""


@dataclass(frozen=True)
class Names:
    """What the files of a cgroup are called."""

    limit: str
    with_swap: str
    peak: str
    events: str


VERSION_1 = Names(
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.oom_control",
)
VERSION_2 = Names("memory.max", "memory.swap.max", "memory.peak", "memory.events")


@dataclass(frozen=True)
class Limit:
    """A cgroup with a limit in bytes. `without_swap` says whether swap is ruled out."""

    folder: Path
    names: Names
    limit_bytes: int
    without_swap: bool

    def add(self, pid: int) -> None:
        """Put a process under the limit; what it holds already stays counted elsewhere."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def peak_bytes(self) -> int | None:
        """The most that was ever counted, page cache included; None if the kernel is too old."""
        try:
            return int((self.folder / self.names.peak).read_text())
        except (OSError, ValueError):
            return None

    @property
    def kills(self) -> int:
        """How many processes the kernel ended to keep the limit."""
        found = re.search(r"^oom_kill (\d+)", (self.folder / self.names.events).read_text(), re.M)
        return int(found.group(1)) if found else 0


@contextlib.contextmanager
def limited(limit_bytes: int) -> Iterator[Limit]:
    """Make a cgroup with this limit, and remove it in the end.

    Raises NoLimitError where there is no memory cgroup, or none that may be written.
    """
    limit = _make(limit_bytes)
    try:
        yield limit
    finally:
        _remove(limit.folder)


def _make(limit_bytes: int) -> Limit:
    reasons = []
    for parent, names in _parents():
        folder = parent / f"llava_nb-{os.getpid()}-{time.monotonic_ns()}"
        try:
            folder.mkdir()
            (folder / names.limit).write_text(str(limit_bytes))
        except OSError as error:
            reasons.append(f"{error.strerror}: {parent}")
            _remove(folder)
            continue
        return Limit(folder, names, limit_bytes, _rule_out_swap(folder, names, limit_bytes))
    reason = "; ".join(reasons) or f"no memory cgroup is to be seen in {CGROUP}"
    raise NoLimitError(
        f"no memory limit can be set here ({reason}). As root on Linux one can; "
        "`systemd-run --user --scope -p MemoryMax=...` is another way."
    )


def _parents() -> Iterator[tuple[Path, Names]]:
    """Yield the places where a cgroup for a child process may be made, the nearest first.

    In version 2 a cgroup with processes in it hands no limits on to cgroups below (only the
    outermost may), so the place is beside our own.
    """
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root = CGROUP / "memory"
            # In a container the path may be the host's, and then only the root is there.
            places = (root / path.lstrip("/"), root)
            yield from ((each, VERSION_1) for each in dict.fromkeys(places) if each.is_dir())
        elif controllers == "":
            own = CGROUP / path.lstrip("/")
            for each in dict.fromkeys((own, own.parent if own != CGROUP else own, CGROUP)):
                if "memory" in _read(each / "cgroup.subtree_control").split():
                    yield each, VERSION_2


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _rule_out_swap(folder: Path, names: Names, limit_bytes: int) -> bool:
    """Allow no swap: version 1 limits RAM and swap together, version 2 swap alone."""
    try:
        (folder / names.with_swap).write_text(str(limit_bytes if names is VERSION_1 else 0))
    except OSError:  # the kernel does not count swap
        return False
    return True


def _remove(folder: Path) -> None:
    for _ in range(50):  # a process that has ended may be counted a moment longer
        try:
            return folder.rmdir()
        except FileNotFoundError:
            return None
        except OSError:
            time.sleep(0.1)
