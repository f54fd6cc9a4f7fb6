"""Saves the embedded model and is killed on the way: by what has been done, not by the clock.

Run by test_saving.py as `python kill_saves.py FOLDER` with one thread: the model is loaded
once, and each save to be killed runs in a fork. It ends itself before the first, second and further
of its steps (a file opened for writing, a folder made or renamed), and is ended from outside when
so many bytes are written. What is left of each is printed as JSON, and kept in FOLDER/left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

SHARES = (0.2, 0.5, 0.8)  # of the bytes that a whole save writes


def digest(folder):
    """One number for the names and the bytes of a folder."""
    content = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        content.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return content.hexdigest()


def main(folder):
    from llava_nb import load

    llava = load("tiny")
    whole = llava.save_4bit(folder / "whole")
    size, target = written(whole), folder / "place" / "my copy"
    rounds, kills = [], [{"share": share} for share in SHARES]
    kills += [{"step": step} for step in range(1, 100)]
    for how in kills:
        cut = kill(llava, target, size, **how)
        rounds.append({**how, "cut": cut, **what_is_left(llava, target, digest(whole), folder)})
        if "step" in how and not cut:  # it had fewer steps and ran to its end
            break
    print(json.dumps(rounds))


def written(folder):
    """The bytes of all files that are there now; some may go meanwhile."""
    total = 0
    for file in folder.glob("*"):
        try:
            total += file.stat().st_size
        except OSError:
            continue
    return total


def kill(llava, target, size, *, share=None, step=None):
    """Save in a fork and end it at a share of the bytes or before a step; True if it was cut."""
    child = os.fork()
    if child == 0:
        sys.addaudithook(Countdown(target.parent, step))
        llava.save_4bit(target)
        os._exit(0)
    ended, status = os.waitpid(child, os.WNOHANG if share else 0)
    while not ended:
        beside = target.with_name(f".{target.name}.saving-{child}")
        if written(beside) >= share * size:
            os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, 0)
        else:
            ended, status = os.waitpid(child, os.WNOHANG)
    return status != 0


class Countdown:
    """Ends the process before the nth thing that it does to the files below a folder."""

    def __init__(self, folder, steps):
        self.folder, self.left = str(folder), steps

    def __call__(self, event, arguments):
        if self.left is None or event not in ("open", "os.mkdir", "os.rename", "os.rmdir"):
            return
        here = isinstance(arguments[0], (str, os.PathLike)) and self.folder in str(arguments[0])
        if here and not (event == "open" and str(arguments[1]).startswith("r")):
            self.left -= 1
            if self.left == 0:
                os._exit(9)


def what_is_left(llava, target, whole, folder):
    """What stands where the copy should be after a kill, and a save after it."""
    found = {"target": None}
    if target.exists():
        found["target"] = "whole" if digest(target) == whole else "damaged"
        shutil.rmtree(target)
    left = folder / "left"
    for each in target.parent.glob(".*.saving-*"):
        shutil.copytree(each, left / f"{len(list(left.glob('*')))}")
    found["after"] = "whole" if digest(llava.save_4bit(target)) == whole else "damaged"
    found["beside"] = sorted(each.name for each in target.parent.iterdir())
    shutil.rmtree(target.parent)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
