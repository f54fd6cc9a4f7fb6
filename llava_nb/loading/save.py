"""`Llava.save_4bit()`: a loaded 4-bit model as a folder, read by `load()` and by transformers.

A saved 13B takes 7.3 GiB where the download takes 24.9, and is not quantised at every start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError

from ..errors import DoesNotFitError, ModelError, plain
from ..gpu import disk_free_bytes
from ..sizes import format_gib
from .find import check_folder
from .weights import no_bars, restore_scales

SHARD_SIZE = "4GB"  # an upload to Drive that breaks off is taken up again file by file
MARGIN_BYTES = 32 * 2**20  # tokenizer, settings and the headers of the weight files
# Where and how the tokenizer was read, here or by others; of no use anywhere else.
LOCAL_SETTINGS = (
    "name_or_path",
    "is_local",
    "local_files_only",
    "special_tokens_map_file",
    "tokenizer_file",
    "vocab_file",
)


def save_4bit(engine: Any, folder: str | Path) -> Path:
    """Write the model and its processor to `folder`; return it as an absolute path.

    The folder is new or empty. It is written beside its place and renamed when it is whole, so
    that a save that is cut off leaves nothing there. Waits for an answer under way to end. Saving
    does not change the model, and the files are the same whether or not it has answered before.

    Raises ModelError if the model is closed or not in 4 bits, if the folder holds anything, or if
    writing fails; DoesNotFitError if the disk is too small.
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
        _check_empty(target)
        _remove_leftovers(target)
        restore_scales(network)
        _check_disk(network, target)
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


def _check_empty(folder: Path) -> None:
    """Raise ModelError unless the folder is absent or empty."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file. Give the name of a folder: save_4bit('llava-4bit').")
    here = sorted(each.name for each in folder.iterdir()) if folder.exists() else []
    if here:
        raise ModelError(
            f"{folder} holds files already ({', '.join(here[:4])}), and save_4bit() replaces "
            f"nothing. Choose a new folder, such as save_4bit({str(folder / 'llava-4bit')!r}), or "
            "delete this one first."
        )


def _remove_leftovers(target: Path) -> None:
    """Delete what killed processes left beside `target`; a process that runs may be writing."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.saving-(\d+)")
    for each in target.parent.iterdir() if target.parent.is_dir() else ():
        found = pattern.fullmatch(each.name)
        if found and (int(found[1]) == os.getpid() or not psutil.pid_exists(int(found[1]))):
            shutil.rmtree(each, ignore_errors=True)


def _check_disk(network: Any, target: Path) -> None:
    """Raise DoesNotFitError unless the disk takes what will be written, with a margin."""
    tensors = network.state_dict().values()  # the scales of 4-bit layers are among them
    needed = MARGIN_BYTES + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    free = disk_free_bytes(target.parent)
    if free is not None and free < needed:
        raise DoesNotFitError(
            f"Saving takes {format_gib(needed)}, and {format_gib(free)} are free at "
            f"{target.parent}. Delete something there, or choose another disk, such as Google "
            f'Drive: save_4bit("/content/drive/MyDrive/{target.name}").'
        )


def _write(network: Any, processor: Any, folder: Path) -> None:
    """Write everything to a new folder.

    The processor comes first and the weights last: what is cut short then, as a copy or an upload
    may be, lacks weights, and `load()` refuses a folder that lacks weights.
    """
    _drop_one_way_conversions(network)
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


def _drop_one_way_conversions(network: Any) -> None:
    """Let a model that was read in 4 bits be saved in 4 bits.

    save_pretrained() gives the weights their published names, which every version reads, by
    undoing what was done on reading. It stops at the packing of 4-bit weights, which cannot be
    undone and needs no undoing (transformers 5.0 to 5.23; pull request 45743 of
    huggingface/transformers).
    """

    def can_be_undone(conversion: Any) -> bool:
        try:
            conversion.reverse_transform()
        except NotImplementedError:
            return False
        return True

    conversions = getattr(network, "_weight_conversions", None)
    if conversions is not None:
        network._weight_conversions = [each for each in conversions if can_be_undone(each)]
