"""`load()`: from a name to a model that is ready to be asked.

Chooses, quantises while loading, verifies, and keeps one model at a time: asking for
the same model again returns the same object, asking for another releases the first.

Covered: the transformers layout, from the hub or a folder. Not covered: finding the
files (`checkpoints.py`), quantisation settings (`quantise.py`), the processor
(`processing.py`), asking (`llava.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from .checkpoints import Checkpoint, locate, read_config, unreachable
from .errors import ModelError, OutOfVramError
from .llava import Llava
from .processing import build_processor, prompt_style
from .quantise import (
    check_choice,
    check_modules,
    hush_bitsandbytes,
    repair_stored,
    settings,
    stored_quantization,
)
from .runtime import check_gpu, compute_dtype_name
from .sizes import format_gib

_loaded: dict[tuple, Llava] = {}  # at most one


def load(
    model: str | Path = "auto",
    *,
    quantization: str | None = "4bit",
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Llava:
    """Load a LLaVA and return it ready to be asked.

    `model` is a short name ("llava-1.5-13b", "llava-1.5-7b", "tiny"), a hub id, a
    folder, or "auto": the largest that fits the GPU, "tiny" without one.
    `quantization` is "4bit", "8bit" or None (float16 or bfloat16 on a GPU, float32 on
    a CPU). `token` is for private hub models; public ones are fetched without any.

    The same call again returns the same object; another model releases the one before.
    Raises ModelError with the repair in its message.
    """
    check_choice(quantization)
    # "auto" goes by free memory, so it is located when the model before has released its own.
    checkpoint = None if model == "auto" else locate(model)
    stamp = checkpoint.stamp if checkpoint else ("auto",)
    key = (*stamp, quantization, str(cache_dir))
    if key in _loaded and not _loaded[key].closed:
        return _loaded[key]
    release()
    checkpoint = checkpoint or locate(model)
    access = {"token": token or False, "cache_dir": str(cache_dir) if cache_dir else None}
    with quiet(checkpoint):
        _loaded[key] = _load(checkpoint, quantization, access)
    return _loaded[key]


def release() -> None:
    """Close the model that is loaded, if any, so that its memory is free."""
    while _loaded:
        _loaded.popitem()[1].close()


def _load(checkpoint: Checkpoint, quantization: str | None, access: dict[str, Any]) -> Llava:
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
    config = LlavaConfig.from_dict(raw)
    network = _read_weights(
        checkpoint,
        config=config,
        dtype=dtype,
        device_map={"": device},
        quantization_config=None if stored else settings(quantization, dtype),
        **access,
    )
    check_modules(network, quantization)
    try:
        processor = build_processor(_small_files(checkpoint, access), config)
    except (OSError, ValueError) as error:
        raise ModelError(unreachable(checkpoint, error)) from error
    _forget_sampling(network)
    return Llava(
        network.eval().requires_grad_(False),
        processor,
        name=checkpoint.name,
        reason=checkpoint.reason,
        quantization=quantization,
        style=prompt_style(processor),
    )


def _read_weights(checkpoint: Checkpoint, **arguments: Any) -> LlavaForConditionalGeneration:
    """Call `from_pretrained`; whatever is wrong with the files ends as ModelError."""
    try:
        network, report = LlavaForConditionalGeneration.from_pretrained(
            checkpoint.source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # check_loaded names them
            **arguments,
        )
    except SafetensorError as error:
        raise ModelError(
            f"A weight file of {checkpoint.name} is damaged or cut short ({error}). Fetch it again."
        ) from error
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        raise OutOfVramError(
            f"{checkpoint.name} does not fit the GPU: {format_gib(free)} of {format_gib(total)} "
            'are free. Take a smaller model, load("llava-1.5-7b"), or free the memory: restart '
            "the runtime (Runtime > Restart session) and load first."
        ) from error
    except OSError as error:
        raise ModelError(unreachable(checkpoint, error)) from error
    check_loaded(checkpoint, report)
    return network


def device_and_dtype() -> tuple[str, torch.dtype]:
    """Return where the model goes and what it computes in: the freest GPU, or the CPU."""
    if not torch.cuda.is_available():
        return "cpu", getattr(torch, compute_dtype_name(None)[0])
    gpu = check_gpu().gpu
    index = gpu.index if gpu is not None else torch.cuda.current_device()
    name, _ = compute_dtype_name(torch.cuda.get_device_capability(index))
    # One device by name, never "auto": a model that does not fit must say so, not spill.
    return f"cuda:{index}", getattr(torch, name)


def check_loaded(checkpoint: Checkpoint, report: dict[str, Any]) -> None:
    """Raise ModelError if any weight was missing, left over or of another shape.

    transformers only warns, and fills what is missing with random numbers.
    """
    found = {
        kind: sorted(str(key) for key in report.get(kind) or ())
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(found.values()):
        listed = "; ".join(
            f"{len(keys)} {kind.removesuffix('_keys')} ({', '.join(keys[:3])})"
            for kind, keys in found.items()
            if keys
        )
        raise ModelError(
            f"The weights of {checkpoint.name} do not match its config: {listed}. The model would "
            "answer at random. Fetch the files again, or check that config and weights belong "
            "together."
        )


def _small_files(checkpoint: Checkpoint, access: dict[str, Any]) -> str:
    """Return a folder with everything but the weights, fetched with no token but ours.

    Given a hub id, transformers' tokenizers look for a token of their own accord, and in
    Colab that asks the person for a secret.
    """
    if checkpoint.is_folder:
        return checkpoint.source
    patterns = ["*.json", "*.jinja", "*.model", "*.txt"]
    return snapshot_download(checkpoint.source, allow_patterns=patterns, **access)


def _forget_sampling(network: LlavaForConditionalGeneration) -> None:
    """Keep only the token ids of the checkpoint's generation settings.

    Some carry Vicuna's temperature and top_p, which greedy decoding complains about.
    """
    old = network.generation_config
    network.generation_config = GenerationConfig(
        bos_token_id=old.bos_token_id, eos_token_id=old.eos_token_id, pad_token_id=old.pad_token_id
    )


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
