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
from collections.abc import Sequence
from functools import partial
from typing import Any

from checkpoints import make_mid_size
from measure import (
    Timed,
    at_least,
    finish,
    fresh_picture,
    generate,
    in_turn,
    of_rounds,
    page,
    parser,
    table,
    text_of,
)
from PIL import Image

from llava_nb import Llava, load

PROMPT, LOOP, BAR = "Describe this picture.", "loop", 3
SIZES = (4, 8, 16)
MAX_NEW_TOKENS = {"tiny": 64, "mid-size": 16}


def batches(llava: Llava, rounds: int, pictures: int, tokens: int) -> Timed:
    """Measure the loop and every size of batch on one model."""
    text = llava.prompt_text(PROMPT)
    facts: dict[str, Any] = {
        "stored": llava.quantization or llava.dtype,
        "pictures": pictures,
        "max_new_tokens": tokens,
        "same": dict.fromkeys(map(str, SIZES), 0),
    }

    def prepare(number: int) -> list[Image.Image]:
        return [fresh_picture(number * pictures + at) for at in range(pictures)]

    def loop(given: list[Image.Image]) -> list[str]:
        made = (generate(llava, picture, text, tokens)[0] for picture in given)
        return [text_of(llava, ids) for ids in made]

    def at_once(given: list[Image.Image], size: int) -> list[str]:
        answers = llava.ask_batch(given, PROMPT, batch_size=size, max_new_tokens=tokens)
        return [answer.text for answer in answers]

    ways = {LOOP: loop} | {str(size): partial(at_once, size=size) for size in SIZES}
    look = partial(count_the_same, facts)
    return in_turn(llava.name, ways, rounds, prepare, device=llava.device, look=look, facts=facts)


def count_the_same(facts: dict[str, Any], results: dict[str, list[str]]) -> None:
    """Count the answers that are the loop's to the letter."""
    for size in facts["same"]:
        pairs = zip(results[LOOP], results[size], strict=True)
        facts["same"][size] += sum(one == other for one, other in pairs)


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
    made = parser(__doc__, rounds=7)
    made.add_argument("--pictures", type=int, default=32, help="a round (default: 32)")
    options = made.parse_args(arguments)
    rounds, pictures = (1, 2) if options.quick else (options.rounds, options.pictures)
    makers = [lambda: load("tiny"), lambda: make_mid_size(quick=options.quick)]
    if not options.quick:
        makers.insert(1, lambda: load("tiny", quantization=None))
    measured = []
    for make in makers:
        llava = make()
        tokens = 4 if options.quick else MAX_NEW_TOKENS[llava.name]
        measured.append(batches(llava, rounds, pictures, tokens))
    verdicts = [
        at_least(
            f"the embedded model in {timed.facts['stored']}: batches of 16, times the loop",
            timed.times_as_fast("16", LOOP),
            BAR,
            judged=not options.quick,
        )
        for timed in measured
        if timed.model == "tiny"
    ]
    rows = [(timed.model, timed.facts["stored"], *cells(timed)) for timed in measured]
    text = page(
        "Pictures a second, one by one and in batches",
        of_rounds(measured),
        f'Rounds of {pictures} pictures, "{PROMPT}". The loop is `processor` and `model.generate` '
        "for each picture. In brackets: times the loop, and how many answers are the loop's to "
        "the letter.",
        table(("model", "stored in", LOOP, *(f"batches of {size}" for size in SIZES)), rows),
        verdicts=verdicts,
    )
    return finish("batch", text, {"measured": measured}, verdicts, options)


if __name__ == "__main__":
    sys.exit(main())
