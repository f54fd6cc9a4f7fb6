"""What LLaVA-1.5 takes of a GPU at its true sizes, counted without one, beside the estimate.

    python tests/benchmarks/vram_on_paper.py [--models 7b 13b] [--stored 4bit 8bit none]
                                             [--tokens 64 1024] [--rows 1] [--write]

`Llava.ask` and transformers run as they are, on tensors without numbers, and every tensor gets a
block by the rules of torch's allocator (`on_paper.py`, `caching_allocator.py`). What comes out is
"allocated", what tensors take at the peak, and "reserved", what torch then has of the GPU. CUDA's
context is not in either; the bars add the allowance that the estimate has for it. So this says
whether the formulas agree with the code, and where memory goes unused. It is not a measurement of
a GPU: that is `gpu_vram.py`.

Answers are made about the same picture one after the other, in the order of --tokens. "As
transformers does" is the same with keys and values made anew for every token, instead of being
written where there is room (`preallocated.py`); no bar is held against that.

--rows asks about so many pictures at once, by `Llava.ask_batch`.

1,024 tokens of a 13B take five minutes of a core; two models are counted at once. --write keeps
what is printed under results/. Returns 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from caching_allocator import Blocks
from gpu_vram_table import ANSWER_TOKENS, APART, BELOW
from load_memory_table import about, write_results
from load_on_gpu import SHAPES
from model_on_paper import load_on_paper
from on_paper import answering
from transformers.cache_utils import DynamicLayer

from llava_nb import estimate_vram, open_image, preallocated
from llava_nb.parts import CONTEXT, CUDA_CONTEXT
from llava_nb.pictures import example_picture
from llava_nb.sizes import GIB, Shape, format_gib

STORED = {"4bit": "4bit", "8bit": "8bit", "none": None}
QUESTION = "Describe this picture."
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


class AnewEachTime(DynamicLayer):
    """transformers' own layer, in the place of `PreallocatedLayer`."""

    def __init__(self, room: Any, held: Any = None) -> None:
        super().__init__()
        if held is not None:
            self.lazy_initialization(*held)
            self.keys, self.values = held

    def take(self, blocks: Any) -> None:
        """Do without."""

    def hand_over(self) -> Any:
        """Return keys and values, of which nothing is left here."""
        pair, self.keys, self.values = (self.keys, self.values), None, None
        return pair


def count(
    model: str,
    stored: str,
    shape: Shape,
    tokens: Sequence[int],
    *,
    rows: int = 1,
    in_place: bool = True,
) -> list[Count]:
    """Load a model on paper, ask it for answers of so many tokens, and return all peaks."""
    ours = preallocated.PreallocatedLayer
    if not in_place:
        preallocated.PreallocatedLayer = AnewEachTime
    try:
        return _count(model, stored, shape, tokens, rows, in_place)
    finally:
        preallocated.PreallocatedLayer = ours


def _count(
    model: str, stored: str, shape: Shape, tokens: Sequence[int], rows: int, in_place: bool
) -> list[Count]:
    blocks, picture = Blocks(), open_image(example_picture())
    llava = load_on_paper(model, shape, STORED[stored], blocks)
    about_model = {"model": model, "stored": stored, "in_place": in_place, "rows": rows}
    held = {"allocated": blocks.allocated, "reserved": blocks.peak_reserved}
    weights = estimate_vram(llava).weights_bytes
    found = [Count(**about_model, tokens=0, foretold=weights, **held)]
    with answering(llava, blocks) as ask:
        for number in tokens:
            blocks.begin_peaks()
            answer = ask(picture, QUESTION, number, rows)
            asked = {"prompt_tokens": answer.prompt_tokens - shape.image_tokens, "batch_size": rows}
            told = estimate_vram(llava, **asked, max_new_tokens=number)
            foretold = told.total_bytes - told.parts[CONTEXT]
            held = {"allocated": blocks.peak_allocated, "reserved": blocks.peak_reserved}
            found.append(Count(**about_model, tokens=number, foretold=foretold, **held))
    return found


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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--stored", nargs="+", choices=STORED, default=list(STORED))
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, ANSWER_TOKENS])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="keep the figures under results/")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print, and return 1 if a bar is missed."""
    options = parse(arguments)
    ways = [{"rows": options.rows, "in_place": in_place} for in_place in (True, False)]
    cases = [(model, stored, ways[0]) for model in options.models for stored in options.stored]
    cases += [(model, "4bit", ways[1]) for model in options.models if "4bit" in options.stored]
    with ProcessPoolExecutor(max_workers=2) as pool:
        waiting = [
            pool.submit(count, model, stored, SHAPES[model], options.tokens, **ways)
            for model, stored, ways in cases
        ]
        counts = [each for done in waiting for each in done.result()]
    text = markdown(counts)
    print(text)
    if options.write:
        stem = "vram_on_paper" if options.rows == 1 else f"vram_on_paper_{options.rows}_rows"
        write_results(stem, text, {"counts": counts})
    return int(any(not met for *_, met in verdicts(counts)))


if __name__ == "__main__":
    sys.exit(main())
