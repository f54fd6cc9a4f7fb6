"""What all benchmarks share: the clock, memory watched from outside, bars, tables, results.

Timings mean something as ratios of one run only: a machine is faster in one minute than in the
next, by more than what is to be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

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
    facts: dict[str, Any] = field(default_factory=dict)
    processor_share: float = 1.0

    def median(self, way: str) -> float:
        """The seconds of a way."""
        return median(self.seconds[way])

    def times_as_fast(self, way: str, other: str) -> float:
        """How often `way` is done in the time that `other` takes."""
        return self.median(other) / self.median(way)


def in_turn(
    model: str,
    ways: Mapping[str, Callable[[Any], Any]],
    rounds: int,
    prepare: Callable[[int], Any],
    *,
    device: torch.device,
    look: Callable[[dict[str, Any]], None] = lambda results: None,
    facts: dict[str, Any] | None = None,
) -> Timed:
    """Take every way once in each of `rounds`, and return what it took.

    Each round begins with another way, so that all of them meet the machine in the same state; the
    first round warms up and is not kept. `prepare(round)` makes what all ways of that round are
    given, unmeasured. `look` is shown what they returned, by way; it may raise, and add to `facts`.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    names, clock, processor = list(ways), 0.0, 0.0
    gc.collect()
    gc.freeze()  # a collection with all that the libraries made takes a third of a second
    try:
        for number in range(rounds + 1):
            given, results = prepare(number), {}
            first = number % len(names)
            for way in names[first:] + names[:first]:
                gc.collect()  # now, and not in the middle of one of the ways
                before = time.process_time()
                took, results[way] = clocked(ways[way], given, device)
                if number:
                    processor, clock = processor + time.process_time() - before, clock + took
                    seconds[way].append(took)
            if number:
                look(results)
    finally:
        gc.unfreeze()
    return Timed(model, seconds, facts if facts is not None else {}, processor / clock)


def clocked(work: Callable[[Any], Any], given: Any, device: torch.device) -> tuple[float, Any]:
    """Return the seconds of `work(given)`, until the GPU is done as well, and what it returned."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    started = time.perf_counter()
    result = work(given)
    wait(device)
    return time.perf_counter() - started, result


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


@contextlib.contextmanager
def exactly(llava: Llava, tokens: int) -> Iterator[None]:
    """Forbid the end token until an answer has `tokens` tokens, whoever asks for it."""
    config: Any = llava.model.generation_config
    before, config.min_new_tokens = config.min_new_tokens, tokens
    try:
        yield
    finally:
        config.min_new_tokens = before


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
    seen, lock, done = Watched(), threading.Lock(), threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, script, "--child", json.dumps(request)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
        child = subprocess.Popen(command, text=True, env=environment, **pipes)
        process, peak, last = psutil.Process(child.pid), [0, 0], time.perf_counter()

        def read() -> tuple[int, int]:
            nonlocal last
            held = process.memory_info()
            found = held.rss - held.shared, held.shared
            peak[:] = map(max, peak, found)
            seen.gap, last = max(seen.gap, time.perf_counter() - last), time.perf_counter()
            return found

        def readings() -> None:
            while not done.wait(INTERVAL_SECONDS):
                with contextlib.suppress(psutil.Error), lock:  # it may be ending
                    read()

        reader = threading.Thread(target=readings, daemon=True)
        reader.start()
        with contextlib.suppress(BrokenPipeError), child.stdin, child.stdout:
            for line in child.stdout:
                told = json.loads(line)
                name = told.pop("mark")
                with lock:
                    seen.now[name], seen.peaks[name] = read(), tuple(peak)
                    peak[:] = 0, 0
                seen.facts |= told
                child.stdin.write("go on\n")
                child.stdin.flush()
        done.set()
        reader.join()
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


def at_least(what: str, figure: float, bar: float, *, judged: bool = True) -> Verdict:
    """Return the verdict on a figure that has to reach a bar, if it is judged at all."""
    return what, f"{figure:.1f}", f"at least {bar:g}", figure >= bar if judged else None


def at_most(what: str, figure: float, bar: float, *, judged: bool = True) -> Verdict:
    """Return the verdict on a figure that must not pass a bar."""
    return what, f"{figure:.1f}", f"at most {bar:g}", figure <= bar if judged else None


def missed(verdicts: Sequence[Verdict]) -> bool:
    """Whether a bar is missed; one that was not measured is not."""
    return any(met is False for *_, met in verdicts)


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter here, and of Python."""
    packages = ("torch", "transformers", "bitsandbytes")
    return {name: version(name) for name in packages} | {"Python": platform.python_version()}


def about() -> str:
    """Return the versions and the number of threads, in words."""
    told = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"{told}, {torch.get_num_threads()} thread(s)"


def machine() -> str:
    """Return the name of the GPU or of the CPU, and how many cores there are of that."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.M)
    name = names[0] if names else platform.processor() or platform.machine()
    return f"a CPU ({name}, {os.cpu_count()} core(s))"


def of_rounds(measured: Sequence[Timed]) -> str:
    """Say how timings were taken."""
    rounds = max(len(each) for timed in measured for each in timed.seconds.values())
    share = 100 * min(timed.processor_share for timed in measured)
    return (
        f"Medians of {rounds} rounds, in each of which all ways were taken in turn. The "
        f"processor's seconds were {share:.0f} % of the clock's, or more."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; the first column is text."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def page(title: str, *parts: str, verdicts: Sequence[Verdict] = ()) -> str:
    """Return a whole result for people: title, machine, parts, bars."""
    bars = table(("bar", "figure", "bar", ""), [(*each, WORDS[met]) for *each, met in verdicts])
    told = [f"# {title}", f"{about()}, on {machine()}.", *parts, *([bars] if verdicts else [])]
    return "\n\n".join(told) + "\n"


def parser(description: str, rounds: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options that benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds is not None:
        made.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    made.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    made.add_argument("--write", action="store_true", help="keep the figures under results/")
    return made


def finish(
    stem: str,
    text: str,
    figures: dict[str, Any],
    verdicts: Sequence[Verdict],
    options: argparse.Namespace,
    folder: Path = RESULTS,
) -> int:
    """Print the text, keep it and the figures if asked to, and return 1 if a bar is missed.

    With --quick nothing is kept and nothing missed: the sizes mean nothing.
    """
    print(text)
    if options.quick:
        return 0
    if options.write:
        folder.mkdir(exist_ok=True)
        (folder / f"{stem}.md").write_text(text)
        kept = {"versions": versions(), "machine": machine(), "verdicts": verdicts, **figures}
        text = json.dumps(kept, indent=1, default=asdict)
        (folder / f"{stem}.json").write_text(f"{text}\n")
    return int(missed(verdicts))
