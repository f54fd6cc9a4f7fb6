"""How long a CPU takes with a random LLaVA-OneVision 0.5B; 384 pixels in tiles are two views."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import measure

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # its checkpoints import by name

from family_checkpoints import make_member, make_true_shape  # noqa: E402

from llava_nb import load  # noqa: E402

HEAD = ("asked", "prompt tokens", "read before", "first token, s", "a later one, s", "times")


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and print."""
    options = measure.parse(__doc__, arguments, rounds=(1, 1), tokens=(8, 2))
    found = {name: [] for name in ("one view", "asked again", "tiles")}
    with tempfile.TemporaryDirectory() as folder:
        (make_member if options.quick else make_true_shape)("llava-onevision", Path(folder))
        llava = load(folder, quantization=None)
        for number in range(options.rounds):
            with measure.exactly(llava, options.tokens):
                for name, answers in found.items():
                    if name != "asked again":  # that is the next question of the same conversation
                        llava.views = "tiles" if name == "tiles" else "one"
                        chat = llava.chat(measure.fresh_picture(number, 384))
                    answers.append(chat.ask("What is this?", max_new_tokens=options.tokens))
    middle, rows, first = statistics.median, [], {}
    for name, answers in found.items():
        later = [(each.seconds - each.first_token_seconds) / (each.tokens - 1) for each in answers]
        first[name] = middle([each.first_token_seconds for each in answers])
        seconds = first[name], middle(later), first[name] / first["one view"]
        read = [name, answers[0].prompt_tokens, answers[0].reused_tokens]
        rows.append((*read, *(f"{each:.2f}" for each in seconds)))
    parts = "Times: first tokens beside one view's.", measure.table(HEAD, rows)
    return measure.finish(options, "cpu_answer", "An answer on a CPU", *parts, rows=rows)


if __name__ == "__main__":
    sys.exit(main())
