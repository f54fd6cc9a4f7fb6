"""nbval as it is used here: its masks, answers to exercises run too, and no network in kernels."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import answers
import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns

TOOLS = Path(answers.__file__).parent
SANITIZE = TOOLS / "sanitize.cfg"
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
    masked, patterns = text, get_sanitize_patterns(SANITIZE.read_text())
    for pattern, replacement in patterns:
        masked = re.sub(pattern, replacement, masked)
    assert masked == MASKED[text]
    assert len(patterns) == len(re.findall(r"^regex:", SANITIZE.read_text(), re.MULTILINE))


def test_blocks_are_read_with_the_number_of_their_exercise():
    two = answer("for n in []:\n    n\n```\n\nOr:\n\n```python\n2", "1\n 2")
    first, second = answers.exercises(notebook({}, "No code.", two))
    assert (first.number, first.blocks) == (1, []) and second.number == 2
    blocks = [answers.Block("for n in []:\n    n\n", None), answers.Block("2\n", "1\n 2\n")]
    assert second.blocks == blocks


# --- on a small notebook ------------------------------------------------------------------------

REACH_OUT = """import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print(error.strerror)"""
REFUSED = "the tests run offline: no connection to 192.0.2.1 port 80\n"
DRAW = "from matplotlib import pyplot\nfigure, axes = pyplot.subplots()\nprint('drawn')\n{'a': two}"


def answer(code, text=None):
    """Fenced as in the notebooks, indented under the number of the exercise."""
    fences = f"```python\n{code}\n```" + (f"\n\n```text\n{text}\n```" if text else "")
    folded = f"<details><summary>Answer</summary>\n\n{fences}\n\nWhy it is so.\n\n</details>"
    return textwrap.indent(folded, "   ").lstrip()


def notebook(cells, *given):
    """A notebook of cells and what each prints, with exercises that have these answers."""
    book = nbformat.v4.new_notebook()
    for number, (source, text) in enumerate(cells.items(), start=1):
        output = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
        cell = nbformat.v4.new_code_cell(source, execution_count=number, outputs=output)
        book.cells.append(cell)
    numbered = [f"{number}. What is it?\n\n   {each}" for number, each in enumerate(given, start=1)]
    book.cells.append(nbformat.v4.new_markdown_cell("## Exercises\n\n" + "\n\n".join(numbered)))
    return book


def test_outputs_and_answers_are_compared_in_an_offline_kernel_of_this_environment(tmp_path):
    cells = {
        REACH_OUT: REFUSED,
        "two = 2; print('2.5 GiB')": "1.5 GiB\n",  # sizes are masked
        "print('is 5')": "was 4\n",
    }
    book = notebook(
        cells,
        answer("import sys\nsys.prefix", repr(sys.prefix)),
        answer("three = two + 1\nprint('three')\nthree", "three\n3"),
        answer(DRAW, "drawn\n{'a': 2}"),
        answer("three + 1"),
        answer("two + 2", "5"),
        answer("1 / 0"),
    )
    nbformat.write(book, tmp_path / "small.ipynb")
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "answers", *options, "small.ipynb"]
    paths = os.pathsep.join([os.environ["PYTHONPATH"], str(TOOLS)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    verdicts = re.findall(r"Cell \d (PASSED|FAILED)", run.stdout)
    passed, failed = ["PASSED"], ["FAILED"]
    assert verdicts == passed * 2 + failed + passed * 4 + failed * 2, run.stdout + run.stderr
    assert "ZeroDivisionError" in run.stdout
