"""Killed at random moments and called again each time: the table is that of one run in peace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import kill_folders
import pytest

KILLS, PICTURES = 10, 300
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each run that is killed is a fork")
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_every_picture_once_none_lost_none_twice(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    command = [sys.executable, "-W", "ignore", kill_folders.__file__, tmp_path / "here"]
    options = ["--kills", KILLS, "--pictures", PICTURES, "--ending", ending, "--texts"]
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])  # which keeps it off the network
    done = subprocess.run(
        list(map(str, [*command, *options])),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == KILLS and len(set(report["saved"])) > 3, report["saved"]
    assert report["rows"] == report["names"] == report["texts"] == PICTURES, report
    assert report["equal"], "each row is that of the run in peace, its seconds left out"
    assert report["saved"] == sorted(report["saved"]), "no kill took a row away"
    assert report["beside"] == [f"killed{ending}", f"peace{ending}", "pictures"], report["beside"]
