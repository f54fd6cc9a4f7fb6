"""The folder benchmark runs at a tiny size and says something; its bars are what they are.

No figure is judged here: whoever wants to know runs the script on a quiet machine.
"""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # the modules there import each other by name

import folder as benchmark  # noqa: E402
from in_turn import Timed  # noqa: E402

RUN = {"pictures": 1000, "seconds": 10.0, "peak_bytes": 500, "again_seconds": 0.1}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_it_runs_quickly_and_has_figures_in_its_table(capsys, monkeypatch):
    monkeypatch.setattr("comparison.write_results", lambda *_: pytest.fail("it was kept"))
    assert benchmark.main(["--quick", "--write"]) == 0
    text = capsys.readouterr().out
    assert "pictures a second" in text and "not measured" in text and "2 of 2" in text
    assert "4 pictures took" in text and "MiB at the most" in text


@pytest.mark.parametrize(
    ("loop", "many", "met"),
    [
        (2.6, {}, [True, True, True, True]),
        (2.4, {}, [False, True, True, True]),
        (3.0, {"peak_bytes": 551}, [True, False, True, True]),
        (3.0, {"seconds": 231.0}, [True, True, False, True]),
        (3.0, {"again_seconds": 5.1}, [True, True, True, False]),
    ],
)
def test_the_bars(loop, many, met):
    seconds = {"loop": [loop]} | {str(size): [1.0] for size in benchmark.SIZES}
    runs = [RUN, RUN | {"pictures": 20_000, "seconds": 200.0, "again_kept": 20_000} | many]
    verdicts = benchmark.verdicts(Timed("tiny", seconds), runs, True)
    assert [verdict[3] for verdict in verdicts] == met
