"""Weight files opened without reading them: a shard's size then hardly matters.

A `.bin` shard that torch wrote since 2020 is a zip file and is mapped into memory, as a
safetensors file is: a tensor is read when it is used, and the pages can be given back
at any time. So a 10 GB shard costs no more RAM than its largest tensor. Older `.bin` files
cannot be mapped; they are read whole, if the memory allows.

Covered: opening, and every way in which a file can be bad. Not covered: which files
there are (`checkpoints.py`, `preflight.py`) and what the tensors are called.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import DoesNotFitError, ModelError
from .gpu import ram_bytes
from .sizes import GIB, format_gib

ZIP_START = b"PK\x03\x04"
WORKING_ROOM = GIB // 2  # kept free beside the files that are read whole


def open_weights(files: Iterable[Path]) -> dict[str, Any]:
    """Return the tensors of all `files` by name, none of them read yet.

    The values are tensors over mapped memory (`.bin`) or slices of safetensors, which
    are read by `value[:]`. `from_pretrained(state_dict=...)` takes both.

    Raises ModelError for a file that is damaged, cut short, or wants to run code, and
    DoesNotFitError for files that can only be read whole and are larger than the free RAM.
    """
    files = list(files)
    old = [file for file in files if file.suffix == ".bin" and not _is_mappable(file)]
    _check_room(old)
    tensors: dict[str, Any] = {}
    for file in files:
        found = _open_safetensors(file) if file.suffix == ".safetensors" else _open_bin(file, old)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise ModelError(
                f"{file} holds {len(twice)} tensors that an earlier shard holds as well, the "
                f"first: {twice[0]}. The folder mixes two checkpoints; fetch it again."
            )
        tensors.update(found)
    return tensors


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return the shape of a tensor or of a slice that has not been read."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


def is_old_format(file: Path) -> bool:
    """Whether a `.bin` file is of the kind that cannot be mapped (torch before 1.6)."""
    with file.open("rb") as stream:
        return stream.read(4) != ZIP_START


def _is_mappable(file: Path) -> bool:
    if file.stat().st_size == 0:
        raise ModelError(f"{file} is empty. Fetch it again.")
    if is_old_format(file):
        return False
    if not zipfile.is_zipfile(file):  # it begins as one, and its end is not there
        raise ModelError(_cut_short(file, "its table of contents is missing"))
    return True


def _check_room(old: list[Path]) -> None:
    """Raise DoesNotFitError unless the files that must be read whole fit the free RAM."""
    if not old:
        return
    needed, free = sum(file.stat().st_size for file in old) + WORKING_ROOM, ram_bytes()[1]
    if free is not None and needed > free:
        raise DoesNotFitError(
            f"{old[0].name} is in the format of torch before 1.6, which can only be read whole: "
            f"{len(old)} such file(s) need {format_gib(needed)} of RAM and {format_gib(free)} are "
            f"free, short by {format_gib(needed - free)}. Convert them on a machine with more "
            'memory: torch.save(torch.load("old.bin", weights_only=True), "new.bin"), or take a '
            'copy that has safetensors, such as load("llava-1.5-7b").'
        )


def _open_safetensors(file: Path) -> dict[str, Any]:
    try:
        opened = safe_open(file, framework="pt")
        return {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(_cut_short(file, str(error))) from error


def _open_bin(file: Path, old: list[Path]) -> Mapping[str, torch.Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=file not in old)
    except pickle.UnpicklingError as error:
        raise ModelError(_no_weights(file)) from error
    except Exception as error:  # torch's reader meets a broken file with half a dozen kinds
        raise ModelError(_cut_short(file, str(error))) from error
    tensors_only = isinstance(found, Mapping) and all(
        isinstance(value, torch.Tensor) for value in found.values()
    )
    if not tensors_only:
        raise ModelError(_no_weights(file))
    return found


def _no_weights(file: Path) -> str:
    return (
        f"{file} holds something else than tensors by name, or wants to run code while it is "
        "read; it was not run. Do not use files from this source. Take the model from its "
        'authors, or in safetensors: load("llava-1.5-7b").'
    )


def _cut_short(file: Path, reason: str) -> str:
    first = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return (
        f"{file} is damaged or cut short ({first}); it has {file.stat().st_size:,} bytes. "
        "Delete it and fetch it again."
    )
