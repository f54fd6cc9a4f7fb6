"""Loading at the true sizes of LLaVA-1.5, on CUDA: seconds, RAM, VRAM beside what was foretold.

    python tests/benchmarks/load_memory.py --gpu 13b

Writes a checkpoint of the true shape with random weights, shard by shard, a CLIP ViT-L/14 of 336
pixels with it, and loads it by `llava_nb.load(folder)` in a fresh process; then it asks once about
a picture. 7B takes 15 GB of disk, 13B 28 GB, and a shard's size in RAM while it is written.

RAM is what `process_memory.py` reads, over the process once CUDA has started, which takes RAM of
its own. VRAM is torch's own count, and by how much less of the GPU is free than before ("used"),
CUDA's context included; `needed_vram_bytes` has to cover the latter. Other processes that come or
go meanwhile spoil it. CUDA's start is not in the seconds.

Without a GPU the same is done on the CPU, without the figures for VRAM: so the tests run it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checkpoint_settings import CONTEXT_TOKENS
from checkpoints_to_measure import weight_file_sizes, write_checkpoint
from fresh_loads import check_disk, load_fresh
from load_memory_table import about, write_results

from llava_nb.catalog import find
from llava_nb.gpu import check_gpu
from llava_nb.sizes import (
    FULL,
    GIB,
    Shape,
    format_gib,
    needed_ram_bytes,
    needed_vram_bytes,
    tower_parameters,
    weights_bytes,
)

SHAPES = {"7b": find("llava-1.5-7b").shape, "13b": find("llava-1.5-13b").shape}
SHARD_BYTES = 2 * GIB
ANSWER_TOKENS = 64


@dataclass(frozen=True)
class GpuRow:
    """One load, in bytes and seconds. `peak_ram` is anonymous, over CUDA's start; VRAM is None
    on a CPU. `foretold_` is what `sizes.py` says should be free."""

    model: str
    layout: str
    shards: int
    file_bytes: int
    largest_file: int
    device: str
    load_seconds: float
    answer_seconds: float
    answer_tokens: int
    model_bytes: int
    imports_ram: int
    cuda_ram: int
    peak_ram: int
    peak_ram_answering: int
    peak_file: int
    foretold_ram: int
    vram_allocated_loading: int | None
    vram_reserved_loading: int | None
    vram_used_loading: int | None
    vram_allocated_answering: int | None
    vram_reserved_answering: int | None
    vram_used_answering: int | None
    foretold_vram: int

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Name and value of every figure, for people."""
        shown = []
        for name, value in vars(self).items():
            if isinstance(value, float):
                value = f"{value:.1f} s"
            elif name.endswith(("_bytes", "_file")) or "ram" in name:
                value = format_gib(value)
            shown.append((name.replace("_", " "), str(value)))
        return shown

    @property
    def verdicts(self) -> list[tuple[str, bool | None]]:
        """What was foretold, and whether it was enough; None where it could not be seen."""
        ram = self.cuda_ram + max(self.peak_ram, self.peak_ram_answering)
        used = [self.vram_used_loading, self.vram_used_answering]
        enough = None if None in used else max(used) <= self.foretold_vram
        return [
            ("the RAM foretold is enough", ram <= self.foretold_ram),
            ("the VRAM foretold is enough", enough),
        ]


def measure_on_gpu(name: str, shape: Shape, layout: str, shards: int, folder: Path) -> GpuRow:
    """Write the checkpoint into `folder`, load it and ask once.

    Raises RuntimeError, with what the process said, if it does not reach its end.
    """
    model = write_checkpoint(folder, shape, layout, shards)
    run = load_fresh("llava_nb", model, on_gpu=True, answer_tokens=ANSWER_TOKENS)
    if not run.completed:
        raise RuntimeError(f"{name} could not be loaded, code {run.code}:\n{run.said}")
    marks, files = run.marks, weight_file_sizes(model)
    base = marks["cuda"].now
    on_gpu = run.facts["device"] != "CPU"
    vram = {
        f"vram_{what}_{when}": run.facts.get(f"vram_{what}_{when}")
        for what in ("allocated", "reserved", "used")
        for when in ("loading", "answering")
    }
    return GpuRow(
        model=name,
        layout=layout,
        shards=len(files),
        file_bytes=sum(files),
        largest_file=max(files),
        device=run.facts["device"],
        load_seconds=run.facts["seconds"],
        answer_seconds=run.facts["answer_seconds"],
        answer_tokens=run.facts["answer_tokens"],
        model_bytes=run.facts["model_bytes"],
        imports_ram=marks["imports"].now.anonymous,
        cuda_ram=base.anonymous - marks["imports"].now.anonymous,
        peak_ram=marks["loaded"].peak.anonymous - base.anonymous,
        peak_ram_answering=marks["answered"].peak.anonymous - base.anonymous,
        peak_file=marks["loaded"].peak.file - base.file,
        foretold_ram=needed_ram_bytes(shape, "4bit", on_gpu=on_gpu),
        foretold_vram=needed_vram_bytes(shape, "4bit", CONTEXT_TOKENS),
        **vram,
    )


def markdown(row: GpuRow) -> str:
    """Return the figures, for people."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    lines = [f"# Loading LLaVA-1.5 {row.model} in 4 bits on a GPU", ""]
    lines += [f"{about()}. Random weights.", "", "| figure | |", "| --- | ---: |"]
    lines += [f"| {name} | {value} |" for name, value in row.lines]
    lines += ["", "| bar | |", "| --- | --- |"]
    lines += [f"| {name} | {words[met]} |" for name, met in row.verdicts]
    return "\n".join([*lines, ""])


def disk_bytes(shape: Shape) -> int:
    """Return what a checkpoint takes on the disk, with a tower in float32 beside it."""
    return weights_bytes(shape, None) + FULL * tower_parameters(shape)


def report(options: argparse.Namespace) -> int:
    """Measure, print, and return 1 if a bar is missed; SystemExit without a GPU."""
    reason = check_gpu(ask_torch=True).no_cuda_reason
    if reason:
        raise SystemExit(f"--gpu needs an NVIDIA GPU: {reason}. On the CPU: leave --gpu out.")
    name, shape = options.gpu, SHAPES[options.gpu]
    check_disk(options.folder, disk_bytes(shape))
    shards = (options.shards or [math.ceil(weights_bytes(shape, None) / SHARD_BYTES)])[0]
    layout = (options.layouts or ["original"])[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        row = measure_on_gpu(name, shape, layout, shards, Path(place))
    text = markdown(row)
    print(text)
    if options.write:
        write_results(f"load_memory_{name}", text, {"row": row})
    return int(any(met is False for _, met in row.verdicts))
