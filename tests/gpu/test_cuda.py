"""The behaviour of the unit tests, in CUDA: `pytest -m gpu` on a machine with an NVIDIA GPU.

Memory and speed at true sizes are for the benchmarks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from PIL import Image

from llava_lessons.anatomy import blank_each_cell, look_inside
from llava_lessons.pictures import SEEDS, scene_of
from llava_lessons.tiny.questions import describe_scene
from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import check_gpu, load
from llava_nb.gpu import compute_dtype_name
from llava_nb.images import example_picture
from llava_nb.loading import load as loading
from llava_nb.processor import encode

pytestmark = pytest.mark.gpu
PARITY = Path(__file__).parents[1] / "data" / "parity"
QUESTION = "Describe this picture."


@pytest.fixture(params=["4bit", "8bit", None])
def llava(request):
    return load("tiny", quantization=request.param)


@pytest.fixture
def picture():
    return draw(sample_scene(Random("test scene"), count=2))


def test_the_model_is_on_the_gpu_in_its_own_number_format(llava):
    expected, _ = compute_dtype_name(torch.cuda.get_device_capability())
    assert llava.device.type == "cuda" and llava.dtype == expected


def test_only_the_language_model_is_quantised(llava):
    kind = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}.get(llava.quantization, "none")
    named = llava.model.named_modules()
    parts = {name.split(".")[1] for name, module in named if type(module).__name__ == kind}
    assert parts == ({"language_model"} if llava.quantization else set())


def test_4_bit_settings_survive_the_way_to_the_gpu():
    layer = load("tiny").model.model.language_model.layers[0].mlp.up_proj
    state = layer.weight.quant_state
    assert (state.quant_type, state.nested) == ("nf4", True) and layer.weight.is_cuda


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
    assert torch.cuda.memory_allocated() <= before + 2**20


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
