"""Every committed notebook passes every check, and every check can fail.

Covered: notebook_checks.py and style_checks.py in tests/notebooks/, on the notebooks and on small
ones made here; the list in the README. Of the Korean notebooks only the style is looked at here:
test_editions.py has the rest.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from notebook_checks import BADGE_PICTURE, CHECKS, COLAB_ADDRESS, Notebook
from style_checks import (
    STYLE_CHECKS,
    answers_can_be_run,
    cells_are_mostly_short,
    exercises_have_answers,
    figures_are_described,
)

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KOREAN = sorted((ROOT / "notebooks" / "ko").glob("*.ipynb"))
REPOSITORY = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
BADGE = f"[![Open In Colab]({BADGE_PICTURE})]({COLAB}/blob/main/notebooks/small.ipynb)"
OPENING = f"{BADGE}\n\nSee the [glossary]({REPOSITORY}/blob/main/notebooks/glossary.md)."
FETCH = f"if not here:\n    !git clone {REPOSITORY}"
ANSWER = """<details><summary>Answer</summary>

   ```python
   3 + 3
   ```

   ```text
   6
   ```

   </details>"""
EXERCISES = "\n\n".join(f"{number}. And more?\n\n   {ANSWER}" for number in (1, 2, 3))


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebooks found in notebooks/"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(path, check):
    content = json.loads(path.read_text(encoding="utf-8"))
    complaints = list(check(Notebook(path.name, content, REPOSITORY)))
    assert not complaints, f"{path.name}:\n" + "\n".join(complaints)


@pytest.mark.parametrize("check", STYLE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "name", [path.relative_to(ROOT / "notebooks").as_posix() for path in NOTEBOOKS + KOREAN]
)
def test_style(name, check):
    content = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    complaints = list(check(Notebook(name, content, REPOSITORY)))
    assert not complaints, f"{name}:\n" + "\n".join(complaints)


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
        prose(f"## Summary\n\nFour.\n\n## Exercises\n\n{EXERCISES}"),
    ]
    return notebook


def complaints(notebook, checks=(*CHECKS, *STYLE_CHECKS)):
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


def draw(cell):
    cell.outputs[0].data["image/png"] = "aGVsbG8="


def write(book, old, new):
    """A change of the exercises."""
    assert old in book.cells[-1].source
    book.cells[-1].source = book.cells[-1].source.replace(old, new, 1)


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
    "prose_and_code_are_balanced": lambda book: book.cells.extend(map(prose, "abcd")),
    "cells_are_mostly_short": lambda book: book.cells[3].update(source="2 + 2\n" * 12),
    "code_stands_between_prose": lambda book: unset(book.cells, 2),
    "figures_are_described": lambda book: draw(book.cells[3]),
    "opening_links_the_glossary": lambda book: book.cells[0].update(source=BADGE),
    "exercises_have_answers": lambda book: write(book, ANSWER, "Six."),
    "answers_can_be_run": lambda book: write(book, "```text", "So:\n\n   ```text"),
}


@pytest.mark.parametrize("check", (*CHECKS, *STYLE_CHECKS), ids=lambda check: check.__name__)
def test_check_finds_its_fault(good, check):
    FAULTS[check.__name__](good)
    assert complaints(good, [check])


def test_comments_and_blank_lines_do_not_make_a_cell_long(good):
    good.cells[3].source = "# Two and two.\n\n" * 8 + "2 + 2"
    assert complaints(good, [cells_are_mostly_short]) == []


@pytest.mark.parametrize("alt", ["", "Four squares.", " " * 20])
def test_a_figure_needs_a_sentence(good, alt):
    draw(good.cells[3])
    good.cells[3].metadata.alt = alt
    assert complaints(good, [figures_are_described])


def test_a_figure_with_a_sentence_is_let_through(good):
    draw(good.cells[3])
    good.cells[3].metadata.alt = "Two squares, and two more beside them."
    assert complaints(good, [figures_are_described]) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("2. And", "4. And"), ("3. And", "Three: and"), (ANSWER, f"{ANSWER}\n\n   {ANSWER}")],
)
def test_exercises_are_counted(good, old, new):
    write(good, old, new)
    assert complaints(good, [exercises_have_answers])


def test_code_outside_an_answer_is_found(good):
    write(good, "And more?", "And more?\n\n   ```python\n   1 / 0\n   ```")
    assert complaints(good, [answers_can_be_run])


@pytest.mark.parametrize("text", ["left/above", "https://example.org/a/b.png", "<b>/</b>", "3/4/5"])
def test_what_only_looks_like_a_path_is_let_through(good, text):
    show(good.cells[3], text)
    assert complaints(good) == []
