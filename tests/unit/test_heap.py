"""Large blocks are kept out of the heap while a model loads, where the C library can."""

import platform
import subprocess
import sys

import pytest

from llava_nb import heap, load


class Library:
    """Notes what mallopt is asked for."""

    def __init__(self):
        self.asked = []

    def mallopt(self, name, value):
        self.asked.append((name, value))
        return 1

    def malloc_trim(self, pad):
        return 1


def test_the_threshold_is_held_while_loading_and_let_go(monkeypatch, tiny_folder):
    library = Library()
    monkeypatch.setattr(heap, "_glibc", lambda: library)
    load(tiny_folder)
    assert library.asked == [(-3, 2**18), (-3, 32 * 2**20)]


def test_it_is_let_go_after_a_fault_too(monkeypatch):
    library = Library()
    monkeypatch.setattr(heap, "_glibc", lambda: library)
    with pytest.raises(ZeroDivisionError), heap.large_blocks_apart():
        1 / 0  # noqa: B018
    assert library.asked[-1] == (-3, 32 * 2**20)


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with heap.large_blocks_apart():
        assert heap._glibc() is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
def test_what_is_freed_leaves_the_process():
    """Blocks of 8 MiB freed between small ones that stay: the heap would keep them."""
    program = """
import torch
from llava_nb.heap import large_blocks_apart
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
first = torch.ones(6 * 2**20); del first  # raises glibc's threshold to 24 MiB
with large_blocks_apart():
    before, kept = anonymous(), []
    for _ in range(20):
        large = [torch.ones(2 * 2**20) for _ in range(2)]
        kept.append(torch.ones(60_000))
        del large
    print(anonymous() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    left = int(run.stdout) / 1024
    assert left < 60, f"{left:.0f} MiB stayed, of which 5 are in use"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be asked for it")
def test_holes_in_the_heap_are_given_back():
    program = """
from llava_nb.heap import give_back_holes
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
blocks = [b"x" * 100_000 for _ in range(1000)]  # each below the size that is taken apart
del blocks[:-1]  # the last one holds the heap's end
before = anonymous()
give_back_holes()
print(before - anonymous())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    back = int(run.stdout) / 1024
    assert back > 60, f"{back:.0f} of 95 MiB came back"
