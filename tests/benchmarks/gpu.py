"""What LLaVA-1.5 takes of a GPU at its true sizes, beside what `estimate_vram()` says.

    python tests/benchmarks/gpu.py [--models 7b 13b] [--stored 4bit 8bit none] [--quick] [--write]

For 7B and 13B in 4 bits, in 8 and unquantised, where that fits: memory when it has loaded and at
the peak of an answer of 64 tokens about one picture, and of one of 1,024; with seconds, and tokens
a second. The weights are random and no file is read, so the seconds of loading are not those of a
checkpoint. The end token is forbidden, so all tokens are made. Each model is measured in a fresh
process: CUDA's context and the holes that an earlier model left are not another's.

"Allocated" and "reserved" are torch's own peaks. "Process" is by how much less of the GPU is free
than before CUDA started; other processes that come or go meanwhile spoil it. "In use" is the
process without what torch keeps unused, and the estimate is held against that: at most 5 % apart.
What `load()` wants free has to cover the process as it is. 13B in 4 bits has to stay below 9.5 GiB
with 1,024 tokens, 7B below 6. Returns 1 if a bar is missed.

Without a GPU, and with --quick, shapes of an eighth of the width and the layers run on the CPU:
that shows that everything runs, and no bar is held against it.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import measure
import torch
from checkpoints import SHAPES, make_random, scaled_down

from llava_nb import check_gpu, estimate_vram, example_picture, open_image
from llava_nb.loading.load import device_and_dtype
from llava_nb.sizes import CONTEXT, Shape
from llava_nb.vram.track import peak_on

STORED = {"4bit": "4bit", "8bit": "8bit", "none": None}
TOKENS, APART, GIB = (64, 1024), 5, 2**30
BELOW = {("7b", "4bit"): 6 * GIB, ("13b", "4bit"): 19 * GIB // 2}
HEAD = ("model, stored, when", "foretold", "in use", "apart %", "allocated", "reserved", "process")
HEAD += ("seconds", "first token, s", "tokens/s")
QUESTION = "Describe this picture."


@dataclass(frozen=True)
class Stage:
    """The most that was held in one stretch, in bytes; None is unknown, as on a CPU.

    `tokens` is 0 when the model has just been loaded. `foretold` is what the estimate says is in
    use then, `needed` what should be free before.
    """

    model: str
    stored: str
    tokens: int
    foretold: int
    needed: int
    seconds: float
    first_token_seconds: float = 0.0
    allocated: int | None = None
    reserved: int | None = None
    process: int | None = None

    @property
    def label(self) -> str:
        """What was measured, in words."""
        when = f"{self.tokens:,} tokens" if self.tokens else "loaded"
        return f"{self.model} {self.stored}, {when}"

    @property
    def apart(self) -> float | None:
        """How far the estimate is from what is in use, in percent."""
        return None if self.process is None else 100 * (self.foretold / self.in_use - 1)

    @property
    def in_use(self) -> int | None:
        """Tensors and CUDA's context: the process without what torch keeps unused."""
        return None if self.process is None else self.allocated + self.process - self.reserved

    def cells(self) -> tuple[str, ...]:
        """Return the line of the table, memory in GiB."""
        apart = "" if self.apart is None else f"{self.apart:+.1f}"
        held = map(gib, (self.allocated, self.reserved, self.process))
        first, speed = "", ""
        if self.tokens:
            first = f"{self.first_token_seconds:.2f}"
            speed = f"{(self.tokens - 1) / (self.seconds - self.first_token_seconds):.1f}"
        told = self.label, gib(self.foretold), gib(self.in_use), apart
        return *told, *held, f"{self.seconds:.1f}", first, speed


def gib(size: int | None) -> str:
    """Return bytes as GiB; what is unknown is left empty."""
    return "" if size is None else f"{size / GIB:.3f}"


