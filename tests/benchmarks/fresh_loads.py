"""Loads in fresh processes, from files that are not in the page cache, with a limit or without.

Covered: what `load_memory.py` and `load_on_gpu.py` share. Not covered: reading memory
(`process_memory.py`), setting limits (`memory_limit.py`).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from load_memory_table import Limited
from memory_limit import NoLimitError, limited
from process_memory import Run, run_watched

from llava_nb.gpu import disk_free_bytes
from llava_nb.sizes import GIB, format_gib

REFUSAL = "DoesNotFitError"  # what load() raises if its check says no


def load_fresh(loader: str, folder: Path, **request: object) -> Run:
    """Load in a fresh process, without a limit; `request` is what else `load_once.py` takes."""
    drop_from_cache(folder)
    return run_watched({"loader": loader, "folder": str(folder), **request})


def load_limited(loader: str, folder: Path, most: int) -> Limited:
    """Load in a fresh process that may have `most` bytes, and say whether it completed.

    If the check before loading refuses, that is kept, and the load tried without the check.
    """
    try:
        result = _limited_once(loader, folder, most, check=True)
        if result.completed or REFUSAL not in result.said:
            return result
        again = _limited_once(loader, folder, most, check=False)
    except NoLimitError as error:
        return Limited(most, None, said=str(error))
    refused = result.said[result.said.rindex(REFUSAL) :]
    return replace(again, refused=refused)


def _limited_once(loader: str, folder: Path, most: int, *, check: bool) -> Limited:
    drop_from_cache(folder)
    with limited(most) as limit:
        request = {"loader": loader, "folder": str(folder), "check": check}
        run = run_watched(request, limit=limit)
    return Limited(
        limit_bytes=most,
        completed=run.completed,
        killed=run.killed,
        charged=run.charged,
        without_swap=limit.without_swap,
        seconds=run.facts.get("seconds"),
        said="" if run.completed else run.last_words,
    )


def drop_from_cache(folder: Path) -> None:
    """Drop the files of a checkpoint, and of the tower beside it, from the page cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in (each for each in folder.parent.rglob("*") if each.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())  # pages that are not on the disk yet cannot be dropped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def check_disk(folder: Path, size: int) -> None:
    """Raise SystemExit unless `size` bytes, and a GiB beside, are free in `folder`."""
    free = disk_free_bytes(folder)
    if free is not None and free < size + GIB:
        raise SystemExit(
            f"The checkpoint needs {format_gib(size + GIB)} in {folder}, and {format_gib(free)} "
            "are free. Name a folder on another disk: --folder DIR."
        )
