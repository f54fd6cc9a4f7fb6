"""The insides of a model on a GPU: `pytest -m gpu` on a machine with an NVIDIA GPU."""

from __future__ import annotations

from random import Random

import pytest
import torch

from llava_lessons.anatomy import blank_each_cell, look_inside
from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import load

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["4bit", "8bit", None])
def llava(request):
    return load("tiny", quantization=request.param)


@pytest.fixture
def insides(llava):
    picture = draw(sample_scene(Random("test scene"), count=2))
    return look_inside(llava, picture, "Describe this picture.")


def test_the_insides_come_back_to_the_cpu_in_float32(insides):
    tensors = [insides.projected, insides.attention, insides.logits, *insides.features]
    assert {(each.device.type, each.dtype) for each in tensors} == {("cpu", torch.float32)}


def test_the_likeliest_words_are_the_answer(insides):
    likeliest = insides.logits.argmax(dim=-1).tolist()
    same = sum(a == b for a, b in zip(likeliest, insides.answer.ids, strict=True))
    assert same == len(likeliest), f"{same} of {len(likeliest)}"


def test_shares_of_attention_add_up(insides):
    sums = insides.attention.sum(dim=-1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=2e-2), sums.aminmax()


def test_parts_are_hidden_on_the_gpu(llava, insides):
    drops = blank_each_cell(llava, insides, cells=2)
    assert drops.shape == (len(insides.words), 2, 2) and drops.isfinite().all()
