"""How much RAM it takes to load a LLaVA in 4 bits, whatever the layout and the shards.

    python tests/benchmarks/load_memory.py [--size-gib 2] [--shards 1 8] [--layouts original ...]
                                           [--folder DIR] [--quick] [--write]

Makes a checkpoint with random weights, by default 2 GiB of float16 in one file and again in eight,
in both layouts. Each is loaded by `llava_nb.load(folder)` in a fresh process, and in the
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import Verdict, at_most, child_request, finish, page, parser, table, watch

MB = 10**6  # the bars are given in those
ALLOWANCE, APART = 600 * MB, 15.0
HEAD = ("loader, layout, shards", "file MB", "seconds", "CPU seconds", "model MB")
HEAD += ("peak anonymous MB", "left MB", "peak file-backed MB", "`load()` asks for MB")


@dataclass(frozen=True)
class Row:
    """One load: bytes and seconds. `peak` and `left` are anonymous, over the imports."""

    loader: str
    layout: str
    shards: int
    files: int
    seconds: float
    cpu_seconds: float
    model: int
    imports: int
    peak: int
    left: int
    peak_file: int
    asked_for: int
    gap: float

    def cells(self) -> tuple[str, ...]:
        """Return the line of the table."""
        sizes = (self.model, self.peak, self.left, self.peak_file, self.asked_for)
        seconds = f"{self.seconds:.0f}", f"{self.cpu_seconds:.0f}"
        what = f"{self.loader}, {self.layout}, {self.shards}"
        return what, f"{self.files / MB:.0f}", *seconds, *(f"{each / MB:.0f}" for each in sizes)


def child() -> None:
    """Load as the request says, with a mark after each step."""
    request, mark = child_request()
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

    mark("imports")
    began = time.perf_counter(), time.process_time()
    if request["loader"] == "llava_nb":
        llava = load(request["folder"])
        network = llava.model
    else:
        device, dtype = device_and_dtype(check_gpu(ask_torch=True))
        network = transformers.LlavaForConditionalGeneration.from_pretrained(
            request["folder"],
            dtype=dtype,
            device_map={"": device},
            quantization_config=settings("4bit", dtype),
        )
    took = {
        "seconds": time.perf_counter() - began[0],
        "cpu_seconds": time.process_time() - began[1],
    }
    mark("loaded", **took)
    mark("end", model=model_bytes(network))


def model_bytes(network: Any) -> int:
    """Bytes of a network: parameters, buffers and quantisation state, each storage once."""
    storages = (tensor.untyped_storage() for tensor in tensors_of(network))
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def tensors_of(network: Any) -> Iterator[Any]:
    """All tensors that a network holds."""
    import torch

    yield from network.buffers()
    for parameter in network.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            inside = vars(part).values() if part is not None else ()
            yield from (each for each in inside if isinstance(each, torch.Tensor))


def drop_from_cache(folder: Path) -> None:
    """Drop the files of a checkpoint, and of the tower beside it, from the page cache."""
    for file in (each for each in folder.parent.rglob("*") if each.is_file()):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())  # pages that are not on the disk yet cannot be dropped
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def verdicts(rows: Sequence[Row], *, judged: bool) -> list[Verdict]:
    """Return every bar."""
    ours = [row for row in rows if row.loader == "llava_nb"]
    found = [
        at_most(
            f"{row.layout}, shards: {row.shards}: peak, MB",
            row.peak / MB,
            (row.model + ALLOWANCE) // MB,
            judged=judged,
        )
        for row in ours
    ]
    for layout in dict.fromkeys(row.layout for row in ours):
        peaks = [row.peak for row in ours if row.layout == layout]
        apart = 100 * (1 - min(peaks) / max(peaks))
        found.append(at_most(f"{layout}: shards against one, % apart", apart, APART, judged=judged))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a bar is missed."""
    from checkpoints import LAYOUTS, shape_for, weight_file_sizes, write_checkpoint

    from llava_nb.sizes import GIB, needed_ram_bytes

    made = parser(__doc__)
    made.add_argument("--size-gib", type=float, default=2.0, help="of float16 (default: 2)")
    made.add_argument("--shards", type=int, nargs="+", default=[1, 8])
    made.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    made.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = made.parse_args(arguments)
    shape, rows = shape_for(round((0.02 if options.quick else options.size_gib) * GIB)), []
    for layout in options.layouts:
        for shards in options.shards:
            with tempfile.TemporaryDirectory(dir=options.folder) as place:
                folder = write_checkpoint(Path(place), shape, layout, shards)
                for loader in ("llava_nb", "from_pretrained"):
                    if loader == "from_pretrained" and layout == "original":
                        continue  # transformers fills such a model with random numbers
                    drop_from_cache(folder)
                    seen = watch(__file__, {"loader": loader, "folder": str(folder)})
                    (base, base_file), facts = seen.now["imports"], seen.facts
                    row = Row(
                        loader=loader,
                        layout=layout,
                        shards=shards,
                        files=sum(weight_file_sizes(folder)),
                        **facts,
                        imports=base,
                        peak=seen.peaks["loaded"][0] - base,
                        left=seen.now["loaded"][0] - base,
                        peak_file=seen.peaks["loaded"][1] - base_file,
                        asked_for=needed_ram_bytes(shape, "4bit", on_gpu=False),
                        gap=seen.gap,
                    )
                    rows.append(row)
                    print(row, file=sys.stderr, flush=True)
    found = verdicts(rows, judged=not options.quick)
    text = page(
        "Memory for loading in 4 bits",
        f"{shape}, random weights. Peaks, and what is left when the model is loaded, are over the "
        f"imports, which take {max(row.imports for row in rows) / MB:.0f} MB. MB is 10^6 bytes. "
        f"The longest gap between two readings was {max(row.gap for row in rows):.2f} s.",
        table(HEAD, [row.cells() for row in rows]),
        verdicts=found,
    )
    return finish("load_memory", text, {"shape": shape, "rows": rows}, found, options)


if __name__ == "__main__":
    sys.exit(child() if "--child" in sys.argv else main())
