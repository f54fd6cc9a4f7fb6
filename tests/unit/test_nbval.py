"""nbval as it is used here: its masks (sanitize.cfg), and that its kernels have no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import answers
import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

SANITIZE = Path(answers.__file__).with_name("sanitize.cfg")
MASKED = {
    "peak 13.52 GiB of 14.7 GiB": "peak N GiB of N GiB",
    "41.3 tokens/s in 2 s": "N tokens/s in N s",
    "0.35 seconds": "N seconds",
    "Answer(seconds=1.25, first_token_seconds=8e-05, peak_vram_bytes=0)": (
        "Answer(seconds=N, first_token_seconds=N, peak_vram_bytes=N)"
    ),
    "torch 2.13.0+cpu, Python 3.11.7": "torch X.Y.Z, Python X.Y.Z",
    "<object at 0x7f3a5c1d2e80>": "<object at 0xN>",
    "llava-1.5-7b: 3 shapes, 576 tokens": "llava-1.5-7b: 3 shapes, 576 tokens",
}


@pytest.mark.parametrize("text", MASKED, ids=str)
def test_what_differs_from_run_to_run_is_masked(text):
    assert answers.masked(text) == MASKED[text]


def test_nbval_reads_every_mask():
    declared = re.findall(r"^regex:", SANITIZE.read_text(), re.MULTILINE)
    assert len(get_sanitize_patterns(SANITIZE.read_text())) == len(declared) > 0


REACH_OUT = """import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print(error.strerror)"""
REFUSED = "the tests run offline: no connection to 192.0.2.1 port 80\n"


def test_nbval_compares_outputs_and_its_kernel_is_offline(tmp_path):
    """Three cells: the guard's refusal and a masked size pass, a changed output fails."""
    shown = {REACH_OUT: REFUSED, "print('2.5 GiB')": "1.5 GiB\n", "print('is 5')": "was 4\n"}
    book = nbformat.v4.new_notebook()
    for number, (source, text) in enumerate(shown.items(), start=1):
        output = nbformat.v4.new_output("stream", name="stdout", text=text)
        cell = nbformat.v4.new_code_cell(source, execution_count=number, outputs=[output])
        book.cells.append(cell)
    nbformat.write(book, tmp_path / "small.ipynb")
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    command = [sys.executable, "-m", "pytest", "-v", *options, "small.ipynb"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    verdicts = re.findall(r"Cell \d (PASSED|FAILED)", run.stdout)
    assert verdicts == ["PASSED", "PASSED", "FAILED"], run.stdout + run.stderr
