"""The NVIDIA GPUs of this machine, asked of `nvidia-smi`, which does not initialise CUDA.

Covered: name, compute capability, VRAM, driver; the choice in CUDA_VISIBLE_DEVICES; the
same facts from torch for whoever asks, which does initialise CUDA.
Not covered: GPUs of other makers, parts of a GPU (MIG), what follows from the facts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace

TIMEOUT_SECONDS = 10.0
MIB = 2**20
_FIELDS = ("name", "compute_cap", "memory.total", "memory.free", "driver_version")
NOT_FOUND = "nvidia-smi was not found"


@dataclass(frozen=True)
class Gpu:
    """A GPU. `index` is torch's number for it; memory in bytes; None is unknown."""

    index: int
    name: str
    capability: tuple[int, int] | None
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Reading:
    """What was learnt: the visible GPUs, the driver, and why there is nothing more.

    `driver_cuda` is the newest CUDA version that the driver supports.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    driver_cuda: str | None = None
    problem: str | None = None


class _Silent(Exception):
    """nvidia-smi gave no usable answer; the message is the reason."""


def read() -> Reading:
    """Ask `nvidia-smi`; waits `TIMEOUT_SECONDS` for an answer at most, and does not raise."""
    try:
        answer = _run(f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
    except _Silent as error:
        return Reading(problem=str(error))
    found = [gpu for gpu in map(_parse, answer.strip().splitlines()) if gpu is not None]
    if not found:
        return Reading(problem=f'nvidia-smi says "{_first_line(answer)}"')
    driver = found[0][1]
    gpus = _visible([replace(gpu, index=index) for index, (gpu, _) in enumerate(found)])
    problem = None if gpus else "CUDA_VISIBLE_DEVICES hides every GPU"
    return Reading(gpus, driver, _driver_cuda(), problem)


def _run(*arguments: str) -> str:
    """The output of `nvidia-smi`. Raises _Silent if it is missing, hangs or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        raise _Silent(NOT_FOUND)
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    try:
        process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, **quiet)
    except OSError as error:
        raise _Silent(f"nvidia-smi does not start: {error.strerror}") from error
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        _abandon(process)
        raise _Silent(f"nvidia-smi gave no answer in {TIMEOUT_SECONDS:g} s") from None
    text = output.decode(errors="replace")
    if process.returncode != 0:
        raise _Silent(f'nvidia-smi says "{_first_line(text)}"')
    return text


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Kill without waiting for ever: a process caught inside a broken driver does not die."""
    process.kill()
    if process.stdout:
        process.stdout.close()
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        pass


def _first_line(text: str) -> str:
    """The first line, short enough for a report and without the name of the home folder."""
    lines = text.strip().splitlines() or ["nothing"]
    return lines[0].replace(os.path.expanduser("~"), "~")[:160]


def _parse(line: str) -> tuple[Gpu, str | None] | None:
    """A GPU and its driver from a line of the query; None if the line is something else."""
    name, *others = (field.strip() for field in line.rsplit(",", len(_FIELDS) - 1))
    # "[N/A]", "[Not Supported]" and the like stand for what the driver cannot tell.
    odd = [field for field in others if not re.match(r"\d|\[", field)]
    if not name or odd or len(others) != len(_FIELDS) - 1:
        return None
    capability, total, free, driver = (None if text[0] == "[" else text for text in others)
    return Gpu(0, name, _capability(capability), _mib(total), _mib(free)), driver


def _capability(text: str | None) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def _mib(text: str | None) -> int | None:
    found = re.match(r"\d+", text or "")
    return int(found[0]) * MIB if found else None


def _driver_cuda() -> str | None:
    """The newest CUDA version for the driver, which only the table's head has."""
    try:
        found = re.search(r"CUDA[\w ]* Version\s*:\s*(\d+\.\d+)", _run())
    except _Silent:
        return None
    return found.group(1) if found else None


def _visible(gpus: list[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order and numbered as torch does.

    As CUDA reads it: a list of numbers that ends at the first which does not exist.
    UUIDs are not looked up: all GPUs stay.
    """
    choice = os.environ.get("CUDA_VISIBLE_DEVICES")
    if choice is None or "GPU-" in choice or "MIG-" in choice:
        return tuple(gpus)
    visible: list[Gpu] = []
    for entry in choice.split(","):
        if not entry.strip().isdigit() or int(entry) >= len(gpus):
            break
        visible.append(replace(gpus[int(entry)], index=len(visible)))
    return tuple(visible)


def ask_torch() -> tuple[bool, Reading]:
    """Import torch and ask it: does it see a GPU, and which. Initialises CUDA; may raise."""
    import torch

    if not torch.cuda.is_available():
        return False, Reading(problem="torch.cuda.is_available() is False")
    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name, capability = (
            torch.cuda.get_device_name(index),
            torch.cuda.get_device_capability(index),
        )
        gpus.append(Gpu(index, name, capability, total, free))
    return True, Reading(tuple(gpus))