def child() -> None:
    """Make the model that the request says and ask it, with a mark after each step."""
    request, mark = measure.child_request()
    device = torch.device(device_and_dtype(check_gpu(ask_torch=True))[0])
    on_gpu = device.type == "cuda"
    frees = {gpu.index: gpu.free_bytes for gpu in check_gpu().gpus}  # leaves CUDA alone
    free_before = frees.get(device.index)

    def held() -> dict[str, int]:
        if not on_gpu:
            return {}
        reserved = torch.cuda.max_memory_reserved(device)
        given_back = reserved - torch.cuda.memory_reserved(device)
        found = {"allocated": torch.cuda.max_memory_allocated(device), "reserved": reserved}
        if free_before:
            found["process"] = free_before - torch.cuda.mem_get_info(device)[0] + given_back
        return found

    began = time.perf_counter()
    llava = make_random(request["name"], Shape(**request["shape"]), request["quantization"])
    seconds = time.perf_counter() - began
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    estimate = estimate_vram(llava)
    foretold = estimate.weights_bytes + estimate.parts[CONTEXT]
    mark("loaded", stage_0={"foretold": foretold, "needed": 0, "seconds": seconds, **held()})
    picture = open_image(example_picture())
    for tokens in request["tokens"]:
        with measure.exactly(llava, tokens), peak_on(llava.device) as peak:
            answer = llava.ask(picture, QUESTION, max_new_tokens=tokens)
        if answer.tokens != tokens:
            raise RuntimeError(f"{answer.tokens} tokens were made instead of {tokens}")
        question = answer.prompt_tokens - llava.model.config.image_seq_length
        told = estimate_vram(llava, prompt_tokens=question, max_new_tokens=tokens)
        stage = {"foretold": told.total_bytes, "needed": told.needed_bytes, **held()}
        stage |= {"seconds": answer.seconds, "first_token_seconds": answer.first_token_seconds}
        stage["allocated"] = peak.highest  # ask() may begin torch's peak anew more than once
        mark(f"answered {tokens}", **{f"stage_{tokens}": stage})
    mark("end")


def verdicts(stages: Sequence[Stage]) -> list[measure.Verdict]:
    """Return every bar; without a GPU none is measured."""
    found: list[measure.Verdict] = []
    for stage in (each for each in stages if each.tokens):
        apart, bars = stage.apart, {"what load() wants free": stage.needed}
        figure = "" if apart is None else f"{apart:+.1f}"
        met = None if apart is None else abs(apart) <= APART
        found.append((f"{stage.label}: estimate from the peak in use, %", figure, f"{APART}", met))
        if stage.tokens == max(TOKENS) and (stage.model, stage.stored) in BELOW:
            bars["the most that it may take"] = BELOW[stage.model, stage.stored]
        for name, bar in bars.items():
            met = None if stage.process is None else stage.process <= bar
            what = f"{stage.label}: the process, of {name}, GiB"
            found.append((what, gib(stage.process), f"at most {gib(bar)}", met))
    return found


def measured(name: str, shape: Any, stored: str, tokens: Sequence[int]) -> list[Stage]:
    """Measure one model in a fresh process. Raises RuntimeError if it does not reach its end."""
    request = {"name": name, "shape": asdict(shape), "quantization": STORED[stored]}
    facts = measure.watch(__file__, request | {"tokens": tokens}).facts
    stages = [Stage(name, stored, number, **facts[f"stage_{number}"]) for number in (0, *tokens)]
    return [stages[0], *(replace(each, needed=stages[-1].needed) for each in stages[1:])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed; a model that fails does not end others."""
    options = measure.parse(__doc__, arguments, {"--models": [*SHAPES], "--stored": [*STORED]})
    reason = check_gpu(ask_torch=True).no_cuda_reason
    small, stages, failed = bool(options.quick or reason), [], []
    tokens = (4, 16) if options.quick else TOKENS
    for model in options.models:
        shape, name = SHAPES[model], model
        if small:
            shape, name = scaled_down(shape), f"{model}/8"
        for stored in options.stored:
            try:
                found = measured(name, shape, stored, tokens)
            except RuntimeError as error:
                failed.append((f"{name} {stored}", str(error).splitlines()[-1], "completed", False))
                continue
            stages += found
            print(*found, sep="\n", file=sys.stderr, flush=True)
    return measure.finish(
        options,
        Path(__file__).stem + ("_small" if small else ""),
        f"VRAM of LLaVA-1.5, foretold and measured on {measure.machine()}",
        "Random weights, one picture, a fresh process for each model. Memory in GiB."
        + (f" No GPU was measured ({reason}): small shapes, on the CPU." if reason else ""),
        measure.table(HEAD, [stage.cells() for stage in stages]),
        verdicts=[*verdicts(stages), *failed],
        stages=stages,
    )


if __name__ == "__main__":
    sys.exit(child() if "--child" in sys.argv else main())
