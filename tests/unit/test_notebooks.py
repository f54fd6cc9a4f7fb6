"""Every committed notebook passes every check, and every check can fail.

Covered: tests/notebooks/notebook_checks.py on the notebooks and on small ones made here; the
sanitise rules; the list in the README; nbval itself, on a notebook without a network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns
from notebook_checks import BADGE_PICTURE, CHECKS, COLAB_ADDRESS, Notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SANITIZE = ROOT / "tests" / "notebooks" / "sanitize.cfg"
REPOSITORY = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
OPENING = f"[![Open In Colab]({BADGE_PICTURE})]({COLAB}/blob/main/notebooks/small.ipynb)"
FETCH = f"if not here:\n    !git clone {REPOSITORY}"


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebooks found in notebooks/"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(path, check):
    content = json.loads(path.read_text(encoding="utf-8"))
    complaints = list(check(Notebook(path.name, content, REPOSITORY)))
    assert not complaints, f"{path.name}:\n" + "\n".join(complaints)


def test_readme_lists_every_notebook():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in NOTEBOOKS if f"notebooks/{path.name}" not in readme]
    assert not missing, f"README.md does not link: {missing}"


def test_readme_badges_open_this_repository():
    found = COLAB_ADDRESS.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    wanted = {f"{COLAB}/blob/main/notebooks/{path.name}" for path in NOTEBOOKS}
    assert set(found) <= wanted, f"badges that open something else: {set(found) - wanted}"


# --- the checks themselves ----------------------------------------------------------------------


def code(text, *, count, shown="4", **metadata):
    cell = nbformat.v4.new_code_cell(text, execution_count=count, metadata=metadata)
    if shown:
        data = {"text/plain": shown}
        output = nbformat.v4.new_output("execute_result", data, execution_count=count)
        cell.outputs = [output]
    return cell


def prose(text):
    return nbformat.v4.new_markdown_cell(text)


@pytest.fixture
def good():
    """The smallest notebook that passes every check; each case below breaks one thing."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata = {
        "accelerator": "GPU",
        "colab": {"gpuType": "T4"},
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
    }
    notebook.cells = [
        prose(OPENING),
        code(FETCH, count=1, shown=""),
        prose("Two and two."),
        code("2 + 2", count=2),
        prose("## Summary\n\nFour.\n\n## Exercises\n\nThree and three."),
    ]
    return notebook


def complaints(notebook, checks=CHECKS):
    content = json.loads(nbformat.writes(notebook))
    wrapped = Notebook("small.ipynb", content, REPOSITORY)
    return [complaint for check in checks for complaint in check(wrapped)]


def test_a_good_notebook_passes(good):
    assert complaints(good) == []


def unset(mapping, key):
    del mapping[key]


def stderr(cell):
    cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text="a warning"))


def show(cell, text):
    cell.outputs[0].data["text/plain"] = text


FAULTS = {
    "is_well_formed": lambda book: unset(book, "nbformat_minor"),
    "parses": lambda book: book.cells[3].update(source="2 +"),
    "is_executed_in_order": lambda book: book.cells[3].update(execution_count=18),
    "cells_are_small": lambda book: book.cells[3].update(source="2 + 2\n" * 21),
    "lines_are_narrow": lambda book: book.cells[2].update(source="word " * 16),
    "has_no_empty_cell": lambda book: book.cells.append(prose(" ")),
    "prose_comes_before_code": lambda book: unset(book.cells, 2),
    "shows_something": lambda book: book.cells.__setitem__(3, code("x = 4", count=2, shown="")),
    "has_badge": lambda book: book.cells[0].update(source=OPENING.replace("small", "other")),
    "asks_for_t4": lambda book: book.metadata.update(colab={}),
    "names_python_kernel": lambda book: book.metadata.kernelspec.update(name="colab"),
    "fetches_repository": lambda book: book.cells[1].update(source=FETCH + "-fork"),
    "keeps_no_stderr": lambda book: stderr(book.cells[3]),
    "keeps_no_widget_state": lambda book: book.metadata.update(widgets={}),
    "shows_no_local_path": lambda book: show(book.cells[3], "saved in /home/somebody/caption.txt"),
    "ends_in_summary_and_exercises": lambda book: book.cells.append(prose("## Next")),
    "is_mostly_compared": lambda book: book.cells[3].metadata.update(tags=["nbval-skip"]),
    "markers_are_whole_comments": lambda book: book.cells[3].update(source="# NBVAL_SKIP: slow\n4"),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check_finds_its_fault(good, check):
    FAULTS[check.__name__](good)
    assert complaints(good, [check])


@pytest.mark.parametrize("text", ["left/above", "https://example.org/a/b.png", "<b>/</b>", "3/4/5"])
def test_what_only_looks_like_a_path_is_let_through(good, text):
    show(good.cells[3], text)
    assert complaints(good) == []


# --- the sanitise rules -------------------------------------------------------------------------

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
def test_sanitise_rules(text):
    masked = text
    for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text()):
        masked = re.sub(pattern, replacement, masked)
    assert masked == MASKED[text]


def test_nbval_reads_every_sanitise_rule():
    declared = re.findall(r"^regex:", SANITIZE.read_text(), re.MULTILINE)
    assert len(get_sanitize_patterns(SANITIZE.read_text())) == len(declared) > 0


# --- nbval, strict and offline ------------------------------------------------------------------

REACH_OUT = """import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print(error.strerror)"""
REFUSED = "the tests run offline: no connection to 192.0.2.1 port 80\n"


def test_nbval_compares_outputs_and_its_kernel_is_offline(tmp_path):
    """Three cells: the guard's refusal and a masked size pass, a changed output fails."""
    outputs = (REFUSED, "1.5 GiB\n", "was 4\n")
    sources = (REACH_OUT, "print('2.5 GiB')", "print('is 5')")
    book = nbformat.v4.new_notebook()
    for number, (text, shown) in enumerate(zip(sources, outputs, strict=True), start=1):
        book.cells.append(code(text, count=number, shown=""))
        book.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text=shown)]
    nbformat.write(book, tmp_path / "small.ipynb")
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={SANITIZE}"]
    command = [sys.executable, "-m", "pytest", "-v", *options, "small.ipynb"]
    run = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    verdicts = re.findall(r"Cell \d (PASSED|FAILED)", run.stdout)
    assert verdicts == ["PASSED", "PASSED", "FAILED"], run.stdout + run.stderr
