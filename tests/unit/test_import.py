"""`import llava_nb` is light: a notebook's first cell and `--help` must not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "ipywidgets", "matplotlib", "PIL", "numpy"}


def fresh_python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_import_loads_nothing_heavy():
    loaded = set(fresh_python("import sys, llava_nb; print(*sys.modules)").split())
    assert "llava_nb" in loaded
    assert not loaded & HEAVY, f"import llava_nb loads {sorted(loaded & HEAVY)}"
