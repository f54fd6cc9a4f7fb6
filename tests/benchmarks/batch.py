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

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from comparison import Comparison, Verdict, at_least, finish, machine_of, parser
from in_turn import Timed, in_turn
from mid_size_model import make_mid_size
from PIL import Image
from stock import fresh_picture, generate, text_of

from llava_nb import load
from llava_nb.llava import Llava

PROMPT = "Describe this picture."
SIZES = (4, 8, 16)
LOOP = "loop"
BAR = 3
MAX_NEW_TOKENS = {"tiny": 64, "mid-size": 16}
HEAD = ("model", "stored in", LOOP, *(f"batches of {size}" for size in SIZES))


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

    def look(results: dict[str, list[str]]) -> None:
        for size in facts["same"]:
            pairs = zip(results[LOOP], results[size], strict=True)
            facts["same"][size] += sum(one == other for one, other in pairs)

    ways = {LOOP: loop} | {str(size): partial(at_once, size=size) for size in SIZES}
    device = llava.device
    return in_turn(llava.name, ways, rounds, prepare, device=device, look=look, facts=facts)


def measure(rounds: int, pictures: int = 32, *, quick: bool = False) -> Comparison:
    """Measure every model."""
    makers = [
        lambda: load("tiny"),
        *([] if quick else [lambda: load("tiny", quantization=None)]),
        lambda: make_mid_size(quick=quick),
    ]
    measured = []
    for make in makers:
        llava = make()
        tokens = 4 if quick else MAX_NEW_TOKENS[llava.name]
        measured.append(batches(llava, rounds, pictures, tokens))
        device = llava.device
    return Comparison(
        title="Pictures a second, one by one and in batches",
        said=f'Rounds of {pictures} pictures, "{PROMPT}". The loop is `processor` and '
        "`model.generate` for each picture. In brackets: times the loop, and how many answers are "
        "the loop's to the letter.",
        head=HEAD,
        lines=[_line(timed) for timed in measured],
        verdicts=[_verdict(timed, quick) for timed in measured if timed.model == "tiny"],
        measured=measured,
        machine=machine_of(device),
        threads=torch.get_num_threads(),
    )


def _verdict(timed: Timed, quick: bool) -> Verdict:
    what = f"the embedded model in {timed.facts['stored']}: batches of 16, times the loop"
    return at_least(what, timed.times_as_fast("16", LOOP), BAR, judged=not quick)


def _line(timed: Timed) -> tuple[str, ...]:
    pictures = timed.facts["pictures"]
    answers = pictures * len(timed.seconds[LOOP])
    cells = [f"{pictures / timed.median(LOOP):.2f}"]
    for size, same in timed.facts["same"].items():
        speed, times = pictures / timed.median(size), timed.times_as_fast(size, LOOP)
        cells.append(f"{speed:.2f} ({times:.1f}; {same} of {answers})")
    return timed.model, timed.facts["stored"], *cells


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    made = parser(__doc__, rounds=7)
    made.add_argument("--pictures", type=int, default=32, help="a round (default: 32)")
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed."""
    options = parse(arguments)
    rounds, pictures = (1, 2) if options.quick else (options.rounds, options.pictures)
    return finish("batch", measure(rounds, pictures, quick=options.quick), options)


if __name__ == "__main__":
    sys.exit(main())
