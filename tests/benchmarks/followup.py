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

from checkpoints import make_mid_size
from measure import (
    Timed,
    at_least,
    exactly,
    finish,
    fresh_picture,
    generate,
    in_turn,
    of_rounds,
    page,
    parser,
    table,
)

from llava_nb import Llava, load

FIRST, SECOND, BAR = "Describe this picture.", "What colour is it?", 5
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
    return in_turn(llava.name, ways, rounds, begin, device=llava.device, look=look, facts=facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both models, print, and return 1 if the bar is missed."""
    options = parser(__doc__, rounds=15).parse_args(arguments)
    rounds, answer_tokens = (2, 4) if options.quick else (options.rounds, 24)
    measured = []
    for make in (
        lambda: load("tiny", quantization=None),
        lambda: make_mid_size(quick=options.quick),
    ):
        llava = make()
        measured.append(follow_up(llava, rounds, answer_tokens))
    sooner = measured[-1].times_as_fast("chat", "fresh")
    judged = llava.device.type == "cpu" and not options.quick
    verdicts = [at_least("576 image tokens, on a CPU: times sooner", sooner, BAR, judged=judged)]
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
    text = page(
        "Time to the first token of the second question",
        of_rounds(measured),
        "The same tokens: in a conversation, and fresh through `processor` and `model.generate`. "
        "float32 on a CPU.",
        table(HEAD, rows),
        verdicts=verdicts,
    )
    return finish("followup", text, {"measured": measured}, verdicts, options)


if __name__ == "__main__":
    sys.exit(main())
