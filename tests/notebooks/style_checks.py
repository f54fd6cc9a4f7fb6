"""How every committed notebook is to be written: its shape, its figures' texts, its exercises.

Covered: one plain function for each property, as in notebook_checks.py; `STYLE_CHECKS` lists them.
The Korean notebooks are held to the same; their names begin with "ko/".
Not covered: whether the answers to exercises are right (tests/unit/test_exercises.py runs them),
and whether the prose is good, which only a reader can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from answers import exercises
from notebook_checks import Notebook, source

PROSE_PER_CODE = (1.0, 1.8)
MEDIAN_LINES = 6
ALONE_SHARE = 0.8
ALT_LENGTH = 20
EXERCISES = (3, 6)
PICTURES = ("image/png", "image/jpeg")


def lines_of_code(cell: dict) -> int:
    """The lines of a code cell, without blank ones and without those that are only a comment."""
    lines = [line.strip() for line in source(cell).splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def prose_and_code_are_balanced(notebook: Notebook) -> Iterator[str]:
    code = len(notebook.code)
    prose = sum(cell["cell_type"] == "markdown" for cell in notebook.cells)
    least, most = PROSE_PER_CODE
    if not least * code <= prose <= most * code:
        yield f"{prose} prose cells and {code} code cells; {least} to {most} for each wanted"


def cells_are_mostly_short(notebook: Notebook) -> Iterator[str]:
    """Counted are lines of code: no blank lines, and no lines that are only a comment."""
    found = median(lines_of_code(cell) for _, cell in notebook.code)
    if found > MEDIAN_LINES:
        yield f"the median code cell has {found} lines of code; at most {MEDIAN_LINES}"


def code_stands_between_prose(notebook: Notebook) -> Iterator[str]:
    kinds = ["", *(cell["cell_type"] for cell in notebook.cells), ""]
    crowded = [
        place for place, _ in notebook.code if "code" in (kinds[place - 1], kinds[place + 1])
    ]
    if len(crowded) > (1 - ALONE_SHARE) * len(notebook.code):
        yield f"code cells next to code cells: {crowded}; at least {ALONE_SHARE:.0%} stand alone"


def shows_pictures(cell: dict) -> bool:
    return any(kind in output.get("data", {}) for output in cell["outputs"] for kind in PICTURES)


def figures_are_described(notebook: Notebook) -> Iterator[str]:
    """Whoever cannot see a figure is told what it shows: `"alt"` in the cell's metadata."""
    for place, cell in notebook.code:
        alt = cell["metadata"].get("alt", "").strip()
        if shows_pictures(cell) and len(alt) < ALT_LENGTH:
            yield f"cell {place} shows a picture, and its metadata say about it: {alt!r}"


def opening_links_the_glossary(notebook: Notebook) -> Iterator[str]:
    """By its address, since a notebook opened alone in Colab has no page beside it."""
    folder = f"{notebook.repository}/blob/main/notebooks"
    pages = [f"({folder}/glossary.md)"]
    if notebook.name.startswith("ko/"):
        pages.append(f"({folder}/ko/glossary.md)")
    opening = source(notebook.cells[0])
    if not any(page in opening for page in pages):
        yield f"the first cell does not link the glossary: [glossary]{pages[0]}"


def exercises_have_answers(notebook: Notebook) -> Iterator[str]:
    found = exercises(notebook.content)
    numbers = [exercise.number for exercise in found]
    least, most = EXERCISES
    if not least <= len(found) <= most or numbers != list(range(1, len(found) + 1)):
        yield f"the exercises are numbered {numbers}; {least} to {most} wanted, counted from 1"
    for exercise in found:
        if len(exercise.answers) != 1:
            answers = len(exercise.answers)
            yield f"exercise {exercise.number} has {answers} answers in <details>, not 1"


def answers_can_be_run(notebook: Notebook) -> Iterator[str]:
    """Code outside <details>, or a text that does not follow code, would never be tried."""
    for exercise in exercises(notebook.content):
        texts = [block.shown for block in exercise.blocks if block.shown is not None]
        for kind, read in (("python", exercise.blocks), ("text", texts)):
            written = exercise.text.count(f"```{kind}")
            if written != len(read):
                found = f"{written} {kind} blocks, of which {len(read)} belong to an answer"
                yield f"exercise {exercise.number} has {found}"


STYLE_CHECKS = (
    prose_and_code_are_balanced,
    cells_are_mostly_short,
    code_stands_between_prose,
    figures_are_described,
    opening_links_the_glossary,
    exercises_have_answers,
    answers_can_be_run,
)
