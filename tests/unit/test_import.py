"""`import llava_nb` is light: a notebook's first cell and `--help` must not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "ipywidgets", "matplotlib", "PIL", "numpy"}


def fresh_python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("code", ["import llava_nb", "import llava_nb; str(llava_nb.check_gpu())"])
def test_import_and_report_load_nothing_heavy(code):
    loaded = set(fresh_python(f"{code}; import sys; print(*sys.modules)").split())
    assert "llava_nb" in loaded
    assert not loaded & HEAVY, f"{code} loads {sorted(loaded & HEAVY)}"
