"""What `ask` costs over bare `processor` and `model.generate`, in milliseconds.

    python tests/benchmarks/overhead.py [--rounds 40] [--tokens 64] [--quick] [--write]

The same picture and prompt, the same number of tokens on both sides: the end token is forbidden
until then. From the opened picture to the answer's text, wall time. `ask` with and without
remembering what it reads; every round has a picture that it has not seen.

On the embedded model, in float32 and in 4 bits: its tokens are the cheapest there are, so nothing
hides what is measured. Returns 1 where it is more than 3 % and more than 5 ms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from comparison import Comparison, Verdict, finish, machine_of, parser
from in_turn import Timed, in_turn
from PIL import Image
from stock import exactly, fresh_picture, generate, text_of

from llava_nb import load
from llava_nb.answer import Answer
from llava_nb.llava import Llava
from llava_nb.prefix_cache import LIMIT_BYTES

PROMPT = "Describe this picture."
BARE = "bare"
LIMITS = {"ask, remembering nothing": 0, "ask, remembering": LIMIT_BYTES}
SHARE, ALLOWANCE_SECONDS = 0.03, 0.005
HEAD = ("model, and the way", "bare, ms", "ask, ms", "over, ms", "over, %", "same tokens")


def overhead(llava: Llava, rounds: int, tokens: int) -> Timed:
    """Measure one model. Raises RuntimeError if a side made another number of tokens."""
    text = llava.prompt_text(PROMPT)
    facts: dict[str, Any] = {
        "stored": llava.quantization or llava.dtype,
        "tokens": tokens,
        "same": dict.fromkeys(LIMITS, 0),
    }

    def bare(picture: Image.Image) -> tuple[list[int], str]:
        ids, _ = generate(llava, picture, text, tokens)
        return ids, text_of(llava, ids)

    def ask(limit_bytes: int) -> Any:
        def asked(picture: Image.Image) -> Answer:
            llava.prefixes.clear()
            llava.prefixes.limit_bytes = limit_bytes
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
    try:
        with exactly(llava, tokens):
            return in_turn(
                llava.name,
                ways,
                rounds,
                fresh_picture,
                device=llava.device,
                look=look,
                facts=facts,
            )
    finally:
        llava.prefixes.limit_bytes = LIMIT_BYTES


def measure(rounds: int, tokens: int, *, quick: bool = False) -> Comparison:
    """Measure the embedded model in both forms; with `quick` in 4 bits alone."""
    measured = []
    for quantization in ("4bit",) if quick else (None, "4bit"):
        llava = load("tiny", quantization=quantization)
        measured.append(overhead(llava, rounds, tokens))
        device = llava.device
    pairs = [(timed, way) for timed in measured for way in LIMITS]
    return Comparison(
        title="What `ask` costs over bare `generate`",
        said=f"A picture not seen before, {tokens} new tokens on either side.",
        head=HEAD,
        lines=[_line(*pair) for pair in pairs],
        verdicts=[_verdict(*pair, quick) for pair in pairs],
        measured=measured,
        machine=machine_of(device),
        threads=torch.get_num_threads(),
    )


def _over(timed: Timed, way: str) -> float:
    return timed.median(way) - timed.median(BARE)


def _label(timed: Timed, way: str) -> str:
    return f"{timed.model} in {timed.facts['stored']}: {way}"


def _line(timed: Timed, way: str) -> tuple[str, ...]:
    bare, over = timed.median(BARE), _over(timed, way)
    seconds = (bare, timed.median(way), over)
    return (
        _label(timed, way),
        *(f"{1000 * each:.1f}" for each in seconds),
        f"{100 * over / bare:.1f}",
        f"{timed.facts['same'][way]} of {len(timed.seconds[way])}",
    )


def _verdict(timed: Timed, way: str, quick: bool) -> Verdict:
    over, most = _over(timed, way), max(SHARE * timed.median(BARE), ALLOWANCE_SECONDS)
    met = None if quick else over <= most
    return f"{_label(timed, way)}: over, ms", f"{1000 * over:.1f}", f"{1000 * most:.1f}", met


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    made = parser(__doc__, rounds=40)
    made.add_argument("--tokens", type=int, default=64, help="of an answer (default: 64)")
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed."""
    options = parse(arguments)
    rounds, tokens = (2, 4) if options.quick else (options.rounds, options.tokens)
    return finish("overhead", measure(rounds, tokens, quick=options.quick), options)


if __name__ == "__main__":
    sys.exit(main())
