"""Tokens a second once the prompt is read: stock, with `fast`, and as memory would allow.

    python tests/benchmarks/decode.py [--models 7b 13b] [--tokens 256] [--rounds 7] [--write]

On a GPU: the true shapes of LLaVA-1.5 with random weights in 4 bits (`random_model.py`), 7B and
13B one after the other. Both ways answer the same question with the same number of tokens, the end
token being forbidden; counted are the tokens after the first, and the time between. `fast` is what
`load(..., fast=True)` switches on, by the same call, which says what came of it.

The bound is measured bandwidth, of a large copy in the same run, over the bytes that a token has to
read. Returns 1 if 13B in 4 bits is less than 2 times as fast as stock on a GPU. Without a GPU it
is the embedded model on the CPU, where nothing is compiled, and the table says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from bandwidth import bytes_per_token, copied_bytes_per_second
from comparison import Comparison, Verdict, at_least, finish, machine_of, parser
from in_turn import Timed, in_turn
from load_on_gpu import SHAPES
from random_model import make_random, scaled_down
from stock import exactly, fresh_picture

from llava_nb import load
from llava_nb.answer import Answer
from llava_nb.fast import speed_up
from llava_nb.llava import Llava

PROMPT = "Describe this picture."
STOCK, FAST = "stock", "fast"
BAR, BARRED = 2, "13b"
GB = 10**9
HEAD = (
    "model",
    "stored in",
    "stock, tokens/s",
    "fast, tokens/s",
    "times stock",
    "MB a token",
    "GB/s measured",
    "bound, tokens/s",
    "stock, % of it",
    "fast, % of it",
    "warm-up, s",
)


def decoding(llava: Llava, rounds: int, tokens: int) -> Timed:
    """Measure one model, with and without its `decoder` if it has one.

    The seconds are those between two tokens. Raises RuntimeError for another number of tokens.
    """
    decoder = llava.decoder
    facts: dict[str, Any] = {"stored": llava.quantization or llava.dtype, "tokens": tokens}

    def way(chosen: Any) -> Callable[[Any], Answer]:
        def decode(picture: Any) -> Answer:
            llava.decoder = chosen
            return llava.ask(picture, PROMPT, max_new_tokens=tokens)

        return decode

    def look(results: dict[str, Answer]) -> None:
        for name, answer in results.items():
            if answer.tokens != tokens:
                raise RuntimeError(f"{name} made {answer.tokens} tokens instead of {tokens}")
        facts["prompt_tokens"] = answer.prompt_tokens
        facts["bytes_a_token"] = bytes_per_token(llava, answer.prompt_tokens + tokens // 2)

    ways = {STOCK: way(None)} | ({FAST: way(decoder)} if decoder is not None else {})
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
                counts=lambda answer: (answer.seconds - answer.first_token_seconds) / (tokens - 1),
            )
    finally:
        llava.decoder = decoder


def measure_one(llava: Llava, rounds: int, tokens: int) -> Timed:
    """Try `fast`, measure what there is then, and the bandwidth of this machine."""
    llava.fast = speed_up(llava)
    timed = decoding(llava, rounds, tokens)
    timed.facts["fast"] = str(llava.fast)
    timed.facts["warm_up_seconds"] = llava.fast.warm_up_seconds
    timed.facts["bytes_per_second"] = copied_bytes_per_second(llava.device)
    return timed


def measure(
    rounds: int, tokens: int, models: Sequence[str] = (), *, quick: bool = False
) -> Comparison:
    """Measure the models one after the other, each released before the next."""
    measured = []
    for name in models or ["tiny"]:
        llava = load("tiny") if name == "tiny" else _made(name, quick)
        measured.append(measure_one(llava, rounds, tokens))
        device = llava.device
        if name != "tiny":
            llava.close()
    return Comparison(
        title="Tokens a second once the prompt is read",
        said="\n".join(_said(timed) for timed in measured),
        head=HEAD,
        lines=[_line(timed) for timed in measured],
        verdicts=[_verdict(measured, judged=device.type == "cuda" and not quick)],
        measured=measured,
        machine=machine_of(device),
        threads=torch.get_num_threads(),
    )


def _made(name: str, quick: bool) -> Llava:
    return make_random(name, scaled_down(SHAPES[name]) if quick else SHAPES[name], "4bit")


def _said(timed: Timed) -> str:
    facts = timed.facts
    return (
        f"{timed.model}: {facts['tokens']} tokens after a prompt of {facts['prompt_tokens']}. "
        f"{facts['fast']}"
    )


def _verdict(measured: Sequence[Timed], *, judged: bool) -> Verdict:
    """The bar is for one model on a GPU; where fast decoding stayed off, it is once stock."""
    what = f"{BARRED} in 4 bits on a GPU: fast, times stock"
    for timed in measured:
        if timed.model == BARRED and judged:
            times = timed.times_as_fast(FAST, STOCK) if FAST in timed.seconds else 1.0
            return at_least(what, times, BAR)
    return what, "", f"at least {BAR}", None


def _line(timed: Timed) -> tuple[str, ...]:
    facts = timed.facts
    bound = facts["bytes_per_second"] / facts["bytes_a_token"]
    speed = {way: 1 / timed.median(way) for way in timed.seconds}
    share = {way: f"{100 * each / bound:.0f}" for way, each in speed.items()}
    times = f"{timed.times_as_fast(FAST, STOCK):.2f}" if FAST in speed else ""
    warm_up = facts["warm_up_seconds"]
    return (
        timed.model,
        facts["stored"],
        f"{speed[STOCK]:.1f}",
        f"{speed[FAST]:.1f}" if FAST in speed else "off",
        times,
        f"{facts['bytes_a_token'] / 10**6:.1f}",
        f"{facts['bytes_per_second'] / GB:.1f}",
        f"{bound:.1f}",
        share[STOCK],
        share.get(FAST, ""),
        "" if warm_up is None else f"{warm_up:.0f}",
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    made = parser(__doc__, rounds=7)
    made.add_argument("--models", nargs="+", choices=SHAPES, help="default on a GPU: all")
    made.add_argument("--tokens", type=int, default=256, help="of an answer (default: 256)")
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if the bar is missed."""
    options = parse(arguments)
    models = options.models or (list(SHAPES) if torch.cuda.is_available() else [])
    rounds, tokens = (2, 6) if options.quick else (options.rounds, options.tokens)
    return finish("decode", measure(rounds, tokens, models, quick=options.quick), options)


if __name__ == "__main__":
    sys.exit(main())
