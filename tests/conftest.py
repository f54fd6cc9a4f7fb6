"""What holds for every test: no network, caches in a temporary folder, GPU tests only on a GPU."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import network_guard
import pytest

# Before any test module imports transformers, which reads these variables only once.
network_guard.install()
_caches = tempfile.TemporaryDirectory(prefix="llava_nb-tests-")
os.environ.update(network_guard.offline_environment(Path(_caches.name)))

SHOWN = ("torch", "transformers", "accelerate", "bitsandbytes", "ipywidgets")


@pytest.fixture(autouse=True)
def network_attempts():
    """What the test tried to reach; a test that leaves anything here fails."""
    network_guard.attempts.clear()
    yield network_guard.attempts
    assert not network_guard.attempts, (
        f"the test reached for the network ({'; '.join(network_guard.attempts)}): "
        "give it a server on 127.0.0.1, or a fake in place of the socket"
    )


def pytest_report_header() -> list[str]:
    there = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {there.get(name, 'is missing')}" for name in SHOWN)
    gpu = "none"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        gpu = answer.stdout.strip().replace("\n", ", ") or "none that nvidia-smi can see"
    return [f"Python {platform.python_version()}, {versions}", f"GPU: {gpu}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU; with one: pytest -m gpu"))
