"""The README's table of notebooks says what was measured, of every notebook and of no other."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "tests" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the modules there import each other by name

import notebooks as benchmark  # noqa: E402

MEASURED = json.loads((BENCHMARKS / "results" / "notebooks.json").read_text())
RUNS = {run["name"]: benchmark.Run(**run) for run in MEASURED["runs"]}
ROW = re.compile(r"^\| \[(\w+)\]\(notebooks/\w+\.ipynb\) \| (.+) \| (.+) \| (.+) \| \[!\[", re.M)


@pytest.fixture(scope="module")
def rows():
    """What is learnt, minutes on a CPU, and what is known of a GPU, by notebook."""
    return {row[0]: row[1:] for row in ROW.findall((ROOT / "README.md").read_text("utf-8"))}


def test_every_notebook_has_a_row_and_was_measured(rows):
    there = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert list(rows) == there
    assert sorted(RUNS) == there, "measure: python tests/benchmarks/notebooks.py --write"


@pytest.mark.parametrize("name", RUNS)
def test_minutes_are_the_measured_ones(rows, name):
    assert rows[name][1] == RUNS[name].minutes


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_said_of_a_gpu_that_was_not_measured(rows, name):
    peak = RUNS[name].vram_bytes
    assert (rows[name][2] == "not measured") == (peak is None)


@pytest.mark.parametrize(
    ("seconds", "minutes"), [(12, "under 1"), (59.9, "under 1"), (80, "1"), (400, "7")]
)
def test_minutes_in_words(seconds, minutes):
    assert benchmark.Run("a", seconds, 1, None).minutes == minutes


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_notebook_is_run_and_left_as_it_is(tmp_path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("held = bytearray(2**26)")])
    nbformat.write(book, tmp_path / "small.ipynb")
    before = (tmp_path / "small.ipynb").read_bytes()
    run = benchmark.run(tmp_path / "small.ipynb")
    assert (tmp_path / "small.ipynb").read_bytes() == before
    assert run.name == "small" and run.ram_bytes > 2**26 and run.seconds > 0
    assert run.cells()[0] == "small"
