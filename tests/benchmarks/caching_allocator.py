"""The rules by which torch hands out a GPU's memory, followed on paper.

torch takes segments from CUDA and keeps them: what a tensor leaves behind is for the next one that
fits into it. So a process has more of a GPU than its tensors are, and how much more depends on
their sizes and their order. `Blocks` does that bookkeeping without a GPU.

The rules, of torch's native allocator with its default settings: sizes are rounded up to 512 bytes;
up to 1 MiB lives in segments of 2 MiB, up to 10 MiB in those of 20 MiB, and more gets a segment of
its own, rounded up to 2 MiB; the smallest free block that is long enough is taken; what is left of
it becomes a free block, from 512 bytes on in small segments and above 1 MiB in large ones; free
neighbours are joined. Source: c10/cuda/CUDACachingAllocator.cpp (kMinBlockSize, kSmallSize,
kSmallBuffer, kLargeBuffer, kMinLargeAlloc, kRoundLarge, get_free_block, should_split,
try_merge_blocks).

Not covered: several streams, CUDA graphs, and what torch does when CUDA has no more: it then gives
back the segments that are free as a whole, and tries again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

MIB = 2**20
SMALLEST, SMALL = 512, MIB
SMALL_SEGMENT, LARGE_SEGMENT, OWN_SEGMENT, STEP = 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


def round_up(size: int, step: int) -> int:
    """Return the smallest multiple of `step` that is not below `size`."""
    return -(-size // step) * step


def segment_bytes(size: int) -> int:
    """Return how much is asked of CUDA for a block of so many bytes, already rounded."""
    if size <= SMALL:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < OWN_SEGMENT else round_up(size, STEP)


@dataclass(eq=False)
class Block:
    """A stretch of a segment: its place, its bytes, its neighbours, whether a tensor has it."""

    at: int
    size: int
    small: bool
    used: bool = False
    before: Block | None = field(default=None, repr=False)
    behind: Block | None = field(default=None, repr=False)


class Blocks:
    """A GPU's memory as torch sees it: bytes allocated and reserved, now and at the peak."""

    def __init__(self) -> None:
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self._end = 0
        self._at: dict[int, Block] = {}
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # size, place

    def take(self, count: int) -> Block:
        """Return a block for a tensor of `count` bytes."""
        size = max(round_up(count, SMALLEST), SMALLEST)
        block = self._best(size) or self._segment(size)
        self._split(block, size)
        block.used = True
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def give(self, block: Block) -> None:
        """Take a block back, and join it with its free neighbours."""
        block.used = False
        self.allocated -= block.size
        for other in (block.before, block.behind):
            if other is not None and not other.used:
                self._unlist(other)
                first, second = (other, block) if other is block.before else (block, other)
                block = self._joined(first, second)
        insort(self._free[block.small], (block.size, block.at))

    def empty_cache(self) -> None:
        """Give the segments back to CUDA that are free as a whole."""
        for pool in self._free.values():
            for size, at in list(pool):
                block = self._at[at]
                if block.before is None and block.behind is None:
                    self._unlist(block)
                    del self._at[at]
                    self.reserved -= size

    def begin_peaks(self) -> None:
        """Let both peaks begin anew."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def _best(self, size: int) -> Block | None:
        """Return the smallest free block that is long enough, the first of several."""
        pool = self._free[size <= SMALL]
        index = bisect_left(pool, (size, -1))
        if index == len(pool):
            return None
        return self._at[pool.pop(index)[1]]

    def _segment(self, size: int) -> Block:
        block = Block(self._end, segment_bytes(size), size <= SMALL)
        self._end += block.size + 1  # so that no segment is another's neighbour
        self._at[block.at] = block
        self.reserved += block.size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def _split(self, block: Block, size: int) -> None:
        """Make a free block of what is left behind `size`, if that is enough for one."""
        left = block.size - size
        if left < SMALLEST if block.small else left <= SMALL:
            return
        rest = Block(block.at + size, left, block.small, before=block, behind=block.behind)
        if rest.behind is not None:
            rest.behind.before = rest
        block.behind, block.size = rest, size
        self._at[rest.at] = rest
        insort(self._free[rest.small], (left, rest.at))

    def _unlist(self, block: Block) -> None:
        pool, key = self._free[block.small], (block.size, block.at)
        index = bisect_left(pool, key)
        if index == len(pool) or pool[index] != key:
            raise ValueError(f"{block} is not free")
        pool.pop(index)

    def _joined(self, first: Block, second: Block) -> Block:
        first.size += second.size
        first.behind = second.behind
        if first.behind is not None:
            first.behind.before = first
        del self._at[second.at]
        return first
