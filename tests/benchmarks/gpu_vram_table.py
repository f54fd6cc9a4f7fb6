"""The figures of `gpu_vram.py`: what is kept of a measurement, the bars, the table for people.

Bytes inside; the table is in GiB of 2^30 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from load_memory_table import about

from llava_nb.sizes import GIB, format_gib

APART = 0.05  # the most by which the estimate and the measured peak may differ
ANSWER_TOKENS = 1024  # what the bars below are about, with one picture
BELOW = {("7b", "4bit"): 6 * GIB, ("13b", "4bit"): 19 * GIB // 2}
HEAD = (
    "| model | stored | when | foretold | in use | apart % | allocated | reserved | process |"
    " seconds | first token, s | tokens/s |"
)


@dataclass(frozen=True)
class Stage:
    """The most that was held in one stretch, in bytes; None is unknown.

    `when` is "loading", "loaded", or the number of new tokens. `foretold` is what the estimate
    says is in use then, `needed` what should be free before. `allocated` are torch's tensors,
    `reserved` what torch has taken, `process` all that the GPU had less while this ran, with CUDA's
    context. In RAM `allocated` is anonymous memory over the imports, `process` all that is
    resident, and there is no `reserved`. `seconds` are those of the load, or of the answer.
    """

    model: str
    stored: str | None
    memory: str
    when: str
    foretold: int | None
    needed: int
    allocated: int | None
    reserved: int | None
    process: int | None
    seconds: float
    tokens: int = 0
    first_token_seconds: float | None = None

    @property
    def in_use(self) -> int | None:
        """Tensors and CUDA's context: the process without what torch keeps unused."""
        if self.memory == "RAM":
            return self.allocated
        if None in (self.allocated, self.reserved, self.process):
            return None
        return self.allocated + self.process - self.reserved

    @property
    def apart(self) -> float | None:
        """By which share of what is in use the estimate is above it, or below."""
        if not self.foretold or not self.in_use:
            return None
        return self.foretold / self.in_use - 1

    @property
    def tokens_per_second(self) -> float | None:
        """The speed of writing, without reading the prompt."""
        if self.tokens < 2 or self.first_token_seconds is None:
            return None
        return (self.tokens - 1) / (self.seconds - self.first_token_seconds)


@dataclass(frozen=True)
class Figures:
    """All of a run: the machine in words, the stages, what was left out or failed, and why."""

    machine: str
    stages: list[Stage] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def verdicts(figures: Figures) -> list[tuple[str, str, str, bool | None]]:
    """Return every bar: what, the figure, the bar, whether it is met (None: not measured).

    All of them are of a GPU: in RAM the libraries' own buffers are as large as a small model.
    """
    found: list[tuple[str, str, str, bool | None]] = []
    on_gpu = [stage for stage in figures.stages if stage.memory == "VRAM"]
    for run in dict.fromkeys((stage.model, stage.stored) for stage in on_gpu):
        stages = [each for each in on_gpu if (each.model, each.stored) == run]
        found += _verdicts_of(f"{run[0]} {_word(run[1])}", run, stages)
    return found + [(what, "failed", "completed", False) for what in figures.failed]


def _verdicts_of(
    what: str, run: tuple[str, str | None], stages: Sequence[Stage]
) -> Iterator[tuple[str, str, str, bool | None]]:
    seen = all(stage.process is not None for stage in stages)
    for stage in (each for each in stages if each.tokens):
        label = f"{what}, {stage.when}: estimate from the peak in use, %"
        met = abs(stage.apart) <= APART if seen and stage.apart is not None else None
        yield label, _percent(stage.apart), f"{100 * APART:g}", met
    most = max((each.process or 0 for each in stages), default=0)
    needed = max(each.needed for each in stages)
    label = f"{what}: the process, of what load() wants free"
    met = most <= needed if seen else None
    yield label, format_gib(most if seen else None), format_gib(needed), met
    longest = [each for each in stages if each.tokens == ANSWER_TOKENS]
    if run in BELOW and longest:
        met = (longest[0].process or 0) < BELOW[run] if seen else None
        label = f"{what}: the process, one picture and {ANSWER_TOKENS:,} new tokens"
        yield label, format_gib(longest[0].process), f"below {format_gib(BELOW[run])}", met


def missed(figures: Figures) -> bool:
    """Whether a bar is missed; one that was not measured is not."""
    return any(met is False for *_, met in verdicts(figures))


def markdown(figures: Figures) -> str:
    """Return the table and the bars, for people."""
    in_ram = any(stage.memory == "RAM" for stage in figures.stages)
    title = "RAM of LLaVA-1.5 scaled down" if in_ram else "VRAM of LLaVA-1.5"
    lines = [
        f"# {title}, foretold and measured",
        "",
        f"{figures.machine}. {about()}. Random weights, one picture, a fresh process for each "
        "model. Memory in GiB.",
        "",
        HEAD,
        "| --- | --- | --- |" + " ---: |" * 9,
        *map(_line, figures.stages),
        "",
        *_bars(verdicts(figures)),
    ]
    notes = [f"Left out: {each}" for each in figures.left_out]
    return "\n".join([*lines, "", *(line for note in notes for line in (note, ""))])


def _bars(rows: Sequence[tuple[str, str, str, bool | None]]) -> list[str]:
    if not rows:
        return ["No bar is held against RAM: what the libraries take at first use is in it."]
    words = {True: "met", False: "MISSED", None: "not measured"}
    lines = ["| bar | figure | bar | |", "| --- | ---: | ---: | --- |"]
    return lines + [
        f"| {what} | {figure} | {bar} | {words[met]} |" for what, figure, bar, met in rows
    ]


def _line(stage: Stage) -> str:
    held = (stage.allocated, stage.reserved, stage.process)
    speed = stage.tokens_per_second
    cells = [
        stage.model,
        _word(stage.stored),
        stage.when,
        _gib(stage.foretold),
        _gib(stage.in_use),
        _percent(stage.apart),
        *map(_gib, held),
        f"{stage.seconds:.1f}",
        "" if stage.first_token_seconds is None else f"{stage.first_token_seconds:.2f}",
        "" if speed is None else f"{speed:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _word(stored: str | None) -> str:
    return stored or "none"


def _gib(count: int | None) -> str:
    return "" if count is None else f"{count / GIB:.3f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f}"
