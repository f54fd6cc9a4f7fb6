"""What each notebook takes: minutes, and memory at its peak, from the first cell to the last.

    python tests/benchmarks/notebooks.py [NAME ...] [--write]

Every notebook is run in a fresh kernel, as a reader's *Run all* does it, without a network and
without touching the file; on a GPU with the model that is in the cache. RAM is the most that the
kernel held; VRAM is the most that torch had allocated. With names, what was measured of the others
before is kept. The README's table is filled from this. Linux only. Judges nothing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import measure
import nbformat
from nbclient import NotebookClient

sys.path.insert(0, str(measure.ROOT / "tests" / "offline"))
from network_guard import offline_environment  # noqa: E402  (needs the line above)

NOTEBOOKS = measure.ROOT / "notebooks"
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
    def cells(self) -> tuple[str, ...]:
        """The line of the table; its minutes are those that the README says."""
        minutes = "under 1" if self.seconds < 60 else f"{self.seconds / 60:.0f}"
        vram = "" if self.vram_bytes is None else f"{self.vram_bytes / 2**30:.2f}"
        return self.name, f"{self.seconds:.0f}", minutes, f"{self.ram_bytes / 2**30:.2f}", vram


def run(path: Path) -> Run:
    """Run one notebook, and a last cell that tells what its kernel held."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(LAST_CELL))
    started = time.perf_counter()
    place = {"metadata": {"path": NOTEBOOKS}}
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources=place).execute()
    seconds = time.perf_counter() - started
    told = json.loads(notebook.cells[-1]["outputs"][0]["text"])
    return Run(path.stem, seconds, told["ram"], told["vram"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and keep if asked to."""
    there = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    options = measure.parse(__doc__, arguments, {"names": there})
    kept = measure.RESULTS / "notebooks.json"
    before = json.loads(kept.read_text())["runs"] if kept.exists() else []
    runs = [Run(**each) for each in before if each["name"] in {*there} - {*options.names}]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(offline_environment(Path(folder)))
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        for name in options.names:
            runs.append(run(NOTEBOOKS / f"{name}.ipynb"))
            print(f"{name}: {runs[-1].seconds:.0f} s", flush=True)
    runs.sort(key=lambda each: each.name)
    head = ("notebook", "seconds", "minutes", "peak RAM, GiB", "peak VRAM, GiB")
    table = measure.table(head, [each.cells for each in runs])
    return measure.finish(options, "notebooks", "What the notebooks take", table, runs=runs)


if __name__ == "__main__":
    sys.exit(main())
