"""The real embedded model, and folders made from it, for the tests that need one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parents[2] / "llava_nb" / "tiny" / "weights"


@pytest.fixture
def tiny():
    """The embedded model in 4 bits; loaded once, as load() keeps it."""
    from llava_nb import load

    return load("tiny")


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A copy of the embedded model's folder, to damage."""
    folder = tmp_path / "copy"
    shutil.copytree(WEIGHTS, folder)
    return folder


@pytest.fixture
def scene():
    """A scene with two things that training never drew."""
    from random import Random

    from llava_lessons.tiny.scenes import sample_scene

    return sample_scene(Random("test scene"), count=2)


@pytest.fixture
def picture(scene):
    """That scene, drawn."""
    from llava_lessons.tiny.scenes import draw

    return draw(scene)


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda of a machine with a GPU of 16 GiB; `cuda.allocate` and `cuda.free` use it."""
    from fake_cuda import FakeCuda, install

    return install(monkeypatch, FakeCuda())
