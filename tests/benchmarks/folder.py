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

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparison import Comparison, Verdict, at_least, finish, machine_of, parser
from in_turn import Timed, in_turn
from PIL import Image
from stock import fresh_picture, generate, text_of

from llava_nb import load
from llava_nb.folder import caption_folder
from llava_nb.llava import Llava

PROMPT = "Describe this picture."
SIZES, LOOP, TOKENS = (8, 16, 32), "loop", 64
FEW, MANY = 1_000, 20_000
MEMORY_BATCH, MEMORY_TOKENS, MEMORY_SIDE = 32, 4, 64
FASTER, MORE_MEMORY, MORE_TIME, DONE_SECONDS = 2.5, 10.0, 15.0, 5.0
HEAD = ("", LOOP, *(f"batches of {size}" for size in SIZES))
CHILD = Path(__file__).with_name("folder_once.py")


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

    def table(folder: Path, size: int) -> list[str]:
        output = place / f"{folder.name} {size}.csv"
        options = {"batch_size": size, "max_new_tokens": tokens, "progress": False}
        result = caption_folder(llava, folder, output, prompt=PROMPT, **options)
        return [row.caption for row in result.rows()]

    def look(results: dict[str, list[str]]) -> None:
        for size in facts["same"]:
            pairs = zip(results[LOOP], results[size], strict=True)
            facts["same"][size] += sum(one == other for one, other in pairs)

    ways = {LOOP: loop} | {str(size): partial(table, size=size) for size in SIZES}
    return in_turn("tiny", ways, rounds, prepare, device=llava.device, look=look, facts=facts)


def draw(folder: Path, numbers: Sequence[int], side: int = 336) -> Path:
    """Draw a scene for each number into a folder, and return it."""
    folder.mkdir(parents=True)
    for number in numbers:
        fresh_picture(number, side).save(folder / f"{number:06}.png")
    return folder


def once(folder: Path, place: Path) -> dict[str, Any]:
    """Caption a folder in a process of its own; see `folder_once.py`."""
    output = place / f"{folder.name}.csv"
    command = [sys.executable, "-W", "ignore", CHILD, folder, output, MEMORY_BATCH, MEMORY_TOKENS]
    path = os.pathsep.join([str(CHILD.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def memory(few: int, many: int, place: Path) -> list[dict[str, Any]]:
    """Measure a few pictures and many."""
    small, large = (
        draw(place / f"{number} pictures", range(number), MEMORY_SIDE) for number in (few, many)
    )
    return [once(small, place), once(large, place)]


def verdicts(timed: Timed, runs: Sequence[dict[str, Any]], judged: bool) -> list[Verdict]:
    """Return every bar: what, the figure, the bar, whether it is met."""
    few, many = runs
    best = max(timed.times_as_fast(str(size), LOOP) for size in SIZES)
    peak = 100 * (many["peak_bytes"] / few["peak_bytes"] - 1)
    each = [run["seconds"] / run["pictures"] for run in runs]
    time = 100 * (each[1] / each[0] - 1)
    what = f"{many['pictures']:,} pictures against {few['pictures']:,}"
    done = f"a second call that finds {many['again_kept']:,} done, seconds"
    return [
        at_least("pictures a second, times the loop", best, FASTER, judged=judged),
        _at_most(f"{what}: peak memory, % more", peak, MORE_MEMORY, judged),
        _at_most(f"{what}: time a picture, % more", time, MORE_TIME, judged),
        _at_most(done, many["again_seconds"], DONE_SECONDS, judged),
    ]


def _at_most(what: str, figure: float, bar: float, judged: bool) -> Verdict:
    return what, f"{figure:.1f}", f"at most {bar:g}", figure <= bar if judged else None


def compare(rounds: int, pictures: int, many: int, *, quick: bool = False) -> Comparison:
    """Measure speed and memory."""
    place = Path(tempfile.mkdtemp(prefix="llava_nb-folder-"))
    try:
        llava = load("tiny")
        timed = speed(llava, rounds, pictures, 4 if quick else TOKENS, place)
        runs = memory(min(FEW, many // 2), many, place)
    finally:
        shutil.rmtree(place)
    timed.facts["runs"] = runs
    return Comparison(
        title="A folder of pictures",
        said=f"Rounds of {pictures} pictures; in brackets times the loop, and how many captions "
        f"are the loop's to the letter. {_in_words(runs)}",
        head=HEAD,
        lines=[_line(timed)],
        verdicts=verdicts(timed, runs, not quick),
        measured=[timed],
        machine=machine_of(llava.device),
        threads=torch.get_num_threads(),
    )


def _line(timed: Timed) -> tuple[str, ...]:
    pictures = timed.facts["pictures"]
    captions = pictures * len(timed.seconds[LOOP])
    cells = [f"{pictures / timed.median(LOOP):.2f}"]
    for size, same in timed.facts["same"].items():
        faster = timed.times_as_fast(size, LOOP)
        cells.append(f"{pictures / timed.median(size):.2f} ({faster:.1f}; {same} of {captions})")
    return "pictures a second", *cells


def _in_words(runs: Sequence[dict[str, Any]]) -> str:
    told = [
        f"{run['pictures']:,} pictures took {run['seconds']:.0f} s ({run['cpu_seconds']:.0f} s of "
        f"the processor), {run['peak_bytes'] / 2**20:.0f} MiB at the most "
        f"({run['loaded_bytes'] / 2**20:.0f} before), and {run['again_seconds']:.2f} s to find "
        "all done"
        for run in runs
    ]
    return (
        f"Memory: {MEMORY_SIDE} pixels a picture, batches of {MEMORY_BATCH}, {MEMORY_TOKENS} "
        f"tokens an answer: {'; '.join(told)}."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--pictures", type=int, default=64, help="a round (default: 64)")
    made.add_argument("--many", type=int, default=MANY, help=f"for memory (default: {MANY})")
    return made.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed."""
    options = parse(arguments)
    sizes = (1, 2, 4) if options.quick else (options.rounds, options.pictures, options.many)
    return finish("folder", compare(*sizes, quick=options.quick), options)


if __name__ == "__main__":
    sys.exit(main())
