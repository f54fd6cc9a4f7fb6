"""torch's rules for a GPU's memory, one by one, as `tests/benchmarks` follows them on paper."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # they import by name

from caching_allocator import MIB, Blocks, segment_bytes  # noqa: E402


def taken(*sizes):
    blocks = Blocks()
    return blocks, [blocks.take(size) for size in sizes]


@pytest.mark.parametrize(
    ("size", "segment"),
    [(512, 2), (MIB, 2), (MIB + 512, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (11 * MIB, 12)],
)
def test_segments_are_those_of_torch(size, segment):
    assert segment_bytes(size) == segment * MIB


@pytest.mark.parametrize(("size", "rounded"), [(1, 512), (512, 512), (513, 1024), (0, 512)])
def test_sizes_are_rounded_up(size, rounded):
    blocks, _ = taken(size)
    assert (blocks.allocated, blocks.reserved) == (rounded, 2 * MIB)


def test_a_large_rest_below_a_mebibyte_is_not_a_block():
    blocks, _ = taken(11 * MIB + 512)  # of 12
    assert blocks.allocated == 12 * MIB


def test_a_large_rest_above_a_mebibyte_is_used():
    blocks, _ = taken(12 * MIB, 6 * MIB, 6 * MIB, 6 * MIB)
    assert (blocks.allocated, blocks.reserved) == (30 * MIB, 32 * MIB)


def test_the_smallest_block_that_fits_is_taken():
    blocks, (first, second, third) = taken(30 * MIB, 20 * MIB, 40 * MIB)
    places = {each.at for each in (second,)}
    for each in (first, second, third):
        blocks.give(each)
    assert blocks.take(19 * MIB + 1).at in places and blocks.reserved == 90 * MIB


def test_what_is_a_little_too_long_needs_a_new_segment():
    blocks, (old,) = taken(12 * MIB)
    blocks.give(old)
    blocks.take(12 * MIB + 1)
    assert blocks.reserved == (12 + 14) * MIB


def test_small_tensors_take_nothing_of_large_segments():
    blocks, (large,) = taken(20 * MIB)
    blocks.give(large)
    blocks.take(MIB)
    assert blocks.reserved == 22 * MIB


def test_free_neighbours_are_joined():
    blocks, parts = taken(5 * MIB, 5 * MIB, 5 * MIB)
    for each in parts:
        blocks.give(each)
    blocks.take(20 * MIB)
    assert blocks.reserved == 20 * MIB


def test_only_whole_segments_are_given_back():
    blocks, (kept, gone, whole) = taken(5 * MIB, 5 * MIB, 30 * MIB)
    blocks.give(gone)
    blocks.give(whole)
    blocks.empty_cache()
    assert (blocks.allocated, blocks.reserved) == (5 * MIB, 20 * MIB) and kept.used


def test_peaks_stay_until_they_begin_anew():
    blocks, (block,) = taken(30 * MIB)
    blocks.give(block)
    blocks.empty_cache()
    assert (blocks.peak_allocated, blocks.peak_reserved, blocks.reserved) == (30 * MIB,) * 2 + (0,)
    blocks.begin_peaks()
    assert (blocks.peak_allocated, blocks.peak_reserved) == (0, 0)


def test_what_is_free_cannot_be_given_twice():
    blocks, (block, other) = taken(5 * MIB, 5 * MIB)
    blocks.give(block)
    with pytest.raises(ValueError, match="is not free"):
        blocks._unlist(other)


def test_nothing_overlaps_and_nothing_is_lost():
    chance, blocks, held = random.Random(0), Blocks(), []
    for _ in range(4000):
        if held and chance.random() < 0.5:
            blocks.give(held.pop(chance.randrange(len(held))))
        else:
            held.append(blocks.take(int(2 ** chance.uniform(4, 25))))
    stretches = sorted(blocks._at.values(), key=lambda each: each.at)
    assert all(a.at + a.size <= b.at for a, b in zip(stretches, stretches[1:], strict=False))
    assert sum(each.size for each in stretches) == blocks.reserved
    assert sum(each.size for each in held) == blocks.allocated
    assert {id(each) for each in stretches if each.used} == {id(each) for each in held}
    for each in held:
        blocks.give(each)
    blocks.empty_cache()
    assert blocks.reserved == blocks.allocated == len(blocks._at) == 0
