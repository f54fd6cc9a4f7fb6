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

import sys
from collections.abc import Sequence
from typing import Any

import measure
import torch
from checkpoints import MID_SIZE, make_random
from measure import Timed, exactly, fresh_picture, generate

from llava_nb import Llava, load

FIRST, SECOND, BAR = "Describe this picture.", "What colour is it?", 5
HEAD = ("model", "image tokens", "prompt tokens", "of them read before", "fresh, ms", "chat, ms")
HEAD += ("times sooner", "same token")


def follow_up(llava: Llava, rounds: int, answer_tokens: int) -> Timed:
    """Measure the second question, after a first answer of `answer_tokens`."""
    facts: dict[str, Any] = {"image_tokens": llava.model.config.image_seq_length, "same": 0}

    def begin(number: int) -> Any:
        chat = llava.chat(fresh_picture(number))
        with exactly(llava, answer_tokens):
            chat.ask(FIRST, max_new_tokens=answer_tokens)
        return chat, chat.prompt_text(SECOND)

    def in_chat(begun: Any) -> Any:
        answer = begun[0].ask(SECOND, max_new_tokens=1)
        begun[0].undo()
        return answer

    def fresh(begun: Any) -> tuple[list[int], int]:
        return generate(llava, begun[0].image, begun[1], 1)

    def look(results: dict[str, Any]) -> None:
        (ids, prompt_tokens), answer = results["fresh"], results["chat"]
        if prompt_tokens != answer.prompt_tokens:
            raise RuntimeError(f"two prompts: {prompt_tokens} and {answer.prompt_tokens} tokens")
        facts["same"] += tuple(ids) == answer.ids
        facts["prompt_tokens"], facts["reused_tokens"] = prompt_tokens, answer.reused_tokens

    ways = {"fresh": fresh, "chat": in_chat}
    return measure.in_turn(llava, ways, rounds, begin, look=look, facts=facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both models, print, and return 1 if the bar is missed."""
    options = measure.parse(__doc__, arguments, rounds=(15, 2))
    measured = [
        follow_up(make(), options.rounds, 4 if options.quick else 24)
        for make in (
            lambda: load("tiny", quantization=None),
            lambda: make_random("mid-size", MID_SIZE[options.quick], None),
        )
    ]
    sooner = measured[-1].times_as_fast("chat", "fresh")
    bar = measure.at_least("576 image tokens, on a CPU: times sooner", sooner, BAR)
    rows = [
        (
            timed.model,
            *(timed.facts[name] for name in ("image_tokens", "prompt_tokens", "reused_tokens")),
            *(f"{1000 * timed.median(way):.1f}" for way in ("fresh", "chat")),
            f"{timed.times_as_fast('chat', 'fresh'):.1f}",
            f"{timed.facts['same']} of {len(timed.seconds['chat'])}",
        )
        for timed in measured
    ]
    return measure.finish(
        options,
        "followup",
        "Time to the first token of the second question",
        "The same tokens: in a conversation, and fresh through `processor` and `model.generate`. "
        "float32 on a CPU.",
        measure.table(HEAD, rows),
        verdicts=[] if torch.cuda.is_available() else [bar],
        measured=measured,
    )


if __name__ == "__main__":
    sys.exit(main())
