"""Runs everything a change has to pass, and closes with the number of tests.

First lint; then, in each environment, the tests and every notebook run again by nbval, with the
answers to its exercises, and its outputs compared. There are two environments: this Python with the
newest releases, and a stand-in for Colab's runtime (`colab_stand_in.sh`), which computes with other
instructions and threads. Both lend their kernels to the JupyterLab and Voila of the browser tests
(`browser/set_up.sh`), which skip themselves where there is no browser. They are tested side by
side, and what the second printed is shown when the first is done. All parts run, also after one has
failed.

Usage: `bash colab_setup.sh test`. With `--here` (in Colab itself) the stand-in is left out. With
`--quick`: lint, the unit tests and three notebooks, in this Python alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "offline"))
from network_guard import offline_environment  # noqa: E402  (needs the line above)

NBVAL = (
    "--nbval",
    *("-p", "answers"),  # and the code in the answers to exercises (`notebooks/answers.py`)
    "--nbval-current-env",
    "--nbval-cell-timeout=300",
    f"--nbval-sanitize-with={ROOT / 'tests' / 'notebooks' / 'sanitize.cfg'}",
)

# Another processor, as far as one machine can be two: no vector instructions past SSE, and the sums
# of two threads. What is compared there and here does not hang on the last digits of arithmetic.
OTHER_ARITHMETIC = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # two threads that spin on a busy machine take minutes
}
# The code and outputs of the Korean notebooks are those of the English ones (`test_editions.py`):
# one of them shows that they run in their folder.
NOTEBOOKS, QUICK_NOTEBOOKS = ("*", "ko/00_*"), ("00_*", "01_*", "04_*")
# What takes long and says the same in either environment is run in the first, the faster one.
ONCE = ("tests/unit/test_setup.py", "tests/unit/test_benchmarks.py")


def lint_commands() -> list[list[str]]:
    """What reads the code without running it."""
    scripts = ["colab_setup.sh", "tests/colab_stand_in.sh", "tests/browser/set_up.sh", ".ci/run"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shellcheck = shutil.which("shellcheck", path=path) or "shellcheck"
    return [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "ruff", "format", "--check", "."],
        [shellcheck, "--external-sources", *scripts],
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
    ]


def run(
    command: list[str], environment: dict[str, str] | None = None, log: TextIO | None = None
) -> bool:
    """Runs one command in the repository, its output shown or in `log`; True if it succeeded."""
    print(f"\n== {' '.join(command)}".replace(f"{ROOT}{os.sep}", ""), file=log, flush=True)
    streams = {"stdout": log, "stderr": log and subprocess.STDOUT}
    return subprocess.run(command, cwd=ROOT, env=environment, **streams).returncode == 0


def counted(succeeded: bool, report: Path) -> Counter:
    """The tests of one pytest run, read from its JUnit report; a crash counts as one failure."""
    tests: Counter = Counter()
    if report.exists():
        for suite in ElementTree.parse(report).iter("testsuite"):
            failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped = int(suite.get("skipped", 0))
            passed = int(suite.get("tests", 0)) - failed - skipped
            tests.update(passed=passed, failed=failed, skipped=skipped)
    if not succeeded and not tests["failed"]:
        tests["failed"] += 1
    return tests


def test_environment(folder: Path, *, is_first: bool) -> dict[str, str]:
    """The variables that the tests of an environment run with; caches go into `folder`."""
    # Where the tests run is for them to say, so nothing of Colab's own environment reaches them.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("COLAB_")}
    environment.update(offline_environment(folder))
    environment["PYTHONPATH"] += f"{os.pathsep}{ROOT / 'tests' / 'notebooks'}"
    # Colab's ipykernel brings a debugger that warns about Python 3.11 and later at every start.
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    # The embedded model is too small to share between threads: they would wait for each other, and
    # on a busy machine for minutes.
    environment.setdefault("OMP_NUM_THREADS", "1")
    # Notebook 08 trains a model for some minutes; here a few steps have to do.
    environment.setdefault("LLAVA_NB_TRAINING", "0.01")
    return environment if is_first else {**environment, **OTHER_ARITHMETIC}


def quick_tests(half: int) -> list[str]:
    """Every other file of unit tests: two halves take as many cores."""
    files = sorted((ROOT / "tests" / "unit").glob("test_*.py"))
    return [*map(str, files[half::2]), "-m", "not slow"]


def run_tests(
    python: str, folder: Path, log: TextIO | None = None, half: int | None = None
) -> Counter:
    """The tests and the notebooks in the environment that `python` belongs to.

    With `half`, 0 or 1, that half of the unit tests, and the quick notebooks with the second.
    """
    is_first = python == sys.executable
    environment = test_environment(folder, is_first=is_first)
    # The first import of matplotlib writes to stderr, which would be in a notebook's output.
    subprocess.run([python, "-c", "import matplotlib.pyplot"], env=environment, capture_output=True)
    tests = ["tests", *(f"--ignore={file}" for file in ONCE if not is_first)]
    names = NOTEBOOKS
    if half is not None:
        tests, names = quick_tests(half), (QUICK_NOTEBOOKS if half else ())
    found = [sorted((ROOT / "notebooks").glob(f"{name}.ipynb")) for name in names]
    notebooks = [str(path) for paths in found for path in paths]
    parts = {"tests": tests, **({"notebooks": [*NBVAL, *notebooks]} if notebooks else {})}
    total: Counter = Counter()
    for name, arguments in parts.items():
        report = folder / f"{name}.xml"
        command = [python, "-m", "pytest", f"--junitxml={report}", *arguments]
        total += counted(run(command, environment, log), report)
    return total


def run_side_by_side(pythons: list[str], halves: Sequence[int | None]) -> Counter:
    """`run_tests` for each Python and half at once; the first is shown as it goes."""
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in pythons]
        logs = [None, *(stack.enter_context(tempfile.TemporaryFile("w+")) for _ in pythons[1:])]
        # Threads, which only wait: each environment is a process of its own.
        with ThreadPoolExecutor(len(pythons)) as pool:
            totals = list(pool.map(run_tests, pythons, folders, logs, halves))
        for log in logs[1:]:
            log.seek(0)
            shutil.copyfileobj(log, sys.stdout)
    return sum(totals, Counter())


def main(arguments: list[str]) -> int:
    """Runs all parts, prints the closing line, and returns the exit code."""
    options = argparse.ArgumentParser(prog="colab_setup.sh test", description=__doc__)
    options.add_argument("--here", action="store_true", help="leave out the Colab stand-in")
    options.add_argument("--quick", action="store_true", help="lint, unit tests, three notebooks")
    chosen = options.parse_args(arguments)
    total: Counter = Counter(failed=sum(not run(command) for command in lint_commands()))
    pythons = [sys.executable]
    if not chosen.quick:
        total["failed"] += not run(["bash", str(ROOT / "tests" / "browser" / "set_up.sh")])
    if not chosen.quick and not chosen.here:
        if run(["bash", str(ROOT / "tests" / "colab_stand_in.sh")]):
            pythons.append(str(ROOT / ".venv-colab" / "bin" / "python"))
        else:
            print("Colab's versions could not be installed, so nothing was tested with them.")
            total["failed"] += 1
    halves: Sequence[int | None] = [None] * len(pythons)
    if chosen.quick:
        pythons, halves = pythons * 2, (0, 1)
    total.update(run_side_by_side(pythons, halves))
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"\n{total['passed']} passed, {total['failed']} failed{skipped}")
    return int(total["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
