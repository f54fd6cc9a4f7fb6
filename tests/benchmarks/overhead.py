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
from collections.abc import Callable, Sequence
from typing import Any

from measure import (
    Timed,
    Verdict,
    exactly,
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

from llava_nb import Answer, Llava, load
from llava_nb.inference.kv_cache import LIMIT_BYTES

PROMPT, BARE = "Describe this picture.", "bare"
LIMITS = {"ask, remembering nothing": 0, "ask, remembering": LIMIT_BYTES}
SHARE, ALLOWANCE_SECONDS = 0.03, 0.005
HEAD = ("model, and the way", "bare, ms", "ask, ms", "over, ms", "over, %", "same tokens")


def overhead(llava: Llava, rounds: int, tokens: int) -> Timed:
    """Measure one model. Raises RuntimeError if a side made another number of tokens."""
    text, prefixes = llava.prompt_text(PROMPT), llava.engine.prefixes
    facts: dict[str, Any] = {
        "stored": llava.quantization or llava.dtype,
        "tokens": tokens,
        "same": dict.fromkeys(LIMITS, 0),
    }

    def bare(picture: Image.Image) -> tuple[list[int], str]:
        ids, _ = generate(llava, picture, text, tokens)
        return ids, text_of(llava, ids)

    def ask(limit_bytes: int) -> Callable[[Image.Image], Answer]:
        def asked(picture: Image.Image) -> Answer:
            prefixes.clear()
            prefixes.limit_bytes = limit_bytes
            return llava.ask(picture, PROMPT, max_new_tokens=tokens)

        return asked

    def look(results: dict[str, Any]) -> None:
        ids, _ = results[BARE]
        for way in LIMITS:
            answer = results[way]
            if not len(ids) == answer.tokens == tokens or answer.reused_tokens:
                raise RuntimeError(f"not the same work: {len(ids)} tokens, and {answer.summary}")
            facts["same"][way] += tuple(ids) == answer.ids

    ways = {BARE: bare} | {way: ask(limit) for way, limit in LIMITS.items()}
    options = {"device": llava.device, "look": look, "facts": facts}
    try:
        with exactly(llava, tokens):
            return in_turn(llava.name, ways, rounds, fresh_picture, **options)
    finally:
        prefixes.limit_bytes = LIMIT_BYTES


def label(timed: Timed, way: str) -> str:
    """Return what was measured, in words."""
    return f"{timed.model} in {timed.facts['stored']}: {way}"


def over(timed: Timed, way: str) -> tuple[float, float]:
    """Return the seconds over bare `generate`, and their share of it."""
    seconds = timed.median(way) - timed.median(BARE)
    return seconds, seconds / timed.median(BARE)


def verdict(timed: Timed, way: str, *, judged: bool) -> Verdict:
    """Return whether the way costs little: a share of the whole, or a few milliseconds."""
    seconds, share = over(timed, way)
    met = share <= SHARE or seconds <= ALLOWANCE_SECONDS if judged else None
    figure = f"{100 * share:.1f} %, {1000 * seconds:.1f} ms"
    bar = f"{100 * SHARE:g} %, or {1000 * ALLOWANCE_SECONDS:g} ms"
    return label(timed, way), figure, bar, met


def row(timed: Timed, way: str) -> tuple[str, ...]:
    """Return one line of the table."""
    seconds, share = over(timed, way)
    milliseconds = (timed.median(BARE), timed.median(way), seconds)
    same = f"{timed.facts['same'][way]} of {len(timed.seconds[way])}"
    shown = [f"{1000 * each:.1f}" for each in milliseconds]
    return label(timed, way), *shown, f"{100 * share:.1f}", same


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the embedded model in both forms, print, and return 1 if a bar is missed."""
    made = parser(__doc__, rounds=40)
    made.add_argument("--tokens", type=int, default=64, help="of an answer (default: 64)")
    options = made.parse_args(arguments)
    rounds, tokens = (2, 4) if options.quick else (options.rounds, options.tokens)
    measured = [
        overhead(load("tiny", quantization=quantization), rounds, tokens)
        for quantization in (("4bit",) if options.quick else (None, "4bit"))
    ]
    pairs = [(timed, way) for timed in measured for way in LIMITS]
    verdicts = [verdict(*pair, judged=not options.quick) for pair in pairs]
    text = page(
        "What `ask` costs over bare `generate`",
        of_rounds(measured),
        f"A picture not seen before, {tokens} new tokens on either side.",
        table(HEAD, [row(*pair) for pair in pairs]),
        verdicts=verdicts,
    )
    return finish("overhead", text, {"measured": measured}, verdicts, options)


if __name__ == "__main__":
    sys.exit(main())
