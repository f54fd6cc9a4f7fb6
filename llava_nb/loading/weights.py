"""Weights: mapped from their files, quantised to 4 or 8 bits, looked at, and saved in 4 bits.

Only the language model's linear layers are quantised. The vision tower, the projector and `lm_head`
stay as they are, as in the recipe that this follows. That is caution, and it is cheap: tower and
projector in 4 bits would make 7B and 13B less than half a GiB smaller. In the embedded model
nothing was lost by it in 4 bits; with fewer, what the model sees broke before what it says
(`notebooks/03_four_bits.ipynb`). In 7B and 13B it has not been measured.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from ..errors import DoesNotFitError, ModelError, format_gib, plain
from ..machine import disk_free_bytes, ram_bytes
from .find import check_folder, is_old_format

# transformers 5 matches these from the start of a module's full name, or at its end:
# "vision_tower" alone, as older recipes have it, protects nothing and says nothing.
KEPT_MODULES = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
WORKING_ROOM = 2**29  # kept free beside the files that are read whole
# Harmless, and repeated for every layer of every token: the first where an optional CPU kernel is
# not installed, the second where 8 bits are used beside float32.
_NOISE = ("Failed to load CPU gemm_4bit_forward", "MatMul8bitLt: inputs will be cast")
_NOISY_LOGGERS = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions")


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOISE)


def hush_bitsandbytes() -> None:
    """Keep two messages of bitsandbytes out of notebooks; all others still appear."""
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_is_news)


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Keep transformers' progress bars away."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


# --- 4 and 8 bits ---------------------------------------------------------------------------------


def settings(quantization: str | None, dtype: torch.dtype) -> Any:
    """Return the BitsAndBytesConfig for "4bit" or "8bit", None for None.

    4 bits means NF4 with double quantisation (QLoRA, Dettmers and others, 2023), computing in
    `dtype`. Each is set here because the library's defaults are FP4, float32 and no double
    quantisation.
    """
    if quantization is None:
        return None
    from transformers import BitsAndBytesConfig

    kept = list(KEPT_MODULES)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def repair_stored(stored: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return a saved folder's settings with full module names and this machine's dtype.

    Folders saved under transformers 4 have the short names, by which the tower is replaced by empty
    4-bit layers.
    """
    repaired = {**stored, "llm_int8_skip_modules": list(KEPT_MODULES)}
    if "bnb_4bit_compute_dtype" in stored:
        repaired["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
    return repaired


def check_modules(model: torch.nn.Module, quantization: str | None) -> None:
    """Raise ModelError unless exactly the language model's linear layers are quantised."""
    quantised: tuple[type, ...] = ()
    if quantization is not None:
        import bitsandbytes

        quantised = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    wrong = []
    for name, module in model.named_modules():
        wanted = quantization is not None and name.startswith("model.language_model.")
        if isinstance(module, torch.nn.Linear) and isinstance(module, quantised) != wanted:
            wrong.append(name)
    if wrong:
        raise ModelError(
            f"{len(wrong)} layers are not stored as they should be for quantization="
            f"{quantization!r}, the first: {', '.join(wrong[:3])}. The vision tower, the projector "
            "and lm_head must stay unquantised and the language model must not. If this is a "
            "folder saved earlier, load the full model again and save it anew."
        )


# From 0.49 on, where the CPU has AVX512-BF16, bitsandbytes packs the weights of a `Linear4bit` anew
# at its first forward, in place, and rounds its scales to bfloat16; `state_dict()` unpacks and
# quantises the rounded scales again. (`_convert_weight_packed_for_cpu` and its inverse in
# bitsandbytes/functional.py.) A model saved after it has answered would be another, and so would
# the one in memory. The 4-bit numbers themselves come back exactly, so the scales are kept: a byte
# for 63 parameters, 0.1 GiB for 7B. On a GPU, and on other CPUs, nothing is packed.
_SCALES = ("absmax", "offset", "state2", "nested")


def keep_scales(network: Any) -> None:
    """Remember the scales of 4-bit layers on a CPU, before the first answer."""
    for layer in _layers_on_cpu(network):
        state = layer.weight.quant_state
        layer.scales_as_loaded = {name: getattr(state, name, None) for name in _SCALES}


def restore_scales(network: Any) -> None:
    """Unpack the layers, with the scales that they were loaded with.

    The next answer packs them again, to the same numbers as before. Warns if there are packed
    layers whose scales were not kept: theirs are approximate.
    """
    lost = 0
    for layer in _layers_on_cpu(network):
        packed = getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
        if packed:
            layer.state_dict()  # unpacks in place
        kept = getattr(layer, "scales_as_loaded", None)
        vars(layer.weight.quant_state).update(kept or {})
        lost += packed and kept is None
    if lost:
        warnings.warn(
            f"bitsandbytes has rounded the scales of {lost} layers since this model first "
            "answered, so a saved copy may answer slightly differently. Make the model with "
            "load(), or save it before it answers.",
            stacklevel=4,
        )


def _layers_on_cpu(network: Any) -> Iterator[Any]:
    import bitsandbytes

    for layer in network.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit) and layer.weight.device.type == "cpu":
            yield layer


