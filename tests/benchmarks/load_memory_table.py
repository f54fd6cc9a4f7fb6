"""The figures of `load_memory.py`: what is kept of a load, the bars, the table for people.

Bytes inside; the table has MB of 10^6 bytes, because the bars are given in those.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llava_nb.sizes import Shape

RESULTS = Path(__file__).parent / "results"
MB = 10**6
ALLOWANCE = 600 * MB  # what loading may take over the imports and the model
APART = 0.15  # the most by which one file and several may differ
HEAD = (
    "| loader | layout | shards | file MB | seconds | CPU seconds | model MB | peak anonymous MB |"
    " left MB | peak file-backed MB | `load()` asks for MB | under a limit |"
)


@dataclass(frozen=True)
class Limited:
    """A load under a memory limit. `completed` is None where no limit could be set.

    `refused` is what the check before loading said, if it would not let the load begin: it was
    then done without the check. `charged` is the most that the limit counted, in bytes.
    """

    limit_bytes: int
    completed: bool | None
    killed: bool = False
    charged: int | None = None
    without_swap: bool = False
    seconds: float | None = None
    said: str = ""
    refused: str = ""

    def __str__(self) -> str:
        if self.completed is None:
            return "no limit could be set"
        if self.completed:
            return "completed"
        return "killed" if self.killed else "failed"


@dataclass(frozen=True)
class Row:
    """One load: bytes and seconds. `peak_`, `left_` and `unseen` are over the imports.

    `asked_for` is the RAM that `load()` wants free before it begins; `unseen` and `longest_gap`
    say what the readings may have missed.
    """

    loader: str
    layout: str
    shards: int
    file_bytes: int
    seconds: float
    cpu_seconds: float
    threads: int
    model_bytes: int
    imports_anonymous: int
    peak_anonymous: int
    left_anonymous: int
    peak_file: int
    unseen: int
    longest_gap: float
    swapped: int
    asked_for: int
    limited: Limited | None = None

    @property
    def bar(self) -> int:
        """The most that loading may take over the imports."""
        return self.model_bytes + ALLOWANCE


def verdicts(
    rows: Sequence[Row], controls: Sequence[Limited] = ()
) -> list[tuple[str, str, str, bool | None]]:
    """Return every bar: what, the figure, the bar, whether it is met (None: not measured)."""
    found: list[tuple[str, str, str, bool | None]] = []
    ours = [row for row in rows if row.loader == "llava_nb"]
    for row in ours:
        what = f"{row.layout}, shards: {row.shards}"
        met = row.peak_anonymous <= row.bar
        found.append((f"{what}: peak, MB", _mb(row.peak_anonymous), _mb(row.bar), met))
        found += _under_a_limit(what, row.limited) if row.limited is not None else []
    for layout in dict.fromkeys(row.layout for row in ours):
        peaks = [row.peak_anonymous for row in ours if row.layout == layout]
        if len(peaks) > 1:
            apart = 1 - min(peaks) / max(peaks)
            label = f"{layout}: shards against one, % apart"
            found.append((label, f"{100 * apart:.1f}", f"{100 * APART:g}", apart <= APART))
    for control in controls:
        stopped = None if control.completed is None else not control.completed
        label = f"control: a file read whole, limited to {_mb(control.limit_bytes)} MB"
        found.append((label, str(control), "killed", stopped))
    return found


def _under_a_limit(what: str, limited: Limited) -> list[tuple[str, str, str, bool | None]]:
    """Two bars: that the load completes, and that the check before it does not forbid it."""
    what = f"{what}: limited to {_mb(limited.limit_bytes)} MB"
    found = [(f"{what}: the load", str(limited), "completed", limited.completed)]
    if limited.completed is not None:
        allowed = not limited.refused
        figure = "passed" if allowed else "refused"
        found.append((f"{what}: the check before it", figure, "passed", allowed))
    return found


def missed(rows: Sequence[Row], controls: Sequence[Limited] = ()) -> bool:
    """Whether a bar is missed; one that was not measured is not."""
    return any(met is False for *_, met in verdicts(rows, controls))


def markdown(shape: Shape, rows: Sequence[Row], controls: Sequence[Limited] = ()) -> str:
    """Return the table and the bars, for people."""
    lines = [
        "# Memory for loading in 4 bits",
        "",
        f"{about()}, {rows[0].threads} thread(s), on a CPU. {shape}, random weights.",
        "",
        "Peaks, and what is left when the model is loaded, are over the imports, which take "
        f"{_mb(max(row.imports_anonymous for row in rows))} MB. MB is 10^6 bytes. A limit is the "
        "imports, the model and 600 MB together.",
        "",
        HEAD,
        "| --- | --- |" + " ---: |" * 9 + " --- |",
        *map(_line, rows),
        "",
        "| bar | figure | bar | |",
        "| --- | ---: | ---: | --- |",
    ]
    words = {True: "met", False: "MISSED", None: "not measured"}
    for label, figure, bar, met in verdicts(rows, controls):
        lines.append(f"| {label} | {figure} | {bar} | {words[met]} |")
    return "\n".join([*lines, "", *_notes(rows), ""])


def _line(row: Row) -> str:
    sizes = (row.model_bytes, row.peak_anonymous, row.left_anonymous, row.peak_file, row.asked_for)
    under = "" if row.limited is None else str(row.limited)
    seconds = (f"{row.seconds:.0f}", f"{row.cpu_seconds:.0f}")
    cells = (row.loader, row.layout, row.shards, _mb(row.file_bytes), *seconds)
    return f"| {' | '.join(map(str, (*cells, *map(_mb, sizes), under)))} |"


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the readings may have missed, and what the limits had to say."""
    unseen, gap = max(row.unseen for row in rows), max(row.longest_gap for row in rows)
    notes = [
        f"Readings: the longest gap was {gap:.2f} s; the kernel's high-water mark of all resident "
        f"memory was at most {unseen / MB:.1f} MB above the highest reading."
    ]
    limits = [row.limited for row in rows if row.limited is not None]
    said = [each.said for each in limits if each.completed is None]
    refused = [each.refused for each in limits if each.refused]
    notes += [f"No limit: {said[0]}"] if said else []
    if refused:
        notes.append(
            "Where the check before it refused, the load was done with `check=False`. It said, for "
            f"one: {refused[0]}"
        )
    if any(each.completed is not None and not each.without_swap for each in limits):
        notes.append("Swap could not be ruled out under the limits.")
    return "\n\n".join(notes).split("\n")


def about() -> str:
    """Return the versions, in words."""
    return ", ".join(f"{name} {number}" for name, number in versions().items())


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter here, and of Python."""
    packages = ("torch", "transformers", "bitsandbytes")
    return {name: version(name) for name in packages} | {"Python": platform.python_version()}


def write_results(stem: str, text: str, figures: dict[str, Any], folder: Path = RESULTS) -> None:
    """Keep the text as results/STEM.md and the figures, in bytes, as results/STEM.json."""
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}.md").write_text(text)
    kept = json.dumps({"versions": versions(), **figures}, indent=1, default=asdict)
    (folder / f"{stem}.json").write_text(kept + "\n")


def _mb(count: int) -> str:
    return f"{count / MB:.0f}"
