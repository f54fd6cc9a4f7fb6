"""The figures of `vram_on_paper.py`: what is kept of a count, the bars, the table for people.

Bytes inside; the table is in GiB of 2^30 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpu_vram_table import ANSWER_TOKENS, APART, BELOW
from load_memory_table import about

from llava_nb.sizes import CUDA_CONTEXT, GIB, format_gib

HEAD = (
    "| model | stored | keys and values | when | foretold | allocated | apart % | reserved |"
    " unused |"
)


@dataclass(frozen=True)
class Count:
    """The peaks of one stretch, in bytes; `tokens` is 0 when the model has just been loaded.

    `foretold` is what the estimate says, without CUDA's context. `in_place`: whether keys and
    values are written where there is room.
    """

    model: str
    stored: str
    in_place: bool
    tokens: int
    foretold: int
    allocated: int
    reserved: int
    rows: int = 1

    @property
    def apart(self) -> float:
        """By which share of what is allocated the estimate is above it, or below."""
        return self.foretold / self.allocated - 1


def verdicts(counts: Sequence[Count]) -> list[tuple[str, str, str, bool]]:
    """Return every bar: what, the figure, the bar, whether it is met."""
    found = []
    for each in counts:
        if not each.in_place:
            continue
        what = f"{each.model} {each.stored}, {_when(each)}"
        label = f"{what}: estimate from what is allocated, %"
        met = abs(each.apart) <= APART
        found.append((label, f"{100 * each.apart:+.1f}", f"{100 * APART:g}", met))
        below = BELOW.get((each.model, each.stored))
        if below and (each.tokens, each.rows) == (ANSWER_TOKENS, 1):
            process = each.reserved + CUDA_CONTEXT
            label = f"{what}: reserved, and {format_gib(CUDA_CONTEXT)} for CUDA's context"
            bar = f"below {format_gib(below)}"
            found.append((label, format_gib(process), bar, process < below))
    return found


def markdown(counts: Sequence[Count]) -> str:
    """Return the table and the bars, for people."""
    words = {True: "met", False: "MISSED"}
    return "\n".join(
        [
            "# VRAM of LLaVA-1.5, foretold and counted on paper",
            "",
            "No GPU was used: the code runs on tensors without numbers, and their blocks are",
            f"those of torch's allocator, by its rules. {about()}. One picture an answer.",
            "Memory in GiB, without CUDA's context.",
            "",
            HEAD,
            "| --- | --- | --- | --- |" + " ---: |" * 5,
            *map(_line, counts),
            "",
            "| bar | figure | bar | |",
            "| --- | ---: | ---: | --- |",
            *(
                f"| {what} | {has} | {bar} | {words[met]} |"
                for what, has, bar, met in verdicts(counts)
            ),
            "",
        ]
    )


def _line(each: Count) -> str:
    ways = {True: "in place", False: "as transformers does"}
    unused = each.reserved - each.allocated
    numbers = [each.foretold, each.allocated, each.reserved, unused]
    told, allocated, reserved, unused = (f"{number / GIB:.3f}" for number in numbers)
    cells = [each.model, each.stored, ways[each.in_place], _when(each)]
    cells += [told, allocated, f"{100 * each.apart:+.1f}", reserved, unused]
    return f"| {' | '.join(cells)} |"


def _when(each: Count) -> str:
    if not each.tokens:
        return "loaded"
    return f"{each.tokens:,} tokens" if each.rows == 1 else f"{each.rows} x {each.tokens:,} tokens"
