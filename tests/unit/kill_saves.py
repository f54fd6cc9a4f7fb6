"""Saves the embedded model over another copy, and is killed: at random moments, at each rename.

Run by test_saving_faults.py as `python kill_saves.py FOLDER KILLS` with one thread: the
model is loaded once, and each save to be killed runs in a fork. What is left of each is
looked at here and printed as JSON; half-written folders are kept in FOLDER/left.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

RENAMES = 3  # the old copy aside, the new one in place, the old one under a name to delete


def digest(folder):
    """One number for the names and the bytes of a folder."""
    content = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        content.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return content.hexdigest()


def main(folder, kills):
    from llava_nb import load

    llava = load("tiny")
    copies = {digest(llava.save_4bit(folder / "first")): "first"}
    llava.model.model.multi_modal_projector.linear_1.bias.data += 0.001
    copies[digest(llava.save_4bit(folder / "second"))] = "second"
    random, rounds = Random("kill"), []
    longest = kill(llava, prepare(folder))
    for number in range(kills):
        moment = longest * (number + random.random()) / kills
        target = prepare(folder)
        seconds = kill(llava, target, after=moment)
        rounds.append({"moment": moment / longest, "cut": seconds is None})
        rounds[-1].update(what_is_left(llava, target, copies, folder / "left" / str(number)))
    for number in range(RENAMES):
        target = prepare(folder)
        kill(llava, target, rename=number)
        rounds.append({"rename": number})
        rounds[-1].update(what_is_left(llava, target, copies, folder / "left" / f"rename{number}"))
    print(json.dumps(rounds))


def prepare(folder):
    """A good copy to be replaced, alone in its folder."""
    target = folder / "place" / "my copy"
    shutil.rmtree(target.parent, ignore_errors=True)
    shutil.copytree(folder / "first", target)
    return target


def kill(llava, target, *, after=60.0, rename=None):
    """Save in a fork and end it before its nth rename, or by SIGKILL after some seconds.

    Returns the seconds that the save took, None if it was cut off.
    """
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        count_down(rename)
        llava.save_4bit(target)
        os._exit(0)
    ended, status = 0, 0
    while not ended and time.perf_counter() < started + after:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.0002)
    if not ended:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    return time.perf_counter() - started if status == 0 else None


def count_down(rename):
    real, left = Path.rename, [rename]

    def counted(self, target):
        if left[0] == 0:
            os._exit(9)
        if left[0] is not None:
            left[0] -= 1
        return real(self, target)

    Path.rename = counted


def what_is_left(llava, target, copies, left):
    """Which copies there are after a kill, whether they can be had back, and a save after it."""
    from llava_nb import ModelError
    from llava_nb.checkpoints import locate, previous_copy

    found = {"target": None, "previous": None, "restored": None}
    if target.exists():
        found["target"] = copies.get(digest(target), "damaged")
    if previous_copy(target).exists():
        found["previous"] = copies.get(digest(previous_copy(target)), "damaged")
    for each in target.parent.glob(".*.saving-*"):
        shutil.copytree(each, left / each.name.lstrip("."))
    if not target.exists():
        try:
            locate(target)
        except ModelError as error:
            found["message"] = str(error)
            subprocess.run(str(error).split("put it back with: ")[1], shell=True, check=True)
            found["restored"] = copies.get(digest(target), "damaged")
            target.rename(previous_copy(target))  # as the kill left it
    llava.save_4bit(target)
    found["saved_after"] = copies.get(digest(target), "damaged")
    found["beside"] = sorted(each.name for each in target.parent.iterdir())
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
