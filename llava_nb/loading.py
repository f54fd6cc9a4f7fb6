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
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from .checkpoints import Checkpoint, locate, read_config
from .errors import ModelError, plain
from .gpu import check_gpu, compute_dtype_name
from .inference.llava import Llava
from .layouts import find_source
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
from .reading import ends_of, read_network
from .refusals import check_stored
from .scales import keep_scales
from .vram.free import large_blocks_apart
from .weight_files import weight_names

_loaded: dict[tuple, Llava] = {}  # at most one


def load(
    model: str | Path = "auto",
    *,
    quantization: str | None = "4bit",
    token: str | None = None,
    cache_dir: str | Path | None = None,
    check: bool = True,
) -> Llava:
    """Load a LLaVA and return it ready to be asked.

    `model` is a short name ("llava-1.5-13b", "llava-1.5-7b", "tiny"), a hub id, a
    folder, or "auto": the largest that fits the GPU, "tiny" without one.
    `quantization` is "4bit", "8bit" or None (float16 or bfloat16 on a GPU, float32 on
    a CPU). `token` is for private hub models; public ones are fetched without any.
    `check` compares what the model needs with free disk, RAM and VRAM before anything
    is fetched.

    The same call again returns the same object; another model releases the one before.
    Raises ModelError with the repair in its message, DoesNotFitError (a ModelError) if
    something is short.
    """
    check_choice(quantization)
    access = _access(token, cache_dir)
    if not isinstance(check, int):
        raise ModelError(f"check is a {type(check).__name__}; it is True or False.")
    # "auto" goes by free memory, so it is located when the model before has released its own.
    auto = isinstance(model, str) and model.strip() == "auto"
    checkpoint = None if auto else locate(model)
    stamp = checkpoint.stamp if checkpoint else ("auto",)
    key = (*stamp, quantization, access["cache_dir"])
    if key not in _loaded or _loaded[key].closed:
        release()
        checkpoint = checkpoint or locate(model)
        with quiet(checkpoint), large_blocks_apart():
            _loaded[key] = _load(checkpoint, quantization, access, check)
    return _loaded[key]


def _access(token: object, cache_dir: object) -> dict[str, Any]:
    """Return {"token", "cache_dir"} as hub functions take them, or raise ModelError.

    The token's text stands in no message. False is no token at all: None would be the one that
    somebody saved on this machine.
    """
    if not (token is None or token is False or isinstance(token, str)):
        raise ModelError(
            f"token is a {type(token).__name__}; it is the text of a token, "
            'load(..., token="hf_..."), or None, as public models need none.'
        )
    if token and not re.fullmatch(r"[!-~]+", token.strip()):
        raise ModelError(
            "The token holds spaces or letters that no token of the hub has. Copy it anew from "
            "https://huggingface.co/settings/tokens."
        )
    if cache_dir is not None:
        if not isinstance(cache_dir, (str, os.PathLike)) or isinstance(cache_dir, bytes):
            raise ModelError(
                f"cache_dir is a {type(cache_dir).__name__}; it is the folder for downloads, or "
                "None."
            )
        try:
            folder = Path(cache_dir).expanduser()
            os.fsencode(folder)
            file = next((each for each in (folder, *folder.parents) if each.is_file()), None)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise ModelError(
                f"cache_dir={plain(cache_dir)} is no folder ({plain(error)})."
            ) from error
        if file is not None:
            raise ModelError(f"cache_dir={plain(cache_dir)}: {file} is a file. Give a folder.")
        cache_dir = str(folder)
    return {"token": token.strip() if token else False, "cache_dir": cache_dir}


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
    settings_stored = raw.get("quantization_config")
    if stored:
        raw["quantization_config"] = repair_stored(settings_stored, dtype)
    source = find_source(checkpoint, raw, access)
    if stored:
        check_stored(checkpoint.name, settings_stored, stored, weight_names(source.folder))
    # Before any weight: what is wrong with these small files needs no download to be seen.
    processor = source.processor()
    style = source.spelling.style if source.spelling else prompt_style(processor, source.config)
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
    network.generation_config = ends_of(network.generation_config, source, processor.tokenizer)
    return Llava(
        network.eval().requires_grad_(False),
        processor,
        name=checkpoint.name,
        reason=checkpoint.reason,
        quantization=quantization,
        style=style,
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
