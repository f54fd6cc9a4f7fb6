"""What LLaVA-1.5 takes of a GPU at its true sizes, beside what `estimate_vram()` says.

    python tests/benchmarks/gpu_vram.py [--models 7b 13b] [--stored 4bit 8bit none] [--write]
    python tests/benchmarks/gpu_vram.py --small

For 7B and 13B in 4 bits, in 8 and unquantised, where that fits: memory while it loads and when it
has loaded, at the peak of an answer of 64 tokens about one picture, and at that of one of 1,024;
with seconds, and tokens a second. The weights are random and no file is read: transformers gets
each when it asks for it, so loading holds what it holds in `load()`, but its seconds are not those
of a checkpoint. The end token is forbidden, so all tokens are made.

Each model is measured in a fresh process (`vram_once.py`): CUDA's context and the holes that an
earlier model left are not another's. "Allocated" and "reserved" are torch's own peaks. "Process" is
by how much less of the GPU is free than before CUDA started; other processes that come or go
meanwhile spoil it. "In use" is the process without what torch keeps unused, and the estimate is
held against that. What `load()` wants free has to cover the process as it is.

--small, and a machine without a GPU: shapes of an eighth of the width and the layers, on the CPU,
in RAM, read from outside. What the libraries take at first use is as large as these models, so that
table shows that everything runs, and no bar is held against it.

All on an H200 takes about a quarter of an hour; --models and --stored take a part of it. --write
keeps what is printed under results/, as Markdown and JSON. Returns 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from checkpoint_settings import CONTEXT_TOKENS
from gpu_vram_table import ANSWER_TOKENS, Figures, Stage, markdown, missed
from load_memory_table import write_results
from load_on_gpu import SHAPES
from process_memory import Run, run_watched
from random_model import scaled_down

from llava_nb.gpu import check_gpu, free_ram_bytes
from llava_nb.sizes import Shape, format_gib, needed_ram_bytes, needed_vram_bytes

CHILD = Path(__file__).with_name("vram_once.py")
STORED = {"4bit": "4bit", "8bit": "8bit", "none": None}


def measure(
    name: str, shape: Shape, stored: str | None, tokens: Sequence[int], *, on_gpu: bool
) -> list[Stage]:
    """Make the model in a fresh process, ask for answers of so many `tokens`, return all stages.

    Raises RuntimeError, with what the process said, if it does not reach its end.
    """
    request = {"name": name, "shape": asdict(shape), "quantization": stored}
    run = run_watched({**request, "tokens": list(tokens), "on_gpu": on_gpu}, child=CHILD)
    if not run.completed:
        raise RuntimeError(f"{name} did not reach its end, code {run.code}:\n{run.said}")
    facts = run.facts
    longest = facts[f"estimate_{max(tokens)}"]
    loaded = longest["weights"] + longest["context"]
    about = {"model": name, "stored": stored, "memory": "VRAM" if on_gpu else "RAM"}
    about["needed"] = longest["needed"]
    made = {"seconds": facts["seconds_made"]}
    stages = [
        Stage(**about, when="loading", foretold=None, **_held(run, "made", on_gpu), **made),
        Stage(**about, when="loaded", foretold=loaded, **_held(run, "loaded", on_gpu), **made),
    ]
    for count in tokens:
        stages.append(
            Stage(
                **about,
                when=f"{count:,} tokens",
                foretold=facts[f"estimate_{count}"]["in_use"],
                **_held(run, str(count), on_gpu),
                seconds=facts[f"seconds_{count}"],
                tokens=count,
                first_token_seconds=facts[f"first_token_seconds_{count}"],
            )
        )
    return stages


def _held(run: Run, what: str, on_gpu: bool) -> dict[str, int | None]:
    """Return the most that was held in a stretch: as torch counts, or as read from outside."""
    if on_gpu:
        return {
            kind: run.facts.get(f"vram_{found}_{what}")
            for kind, found in (
                ("allocated", "allocated"),
                ("reserved", "reserved"),
                ("process", "used"),
            )
        }
    mark = run.marks[what if what in run.marks else f"answered {what}"]
    over = mark.peak.anonymous - run.marks["cuda"].now.anonymous
    return {"allocated": over, "reserved": None, "process": mark.peak.resident}


def does_not_fit(shape: Shape, stored: str | None, *, on_gpu: bool) -> str:
    """Return what is short, with the numbers; empty if the model fits, as far as is known."""
    pairs = [("RAM", needed_ram_bytes(shape, stored, on_gpu=on_gpu), free_ram_bytes())]
    if on_gpu:
        free = check_gpu(ask_torch=True).vram_free_bytes
        pairs.append(("VRAM", needed_vram_bytes(shape, stored, CONTEXT_TOKENS), free))
    short = [
        f"{format_gib(needed)} of {what} needed, {format_gib(free)} free"
        for what, needed, free in pairs
        if free is not None and needed > free
    ]
    return "; ".join(short)


def measure_all(
    models: Sequence[str], stored: Sequence[str], tokens: Sequence[int], *, on_gpu: bool
) -> Figures:
    """Measure each model in each form that fits; one that fails does not end the others."""
    figures = Figures(machine(on_gpu=on_gpu))
    for name in models:
        shape, label = (SHAPES[name], name) if on_gpu else (scaled_down(SHAPES[name]), f"{name}/8")
        for form in stored:
            what, short = f"{label} {form}", does_not_fit(shape, STORED[form], on_gpu=on_gpu)
            if short:
                figures.left_out.append(f"{what}: {short}.")
                continue
            try:
                found = measure(label, shape, STORED[form], tokens, on_gpu=on_gpu)
            except RuntimeError as error:
                figures.failed.append(what)
                found = []
                print(error, file=sys.stderr, flush=True)
            figures.stages.extend(found)
            print(*found, sep="\n", file=sys.stderr, flush=True)
    return figures


def machine(*, on_gpu: bool) -> str:
    """Return what is measured on, in words: the GPU and its driver, or the CPU."""
    if not on_gpu:
        return "On a CPU"
    report = check_gpu(ask_torch=True)
    gpu = report.gpu
    capability = ".".join(map(str, gpu.capability or ("unknown",)))
    return (
        f"{gpu.name}, {format_gib(gpu.total_bytes)}, compute capability {capability}, computed in "
        f"{report.compute_dtype}, driver {report.driver}, CUDA {report.torch_cuda} of torch"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--stored", nargs="+", choices=STORED, default=list(STORED))
    parser.add_argument("--tokens", nargs="+", type=int, default=[64, ANSWER_TOKENS])
    parser.add_argument("--small", action="store_true", help="scaled down, on the CPU, in RAM")
    parser.add_argument("--write", action="store_true", help="keep the figures under results/")
    return parser.parse_args(arguments)


def stem(options: argparse.Namespace, *, on_gpu: bool) -> str:
    """Return the name of the files to keep: a part of the models does not replace all of them."""
    chosen = [*options.models, *options.stored]
    part = [] if len(chosen) == len(SHAPES) + len(STORED) else chosen
    return "_".join(["gpu_vram", *([] if on_gpu else ["small"]), *part])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed."""
    options = parse(arguments)
    reason = check_gpu(ask_torch=True).no_cuda_reason
    on_gpu = not (options.small or reason)
    if reason and not options.small:
        print(f"No GPU to measure ({reason}): small shapes, in RAM.", file=sys.stderr)
    figures = measure_all(options.models, options.stored, options.tokens, on_gpu=on_gpu)
    text = markdown(figures)
    print(text)
    if options.write:
        write_results(stem(options, on_gpu=on_gpu), text, {"figures": figures})
    return int(missed(figures))


if __name__ == "__main__":
    sys.exit(main())
