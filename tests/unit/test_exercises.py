"""The code in the answers to exercises runs after its notebook, and shows what is printed there.

In a fresh kernel for each notebook, without a GPU. The Korean answers hold the same code.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path

import answers
import nbformat
import pytest

BOOKS = {
    path: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
}


@pytest.fixture(autouse=True)
def kernel_environment(monkeypatch):
    """As in tests/run_all.py: few threads, little training, and no word from the debugger."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LLAVA_NB_TRAINING", "0.01")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path, book in BOOKS.items() if answers.has_blocks(book)],
    ids=lambda path: path.name,
)
def test_answers(path):
    complaints = list(answers.complaints(BOOKS[path], path.parent))
    assert not complaints, f"{path.name}:\n" + "\n".join(complaints)


def test_there_are_answers_to_run():
    found = [exercise for book in BOOKS.values() for exercise in answers.exercises(book)]
    blocks = [block for exercise in found for block in exercise.blocks]
    assert sum(block.shown is not None for block in blocks) > len(blocks) / 2 > 10


# --- on a small notebook ------------------------------------------------------------------------


def answer(code, text=None):
    """Fenced as in the notebooks, indented under the number of the exercise."""
    fences = f"```python\n{code}\n```" + (f"\n\n```text\n{text}\n```" if text else "")
    folded = f"<details><summary>Answer</summary>\n\n{fences}\n\nWhy it is so.\n\n</details>"
    return textwrap.indent(folded, "   ").lstrip()


def notebook(*given):
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(each) for each in ("two = 2", "# NBVAL_SKIP\n1 / 0")]
    numbered = [f"{number}. What is it?\n\n   {each}" for number, each in enumerate(given, start=1)]
    book.cells.append(nbformat.v4.new_markdown_cell("## Exercises\n\n" + "\n\n".join(numbered)))
    return json.loads(nbformat.writes(book))


def test_blocks_are_read_with_the_number_of_their_exercise():
    two = answer("for n in []:\n    n\n```\n\nOr:\n\n```python\n2", "1\n 2")
    first, second = answers.exercises(notebook("No code.", two))
    assert (first.number, first.blocks) == (1, []) and second.number == 2
    blocks = [answers.Block("for n in []:\n    n\n", None), answers.Block("2\n", "1\n 2\n")]
    assert second.blocks == blocks


REACH_OUT = """import socket, sys
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print(error.strerror)
sys.prefix"""
REFUSED = "the tests run offline: no connection to 192.0.2.1 port 80"


def test_right_answers_pass_in_a_kernel_of_this_environment_and_wrong_ones_are_found(tmp_path):
    book = notebook(
        answer("three = two + 1\nprint('three')\nthree", "three\n3"),
        answer("print(f'{three / 2} GiB')", "9.9 GiB"),  # sizes are masked
        answer(REACH_OUT, f"{REFUSED}\n{sys.prefix!r}"),
        answer("two + 2", "5"),
        answer("1 / 0"),
    )
    wrong, raised = answers.complaints(book, tmp_path)
    assert wrong == "exercise 4: the answer says:\n5\n\nand shows:\n4\n"
    assert raised == "exercise 5: the code in the answer raises ZeroDivisionError: division by zero"
