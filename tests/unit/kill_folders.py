"""Captions a folder again and again, killed at random moments, until all is done.

    python tests/unit/kill_folders.py FOLDER [--kills 30] [--pictures 300] [--ending .csv]

FOLDER gets the pictures, a table made in peace, and one made under kills. The model is loaded
once, and every run to be killed is a fork; its run ends by SIGKILL, so that nothing of ours can
clean up. Prints as JSON what there was after each kill, and how the two tables compare.
Used by test_folder_kills.py. Linux and macOS.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

from llava_nb import load
from llava_nb.folder import caption_folder
from llava_nb.folder.journal import Journal
from llava_nb.tiny.scenes import draw, sample_scene

GIVEN_UP_SECONDS = 540  # a run that hangs shows where, and ends
SIDE, TOKENS = 64, 6  # small pictures and short answers: what is tested is the writing
BATCH, START_SECONDS = 8, 0.1


def main(arguments=None):
    options = parse(arguments)
    faulthandler.dump_traceback_later(GIVEN_UP_SECONDS, exit=True)
    pictures = draw_pictures(options.folder / "pictures", options.pictures)
    llava = load("tiny")

    def caption(output):
        settings = {"max_new_tokens": TOKENS, "batch_size": BATCH, "text_files": options.texts}
        return caption_folder(llava, pictures, output, progress=False, **settings)

    started = time.perf_counter()
    peace = caption(options.folder / f"peace{options.ending}").rows()
    longest = time.perf_counter() - started
    for text in pictures.glob("*.txt"):
        text.unlink()
    output = options.folder / f"killed{options.ending}"
    random, rounds = Random(options.seed), []
    kills = 0
    while kills < options.kills:
        left = longest * (1 - (rounds[-1]["saved"] if rounds else 0) / options.pictures)
        share = left / (options.kills - kills)  # so that the last kill has work to cut, too
        cut = killed(lambda: caption(output), random.uniform(0, 2 * share + START_SECONDS))
        kills += cut
        rounds.append(what_is_there(output))
    last = caption(output)
    rows = last.rows()
    report = {
        "pictures": options.pictures,
        "kills": kills,
        "torn": sum(each["torn"] for each in rounds),
        "saved": [each["saved"] for each in rounds],
        "kept_by_the_last_run": last.kept,
        "rows": len(rows),
        "names": len({row.file for row in rows}),
        "equal": [timeless(row) for row in rows] == [timeless(row) for row in peace],
        "texts": sum(text.read_text() == row.caption for text, row in texts(pictures, rows)),
        "beside": sorted(each.name for each in options.folder.iterdir()),
    }
    print(json.dumps(report))


def draw_pictures(folder, number):
    folder.mkdir(parents=True)
    for place in range(number):
        draw(sample_scene(Random(f"kill {place}")), SIDE).save(folder / f"{place:04}.png")
    return folder


def killed(work, after):
    """Do the work in a fork; True if SIGKILL after some seconds came before its end."""
    child = os.fork()
    if child == 0:
        Journal._write = write_slowly
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("A run that was to be killed failed by itself: see above.")
    return os.WIFSIGNALED(status)


def write_slowly(journal, data):
    """A disk so slow that many kills come in the middle of a row."""
    for start in range(0, len(data), 100):
        journal._file.write(data[start : start + 100])
        time.sleep(0.002)


def what_is_there(output):
    """How many whole rows there are after a kill, and whether one is torn."""
    rows = output.with_name(f"{output.name}.jsonl")
    file = rows if rows.exists() else output
    content = file.read_bytes() if file.exists() else b""
    head = output.suffix == ".csv" and b"\n" in content
    return {"saved": content.count(b"\n") - head, "torn": content[-1:] not in (b"\n", b"")}


def timeless(row):
    return asdict(replace(row, seconds=0.0))


def texts(folder, rows):
    pairs = [((folder / row.file).with_suffix(".txt"), row) for row in rows]
    return [(text, row) for text, row in pairs if text.exists()]


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--ending", default=".csv", help=".csv, .jsonl or .parquet")
    parser.add_argument("--texts", action="store_true", help="a .txt beside each picture, too")
    parser.add_argument("--seed", default="kill")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
