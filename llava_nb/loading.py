"""`load()`: from a name to a model that is ready to be asked.

Chooses, quantises while loading, verifies, and keeps one model at a time: asking for
the same model again returns the same object, asking for another releases the first.

Covered: the order of things. Not covered: finding the files (`checkpoints.py`,
`layouts.py`), whether they fit (`preflight.py`), reading them (`reading.py`), quantisation
settings (`quantise.py`), asking (`llava.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from .checkpoints import Checkpoint, locate, read_config
from .errors import ModelError
from .fast import speed_up
from .gpu import check_gpu, compute_dtype_name
from .layouts import find_source
from .llava import Llava
from .preflight import check_fits, needs
from .processor import prompt_style
from .quantise import (
    check_choice,
    check_modules,
    hush_bitsandbytes,
    repair_stored,
    settings,
    stored_quantization,
)
from .reading import read_network
from .scales import keep_scales
from .vram.free import large_blocks_apart

_loaded: dict[tuple, Llava] = {}  # at most one


def load(
    model: str | Path = "auto",
    *,
    quantization: str | None = "4bit",
    token: str | None = None,
    cache_dir: str | Path | None = None,
    check: bool = True,
    fast: bool = False,
) -> Llava:
    """Load a LLaVA and return it ready to be asked.

    `model` is a short name ("llava-1.5-13b", "llava-1.5-7b", "tiny"), a hub id, a
    folder, or "auto": the largest that fits the GPU, "tiny" without one.
    `quantization` is "4bit", "8bit" or None (float16 or bfloat16 on a GPU, float32 on
    a CPU). `token` is for private hub models; public ones are fetched without any.
    `check` compares what the model needs with free disk, RAM and VRAM before anything
    is fetched. `fast` compiles the steps of the model on a GPU, which takes a minute, and
    keeps that if it measures faster; `str(llava.fast)` says what came of it.

    The same call again returns the same object; another model releases the one before.
    Raises ModelError with the repair in its message, DoesNotFitError (a ModelError) if
    something is short.
    """
    check_choice(quantization)
    # "auto" goes by free memory, so it is located when the model before has released its own.
    checkpoint = None if model == "auto" else locate(model)
    stamp = checkpoint.stamp if checkpoint else ("auto",)
    key = (*stamp, quantization, str(cache_dir))
    if key not in _loaded or _loaded[key].closed:
        release()
        checkpoint = checkpoint or locate(model)
        access = {"token": token or False, "cache_dir": str(cache_dir) if cache_dir else None}
        with quiet(checkpoint), large_blocks_apart():
            _loaded[key] = _load(checkpoint, quantization, access, check)
    llava = _loaded[key]
    if fast and llava.fast is None:
        llava.fast = speed_up(llava)
    elif not fast:
        llava.fast = llava.decoder = None
    return llava


def release() -> None:
    """Close the model that is loaded, if any, so that its memory is free."""
    while _loaded:
        _loaded.popitem()[1].close()


def kept() -> Llava | None:
    """Return the model that is loaded and open, if any."""
    return next((llava for llava in _loaded.values() if not llava.closed), None)


def _load(
    checkpoint: Checkpoint, quantization: str | None, access: dict[str, Any], check: bool
) -> Llava:
    raw = read_config(checkpoint, **access)
    device, dtype = device_and_dtype()
    stored = stored_quantization(raw)
    if stored not in (None, quantization):
        raise ModelError(
            f"The weights of {checkpoint.name} are stored in {stored} already: "
            f'load(..., quantization="{stored}").'
        )
    if stored:
        raw["quantization_config"] = repair_stored(raw["quantization_config"], dtype)
    source = find_source(checkpoint, raw, access)
    if check:
        needed = needs(
            source.config,
            source.files,
            quantization=quantization,
            device=device,
            cache_dir=access["cache_dir"],
        )
        check_fits(checkpoint.name, needed, quantization=quantization)
    network = read_network(
        source,
        access,
        dtype=dtype,
        device_map={"": device},
        quantization_config=None if stored else settings(quantization, dtype),
    )
    check_modules(network, quantization)
    if quantization == "4bit":
        keep_scales(network)
    processor = source.processor()
    return Llava(
        network.eval().requires_grad_(False),
        processor,
        name=checkpoint.name,
        reason=checkpoint.reason,
        quantization=quantization,
        style=source.spelling.style if source.spelling else prompt_style(processor, source.config),
        spelling=source.spelling,
        source=checkpoint.source,
    )


def device_and_dtype() -> tuple[str, torch.dtype]:
    """Return where the model goes and what it computes in: the freest GPU, or the CPU."""
    if not torch.cuda.is_available():
        return "cpu", getattr(torch, compute_dtype_name(None)[0])
    gpu = check_gpu().gpu
    index = gpu.index if gpu is not None else torch.cuda.current_device()
    name, _ = compute_dtype_name(torch.cuda.get_device_capability(index))
    # One device by name, never "auto": a model that does not fit must say so, not spill.
    return f"cuda:{index}", getattr(torch, name)


@contextlib.contextmanager
def quiet(checkpoint: Checkpoint) -> Iterator[None]:
    """Show progress bars for downloads only; a folder is read too fast to need one.

    transformers before 5.15 may hold a whole half-precision model on the GPU while it
    loads in threads; the setting makes it load tensor by tensor.
    """
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
    hush_bitsandbytes()
    bars = transformers_logging.is_progress_bar_enabled()
    if checkpoint.is_folder:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
