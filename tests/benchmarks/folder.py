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

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measure
from batch import LOOP, PROMPT, cells, compare, recipe
from measure import Timed, fresh_picture
from PIL import Image

from llava_nb import Llava, caption_folder, load

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

    def prepare(number: int) -> Path:
        return draw(place / f"round {number}", range(number * pictures, (number + 1) * pictures))

    def loop(folder: Path) -> list[str]:
        opened = (Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png")))
        return recipe(llava, opened, tokens)

    def at_once(folder: Path, size: int) -> list[str]:
        output = place / f"{folder.name} {size}.csv"
        options = {"batch_size": size, "max_new_tokens": tokens, "progress": False}
        result = caption_folder(llava, folder, output, prompt=PROMPT, **options)
        return [row.caption for row in result.rows()]

    ways = {LOOP: loop} | {str(size): partial(at_once, size=size) for size in SIZES}
    return compare(llava, ways, rounds, prepare, pictures)


def child() -> None:
    """Caption one folder, and again when all is done, with a mark after each."""
    request, mark = measure.child_request()
    llava = load("tiny")
    settings = {"batch_size": MEMORY_BATCH, "max_new_tokens": MEMORY_TOKENS, "progress": False}
    mark("loaded")
    clock, processor = time.perf_counter(), time.process_time()
    first = caption_folder(llava, request["folder"], request["output"], **settings)
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - processor
    mark("captioned", pictures=first.total, seconds=seconds, cpu_seconds=cpu_seconds)
    again = caption_folder(llava, request["folder"], request["output"], **settings)
    mark("end", again_kept=again.kept, again_seconds=again.seconds)


def memory(pictures: int, place: Path) -> dict[str, Any]:
    """Caption so many small pictures in a process of its own; return seconds and bytes."""
    folder = draw(place / f"{pictures} pictures", range(pictures), MEMORY_SIDE)
    seen = measure.watch(__file__, {"folder": str(folder), "output": f"{folder}.csv"})
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
    numbers = {"rounds": (5, 1), "pictures": (64, 2), "many": (MANY, 4)}
    options = measure.parse(__doc__, arguments, **numbers)
    tokens = 4 if options.quick else TOKENS
    with tempfile.TemporaryDirectory(prefix="llava_nb-folder-") as place:
        timed = speed(load("tiny"), options.rounds, options.pictures, tokens, Path(place))
        sizes = (min(FEW, options.many), options.many)
        runs = {number: memory(number, Path(place)) for number in dict.fromkeys(sizes)}
    few, many = (runs[number] for number in sizes)
    best = max(timed.times_as_fast(str(size), LOOP) for size in SIZES)
    memory_more = 100 * (many["peak_bytes"] / few["peak_bytes"] - 1)
    each = [run["seconds"] / run["pictures"] for run in (few, many)]
    time_more = 100 * (each[1] / each[0] - 1)
    what = f"{many['pictures']:,} pictures against {few['pictures']:,}"
    done = f"a second call that finds {many['again_kept']:,} done, seconds"
    head = ("", LOOP, *(f"batches of {size}" for size in SIZES))
    return measure.finish(
        options,
        "folder",
        "A folder of pictures",
        f"Rounds of {options.pictures} pictures; in brackets times the loop, and how many captions "
        f"are the loop's to the letter. Memory: {MEMORY_SIDE} pixels a picture, batches of "
        f"{MEMORY_BATCH}, {MEMORY_TOKENS} tokens an answer: {in_words(few)}; {in_words(many)}.",
        measure.table(head, [("pictures a second", *cells(timed))]),
        verdicts=[
            measure.at_least("pictures a second, times the loop", best, FASTER),
            measure.at_most(f"{what}: peak memory, % more", memory_more, MORE_MEMORY),
            measure.at_most(f"{what}: time a picture, % more", time_more, MORE_TIME),
            measure.at_most(done, many["again_seconds"], DONE_SECONDS),
        ],
        measured=[timed],
        runs=[few, many],
    )


if __name__ == "__main__":
    sys.exit(child() if "--child" in sys.argv else main())
