"""Every benchmark runs at a tiny size and has figures; whoever wants to know runs it in quiet."""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import nbformat
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the modules there import each other by name

import batch  # noqa: E402
import cpu_answer  # noqa: E402
import folder  # noqa: E402
import followup  # noqa: E402
import gpu  # noqa: E402
import load_memory  # noqa: E402
import measure  # noqa: E402
import overhead  # noqa: E402
import vram_on_paper  # noqa: E402

import notebooks  # noqa: E402

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
ONE_MODEL = ["--models", "7b", "--stored", "4bit"]
QUICK = {each: [] for each in (followup, batch, overhead, folder, load_memory, cpu_answer)}
QUICK |= {gpu: ONE_MODEL, vram_on_paper: ONE_MODEL}


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("module", QUICK, ids=lambda module: module.__name__)
def test_it_runs_quickly_has_figures_and_keeps_nothing(module, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    assert module.main(["--quick", "--write", *QUICK[module]]) == 0
    text = capsys.readouterr().out
    rows = text.split("| --- |")[1].splitlines()[1:]
    figures = [float(each) for row in rows for each in re.findall(r"-?\d+(?:\.\d+)?", row)]
    assert figures and all(map(math.isfinite, figures)), text
    assert "MISSED" not in text and not list(tmp_path.iterdir())


@LINUX
@pytest.mark.slow
def test_a_notebook_is_run_left_as_it_is_and_joins_the_others(tmp_path, monkeypatch, capsys):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("held = bytearray(2**26)")])
    for name in ("large", "small"):
        nbformat.write(book, tmp_path / f"{name}.ipynb")
    before = {"name": "large", "seconds": 80.0, "ram_bytes": 1, "vram_bytes": None}
    (tmp_path / "notebooks.json").write_text(json.dumps({"runs": [before]}))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr("os.environ", dict(notebooks.os.environ))
    assert notebooks.main(["small", "--write"]) == 0
    first, second = json.loads((tmp_path / "notebooks.json").read_text())["runs"]
    assert first == before and second["name"] == "small"
    assert second["ram_bytes"] > 2**26 and second["seconds"] > 0
    assert "| large | 80 | 1 | 0.00 |  |" in capsys.readouterr().out
    assert nbformat.read(tmp_path / "small.ipynb", as_version=4) == book


@pytest.mark.parametrize(("figure", "code"), [(2.0, 0), (1.9, 1)])
def test_a_missed_bar_is_the_exit_code_and_every_figure_is_kept(
    figure, code, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    options = argparse.Namespace(quick=False, write=True)
    verdicts = [measure.at_least("x", figure, 2)]
    assert measure.finish(options, "x", "Title", verdicts=verdicts, figures=[1.5]) == code
    assert ("MISSED" in capsys.readouterr().out) is bool(code)
    kept = json.loads((tmp_path / "x.json").read_text())
    assert kept["figures"] == [1.5] and "transformers" in kept["versions"]


@LINUX
def test_a_watched_process_shows_what_it_held_between_two_marks(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from measure import child_request\n"
        "request, mark = child_request()\n"
        "mark('start')\n"
        "held = bytearray(request['count']); held[::4096] = b'x' * len(held[::4096])\n"
        "del held\n"
        "mark('end', said='done')\n"
    )
    seen = measure.watch(str(script), {"count": 2**28})
    over = seen.peaks["end"][0] - seen.now["start"][0]
    assert 0.8 * 2**28 < over < 1.3 * 2**28 and seen.facts == {"said": "done"}
    script.write_text("raise KeyError('what it said')")
    with pytest.raises(RuntimeError, match="(?s)code 1: .*what it said"):
        measure.watch(str(script), {})
