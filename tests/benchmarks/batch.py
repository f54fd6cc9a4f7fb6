"""Pictures a second: one after the other, as the much-copied recipe does it, and in batches.

    python tests/benchmarks/batch.py [--rounds 7] [--pictures 32] [--quick] [--write]

The loop calls `processor` and `model.generate` for one picture after the other; `ask_batch` takes
4, 8 or 16 at once. The same pictures, prompt and limit, greedy; an answer ends where it ends, and
a batch goes on until its longest has ended. Every round has pictures of its own.

On the embedded model in 4 bits and in float32, and on a random one with LLaVA-1.5's 576 image
tokens, where nearly all is reading and a CPU has nothing to gain from batches. Returns 1 if
`ask_batch` of 16 is less than 3 times as fast as the loop on the embedded model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import measure
from checkpoints import MID_SIZE, make_random
from measure import Timed, fresh_picture, generate, text_of
from PIL import Image

from llava_nb import Llava, load

PROMPT, LOOP, BAR = "Describe this picture.", "loop", 3
SIZES = (4, 8, 16)
HEAD = ("model", "stored in", LOOP, *(f"batches of {size}" for size in SIZES))
MAX_NEW_TOKENS = {"tiny": 64, "mid-size": 16}


def batches(llava: Llava, rounds: int, pictures: int, tokens: int) -> Timed:
    """Measure the loop and every size of batch on one model."""

    def prepare(number: int) -> list[Image.Image]:
        return [fresh_picture(number * pictures + at) for at in range(pictures)]

    def loop(given: list[Image.Image]) -> list[str]:
        return recipe(llava, given, tokens)

    def at_once(given: list[Image.Image], size: int) -> list[str]:
        answers = llava.ask_batch(given, PROMPT, batch_size=size, max_new_tokens=tokens)
        return [answer.text for answer in answers]

    ways = {LOOP: loop} | {str(size): partial(at_once, size=size) for size in SIZES}
    timed = compare(llava, ways, rounds, prepare, pictures)
    timed.facts.update(stored=llava.quantization or llava.dtype, max_new_tokens=tokens)
    return timed


def recipe(llava: Llava, pictures: Iterable[Image.Image], tokens: int) -> list[str]:
    """Return what the much-copied recipe answers, picture by picture."""
    text = llava.prompt_text(PROMPT)
    made = (generate(llava, picture, text, tokens)[0] for picture in pictures)
    return [text_of(llava, ids) for ids in made]


def compare(
    llava: Llava,
    ways: dict[str, Callable[[Any], list[str]]],
    rounds: int,
    prepare: Callable[[int], Any],
    pictures: int,
) -> Timed:
    """Measure the loop and batches by their size, and count the answers that are the loop's."""
    same = {way: 0 for way in ways if way != LOOP}

    def look(results: dict[str, list[str]]) -> None:
        for size in same:
            pairs = zip(results[LOOP], results[size], strict=True)
            same[size] += sum(one == other for one, other in pairs)

    facts = {"pictures": pictures, "same": same}
    return measure.in_turn(llava, ways, rounds, prepare, look=look, facts=facts)


def cells(timed: Timed) -> list[str]:
    """Return pictures a second, with times the loop and how many answers are the same."""
    pictures = timed.facts["pictures"]
    answers = pictures * len(timed.seconds[LOOP])
    shown = [f"{pictures / timed.median(LOOP):.2f}"]
    for size, same in timed.facts["same"].items():
        speed, times = pictures / timed.median(size), timed.times_as_fast(size, LOOP)
        shown.append(f"{speed:.2f} ({times:.1f}; {same} of {answers})")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every model, print, and return 1 if a bar is missed."""
    options = measure.parse(__doc__, arguments, rounds=(7, 1), pictures=(32, 2))
    makers = [lambda: load("tiny"), lambda: make_random("mid-size", MID_SIZE[options.quick], None)]
    if not options.quick:
        makers.insert(1, lambda: load("tiny", quantization=None))
    measured = []
    for make in makers:
        llava = make()
        tokens = 4 if options.quick else MAX_NEW_TOKENS[llava.name]
        measured.append(batches(llava, options.rounds, options.pictures, tokens))
    rows = [(timed.model, timed.facts["stored"], *cells(timed)) for timed in measured]
    return measure.finish(
        options,
        "batch",
        "Pictures a second, one by one and in batches",
        f'Rounds of {options.pictures} pictures, "{PROMPT}". The loop is `processor` and '
        "`model.generate` for each picture. In brackets: times the loop, and how many answers are "
        "the loop's to the letter.",
        measure.table(HEAD, rows),
        verdicts=[
            measure.at_least(
                f"the embedded model in {timed.facts['stored']}: batches of 16, times the loop",
                timed.times_as_fast("16", LOOP),
                BAR,
            )
            for timed in measured
            if timed.model == "tiny"
        ],
        measured=measured,
    )


if __name__ == "__main__":
    sys.exit(main())
