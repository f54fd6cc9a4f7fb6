"""Estimates, reports, peaks and recovery in CUDA: `pytest -m gpu` on a machine with an NVIDIA GPU.

The embedded model is small, so what is compared here are tensors, not the CUDA context; true
sizes are for the benchmarks.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from llava_nb import (
    OutOfVramError,
    VramLog,
    estimate_vram,
    free_vram,
    load,
    track_vram,
    vram_report,
)
from llava_nb.images import example_picture
from llava_nb.inference.kv_cache import Room, cache_with_room
from llava_nb.loading.load import release

pytestmark = pytest.mark.gpu
MIB = 2**20
QUESTION = "Describe this picture."


@pytest.fixture(autouse=True)
def nothing_loaded():
    """Tensors of earlier tests must not be counted."""
    release()
    gc.collect()
    torch.cuda.empty_cache()
    yield
    release()


def block(mib):
    return torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize("quantization", ["4bit", "8bit", None])
def test_what_a_model_takes_is_estimated_and_every_byte_of_it_reported(quantization):
    before = torch.cuda.memory_allocated()
    llava = load("tiny", quantization=quantization)
    held = torch.cuda.memory_allocated() - before
    estimate, counted = estimate_vram(llava), sum(vram_report(llava).parts.values())
    # Each tensor takes a multiple of 512 bytes; in 4 bits each layer has six of them.
    room, weights = 512 * 6 * len(list(llava.model.parameters())), estimate.weights_bytes
    assert weights * 0.98 < held < weights * 1.02 + room, (held, weights)
    assert counted <= held <= counted + room + MIB // 4, (counted, held)
    assert estimate.memory == "VRAM" and estimate.parts["CUDA context"] > 0


def test_the_report_agrees_with_torch():
    load("tiny")
    report = vram_report()
    free, total = torch.cuda.mem_get_info()
    assert report.memory == "VRAM" and report.total_bytes == total
    assert report.free_bytes == pytest.approx(free, abs=64 * MIB)
    assert report.allocated_bytes == torch.cuda.memory_allocated()
    assert sum(count for _, count in report.rows) + report.free_bytes == total
    rest = total - report.free_bytes - report.reserved_bytes
    assert report.context_bytes > 0 and report.context_bytes + report.others_bytes == rest
    assert report.tokens_that_fit > 0


def test_a_peak_is_exact_and_an_answer_inside_leaves_it_alone():
    llava, log = load("tiny"), VramLog()
    with track_vram("all", log) as track:
        large = block(256)
        del large
        answer = llava.ask(example_picture(), QUESTION)
    with track_vram("block", log) as small:
        large = block(64)
        del large
    assert track.peak_bytes >= track.start_bytes + 256 * MIB > answer.peak_vram_bytes
    assert small.peak_bytes - small.start_bytes == 64 * MIB and small.memory == "VRAM"
    assert small.end_bytes == small.start_bytes


def test_an_answer_takes_no_more_than_estimated():
    llava = load("tiny")
    llava.ask(example_picture(), QUESTION)  # cuBLAS takes its workspace once
    start = torch.cuda.memory_allocated()
    answer = llava.ask(example_picture(), QUESTION, max_new_tokens=64)
    estimate = estimate_vram(llava, max_new_tokens=64)
    foretold = estimate.kv_bytes + estimate.parts["activations"]
    assert answer.peak_vram_bytes - start <= foretold + MIB, (answer, foretold)


def test_free_vram_gives_unused_blocks_back():
    large = block(512)
    del large
    freed = free_vram()
    assert freed.memory == "VRAM" and freed.reserved_bytes >= 512 * MIB, freed


@pytest.mark.parametrize("call", ["ask", "stream"])
def test_a_real_out_of_memory_leaves_the_model_usable(call, monkeypatch):
    llava, held = load("tiny"), []
    real = llava.model.generate

    def fill(**arguments):
        if held:
            return real(**arguments)
        large = block(64)
        held.append(weakref.ref(large))
        return torch.empty(2**50, dtype=torch.uint8, device="cuda")

    monkeypatch.setattr(llava.model, "generate", fill)
    before = torch.cuda.memory_allocated()
    with pytest.raises(OutOfVramError, match="The GPU ran out of memory while answering"):
        if call == "ask":
            llava.ask(example_picture(), QUESTION)
        else:
            list(llava.stream(example_picture(), QUESTION))
    assert held[0]() is None and torch.cuda.memory_allocated() <= before + MIB
    assert llava.ask(example_picture(), QUESTION).finish == "eos"


def test_a_small_share_of_the_gpu_is_an_out_of_memory_while_loading():
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(MIB / total, 1.0))
    try:
        with pytest.raises(OutOfVramError, match="The GPU ran out of memory while loading tiny"):
            load("tiny", quantization=None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert load("tiny", quantization=None).ask(example_picture(), QUESTION).finish == "eos"


def test_a_long_answer_leaves_little_unused():
    """Four layers of a 13B, 600 tokens and 1,000 more; made anew each time, 120 MiB lie unused."""
    before = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    cache = cache_with_room(Room(1600, 1600))
    for tokens in [600, *[1] * 1000]:
        states = torch.zeros(1, 40, tokens, 128, dtype=torch.half, device="cuda")
        for layer in range(4):
            cache.update(states, states, layer)
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated() - before
    assert unused < 60 * MIB, unused / MIB
