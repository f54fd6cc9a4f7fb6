"""A folder of pictures: captions a second against the recipe's loop, and memory for 20,000.

    python tests/benchmarks/folder.py [--rounds 5] [--pictures 64] [--many 20000] [--write]

Speed: every round has a folder of its own; the much-copied loop opens each picture, calls
`processor` and `model.generate`, and keeps the caption in a list. `caption_folder` reads, hashes
and captions the same files, in batches of 8, 16 or 32, and each batch is on the disk before the
next. Memory: processes of their own caption 1,000 and 20,000 small pictures, with answers of a few
tokens, and then call again, when all is done. Linux only.

Returns 1 if the folder is less than 2.5 times as fast as the loop, if 20,000 pictures take over
10 % more memory than 1,000 or over 15 % more time a picture, or if finding all done takes 5 s. The
time is by the clock, so nothing else may run; the processor's own is told beside it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from batch import LOOP, cells, count_the_same
from measure import (
    Timed,
    at_least,
    at_most,
    child_request,
    finish,
    fresh_picture,
    generate,
    in_turn,
    of_rounds,
    page,
    parser,
    table,
    text_of,
    watch,
)
from PIL import Image

from llava_nb import Llava, caption_folder, load

PROMPT = "Describe this picture."
SIZES, TOKENS = (8, 16, 32), 64
FEW, MANY = 1_000, 20_000
MEMORY_BATCH, MEMORY_TOKENS, MEMORY_SIDE = 32, 4, 64
FASTER, MORE_MEMORY, MORE_TIME, DONE_SECONDS = 2.5, 10.0, 15.0, 5.0


def draw(folder: Path, numbers: Sequence[int], side: int = 336) -> Path:
    """Draw a scene for each number into a folder, and return it."""
    folder.mkdir(parents=True)
    for number in numbers:
        fresh_picture(number, side).save(folder / f"{number:06}.png")
    return folder


def speed(llava: Llava, rounds: int, pictures: int, tokens: int, place: Path) -> Timed:
    """Measure the loop and every size of batch on the same files."""
    text = llava.prompt_text(PROMPT)
    facts: dict[str, Any] = {"pictures": pictures, "same": dict.fromkeys(map(str, SIZES), 0)}

    def prepare(number: int) -> Path:
        return draw(place / f"round {number}", range(number * pictures, (number + 1) * pictures))

    def loop(folder: Path) -> list[str]:
        captions = []
        for path in sorted(folder.glob("*.png")):
            ids, _ = generate(llava, Image.open(path).convert("RGB"), text, tokens)
            captions.append(text_of(llava, ids))
        return captions

    def at_once(folder: Path, size: int) -> list[str]:
        output = place / f"{folder.name} {size}.csv"
        options = {"batch_size": size, "max_new_tokens": tokens, "progress": False}
        result = caption_folder(llava, folder, output, prompt=PROMPT, **options)
        return [row.caption for row in result.rows()]

    ways = {LOOP: loop} | {str(size): partial(at_once, size=size) for size in SIZES}
    look = partial(count_the_same, facts)
    return in_turn("tiny", ways, rounds, prepare, device=llava.device, look=look, facts=facts)


def child() -> None:
    """Caption one folder, and again when all is done, with a mark after each."""
    request, mark = child_request()
    llava = load("tiny")
    settings = {
        "batch_size": MEMORY_BATCH,
        "max_new_tokens": MEMORY_TOKENS,
        "progress": False,
    }
    mark("loaded")
    clock, processor = time.perf_counter(), time.process_time()
    first = caption_folder(llava, request["folder"], request["output"], **settings)
    took = {
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - processor,
    }
    mark("captioned", pictures=first.total, **took)
    again = caption_folder(llava, request["folder"], request["output"], **settings)
    mark("end", again_kept=again.kept, again_seconds=again.seconds)


def memory(pictures: int, place: Path) -> dict[str, Any]:
    """Caption so many small pictures in a process of its own; return seconds and bytes."""
    folder = draw(place / f"{pictures} pictures", range(pictures), MEMORY_SIDE)
    seen = watch(__file__, {"folder": str(folder), "output": f"{folder}.csv"})
    held = {"peak_bytes": sum(seen.peaks["captioned"]), "loaded_bytes": sum(seen.now["loaded"])}
    return seen.facts | held


def in_words(run: dict[str, Any]) -> str:
    """Say what a run took."""
    return (
        f"{run['pictures']:,} pictures took {run['seconds']:.0f} s ({run['cpu_seconds']:.0f} s of "
        f"the processor), {run['peak_bytes'] / 2**20:.0f} MiB at the most "
        f"({run['loaded_bytes'] / 2**20:.0f} before), and {run['again_seconds']:.2f} s to find "
        "all done"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure speed and memory, print, and return 1 if a bar is missed."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--pictures", type=int, default=64, help="a round (default: 64)")
    made.add_argument("--many", type=int, default=MANY, help=f"for memory (default: {MANY})")
    options = made.parse_args(arguments)
    sizes = (1, 2, 4) if options.quick else (options.rounds, options.pictures, options.many)
    rounds, pictures, most = sizes
    place = Path(tempfile.mkdtemp(prefix="llava_nb-folder-"))
    try:
        timed = speed(load("tiny"), rounds, pictures, 4 if options.quick else TOKENS, place)
        few, many = (memory(number, place) for number in (min(FEW, most // 2), most))
    finally:
        shutil.rmtree(place)
    best = max(timed.times_as_fast(str(size), LOOP) for size in SIZES)
    more_memory = 100 * (many["peak_bytes"] / few["peak_bytes"] - 1)
    each = [run["seconds"] / run["pictures"] for run in (few, many)]
    what = f"{many['pictures']:,} pictures against {few['pictures']:,}"
    done = f"a second call that finds {many['again_kept']:,} done, seconds"
    judged = {"judged": not options.quick}
    verdicts = [
        at_least("pictures a second, times the loop", best, FASTER, **judged),
        at_most(f"{what}: peak memory, % more", more_memory, MORE_MEMORY, **judged),
        at_most(
            f"{what}: time a picture, % more", 100 * (each[1] / each[0] - 1), MORE_TIME, **judged
        ),
        at_most(done, many["again_seconds"], DONE_SECONDS, **judged),
    ]
    text = page(
        "A folder of pictures",
        of_rounds([timed]),
        f"Rounds of {pictures} pictures; in brackets times the loop, and how many captions are the "
        f"loop's to the letter. Memory: {MEMORY_SIDE} pixels a picture, batches of "
        f"{MEMORY_BATCH}, {MEMORY_TOKENS} tokens an answer: {in_words(few)}; {in_words(many)}.",
        table(
            ("", LOOP, *(f"batches of {size}" for size in SIZES)),
            [("pictures a second", *cells(timed))],
        ),
        verdicts=verdicts,
    )
    figures = {"measured": [timed], "runs": [few, many]}
    return finish("folder", text, figures, verdicts, options)


if __name__ == "__main__":
    sys.exit(child() if "--child" in sys.argv else main())
