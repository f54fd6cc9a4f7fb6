"""Every benchmark runs at a tiny size and has figures; whoever wants to know runs it in quiet."""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the modules there import each other by name

import batch  # noqa: E402
import folder  # noqa: E402
import followup  # noqa: E402
import gpu  # noqa: E402
import load_memory  # noqa: E402
import measure  # noqa: E402
import overhead  # noqa: E402

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
QUICK = {
    followup: [],
    batch: [],
    overhead: [],
    folder: [],
    load_memory: ["--layouts", "transformers", "--shards", "1"],
    gpu: ["--models", "7b", "--stored", "4bit"],
}


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


def test_every_round_begins_with_another_way_and_the_first_is_not_kept():
    taken = []
    ways = {name: lambda number, name=name: taken.append((number, name)) for name in "ab"}
    timed = measure.in_turn("small", ways, 2, lambda number: number, device=torch.device("cpu"))
    assert taken == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]
    assert [len(each) for each in timed.seconds.values()] == [2, 2]


@pytest.mark.parametrize(("figure", "code"), [(2.0, 0), (1.9, 1)])
def test_a_missed_bar_is_the_exit_code_and_every_figure_is_kept(figure, code, tmp_path, capsys):
    options = argparse.Namespace(quick=False, write=True)
    verdicts = [measure.at_least("x", figure, 2)]
    text = measure.page("Title", "Said.", verdicts=verdicts)
    assert measure.finish("x", text, {"figures": [1.5]}, verdicts, options, tmp_path) == code
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
    with pytest.raises(RuntimeError, match="KeyError"):
        measure.watch(str(script), {})
