"""A folder that is replaced as a whole or not at all.

The new one is written beside its place as `.NAME.saving-PID` and renamed when it is
complete and on the disk; the old one is kept until then as `.NAME.previous`
(`checkpoints.previous_copy`). Whenever the process is killed, one of the two is whole.

Covered: writing beside, exchanging, clearing away what killed processes left. Not covered:
whether a folder may be replaced, and what is written (`saving.py`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .checkpoints import previous_copy


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a new folder to write to, and put it in place of `target` at the end.

    If the block raises, the new folder is deleted and `target` stays as it was. `target`
    is absolute. Raises OSError if something cannot be written or renamed.
    """
    temporary = target.with_name(f".{target.name}.saving-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with open(file, "r+b") as opened:
                os.fsync(opened.fileno())
        _exchange(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Delete what killed processes left beside `target`; a process that runs may be writing."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.saving-(\d+)(-old)?")
    for each in target.parent.iterdir() if target.parent.is_dir() else ():
        found = pattern.fullmatch(each.name)
        if found and (int(found[1]) == os.getpid() or not runs(int(found[1]))):
            shutil.rmtree(each, ignore_errors=True)


def runs(process: int) -> bool:
    """Return whether a process of this number is there; True where that cannot be asked."""
    if os.name == "nt":  # there, os.kill() would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # it is somebody else's
    return True


def _exchange(temporary: Path, target: Path) -> None:
    """Put the new folder in place of the old one; at any moment a whole one has a name."""
    previous, old = previous_copy(target), temporary.with_name(f"{temporary.name}-old")
    # If a killed process left a previous one, it is not given up for what has its place now.
    aside = old if previous.exists() else previous
    try:
        if target.exists() and not any(target.iterdir()):
            target.rmdir()
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
    except BaseException:  # an interrupt too
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    flush_names(target.parent)
    shutil.rmtree(old, ignore_errors=True)
    if previous.exists():  # renamed first, so that what has this name is always whole
        previous.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def flush_names(folder: Path) -> None:
    """Wait until a folder's list of names is on the disk, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
