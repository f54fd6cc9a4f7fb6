"""The real embedded model, and folders made from it, for the tests that need one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from small_hub import WEIGHTS, Hub


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


@pytest.fixture
def ask_hub(tmp_path):
    """Runs Python with that hub and a stranger's token in the environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    environment = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_strangers",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(WEIGHTS.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }

    def ask(code, **more):
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, **more},
            capture_output=True,
            text=True,
        )

    yield ask
    server.shutdown()
