"""What `ask` costs over bare `processor` and `model.generate`, in milliseconds.

    python tests/benchmarks/overhead.py [--rounds 40] [--tokens 64] [--quick] [--write]

The same picture and prompt, the same number of tokens on both sides: the end token is forbidden
until then. From the opened picture to the answer's text, wall time. `ask` with and without
remembering what it reads; every round has a picture that it has not seen.

On the embedded model, in float32 and in 4 bits: its tokens are the cheapest there are, so nothing
hides what is measured. Returns 1 where it is more than 3 % and more than 5 ms.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import measure
from measure import Timed, exactly, fresh_picture, generate, text_of
from PIL import Image

from llava_nb import Answer, Llava, load
from llava_nb.inference.kv_cache import LIMIT_BYTES

PROMPT, BARE = "Describe this picture.", "bare"
LIMITS = {"ask, remembering nothing": 0, "ask, remembering": LIMIT_BYTES}
SHARE, ALLOWANCE_SECONDS = 0.03, 0.005
HEAD = ("model, and the way", "bare, ms", "ask, ms", "over, ms", "over, %", "same tokens")


def overhead(llava: Llava, rounds: int, tokens: int) -> Timed:
    """Measure one model. Raises RuntimeError if a side made another number of tokens."""
    text, prefixes = llava.prompt_text(PROMPT), llava.engine.prefixes
    facts = {"stored": llava.quantization or llava.dtype, "same": dict.fromkeys(LIMITS, 0)}

    def bare(picture: Image.Image) -> tuple[list[int], str]:
        ids, _ = generate(llava, picture, text, tokens)
        return ids, text_of(llava, ids)

    def ask(picture: Image.Image, limit_bytes: int) -> Answer:
        prefixes.clear()
        prefixes.limit_bytes = limit_bytes
        return llava.ask(picture, PROMPT, max_new_tokens=tokens)

    def look(results: dict[str, Any]) -> None:
        ids, _ = results[BARE]
        for way in LIMITS:
            answer = results[way]
            if not len(ids) == answer.tokens == tokens or answer.reused_tokens:
                raise RuntimeError(f"not the same work: {len(ids)} tokens, and {answer.summary}")
            facts["same"][way] += tuple(ids) == answer.ids

    ways = {BARE: bare} | {way: partial(ask, limit_bytes=limit) for way, limit in LIMITS.items()}
    try:
        with exactly(llava, tokens):
            return measure.in_turn(llava, ways, rounds, fresh_picture, look=look, facts=facts)
    finally:
        prefixes.limit_bytes = LIMIT_BYTES


def line(timed: Timed, way: str) -> tuple[tuple[str, ...], measure.Verdict]:
    """Return a line of the table, and whether the way costs little."""
    seconds = timed.median(way) - timed.median(BARE)
    share = seconds / timed.median(BARE)
    label = f"{timed.model} in {timed.facts['stored']}: {way}"
    shown = [f"{1000 * each:.1f}" for each in (timed.median(BARE), timed.median(way), seconds)]
    same = f"{timed.facts['same'][way]} of {len(timed.seconds[way])}"
    figure = f"{100 * share:.1f} %, {1000 * seconds:.1f} ms"
    bar = f"{100 * SHARE:g} %, or {1000 * ALLOWANCE_SECONDS:g} ms"
    met = share <= SHARE or seconds <= ALLOWANCE_SECONDS
    return (label, *shown, f"{100 * share:.1f}", same), (label, figure, bar, met)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the embedded model in both forms, print, and return 1 if a bar is missed."""
    options = measure.parse(__doc__, arguments, rounds=(40, 2), tokens=(64, 4))
    measured = [
        overhead(load("tiny", quantization=quantization), options.rounds, options.tokens)
        for quantization in (("4bit",) if options.quick else (None, "4bit"))
    ]
    lines = [line(timed, way) for timed in measured for way in LIMITS]
    return measure.finish(
        options,
        "overhead",
        "What `ask` costs over bare `generate`",
        f"A picture not seen before, {options.tokens} new tokens on either side.",
        measure.table(HEAD, [row for row, _ in lines]),
        verdicts=[verdict for _, verdict in lines],
        measured=measured,
    )


if __name__ == "__main__":
    sys.exit(main())
