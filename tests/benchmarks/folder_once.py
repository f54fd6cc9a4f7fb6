"""Captions one folder in a process of its own, and says what that took.

Run by `folder.py` as `python folder_once.py FOLDER OUTPUT BATCH TOKENS`. Prints JSON: seconds by
the clock and by the processor, the highest resident memory since the model was loaded, and the
seconds of a second call, which finds everything done. Bytes and seconds. Linux only.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from pathlib import Path

from llava_nb import load
from llava_nb.folder import caption_folder


def highest_memory():
    """The kernel's high-water mark of what this process holds, in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", text)[1])


def main(folder, output, batch, tokens):
    llava = load("tiny")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is held now
    loaded = highest_memory()
    settings = {"batch_size": int(batch), "max_new_tokens": int(tokens), "progress": False}
    clock, processor = time.perf_counter(), time.process_time()
    first = caption_folder(llava, folder, output, **settings)
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - processor
    peak = highest_memory()
    again = caption_folder(llava, folder, output, **settings)
    measured = {
        "pictures": first.total,
        "captioned": first.captioned,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "loaded_bytes": loaded,
        "peak_bytes": peak,
        "again_kept": again.kept,
        "again_seconds": again.seconds,
        "again_peak_bytes": highest_memory(),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
