"""Ways of doing the same, timed in turn, so that all of them meet the machine in the same state.

A machine is faster in one minute than in the next, by more than what is to be measured. So
every round takes every way once, on the same picture, and begins with another way than the round
before. The first round warms up and is not kept. Not covered: tables and bars (`comparison.py`).
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Timed:
    """What was measured on one model: for each way its seconds, one number a round.

    `facts` is what else there is to know, by name: sizes, and how often the answers were the same.
    `processor_share` is the processor's seconds over the clock's: with one thread, 1 where nothing
    else took the core.
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
    counts: Callable[[Any], float] | None = None,
    facts: dict[str, Any] | None = None,
) -> Timed:
    """Take every way once in each of `rounds`, and return what it took.

    `prepare(round)` makes what all ways of that round are given, unmeasured. `look` is shown
    what they returned, by way; it may raise, and add to the `facts`. `counts` takes the seconds
    from what was returned, in place of the clock.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    names, clock, processor = list(ways), 0.0, 0.0
    with _little_garbage():
        for number in range(rounds + 1):
            given, results = prepare(number), {}
            first = number % len(names)
            for way in names[first:] + names[:first]:
                gc.collect()  # now, and not in the middle of one of the ways
                before = time.process_time()
                took, results[way] = clocked(ways[way], given, device)
                if number:
                    processor, clock = processor + time.process_time() - before, clock + took
                    seconds[way].append(took if counts is None else counts(results[way]))
            if number:
                look(results)
    return Timed(model, seconds, facts or {}, processor / clock)


@contextlib.contextmanager
def _little_garbage() -> Iterator[None]:
    """Leave what the libraries made out of collections, which take a third of a second with it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def clocked(work: Callable[[Any], Any], given: Any, device: torch.device) -> tuple[float, Any]:
    """Return the seconds of `work(given)`, until the GPU is done as well, and what it returned."""
    _wait_for(device)
    started = time.perf_counter()
    result = work(given)
    _wait_for(device)
    return time.perf_counter() - started, result


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
