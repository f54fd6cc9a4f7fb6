"""One run at a time for one output: a second is refused, a killed one does not block.

The system holds the lock and lets go of it when the process ends, however it ends; the file
beside the output only gives it a name. On a disk that knows no locks, and on Windows, the
number of the process in that file has to do. Not covered: runs on different machines over a
network disk that does not pass locks on.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import LlavaNbError, plain
from ..replacing import runs

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Hold the lock of an output. Raises LlavaNbError if another run has it."""
    path = output.with_name(f".{output.name}.lock")
    try:
        number = _take(path, output)
    except OSError as error:
        raise LlavaNbError(
            f"No lock can be made beside '{plain(output)}' ({error.strerror or error}). Give an "
            "output in a folder where you may write."
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held, so that it is nobody else's
        os.close(number)


def _take(path: Path, output: Path) -> int:
    """Open and lock the file; return its descriptor. Raises OSError or LlavaNbError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(number, path, output)
            if _is_the_same(number, path):  # and not one that its owner has just deleted
                os.ftruncate(number, 0)
                os.write(number, str(os.getpid()).encode())
                return number
        except BaseException:
            os.close(number)
            raise
        os.close(number)


def _lock(number: int, path: Path, output: Path) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOTSUP, "no locks here")
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = _owner(path)
        if error.errno == errno.EWOULDBLOCK or (owner is not None and runs(owner)):
            process = f" (process {owner})" if owner is not None else ""
            raise LlavaNbError(
                f"Another run{process} is writing '{plain(output)}'. Wait until it is done, stop "
                "it, or give another output."
            ) from error


def _owner(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _is_the_same(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False
