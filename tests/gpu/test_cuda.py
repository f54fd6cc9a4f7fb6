"""The behaviour of the unit tests, in CUDA: `pytest -m gpu` on a machine with an NVIDIA GPU.

Then estimates, reports, peaks and recovery. The embedded model is small, so what is compared are
tensors, not the CUDA context; memory and speed at true sizes are for the benchmarks.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image

from llava_lessons.anatomy import blank_each_cell, look_inside
from llava_lessons.pictures import SEEDS, scene_of
from llava_lessons.tiny.questions import describe_scene
from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import (
    OutOfVramError,
    VramLog,
    check_gpu,
    estimate_vram,
    free_vram,
    load,
    track_vram,
    vram_report,
)
from llava_nb.gpu import compute_dtype_name
from llava_nb.images import example_picture
from llava_nb.inference.kv_cache import Room, cache_with_room
from llava_nb.loading import load as loading
from llava_nb.processor import encode

pytestmark = pytest.mark.gpu
PARITY = Path(__file__).parents[1] / "data" / "parity"
MIB = 2**20
QUESTION = "Describe this picture."


@pytest.fixture
def nothing_loaded():
    """Tensors of earlier tests must not be counted."""
    loading.release()
    gc.collect()
    torch.cuda.empty_cache()
    yield
    loading.release()


clean = pytest.mark.usefixtures("nothing_loaded")


@pytest.fixture(params=["4bit", "8bit", None])
def llava(request):
    return load("tiny", quantization=request.param)


@pytest.fixture
def picture():
    return draw(sample_scene(Random("test scene"), count=2))


def test_the_model_is_on_the_gpu_in_its_own_number_format(llava):
    expected, _ = compute_dtype_name(torch.cuda.get_device_capability())
    assert llava.device.type == "cuda" and llava.dtype == expected


def test_only_the_language_model_is_quantised_in_nf4_with_double_quantisation(llava):
    kind = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}.get(llava.quantization, "none")
    named = llava.model.named_modules()
    parts = {name.split(".")[1] for name, module in named if type(module).__name__ == kind}
    assert parts == ({"language_model"} if llava.quantization else set())
    if llava.quantization == "4bit":
        weight = llava.model.model.language_model.layers[0].mlp.up_proj.weight
        assert (weight.quant_state.quant_type, weight.quant_state.nested) == ("nf4", True)
        assert weight.is_cuda


@pytest.mark.parametrize("name", SEEDS)
def test_bundled_pictures_are_described_rightly(llava, name):
    _, caption = llava.caption_image(example_picture(name), QUESTION)
    assert caption == describe_scene(scene_of(name))


def test_an_answer_is_the_same_again_and_streamed_and_its_peak_holds_the_model(llava, picture):
    answer = llava.ask(picture, QUESTION)
    assert llava.ask(picture, QUESTION).text == answer.text
    assert "".join(llava.stream(picture, QUESTION)) == answer.text
    assert answer.peak_vram_bytes >= sum(each.nbytes for each in llava.model.parameters())


def test_stop_ends_within_two_tokens(llava, picture):
    class Stop:
        looks = 0

        def is_set(self):
            self.looks += 1
            return self.looks > 3

    answer = llava.ask(picture, QUESTION, stop=Stop())
    assert answer.finish == "stopped" and answer.tokens <= 5, answer


def test_closing_gives_the_memory_back():
    load("tiny", quantization=None).close()
    before = torch.cuda.memory_allocated()
    llava = load("tiny", quantization=None)
    llava.ask(example_picture(), QUESTION)
    llava.close()
    del llava
    assert torch.cuda.memory_allocated() <= before + MIB


def test_check_gpu_agrees_with_torch_and_leaves_cuda_alone():
    report = check_gpu(ask_torch=True)
    assert report.torch_sees_gpu and report.capability == torch.cuda.get_device_capability()
    code = "import sys, llava_nb; llava_nb.check_gpu(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["llava-v1.5-tiny", "llava-v1-tiny-linear"])
def test_the_original_layout_is_read_onto_the_gpu(name):
    llava = load(PARITY / name)
    devices = {each.device.type for each in llava.model.parameters()}
    assert devices == {"cuda"} and "4bit" in repr(llava)
    assert llava.ask(example_picture(), "What?", max_new_tokens=4).tokens > 0


def test_greedy_ids_of_the_original_in_float32_on_the_gpu(monkeypatch):
    monkeypatch.setattr(loading, "device_and_dtype", lambda report: ("cuda:0", torch.float32))
    loading.release()
    llava = load(PARITY / "llava-v1.5-tiny", quantization=None)
    cases = json.loads((PARITY / "golden" / "golden_v15.json").read_text())["cases"]
    for case in (case for case in cases if case["arm"] == "pad"):
        given = [Image.open(PARITY / case["image"])], [case["prompt"]], llava.engine.spelling
        inputs = encode(llava.processor, *given).to("cuda")
        ids = llava.model.generate(**inputs, max_new_tokens=24, do_sample=False)
        found = ids[0, inputs["input_ids"].shape[1] :].tolist()
        assert found == case["greedy_ids"], case["id"]
    llava.close()


@pytest.mark.parametrize("first_asked", [False, True], ids=["fresh", "asked"])
def test_a_copy_saved_from_the_gpu_answers_the_same(first_asked, tmp_path):
    random = Random("saved on the GPU")
    pictures = [draw(sample_scene(random)) for _ in range(20)]
    llava = load("tiny")
    if first_asked:
        llava.ask(pictures[0], QUESTION)
    folder = llava.save_4bit(tmp_path / "copy")
    expected = [llava.ask(each, QUESTION).text for each in pictures]
    again = load(folder)
    assert [again.ask(each, QUESTION).text for each in pictures] == expected


def test_the_insides_of_a_model_come_back_to_the_cpu_and_say_what_it_answered(llava, picture):
    insides = look_inside(llava, picture, QUESTION)
    tensors = [insides.projected, insides.attention, insides.logits, *insides.features]
    assert {(each.device.type, each.dtype) for each in tensors} == {("cpu", torch.float32)}
    assert insides.logits.argmax(dim=-1).tolist() == list(insides.answer.ids)
    sums = insides.attention.sum(dim=-1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=2e-2), sums.aminmax()
    drops = blank_each_cell(llava, insides, cells=2)
    assert drops.shape == (len(insides.words), 2, 2) and drops.isfinite().all()


# Memory.


def block(mib):
    return torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")


@clean
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


@clean
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


@clean
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


@clean
def test_an_answer_takes_no_more_than_estimated():
    llava = load("tiny")
    llava.ask(example_picture(), QUESTION)  # cuBLAS takes its workspace once
    start = torch.cuda.memory_allocated()
    answer = llava.ask(example_picture(), QUESTION, max_new_tokens=64)
    estimate = estimate_vram(llava, max_new_tokens=64)
    foretold = estimate.kv_bytes + estimate.parts["activations"]
    assert answer.peak_vram_bytes - start <= foretold + MIB, (answer, foretold)


@clean
def test_free_vram_gives_unused_blocks_back():
    large = block(512)
    del large
    freed = free_vram()
    assert freed.memory == "VRAM" and freed.reserved_bytes >= 512 * MIB, freed


@clean
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


@clean
def test_a_small_share_of_the_gpu_is_an_out_of_memory_while_loading():
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(MIB / total, 1.0))
    try:
        with pytest.raises(OutOfVramError, match="The GPU ran out of memory while loading tiny"):
            load("tiny", quantization=None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert load("tiny", quantization=None).ask(example_picture(), QUESTION).finish == "eos"


@clean
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
