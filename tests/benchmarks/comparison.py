"""What a comparison has to say: its table, its bars, its files; and the options that all have.

Used by `followup.py`, `batch.py`, `overhead.py` and `decode.py`. Not covered: measuring
(`in_turn.py`); versions and files (`load_memory_table.py`).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from in_turn import Timed
from load_memory_table import RESULTS, about, write_results

WORDS = {True: "met", False: "MISSED", None: "not measured"}
Verdict = tuple[str, str, str, bool | None]


@dataclass(frozen=True)
class Comparison:
    """Figures of several models, ready to be shown.

    `verdicts` are (what, the figure, the bar, whether it is met; None: not measured).
    `measured` is what is kept as JSON: every round, in seconds.
    """

    title: str
    said: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    verdicts: Sequence[Verdict]
    measured: Sequence[Timed]
    machine: str
    threads: int

    @property
    def missed(self) -> bool:
        """Whether a bar is missed; one that was not measured is not."""
        return any(met is False for *_, met in self.verdicts)

    def markdown(self) -> str:
        """Return the table and the bars, for people."""
        rounds = max(len(each) for timed in self.measured for each in timed.seconds.values())
        lines = [
            f"# {self.title}",
            "",
            f"{about()}, {self.threads} thread(s), on {self.machine}. Medians of {rounds} rounds, "
            "in each of which all ways were taken in turn. The processor's seconds were "
            f"{100 * min(timed.processor_share for timed in self.measured):.0f} % of the clock's, "
            "or more.",
            "",
            self.said,
            "",
            *_table(self.head, self.lines),
            "",
            "| bar | figure | bar | |",
            "| --- | ---: | ---: | --- |",
        ]
        lines += [f"| {' | '.join(each)} | {WORDS[met]} |" for *each, met in self.verdicts]
        return "\n".join([*lines, ""])


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    columns = f"| --- |{' ---: |' * (len(head) - 1)}"
    return [f"| {' | '.join(head)} |", columns, *(f"| {' | '.join(line)} |" for line in lines)]


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of all comparisons."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    made.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    made.add_argument("--write", action="store_true", help="keep the figures under results/")
    return made


def finish(
    stem: str, comparison: Comparison, options: argparse.Namespace, folder: Path = RESULTS
) -> int:
    """Print the table, keep it if asked to, and return 1 if a bar is missed.

    With --quick nothing is kept and nothing missed: the sizes mean nothing.
    """
    text = comparison.markdown()
    print(text)
    if options.quick:
        return 0
    if options.write:
        kept = {name: getattr(comparison, name) for name in ("machine", "threads", "verdicts")}
        write_results(stem, text, kept | {"measured": list(comparison.measured)}, folder)
    return int(comparison.missed)


def machine_of(device: torch.device) -> str:
    """Return the name of the GPU or of the CPU, and how many cores there are of that."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.M)
    name = names[0] if names else platform.processor() or platform.machine()
    return f"a CPU ({name}, {os.cpu_count()} core(s))"


def at_least(what: str, figure: float, bar: float, *, judged: bool = True) -> Verdict:
    """Return the verdict on a figure that has to reach a bar, if it is judged at all."""
    return what, f"{figure:.1f}", f"at least {bar:g}", figure >= bar if judged else None
