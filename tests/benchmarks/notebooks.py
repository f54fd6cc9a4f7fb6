"""What each notebook takes: minutes, and memory at its peak, from the first cell to the last.

    python tests/benchmarks/notebooks.py [NAME ...] [--write]

Every notebook is run in a fresh kernel, as a reader's *Run all* does it, without a network and
without touching the file; on a GPU with the model that is in the cache. RAM is the most that the
kernel held, as the kernel of the system counts it; VRAM is the most that torch had allocated.
With names, what was measured of the others before is kept. The README's table is filled from this.
Linux only. Judges nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat
import torch
from comparison import machine_of
from load_memory_table import RESULTS, about, write_results
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "offline"))
from network_guard import offline_environment  # noqa: E402  (needs the line above)

NOTEBOOKS = ROOT / "notebooks"
LAST_CELL = """
import json, re, torch
text = open("/proc/self/status").read()
peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
print(json.dumps({"ram": 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", text)[1]), "vram": peak}))
"""


@dataclass(frozen=True)
class Run:
    """One notebook: seconds by the clock, bytes at the peak; VRAM is None without a GPU."""

    name: str
    seconds: float
    ram_bytes: int
    vram_bytes: int | None

    @property
    def minutes(self) -> str:
        """As the README says it: whole minutes, or "under 1"."""
        return "under 1" if self.seconds < 60 else f"{self.seconds / 60:.0f}"


def run(path: Path) -> Run:
    """Run one notebook, and a last cell that tells what its kernel held."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LAST_CELL))
    started = time.perf_counter()
    NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}
    ).execute()
    seconds = time.perf_counter() - started
    told = json.loads(notebook.cells[-1]["outputs"][0]["text"])
    return Run(path.stem, seconds, told["ram"], told["vram"])


def markdown(runs: Sequence[Run], machine: str) -> str:
    """The table for people."""
    lines = [
        "# What the notebooks take",
        "",
        f"{about()}, {torch.get_num_threads()} thread(s), on {machine}.",
        "",
        "| notebook | seconds | minutes | peak RAM, GiB | peak VRAM, GiB |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for each in runs:
        vram = "" if each.vram_bytes is None else f"{each.vram_bytes / 2**30:.2f}"
        ram = f"{each.ram_bytes / 2**30:.2f}"
        lines.append(f"| {each.name} | {each.seconds:.0f} | {each.minutes} | {ram} | {vram} |")
    return "\n".join([*lines, ""])


def measured_before(again: Sequence[str]) -> list[Run]:
    """What is kept of other notebooks than these; of all of them if `again` names none."""
    kept = RESULTS / "notebooks.json"
    if not again or not kept.exists():
        return []
    runs = [Run(**each) for each in json.loads(kept.read_text())["runs"]]
    return [each for each in runs if each.name not in again]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and keep if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="such as 07_how_llava_sees; default: all")
    parser.add_argument("--write", action="store_true", help="keep the figures under results/")
    options = parser.parse_args(arguments)
    paths = [NOTEBOOKS / f"{name}.ipynb" for name in options.names]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(offline_environment(Path(folder)))
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        for path in paths or sorted(NOTEBOOKS.glob("*.ipynb")):
            runs.append(run(path))
            print(f"{path.stem}: {runs[-1].seconds:.0f} s", flush=True)
    machine = machine_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    runs = sorted([*runs, *measured_before(options.names)], key=lambda each: each.name)
    text = markdown(runs, machine)
    print(text)
    if options.write:
        write_results("notebooks", text, {"machine": machine, "runs": [*map(asdict, runs)]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
