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
from typing import Any

from caching_allocator import Blocks
from gpu_vram_table import ANSWER_TOKENS
from load_memory_table import write_results
from load_on_gpu import SHAPES
from model_on_paper import load_on_paper
from on_paper import answering
from transformers.cache_utils import DynamicLayer
from vram_on_paper_table import Count, markdown, verdicts

from llava_nb import estimate_vram, open_image, preallocated
from llava_nb.pictures import example_picture
from llava_nb.sizes import CONTEXT, Shape

STORED = {"4bit": "4bit", "8bit": "8bit", "none": None}
QUESTION = "Describe this picture."


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
