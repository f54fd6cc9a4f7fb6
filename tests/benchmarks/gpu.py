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

from measure import Verdict, child_request, exactly, finish, machine, page, parser, table, watch

STORED = {"4bit": "4bit", "8bit": "8bit", "none": None}
TOKENS, APART, GIB = (64, 1024), 0.05, 2**30
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
    def in_use(self) -> int | None:
        """Tensors and CUDA's context: the process without what torch keeps unused."""
        if None in (self.allocated, self.reserved, self.process):
            return None
        return self.allocated + self.process - self.reserved

    def cells(self) -> tuple[str, ...]:
        """Return the line of the table, memory in GiB."""
        apart = f"{100 * (self.foretold / self.in_use - 1):+.1f}" if self.in_use else ""
        held = (self.allocated, self.reserved, self.process)
        writing = self.seconds - self.first_token_seconds
        speed = f"{(self.tokens - 1) / writing:.1f}" if self.tokens else ""
        first = f"{self.first_token_seconds:.2f}" if self.tokens else ""
        sizes = ["" if each is None else f"{each / GIB:.3f}" for each in (self.in_use, *held)]
        told = f"{self.foretold / GIB:.3f}"
        return self.label, told, sizes[0], apart, *sizes[1:], f"{self.seconds:.1f}", first, speed


def child() -> None:
    """Make the model that the request says and ask it, with a mark after each step."""
    request, mark = child_request()
    import torch
    from checkpoints import make_random

    from llava_nb import check_gpu, estimate_vram, example_picture, open_image
    from llava_nb.loading.load import device_and_dtype
    from llava_nb.sizes import CONTEXT, Shape
    from llava_nb.vram.track import peak_on

    device = torch.device(device_and_dtype(check_gpu(ask_torch=True))[0])
    on_gpu, free_before = device.type == "cuda", 0
    if on_gpu:
        gpus = {gpu.index: gpu.free_bytes for gpu in check_gpu().gpus}  # leaves CUDA alone
        free_before = gpus.get(device.index) or 0
        torch.zeros(1, device=device)

    def held() -> dict[str, int]:
        if not on_gpu:
            return {}
        reserved = torch.cuda.max_memory_reserved(device)
        given_back = reserved - torch.cuda.memory_reserved(device)
        process = free_before - torch.cuda.mem_get_info(device)[0] + given_back
        found = {"allocated": torch.cuda.max_memory_allocated(device), "reserved": reserved}
        return found | ({"process": process} if free_before else {})

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
    for tokens in TOKENS:
        with exactly(llava, tokens), peak_on(llava.device) as peak:
            answer = llava.ask(picture, QUESTION, max_new_tokens=tokens)
        if answer.tokens != tokens:
            raise RuntimeError(f"{answer.tokens} tokens were made instead of {tokens}")
        question = answer.prompt_tokens - llava.model.config.image_seq_length
        told = estimate_vram(llava, prompt_tokens=question, max_new_tokens=tokens)
        stage = {
            "foretold": told.total_bytes,
            "needed": told.needed_bytes,
            "seconds": answer.seconds,
            "first_token_seconds": answer.first_token_seconds,
            **held(),
        }
        if on_gpu:  # ask() may begin torch's peak anew more than once
            stage["allocated"] = peak.highest
        mark(f"answered {tokens}", **{f"stage_{tokens}": stage})
    mark("end")


def verdicts(stages: Sequence[Stage]) -> list[Verdict]:
    """Return every bar; without a GPU none is measured."""
    found: list[Verdict] = []
    for stage in (each for each in stages if each.tokens):
        apart = None if stage.in_use is None else stage.foretold / stage.in_use - 1
        figure = "" if apart is None else f"{100 * apart:+.1f}"
        met = None if apart is None else abs(apart) <= APART
        found.append((f"{stage.label}: estimate from the peak in use, %", figure, "5", met))
        bars = {"what load() wants free": stage.needed}
        if stage.tokens == max(TOKENS) and (stage.model, stage.stored) in BELOW:
            bars["the most that it may take"] = BELOW[stage.model, stage.stored]
        for name, bar in bars.items():
            figure = "" if stage.process is None else f"{stage.process / GIB:.2f} GiB"
            met = None if stage.process is None else stage.process <= bar
            what = f"{stage.label}: the process, of {name}"
            found.append((what, figure, f"at most {bar / GIB:.2f} GiB", met))
    return found


def measure(name: str, shape: Any, stored: str) -> list[Stage]:
    """Measure one model in a fresh process. Raises RuntimeError if it does not reach its end."""
    request = {"name": name, "shape": asdict(shape), "quantization": STORED[stored]}
    facts = watch(__file__, request).facts
    stages = [Stage(name, stored, tokens, **facts[f"stage_{tokens}"]) for tokens in (0, *TOKENS)]
    return [stages[0], *(replace(each, needed=stages[-1].needed) for each in stages[1:])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed; a model that fails does not end others."""
    from checkpoints import SHAPES, scaled_down

    from llava_nb import check_gpu

    made = parser(__doc__)
    made.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    made.add_argument("--stored", nargs="+", choices=STORED, default=list(STORED))
    options = made.parse_args(arguments)
    reason = check_gpu(ask_torch=True).no_cuda_reason
    small, stages, failed = bool(options.quick or reason), [], []
    for model in options.models:
        shape, name = SHAPES[model], model
        if small:
            shape, name = scaled_down(shape), f"{model}/8"
        for stored in options.stored:
            try:
                found = measure(name, shape, stored)
            except RuntimeError as error:
                failed.append((f"{name} {stored}", str(error).splitlines()[-1], "completed", False))
                continue
            stages += found
            print(*found, sep="\n", file=sys.stderr, flush=True)
    bars = [*verdicts(stages), *failed]
    text = page(
        f"VRAM of LLaVA-1.5, foretold and measured on {machine()}",
        "Random weights, one picture, a fresh process for each model. Memory in GiB."
        + (f" No GPU was measured ({reason}): small shapes, on the CPU." if reason else ""),
        table(HEAD, [stage.cells() for stage in stages]),
        verdicts=bars,
    )
    stem = Path(__file__).stem + ("_small" if small else "")
    return finish(stem, text, {"stages": stages}, bars, options)


if __name__ == "__main__":
    sys.exit(child() if "--child" in sys.argv else main())
