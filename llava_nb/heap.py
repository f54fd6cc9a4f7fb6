"""Memory that is freed goes back to the system, not into a heap of holes.

While a model loads: glibc takes large blocks straight from the system and returns them when
they are freed; but each time one is freed it raises the size from which a block counts as
large, up to 32 MiB. The tensors of a 4-bit model are just below that: they come out of the
heap, and what is freed between them stays with the process. Measured on a CPU with 2 GB of
weights, for a model of 600 MB: in one safetensors file 1,817 MB at the peak, and 729 MB with
the size held; in eight files 881 MB with it held at 4 MiB, 855 at 1 MiB, 728 at 256 KiB, 731
at 64 KiB. (Source: M_MMAP_THRESHOLD in mallopt(3).) Afterwards, when somebody asks for it:
malloc_trim(3).

Not covered: other C libraries than glibc, which are left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

M_MMAP_THRESHOLD = -3
WHILE_LOADING = 2**18  # bytes from which a block is taken from the system
AFTERWARDS = 32 * 2**20  # the most that glibc itself raises it to


@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Keep blocks of 256 KiB and more out of the heap for as long as this lasts."""
    library = _glibc()
    if library is not None:
        library.mallopt(M_MMAP_THRESHOLD, WHILE_LOADING)
    try:
        yield
    finally:
        if library is not None:
            library.mallopt(M_MMAP_THRESHOLD, AFTERWARDS)


def give_back_holes() -> None:
    """Return to the system what is free in the heap, also between blocks in use."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
