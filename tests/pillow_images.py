"""Open every file of a folder with Pillow and with open_image(), and compare.

    python tests/pillow_images.py FOLDER

Made for Tests/images of Pillow's source archive, which
`pip download --no-deps --no-binary :all: pillow` brings. What Pillow opens has to open, or to be
one of the formats that are left out by name; nothing but ImageError may be raised; each file gets
10 seconds and 2 GiB, in a process of its own, since a damaged file may end the process. Exits with
1 if anything of that is missed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from PIL import Image

from llava_nb import ImageError, open_image
from llava_nb.pixels import NOT_OPENED

SECONDS, BYTES = 10, 2 * 2**30


def by_pillow(path: Path) -> str | None:
    """Return the format if Pillow opens the file and reads its pixels, in the order of its own."""
    try:
        with Image.open(path, formats=[one for one in Image.OPEN if one != "EPS"]) as picture:
            picture.load()
            return picture.format
    except Exception:
        return None


def by_us(path: Path) -> str:
    try:
        return "opened" if open_image(path).mode == "RGB" else "not RGB"
    except BaseException as error:
        return f"{'refused' if isinstance(error, ImageError) else type(error).__name__}: {error}"


def apart(path: Path, work) -> tuple[object, float, int]:
    """Run work(path) in a process of its own: (its result, seconds, most bytes of RAM)."""
    end, begin = os.pipe()
    clock = time.perf_counter()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        result = json.dumps([work(path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])
        os.write(begin, result.encode()[:60_000])
        os._exit(0)
    os.close(begin)
    with open(end, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    result, kibibytes = json.loads(answer) if answer else ("process ended", 0)
    return result, time.perf_counter() - clock, 1024 * kibibytes


def main() -> int:
    Image.init()
    warnings.simplefilter("ignore")
    counts, faults, slowest, largest = Counter(), [], 0.0, 0
    for path in sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file()):
        form, _, _ = apart(path, by_pillow)
        said, seconds, size = apart(path, by_us)
        slowest, largest = max(slowest, seconds), max(largest, size)
        opens = form not in (None, "process ended")
        counts["Pillow opens" if opens else "Pillow does not open", said.partition(":")[0]] += 1
        missed = opens and said != "opened" and form not in NOT_OPENED
        foreign = not said.startswith(("opened", "refused"))
        if missed or foreign or seconds > SECONDS or size > BYTES:
            faults.append(f"{path.name} ({form}): {said}; {seconds:.1f} s, {size / 2**30:.2f} GiB")
        elif not opens and said == "opened":
            print(f"opened, which Pillow does not: {path.name}")
    for key, count in sorted(counts.items()):
        print(f"{count:5}  {', '.join(key)}")
    print(f"slowest {slowest:.1f} s, largest process {largest / 2**30:.2f} GiB")
    print(*faults, f"{len(faults)} faults", sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
