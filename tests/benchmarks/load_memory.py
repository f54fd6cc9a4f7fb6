"""How much RAM it takes to load a LLaVA in 4 bits, whatever the layout and the shards.

    python tests/benchmarks/load_memory.py [--shards 8] [--quick] [--write]

Makes a checkpoint with random weights, 2 GiB of float16 in one file and again in eight, in both
layouts (in TMPDIR). Each is loaded by `llava_nb.load(folder)` in a fresh process, and in the
transformers layout by plain `from_pretrained` with the same quantisation as well, on the CPU.

The figure is the peak of anonymous memory over what the process holds after its imports, read from
outside every 5 ms. Pages of mapped files are given apart: the kernel takes them back when it needs
them. "The model" is every parameter, buffer and scale as loaded. Files are dropped from the page
cache before each load, so that seconds include the disk. Linux only. Returns 1 if loading takes
over 600 MB beside the model, or shards and one file differ by more than 15 %.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure

MB = 10**6  # the bars are given in those
ALLOWANCE, APART = 600 * MB, 15.0
# transformers would fill a model in the original layout with random numbers.
LOADS = (("llava_nb", "original"), ("llava_nb", "transformers"))
LOADS += (("from_pretrained", "transformers"),)
# Peaks and what is left are over the imports; "asked for" is what `load()` wants free.
FIGURES = ("files", "model", "peak", "left", "peak_file", "asked_for")
HEAD = ("loader, layout, shards", "seconds", "CPU seconds", "file MB", "model MB")
HEAD += ("peak anonymous MB", "left MB", "peak file-backed MB", "`load()` asks for MB")


def child() -> None:
    """Load as the request says, with a mark after each step."""
    request, mark = measure.child_request()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # All that the loaders import, themselves or on first use, so that what follows is the load's.
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import sentencepiece  # noqa: F401
    import transformers.integrations.bitsandbytes
    import transformers.models.clip.modeling_clip
    import transformers.models.llama.modeling_llama
    import transformers.models.llava.modeling_llava
    import transformers.quantizers.quantizer_bnb_4bit  # noqa: F401

    from llava_nb import check_gpu, load
    from llava_nb.loading.load import device_and_dtype
    from llava_nb.loading.weights import settings
    from llava_nb.vram.report import bytes_by_part

    mark("imports")
    began = time.perf_counter(), time.process_time()
    if request["loader"] == "llava_nb":
        network = load(request["folder"]).model
    else:
        device, dtype = device_and_dtype(check_gpu(ask_torch=True))
        network = transformers.LlavaForConditionalGeneration.from_pretrained(
            request["folder"],
            dtype=dtype,
            device_map={"": device},
            quantization_config=settings("4bit", dtype),
        )
    seconds, cpu_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    mark("loaded", seconds=seconds, cpu_seconds=cpu_seconds)
    mark("end", model=sum(bytes_by_part(network).values()))


def drop_from_cache(folder: Path) -> None:
    """Drop the files of a checkpoint, and of the tower beside it, from the page cache."""
    for file in (each for each in folder.parent.rglob("*") if each.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())  # pages that are not on the disk yet cannot be dropped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(loader: str, layout: str, shards: int, shape: Any) -> dict[str, Any]:
    """Write a checkpoint, load it in a fresh process, and return what that took."""
    from checkpoints import write_checkpoint

    from llava_nb.sizes import needed_ram_bytes

    with tempfile.TemporaryDirectory() as place:
        folder, files = write_checkpoint(Path(place), shape, layout, shards)
        drop_from_cache(folder)
        seen = measure.watch(__file__, {"loader": loader, "folder": str(folder)})
    imports, imports_file = seen.now["imports"]
    return seen.facts | {
        "loader": loader,
        "layout": layout,
        "shards": shards,
        "files": files,
        "imports": imports,
        "peak": seen.peaks["loaded"][0] - imports,
        "left": seen.now["loaded"][0] - imports,
        "peak_file": seen.peaks["loaded"][1] - imports_file,
        "asked_for": needed_ram_bytes(shape, "4bit", on_gpu=False),
        "gap": seen.gap,
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a line of the table."""
    what = ", ".join(str(row[name]) for name in ("loader", "layout", "shards"))
    seconds = (f"{row[name]:.0f}" for name in ("seconds", "cpu_seconds"))
    return what, *seconds, *(f"{row[name] / MB:.0f}" for name in FIGURES)


def verdicts(rows: Sequence[dict[str, Any]]) -> list[measure.Verdict]:
    """Return every bar."""
    found, peaks = [], {}
    for row in (each for each in rows if each["loader"] == "llava_nb"):
        what = f"{row['layout']}, shards: {row['shards']}: peak, MB"
        bar = (row["model"] + ALLOWANCE) // MB
        found.append(measure.at_most(what, row["peak"] / MB, bar))
        peaks.setdefault(row["layout"], []).append(row["peak"])
    for layout, of_layout in peaks.items():
        apart = 100 * (1 - min(of_layout) / max(of_layout))
        found.append(measure.at_most(f"{layout}: shards against one, % apart", apart, APART))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed."""
    from checkpoints import SMALL, TWO_GIB

    options = measure.parse(__doc__, arguments, shards=(8, 1))
    shape, rows = SMALL if options.quick else TWO_GIB, []
    for loader, layout in LOADS[options.quick :]:
        for shards in sorted({1, options.shards}):
            rows.append(measured(loader, layout, shards, shape))
            print(rows[-1], file=sys.stderr, flush=True)
    return measure.finish(
        options,
        "load_memory",
        "Memory for loading in 4 bits",
        f"{shape}, random weights. Peaks, and what is left when the model is loaded, are over the "
        f"imports, which take {max(row['imports'] for row in rows) / MB:.0f} MB. MB is 10^6 bytes. "
        f"The longest gap between two readings was {max(row['gap'] for row in rows):.2f} s.",
        measure.table(HEAD, [cells(row) for row in rows]),
        verdicts=verdicts(rows),
        shape=shape,
        rows=rows,
    )


if __name__ == "__main__":
    sys.exit(child() if "--child" in sys.argv else main())
