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
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat
from measure import RESULTS, ROOT, finish, page, parser, table
from nbclient import NotebookClient

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

    def cells(self) -> tuple[str, ...]:
        """Return the line of the table."""
        vram = "" if self.vram_bytes is None else f"{self.vram_bytes / 2**30:.2f}"
        return self.name, f"{self.seconds:.0f}", self.minutes, f"{self.ram_bytes / 2**30:.2f}", vram


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
    made = parser(__doc__)
    made.add_argument("names", nargs="*", help="such as 07_how_llava_sees; default: all")
    options = made.parse_args(arguments)
    kept = RESULTS / "notebooks.json"
    runs = []
    if options.names and kept.exists():
        before = (Run(**each) for each in json.loads(kept.read_text())["runs"])
        runs = [each for each in before if each.name not in options.names]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(offline_environment(Path(folder)))
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        paths = [NOTEBOOKS / f"{name}.ipynb" for name in options.names]
        for path in paths or sorted(NOTEBOOKS.glob("*.ipynb")):
            runs.append(run(path))
            print(f"{path.stem}: {runs[-1].seconds:.0f} s", flush=True)
    runs.sort(key=lambda each: each.name)
    head = ("notebook", "seconds", "minutes", "peak RAM, GiB", "peak VRAM, GiB")
    text = page("What the notebooks take", table(head, [each.cells() for each in runs]))
    return finish("notebooks", text, {"runs": [*map(asdict, runs)]}, [], options)


if __name__ == "__main__":
    sys.exit(main())
