"""A folder through a real local Ray: the rows, the death of a worker, and the speed of two.

    python tests/unit/ray_folders.py FOLDER [--pictures 64] [--speed]

FOLDER gets pictures and tables. Prints JSON: whether two workers make the rows of one model; how
many rows there are after one of them was killed with SIGKILL in the middle, and how many of those
failed; with --speed, pictures a second of one worker and of two, counted from the first batch that
is back, so that starting Ray and loading models is left out. Used by test_folder_ray.py. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import ray

from llava_nb import load
from llava_nb.folder import caption_folder
from llava_nb.folder.journal import Journal
from llava_nb.tiny.scenes import draw, sample_scene

SIDE, TOKENS, BATCH = 64, 24, 8


def main(arguments=None):
    options = parse(arguments)
    pictures = draw_pictures(options.folder / "pictures", options.pictures)
    llava = load("tiny")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

    def caption(name, **more):
        settings = {"max_new_tokens": TOKENS, "batch_size": BATCH, "progress": False} | more
        return caption_folder(llava, pictures, options.folder / name, **settings)

    local = timeless(caption("local.csv"))
    spread = caption("spread.csv", engine="ray")
    report = {"pictures": options.pictures, "same": timeless(spread) == local}
    died = threading.Thread(target=kill_a_worker, args=(options.folder / "death.csv",))
    died.start()
    after = caption("death.csv", engine="ray")
    died.join()
    report["killed"] = killed
    report["after_death"] = {"rows": len(after.rows()), "failed": after.failed}
    report["same_after_death"] = timeless(after) == local
    if options.speed:
        report["one"] = speed(lambda: caption("one.csv", engine="ray", workers=1))
        report["two"] = speed(lambda: caption("two.csv", engine="ray", workers=2))
    ray.shutdown()  # which prints in a thread of its own, also about the worker that died
    print(json.dumps(report))


def draw_pictures(folder, number):
    folder.mkdir(parents=True)
    for place in range(number):
        draw(sample_scene(Random(f"ray {place}")), SIDE).save(folder / f"{place:04}.png")
    return folder


def timeless(result):
    return [asdict(replace(row, seconds=0.0)) for row in result.rows()]


killed = []


def kill_a_worker(output):
    """Wait until two batches are on the disk, then end one of the workers that Ray started."""
    for _ in range(6000):
        if output.exists() and output.read_bytes().count(b"\n") > 2 * BATCH:
            break
        time.sleep(0.02)
    workers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_ours(pid)]
    for pid in workers[:1]:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)


def is_ours(pid):
    """Whether this is a worker with a model, of the Ray that this process started."""
    try:
        if b"Captioner" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if pid == os.getpid():
                return True
    except OSError:
        pass
    return False


def speed(caption):
    moments = []
    real = Journal.append

    def append(journal, rows):
        real(journal, rows)
        moments.append((time.perf_counter(), len(rows)))

    Journal.append = append
    try:
        caption()
    finally:
        Journal.append = real
    return sum(count for _, count in moments[1:]) / (moments[-1][0] - moments[0][0])


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--speed", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
