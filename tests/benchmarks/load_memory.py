"""How much RAM it takes to load a LLaVA in 4 bits, and whether a memory limit lets it through.

    python tests/benchmarks/load_memory.py [--size-gib 2] [--shards 1 8] [--layouts original ...]
                                           [--limit] [--folder DIR] [--write]
    python tests/benchmarks/load_memory.py --gpu 7b|13b [--shards N] [--layouts LAYOUT] [--write]

Makes a checkpoint with random weights, by default 2 GiB of float16 in one file and again in eight,
in both layouts. Each is loaded by `llava_nb.load(folder)` in a fresh process, and in the
transformers layout by plain `from_pretrained` with the same quantisation as well.

The figure is the peak of anonymous memory over what the process holds after its imports. Pages of
mapped files are given apart: the kernel takes them back when it needs them. It is read from outside
every 5 ms; `process_memory.py` says what that can miss. "The model" is every parameter, buffer and
scale as loaded, float32 on a CPU where it is not quantised. Files are dropped from the page cache
before each load, so that seconds include the disk, and that a limit counts their pages. Seconds of
the processor are given beside those of the clock, which other work on the machine prolongs.

--limit loads again in a memory cgroup of: anonymous memory of the imports + the model + 600 MB. The
control reads a `.bin` file whole under the same limit, which has to fail. --gpu is another
measurement: the true shapes of LLaVA-1.5 on CUDA (`load_on_gpu.py`). --write keeps what is printed
under results/, as Markdown and JSON. Returns 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import load_on_gpu
from checkpoints_to_measure import LAYOUTS, shape_for, weight_file_sizes, write_checkpoint
from fresh_loads import check_disk, load_fresh, load_limited
from load_memory_table import ALLOWANCE, Limited, Row, markdown, missed, write_results

from llava_nb.sizes import GIB, Shape, needed_ram_bytes, weights_bytes


def measure(loader: str, layout: str, folder: Path, shape: Shape, *, limit: bool) -> Row:
    """Load the checkpoint in `folder` once in a fresh process, and with `limit` again under one.

    Raises RuntimeError, with what the process said, if it fails without a limit.
    """
    run = load_fresh(loader, folder)
    if not run.completed:
        raise RuntimeError(f"{loader} could not load {folder}, code {run.code}:\n{run.said}")
    base, loaded = run.marks["cuda"].now, run.marks["loaded"]
    files = weight_file_sizes(folder)
    model_bytes = run.facts["model_bytes"]
    most = base.anonymous + model_bytes + ALLOWANCE
    return Row(
        loader=loader,
        layout=layout,
        shards=len(files),
        file_bytes=sum(files),
        seconds=run.facts["seconds"],
        cpu_seconds=run.facts["cpu_seconds"],
        threads=run.facts["threads"],
        model_bytes=model_bytes,
        imports_anonymous=base.anonymous,
        peak_anonymous=loaded.peak.anonymous - base.anonymous,
        left_anonymous=loaded.now.anonymous - base.anonymous,
        peak_file=loaded.peak.file - base.file,
        unseen=loaded.unseen,
        longest_gap=loaded.gap,
        swapped=loaded.swapped,
        asked_for=needed_ram_bytes(shape, "4bit", on_gpu=False),
        limited=load_limited(loader, folder, most) if limit else None,
    )


def measure_all(
    shape: Shape, layouts: Sequence[str], shards: Sequence[int], folder: Path, *, limit: bool
) -> tuple[list[Row], list[Limited]]:
    """Measure every layout with every number of shards; one checkpoint is on the disk at a time.

    The second value is the control: reading the original layout's files whole, if they are so
    large that the limit has to stop it.
    """
    rows, controls = [], []
    check_disk(folder, weights_bytes(shape, None))
    for layout in layouts:
        for number in shards:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                model = write_checkpoint(Path(place), shape, layout, number)
                loaders = ("llava_nb", *(["from_pretrained"] if layout == "transformers" else []))
                for loader in loaders:
                    rows.append(measure(loader, layout, model, shape, limit=limit))
                    print(rows[-1], file=sys.stderr, flush=True)
                if limit and layout == "original" and rows[-1].file_bytes > rows[-1].bar:
                    controls.append(load_limited("whole", model, rows[-1].limited.limit_bytes))
    return rows, controls


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-gib", type=float, default=2.0, help="of float16 (default: 2)")
    parser.add_argument("--shards", type=int, nargs="+", help="default: 1 and 8; --gpu: of 2 GiB")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, help="default: both; --gpu: one")
    parser.add_argument("--limit", action="store_true", help="load under a memory limit as well")
    parser.add_argument("--gpu", choices=load_on_gpu.SHAPES, help="a true shape, on CUDA")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--write", action="store_true", help="keep the figures under results/")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, print, and return 1 if a bar is missed."""
    options = parse()
    if options.gpu:
        return load_on_gpu.report(options)
    shape = shape_for(round(options.size_gib * GIB))
    rows, controls = measure_all(
        shape,
        options.layouts or LAYOUTS,
        options.shards or [1, 8],
        options.folder,
        limit=options.limit,
    )
    text = markdown(shape, rows, controls)
    print(text)
    if options.write:
        write_results("load_memory", text, {"shape": shape, "rows": rows, "controls": controls})
    return int(missed(rows, controls))


if __name__ == "__main__":
    sys.exit(main())
