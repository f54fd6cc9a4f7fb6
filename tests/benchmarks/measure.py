"""What all benchmarks share: the clock, memory watched from outside, bars, tables, results.

Timings mean something as ratios of one run only: a machine is faster in one minute than in the
next, by more than what is to be measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from typing import Any
from unittest import mock

import psutil
import torch
from PIL import Image

from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import Llava

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).resolve().parents[2]
INTERVAL_SECONDS = 0.005
WORDS = {True: "met", False: "MISSED", None: "not measured"}
Verdict = tuple[str, str, str, bool | None]  # what, the figure, the bar, whether it is met

# --- the clock ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """For each way of doing the same its seconds, one number a round.

    `facts` is what else there is to know, by name. `processor_share` is the processor's seconds
    over the clock's: with one thread, 1 where nothing else took the core.
    """

    model: str
    seconds: dict[str, list[float]]
    facts: dict[str, Any]
    processor_share: float

    def median(self, way: str) -> float:
        """The seconds of a way."""
        return median(self.seconds[way])

    def times_as_fast(self, way: str, other: str) -> float:
        """How often `way` is done in the time that `other` takes."""
        return self.median(other) / self.median(way)


def in_turn(
    llava: Llava,
    ways: Mapping[str, Callable[[Any], Any]],
    rounds: int,
    prepare: Callable[[int], Any],
    *,
    look: Callable[[dict[str, Any]], None],
    facts: dict[str, Any],
) -> Timed:
    """Take every way once in each of `rounds`, and return what it took.

    Each round begins with another way, so that all of them meet the machine in the same state; the
    first round warms up and is not kept. `prepare(round)` makes what all ways of that round are
    given, unmeasured. `look` is shown what they returned, by way; it may raise, and add to `facts`.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    names, clock, processor = list(ways), 0.0, 0.0
    wait = torch.cuda.synchronize if llava.device.type == "cuda" else lambda: None
    gc.collect()
    gc.freeze()  # a collection with all that the libraries made takes a third of a second
    try:
        for number in range(rounds + 1):
            given, results = prepare(number), {}
            first = number % len(names)
            for way in names[first:] + names[:first]:
                gc.collect()  # now, and not in the middle of one of the ways
                wait()
                before = time.perf_counter(), time.process_time()
                results[way] = ways[way](given)
                wait()
                took, busy = time.perf_counter() - before[0], time.process_time() - before[1]
                if number:
                    processor, clock = processor + busy, clock + took
                    seconds[way].append(took)
            if number:
                look(results)
    finally:
        gc.unfreeze()
    return Timed(llava.name, seconds, facts, processor / clock)


# --- what llava_nb is compared with -------------------------------------------------------------


def fresh_picture(number: int, side: int = 336) -> Image.Image:
    """Return a drawn scene; another number, another scene."""
    return draw(sample_scene(Random(f"benchmark {number}"), count=2), side)


def generate(llava: Llava, picture: Image.Image, text: str, tokens: int) -> tuple[list[int], int]:
    """Return the ids of the greedy answer to a prompt, and the number of tokens in the prompt.

    The much-copied recipe: `processor`, then `model.generate`.
    """
    inputs = llava.processor(images=picture, text=text, return_tensors="pt")
    inputs = inputs.to(llava.device, llava.model.dtype)
    given = inputs["input_ids"].shape[1]
    made = llava.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return made[0, given:].tolist(), given


def text_of(llava: Llava, ids: list[int]) -> str:
    """Return the answer as text."""
    return llava.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def exactly(llava: Llava, tokens: int) -> Any:
    """Forbid the end token until an answer has `tokens` tokens, while this is entered."""
    return mock.patch.object(llava.model.generation_config, "min_new_tokens", tokens)


# --- a process watched from outside -------------------------------------------------------------