# --- files ----------------------------------------------------------------------------------------
#
# A `.bin` file that torch wrote since 2020 is a zip file and is mapped into memory, as a
# safetensors file is: a tensor is read when it is used, and the pages can be given back at any
# time. So a shard of 10 GB costs no more RAM than its largest tensor. Older `.bin` files are read
# whole, if the memory allows.


def open_weights(files: Iterable[Path]) -> dict[str, Any]:
    """Return the tensors of all `files` by name, none of them read yet.

    The values are tensors over mapped memory (`.bin`) or slices of safetensors, which are read by
    `value[:]`. `from_pretrained(state_dict=...)` takes both.

    Raises ModelError for a file that is damaged, cut short, or wants to run code, and
    DoesNotFitError for files that can only be read whole and are larger than the free RAM.
    """
    files = list(files)
    old = [file for file in files if file.suffix == ".bin" and not _is_mappable(file)]
    needed = sum(file.stat().st_size for file in old) + WORKING_ROOM
    free = ram_bytes()[1] if old else None
    if free is not None and needed > free:
        raise DoesNotFitError(
            f"{old[0].name} is in the format of torch before 1.6, which can only be read whole: "
            f"{len(old)} such file(s) need {format_gib(needed)} of RAM and {format_gib(free)} are "
            f"free, short by {format_gib(needed - free)}. Convert them on a machine with more "
            'memory: torch.save(torch.load("old.bin", weights_only=True), "new.bin"), or take a '
            'copy that has safetensors, such as load("llava-1.5-7b").'
        )
    tensors: dict[str, Any] = {}
    for file in files:
        if file.suffix == ".safetensors":
            try:
                opened = safe_open(file, framework="pt")
                found = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise _cut_short(file, str(error)) from error
        else:
            found = _open_bin(file, mmap=file not in old)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise ModelError(
                f"{file} holds {len(twice)} tensors that an earlier shard holds as well, the "
                f"first: {twice[0]}. The folder mixes two checkpoints; fetch it again."
            )
        tensors.update(found)
    return tensors


def _is_mappable(file: Path) -> bool:
    if file.stat().st_size == 0:
        raise ModelError(f"{file} is empty. Fetch it again.")
    if is_old_format(file):
        return False
    if not zipfile.is_zipfile(file):  # it begins as one, and its end is not there
        raise _cut_short(file, "its table of contents is missing")
    return True


def _open_bin(file: Path, *, mmap: bool) -> Mapping[str, torch.Tensor]:
    no_weights = ModelError(
        f"{file} holds something else than tensors by name, or wants to run code while it is "
        "read; it was not run. Do not use files from this source. Take the model from its "
        'authors, or in safetensors: load("llava-1.5-7b").'
    )
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise no_weights from error
    except Exception as error:  # torch's reader meets a broken file with half a dozen kinds
        raise _cut_short(file, str(error)) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in found.values()
    ):
        raise no_weights
    return found


def _cut_short(file: Path, reason: str) -> ModelError:
    first = next(iter(reason.strip().splitlines()), "no reason given")
    return ModelError(
        f"{file} is damaged or cut short ({first}); it has {file.stat().st_size:,} bytes. "
        "Delete it and fetch it again."
    )


# --- saving ---------------------------------------------------------------------------------------
#
# A saved 13B takes 7.3 GiB where the download takes 24.9, and is not quantised at every start.

