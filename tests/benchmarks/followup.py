"""How long one waits for the first word when one asks again about the same picture.

    python tests/benchmarks/followup.py [--rounds 15] [--quick] [--write]

A conversation about a picture has one answer. The second question is then asked in it,
`chat.ask(...)`, and as everybody does without it: the picture and all that was said through
`processor` and `model.generate` again, the same tokens. Both are asked for one token, and the clock
runs from the call until it is there. Every round has a picture of its own.

On the embedded model (64 image tokens) and on a random one with LLaVA-1.5's 576. Returns 1 if that
one, on a CPU, answers less than 5 times sooner.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comparison import Comparison, at_least, finish, machine_of, parser
from in_turn import Timed, in_turn
from mid_size_model import make_mid_size
from stock import exactly, fresh_picture, generate

from llava_nb import load
from llava_nb.chat import Chat
from llava_nb.llava import Llava

FIRST, SECOND = "Describe this picture.", "What colour is it?"
BAR = 5
HEAD = (
    "model",
    "image tokens",
    "prompt tokens",
    "of them read before",
    "fresh, ms",
    "chat, ms",
    "times sooner",
    "same token",
)


@dataclass(frozen=True)
class Begun:
    """A conversation with its first answer, and the whole prompt of the second question."""

    chat: Chat
    text: str


def follow_up(llava: Llava, rounds: int, answer_tokens: int) -> Timed:
    """Measure the second question, after a first answer of `answer_tokens`."""
    facts: dict[str, Any] = {"image_tokens": llava.model.config.image_seq_length, "same": 0}

    def begin(number: int) -> Begun:
        chat = llava.chat(fresh_picture(number))
        with exactly(llava, answer_tokens):
            chat.ask(FIRST, max_new_tokens=answer_tokens)
        return Begun(chat, chat.prompt_text(SECOND))

    def in_chat(begun: Begun) -> Any:
        answer = begun.chat.ask(SECOND, max_new_tokens=1)
        begun.chat.undo()
        return answer

    def fresh(begun: Begun) -> tuple[list[int], int]:
        return generate(llava, begun.chat.image, begun.text, 1)

    def look(results: dict[str, Any]) -> None:
        (ids, prompt_tokens), answer = results["fresh"], results["chat"]
        if prompt_tokens != answer.prompt_tokens:
            raise RuntimeError(f"two prompts: {prompt_tokens} and {answer.prompt_tokens} tokens")
        facts["same"] += tuple(ids) == answer.ids
        facts["prompt_tokens"], facts["reused_tokens"] = prompt_tokens, answer.reused_tokens

    ways = {"fresh": fresh, "chat": in_chat}
    device = llava.device
    return in_turn(llava.name, ways, rounds, begin, device=device, look=look, facts=facts)


def measure(rounds: int, *, quick: bool = False) -> Comparison:
    """Measure both models."""
    measured = []
    for make in (lambda: load("tiny", quantization=None), lambda: make_mid_size(quick=quick)):
        llava = make()
        measured.append(follow_up(llava, rounds, 4 if quick else 24))
        device = llava.device
    sooner = measured[-1].times_as_fast("chat", "fresh")
    judged = device.type == "cpu" and not quick
    return Comparison(
        title="Time to the first token of the second question",
        said="The same tokens: in a conversation, and fresh through `processor` and "
        "`model.generate`. float32 on a CPU.",
        head=HEAD,
        lines=[_line(timed) for timed in measured],
        verdicts=[at_least("576 image tokens, on a CPU: times sooner", sooner, BAR, judged=judged)],
        measured=measured,
        machine=machine_of(device),
        threads=torch.get_num_threads(),
    )


def _line(timed: Timed) -> tuple[str, ...]:
    names = ("image_tokens", "prompt_tokens", "reused_tokens")
    return (
        timed.model,
        *(str(timed.facts[name]) for name in names),
        *(f"{1000 * timed.median(way):.1f}" for way in ("fresh", "chat")),
        f"{timed.times_as_fast('chat', 'fresh'):.1f}",
        f"{timed.facts['same']} of {len(timed.seconds['chat'])}",
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    return parser(__doc__, rounds=15).parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if the bar is missed."""
    options = parse(arguments)
    rounds = 2 if options.quick else options.rounds
    return finish("followup", measure(rounds, quick=options.quick), options)


if __name__ == "__main__":
    sys.exit(main())