@dataclass
class Watched:
    """A process that stopped at marks: what it said of itself, and its memory, by mark.

    `peaks` is the most bytes of anonymous and of file-backed memory since the mark before, `now`
    the same at the mark. `gap` is the longest time between two readings in seconds: a peak that is
    shorter can be missed.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    peaks: dict[str, tuple[int, int]] = field(default_factory=dict)
    now: dict[str, tuple[int, int]] = field(default_factory=dict)
    gap: float = 0.0


def watch(script: str, request: dict[str, Any]) -> Watched:
    """Run `script --child REQUEST`, which calls `mark()`; watching costs it nothing.

    Raises RuntimeError, with what the process said, if it does not reach its end. Linux only: other
    systems do not tell anonymous memory from mapped files.
    """
    command = [sys.executable, script, "--child", json.dumps(request)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    seen, peak, last, line = Watched(), (0, 0), time.perf_counter(), "\n"
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, text=True, env=environment, stderr=errors, **pipes) as child,
    ):
        process = psutil.Process(child.pid)
        while line:
            marked, _, _ = select.select([child.stdout], [], [], INTERVAL_SECONDS)
            held = process.memory_info()
            now = held.rss - held.shared, held.shared
            peak = max(peak[0], now[0]), max(peak[1], now[1])
            seen.gap, last = max(seen.gap, time.perf_counter() - last), time.perf_counter()
            line = child.stdout.readline() if marked else "\n"
            if line.strip():
                told = json.loads(line)
                name = told.pop("mark")
                seen.now[name], seen.peaks[name], peak = now, peak, (0, 0)
                seen.facts |= told
                child.stdin.write("go on\n")
                child.stdin.flush()
        if child.wait() or "end" not in seen.now:
            errors.seek(0)
            raise RuntimeError(f"code {child.returncode}: {errors.read().strip()[-3000:]}")
    return seen


def child_request() -> tuple[dict[str, Any], Callable[..., None]]:
    """In a watched process: the request, and `mark(name, **facts)`, which waits for its reading."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print as they please; the lines of JSON go out by a way of their own

    def mark(name: str, **facts: Any) -> None:
        print(json.dumps({"mark": name, **facts}), file=channel, flush=True)
        sys.stdin.readline()

    return json.loads(sys.argv[2]), mark


# --- bars, tables, results ----------------------------------------------------------------------


def at_least(what: str, figure: float, bar: float) -> Verdict:
    """Return the verdict on a figure that has to reach a bar."""
    return what, f"{figure:.1f}", f"at least {bar:g}", figure >= bar


def at_most(what: str, figure: float, bar: float) -> Verdict:
    """Return the verdict on a figure that must not pass a bar."""
    return what, f"{figure:.1f}", f"at most {bar:g}", figure <= bar


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter here, and of Python."""
    packages = ("torch", "transformers", "bitsandbytes")
    return {name: version(name) for name in packages} | {"Python": platform.python_version()}


def machine() -> str:
    """Return the name of the GPU or of the CPU, and how many cores there are of that."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.M)
    name = names[0] if names else platform.processor() or platform.machine()
    return f"a CPU ({name}, {os.cpu_count()} core(s))"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; the first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def parse(
    description: str,
    arguments: Sequence[str] | None,
    lists: Mapping[str, Sequence[Any]] | None = None,
    **numbers: tuple[int, int],
) -> argparse.Namespace:
    """Return what a command line says.

    `lists` are options that take some of these values, all of them by default; `numbers` such that
    take one: by default the first, and with --quick the second.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, values in (lists or {}).items():
        choices = values if name.startswith("-") else None  # argparse would check the default too
        made.add_argument(name, nargs="*", choices=choices, default=list(values))
    for name, (usual, _) in numbers.items():
        made.add_argument(f"--{name}", type=int, default=usual, help=f"default: {usual}")
    made.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    made.add_argument("--write", action="store_true", help="keep the figures under results/")
    options = made.parse_args(arguments)
    if options.quick:
        vars(options).update({name: small for name, (_, small) in numbers.items()})
    return options


def finish(
    options: argparse.Namespace,
    stem: str,
    title: str,
    *parts: str,
    verdicts: Sequence[Verdict] = (),
    measured: Sequence[Timed] = (),
    **figures: Any,
) -> int:
    """Print title, machine, how it was timed, parts and bars; keep all, with the figures, if asked.

    Returns 1 if a bar is missed. With --quick nothing is kept or judged: the sizes mean nothing.
    """
    judged = [(*each, None if options.quick else met) for *each, met in verdicts]
    bars = table(("bar", "figure", "bar", ""), [(*each, WORDS[met]) for *each, met in judged])
    about = ", ".join(f"{name} {number}" for name, number in versions().items())
    about = f"{about}, {torch.get_num_threads()} thread(s), on {machine()}."
    if measured:
        rounds = max(len(each) for timed in measured for each in timed.seconds.values())
        share = 100 * min(timed.processor_share for timed in measured)
        about += f" Medians of {rounds} rounds, in each of which all ways were taken in turn. The "
        about += f"processor's seconds were {share:.0f} % of the clock's, or more."
    text = "\n\n".join([f"# {title}", about, *parts, *([bars] if judged else [])]) + "\n"
    print(text)
    if options.write and not options.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{stem}.md").write_text(text)
        kept = {"versions": versions(), "machine": machine(), "verdicts": judged, **figures}
        kept |= {"measured": measured} if measured else {}
        (RESULTS / f"{stem}.json").write_text(json.dumps(kept, indent=1, default=asdict) + "\n")
    return int(any(met is False for *_, met in judged))