SHARD_SIZE = "4GB"  # an upload to Drive that breaks off is taken up again file by file
MARGIN_BYTES = 32 * 2**20  # tokenizer, settings and the headers of the weight files
# Where and how the tokenizer was read, here or by others; of no use anywhere else.
LOCAL_SETTINGS = {"name_or_path", "is_local", "local_files_only", "tokenizer_file", "vocab_file"}
LOCAL_SETTINGS |= {"special_tokens_map_file"}


def save_4bit(engine: Any, folder: str | Path) -> Path:
    """Write the model and its processor to `folder`; return it as an absolute path.

    It is written beside its place and renamed when it is whole, so that a save that is cut off
    leaves nothing there. Saving does not change the model, and the files are the same whether or
    not it has answered before. Raises what `Llava.save_4bit` raises.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ModelError(
            f"The folder to save to is a {type(folder).__name__}; it is a path: "
            'save_4bit("my-4bit-model").'
        )
    try:
        target = Path(folder).expanduser().resolve()
        os.fsencode(target)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{plain(folder)} is no folder ({plain(error)}).") from error
    with engine.lock:
        network = engine.network
        if engine.quantization != "4bit":
            raise ModelError(
                f"{engine.name} is loaded with quantization={engine.quantization!r}, and "
                f'save_4bit() writes 4-bit models: load("{engine.name}", quantization="4bit")'
                ".save_4bit(...)."
            )
        _check_place(target)
        restore_scales(network)
        tensors = network.state_dict().values()  # the scales of 4-bit layers are among them
        needed = MARGIN_BYTES + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        free = disk_free_bytes(target.parent)
        if free is not None and free < needed:
            raise DoesNotFitError(
                f"Saving takes {format_gib(needed)}, and {format_gib(free)} are free at "
                f"{target.parent}. Delete something there, or choose another disk, such as Google "
                f'Drive: save_4bit("/content/drive/MyDrive/{target.name}").'
            )
        beside = target.with_name(f".{target.name}.saving-{os.getpid()}")
        try:
            beside.mkdir(parents=True)
            _write(network, engine.processor, beside)
            for file in beside.iterdir():
                with open(file, "r+b") as opened:
                    os.fsync(opened.fileno())
            if target.exists():  # it is empty; Windows renames onto nothing that is there
                target.rmdir()
            beside.rename(target)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"The model could not be saved to {target} ({error}). Choose another folder, or "
                "make room and save again."
            ) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return target


def _check_place(folder: Path) -> None:
    """Raise ModelError unless the folder is absent or empty; delete what kills left beside it."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file. Give the name of a folder: save_4bit('llava-4bit').")
    here = sorted(each.name for each in folder.iterdir()) if folder.exists() else []
    if here:
        raise ModelError(
            f"{folder} holds files already ({', '.join(here[:4])}), and save_4bit() replaces "
            f"nothing. Choose a new folder, such as save_4bit({str(folder / 'llava-4bit')!r}), or "
            "delete this one first."
        )
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.saving-(\d+)")
    for each in folder.parent.iterdir() if folder.parent.is_dir() else ():
        found = pattern.fullmatch(each.name)  # a process that runs may be writing
        if found and (int(found[1]) == os.getpid() or not psutil.pid_exists(int(found[1]))):
            shutil.rmtree(each, ignore_errors=True)


def _write(network: Any, processor: Any, folder: Path) -> None:
    # The processor comes first and the weights last: what is cut short then, as a copy or an upload
    # may be, lacks weights, and `load()` refuses a folder that lacks weights.
    # save_pretrained() gives the weights their published names, which every version reads, by
    # undoing what was done on reading. It stops at the packing of 4-bit weights, which needs no
    # undoing (transformers 5.0 to 5.23; pull request 45743 of huggingface/transformers).
    conversions = getattr(network, "_weight_conversions", None)
    if conversions is not None:
        network._weight_conversions = [each for each in conversions if _can_be_undone(each)]
    processor.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    content = json.loads(settings.read_text("utf-8"))
    content = {key: value for key, value in content.items() if key not in LOCAL_SETTINGS}
    settings.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    with no_bars():
        network.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    mode = (folder / "config.json").stat().st_mode
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # not every disk has modes
            file.chmod(mode)  # safetensors lets only the owner read
    check_folder(folder)


def _can_be_undone(conversion: Any) -> bool:
    try:
        conversion.reverse_transform()
    except NotImplementedError:
        return False
    return True
