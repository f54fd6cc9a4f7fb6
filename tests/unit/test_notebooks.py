"""Every committed notebook, in either language, passes every check, and every check can fail."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import notebook_checks as checks
import pytest
from notebook_checks import COLAB, COLAB_ADDRESS, REPOSITORY, Notebook

ROOT = Path(__file__).resolve().parents[2]
BOOKS = {
    path.relative_to(ROOT / "notebooks").as_posix(): json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("**/*.ipynb"))
}
ENGLISH = [name for name in BOOKS if "/" not in name]
README = (ROOT / "README.md").read_text(encoding="utf-8")


# --- the README's table -------------------------------------------------------------------------

MEASURED = json.loads((ROOT / "tests/benchmarks/results/notebooks.json").read_text())["runs"]
RUNS = {run["name"]: run for run in MEASURED}
ROW = re.compile(r"^\| \[(\w+)\]\(notebooks/\w+\.ipynb\) \| .+ \| (.+) \| (.+) \| \[!\[", re.M)
ROWS = {row[1]: row for row in ROW.finditer(README)}


def test_every_notebook_has_a_row_was_measured_and_its_badge_opens_it():
    there = [name.removesuffix(".ipynb") for name in ENGLISH]
    assert list(ROWS) == there and len(there) >= 10
    assert sorted(RUNS) == there, "measure: python tests/benchmarks/notebooks.py --write"
    wanted = {f"{COLAB}/blob/main/notebooks/{name}" for name in ENGLISH}
    assert set(COLAB_ADDRESS.findall(README)) == wanted


@pytest.mark.parametrize("name", RUNS)
def test_what_a_notebook_takes_is_what_was_measured(name):
    seconds, on_gpu = RUNS[name]["seconds"], RUNS[name]["vram_bytes"] is not None
    assert ROWS[name][2] == ("under 1" if seconds < 60 else f"{seconds / 60:.0f}")
    assert (ROWS[name][3] != "not measured") == on_gpu


# --- every notebook -----------------------------------------------------------------------------


def change(place, **fields):
    """Give a cell of 00_setup other fields."""
    return lambda book: book["cells"][place].update(fields)


def text(place, old, new):
    """Put another text in the place of one in a cell; it has to be there."""

    def alter(book):
        source = "".join(book["cells"][place]["source"])
        assert old in source
        book["cells"][place]["source"] = source.replace(old, new)

    return alter


STDERR = {"output_type": "stream", "name": "stderr", "text": "a warning"}
MADE_BY = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "aGVsbG8="}}
FAULTS = {
    checks.is_well_formed: change(18, source="2 +"),
    checks.is_executed_in_order: change(18, execution_count=18),
    checks.opens_in_colab_on_a_t4: text(0, "00_setup", "01_first_caption"),
    checks.fetches_repository: text(2, REPOSITORY, f"{REPOSITORY}-fork"),
    checks.keeps_nothing_of_one_machine: change(18, outputs=[STDERR]),
    checks.is_mostly_compared: text(18, "llava", "# NBVAL_SKIP: slow\nllava"),
    checks.cells_fit_a_screen: change(18, source="2 + 2\n" * 21),
    checks.code_stands_between_prose: lambda book: book["cells"].pop(17),
    checks.shows_something: change(18, outputs=[]),
    checks.figures_are_described: change(18, outputs=[MADE_BY]),
    checks.opening_links_the_glossary: text(0, "glossary.md", "glossary"),
    checks.ends_in_summary_and_exercises: text(20, "## Exercises", "## More"),
    checks.exercises_have_answers_that_can_be_run: text(20, "```text", "So:\n\n   ```text"),
}


@pytest.mark.parametrize("check", FAULTS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", BOOKS)
def test_notebook(name, check):
    complaints = list(check(Notebook(name, BOOKS[name])))
    assert not complaints, f"{name}:\n" + "\n".join(complaints)


@pytest.mark.parametrize("check", [*FAULTS, None], ids=str)
def test_a_check_finds_its_fault(check):
    book = copy.deepcopy(BOOKS["00_setup.ipynb"])
    FAULTS.get(check, lambda book: book.pop("nbformat_minor"))(book)
    check = check or checks.is_well_formed
    assert list(check(Notebook("00_setup.ipynb", book)))


@pytest.mark.parametrize("shown", ["left/above", "https://example.org/a/b.png", "<b>/</b>"])
def test_what_only_looks_like_a_path_is_let_through(shown):
    book = copy.deepcopy(BOOKS["00_setup.ipynb"])
    book["cells"][18]["outputs"] = [STDERR | {"name": "stdout", "text": shown}]
    notebook = Notebook("00_setup.ipynb", book)
    assert list(checks.keeps_nothing_of_one_machine(notebook)) == []
