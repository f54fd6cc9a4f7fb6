"""Every committed notebook, in either language, passes every check, and every check can fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import notebook_checks as checks
import pytest
from notebook_checks import BADGE_PICTURE, CHECKS, COLAB_ADDRESS, Notebook

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    path.relative_to(ROOT / "notebooks").as_posix()
    for path in (ROOT / "notebooks").glob("**/*.ipynb")
)
REPOSITORY = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")


def test_there_are_notebooks():
    assert len([name for name in NAMES if "/" not in name]) >= 10


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_notebook(name, check):
    content = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    complaints = list(check(Notebook(name, content, REPOSITORY)))
    assert not complaints, f"{name}:\n" + "\n".join(complaints)


def test_readme_lists_every_notebook_and_its_badges_open_them():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    english = [name for name in NAMES if "/" not in name]
    assert [name for name in english if f"notebooks/{name}" not in readme] == []
    wanted = {f"{COLAB}/blob/main/notebooks/{name}" for name in english}
    assert set(COLAB_ADDRESS.findall(readme)) <= wanted


# --- the checks themselves ----------------------------------------------------------------------

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


def code(text, *, count, shown="4"):
    cell = nbformat.v4.new_code_cell(text, execution_count=count)
    if shown:
        data = {"text/plain": shown}
        cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=count)]
    return cell


prose = nbformat.v4.new_markdown_cell


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


def complaints(notebook, chosen=CHECKS):
    wrapped = Notebook("small.ipynb", json.loads(nbformat.writes(notebook)), REPOSITORY)
    return [complaint for check in chosen for complaint in check(wrapped)]


def write(number, text, to=None):
    """Give a cell another text, or in its text another piece."""

    def alter(book):
        assert to is None or text in book.cells[number].source
        book.cells[number].source = (
            text if to is None else book.cells[number].source.replace(text, to, 1)
        )

    return alter


def show(text, kind="text/plain", alt=""):
    def alter(book):
        book.cells[3].outputs[0].data[kind] = text
        book.cells[3].metadata.alt = alt

    return alter


STDERR = nbformat.v4.new_output("stream", name="stderr", text="a warning")
FAULTS = [
    (checks.is_well_formed, lambda book: book.pop("nbformat_minor")),
    (checks.parses, write(3, "2 +")),
    (checks.is_executed_in_order, lambda book: book.cells[3].update(execution_count=18)),
    (checks.opens_in_colab_on_a_t4, lambda book: book.metadata.update(colab={})),
    (checks.opens_in_colab_on_a_t4, lambda book: book.metadata.kernelspec.update(name="colab")),
    (checks.opens_in_colab_on_a_t4, write(0, "small", to="other")),
    (checks.fetches_repository, write(1, f"{FETCH}-fork")),
    (checks.keeps_nothing_of_one_machine, lambda book: book.metadata.update(widgets={})),
    (checks.keeps_nothing_of_one_machine, lambda book: book.cells[3].outputs.append(STDERR)),
    (checks.keeps_nothing_of_one_machine, show("saved in /home/somebody/caption.txt")),
    (checks.is_mostly_compared, lambda book: book.cells[3].metadata.update(tags=["nbval-skip"])),
    (checks.is_mostly_compared, write(3, "# NBVAL_SKIP: slow\n4")),
    (checks.cells_fit_a_screen, write(3, "2 + 2\n" * 21)),
    (checks.cells_fit_a_screen, write(3, "2 + 2\n" * 12)),
    (checks.cells_fit_a_screen, write(2, "word " * 16)),
    (checks.cells_fit_a_screen, lambda book: book.cells.append(prose(" "))),
    (checks.code_stands_between_prose, lambda book: book.cells.pop(2)),
    (checks.code_stands_between_prose, lambda book: book.cells.extend(map(prose, "abcd"))),
    (checks.shows_something, lambda book: book.cells[3].update(code("x = 4", count=2, shown=""))),
    (checks.figures_are_described, show("aGVsbG8=", "image/png")),
    (checks.figures_are_described, show("aGVsbG8=", "image/png", alt="Four squares.")),
    (checks.opening_links_the_glossary, write(0, BADGE)),
    (checks.ends_in_summary_and_exercises, lambda book: book.cells.append(prose("## Next"))),
    (checks.exercises_have_answers_that_can_be_run, write(4, "2. And", to="4. And")),
    (checks.exercises_have_answers_that_can_be_run, write(4, ANSWER, to="Six.")),
    (checks.exercises_have_answers_that_can_be_run, write(4, ANSWER, to=ANSWER + ANSWER)),
    (checks.exercises_have_answers_that_can_be_run, write(4, "```text", to="So:\n\n   ```text")),
    (checks.exercises_have_answers_that_can_be_run, write(4, "more?", to="\n   ```python\n   1")),
]


@pytest.mark.parametrize(("check", "alter"), FAULTS, ids=lambda each: each.__name__)
def test_check_finds_its_fault(good, check, alter):
    assert complaints(good) == []
    alter(good)
    assert complaints(good, [check])


def test_every_check_has_a_fault():
    assert {check for check, _ in FAULTS} == set(CHECKS)


@pytest.mark.parametrize(
    "alter",
    [write(3, "# Two and two.\n\n" * 8 + "2 + 2"),
     show("aGVsbG8=", "image/png", alt="Two squares, and two more beside them."),
     *map(show, ["left/above", "https://example.org/a/b.png", "<b>/</b>", "3/4/5"])],
)  # fmt: skip
def test_what_only_looks_like_a_fault_is_let_through(good, alter):
    alter(good)
    assert complaints(good) == []
