"""`Llava.save_4bit()`: a loaded 4-bit model as a folder, read by `load()` and by transformers.

A saved 13B takes 7.3 GiB where the download takes 24.9, and is not quantised at every start.

Covered: the checks before, and what is written. Not covered: putting the folder in
place of an earlier one (`replacing.py`), exact scales on a CPU (`scales.py`), reading
(`loading.py`), 8 bits.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from .checkpoints import check_folder, previous_copy
from .errors import DoesNotFitError, ModelError, plain
from .gpu import disk_free_bytes
from .quantise import stored_quantization
from .replacing import remove_leftovers, replacing
from .scales import restore_scales
from .sizes import format_gib

if TYPE_CHECKING:
    from .inference.engine import Engine

SHARD_SIZE = "4GB"  # an upload to Drive that breaks off is taken up again file by file
MARGIN_BYTES = 32 * 2**20  # tokenizer, settings and the headers of the weight files
# All that the two save_pretrained() write; a folder with anything else is not ours to replace.
OUR_FILES = re.compile(
    r"(generation_|processor_|preprocessor_|tokenizer_)?config\.json|tokenizer\.(json|model)"
    r"|chat_template\.(jinja|json)|special_tokens_map\.json|added_tokens\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)
# Where and how the tokenizer was read, here or by others; of no use anywhere else.
LOCAL_SETTINGS = (
    "name_or_path",
    "is_local",
    "local_files_only",
    "special_tokens_map_file",
    "tokenizer_file",
    "vocab_file",
)


def save_4bit(engine: Engine, folder: str | Path) -> Path:
    """Write the model and its processor to `folder`; return it as an absolute path.

    A copy that was saved there before is replaced; any other folder that is not empty
    is refused. Waits for an answer under way to end. Saving does not change the model, and
    the files are the same whether or not it has answered before.

    Raises ModelError if the model is closed or not in 4 bits, if the folder is refused,
    or if writing fails; DoesNotFitError if the disk is too small.
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
        for each in (target, previous_copy(target)):
            check_replaceable(each)
        remove_leftovers(target)
        restore_scales(network)
        check_disk(network, target)
        try:
            with replacing(target) as new:
                _write(network, engine.processor, new)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"The model could not be saved to {target} ({error}). What was there before is "
                "untouched. Choose another folder, or make room and save again."
            ) from error
    return target


def check_replaceable(folder: Path) -> None:
    """Raise ModelError unless the folder is absent, empty, or a 4-bit copy and nothing else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file. Give the name of a folder: save_4bit('llava-4bit').")
    here = sorted(each.name for each in folder.iterdir())
    others = [name for name in here if not OUR_FILES.fullmatch(name)]
    if others or (here and not _is_4bit(folder)):
        what = f"other files ({', '.join(others[:4])})" if others else "no earlier 4-bit copy"
        raise ModelError(
            f"{folder} holds {what}, and saving would replace the folder. Choose a new folder, "
            f"such as save_4bit({str(folder / 'llava-4bit')!r})."
        )


def _is_4bit(folder: Path) -> bool:
    """Whether the folder's config says so: a full model is never replaced by a smaller one."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return stored_quantization(config) == "4bit"
    except (OSError, ValueError, AttributeError, ModelError):
        return False


def check_disk(network: Any, target: Path) -> None:
    """Raise DoesNotFitError unless the disk takes what will be written, with a margin."""
    tensors = network.state_dict().values()  # the scales of 4-bit layers are among them
    needed = MARGIN_BYTES + sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    free = disk_free_bytes(target.parent)
    if free is not None and free < needed:
        kept = " The copy there stays until the new one is whole." if target.exists() else ""
        raise DoesNotFitError(
            f"Saving takes {format_gib(needed)}, and {format_gib(free)} are free at "
            f"{target.parent}.{kept} Delete something there, or choose another disk, such as "
            f'Google Drive: save_4bit("/content/drive/MyDrive/{target.name}").'
        )


def _write(network: Any, processor: Any, folder: Path) -> None:
    """Write everything to a new folder.

    The processor comes first and the weights last: what is cut short then lacks
    weights, and `load()` refuses a folder that lacks weights.
    """
    _drop_one_way_conversions(network)
    processor.save_pretrained(folder)
    _forget_machine(folder / "tokenizer_config.json")
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        network.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    mode = (folder / "config.json").stat().st_mode
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # not every disk has modes
            file.chmod(mode)  # safetensors lets only the owner read
    check_folder(folder)


def _drop_one_way_conversions(network: Any) -> None:
    """Let a model that was read in 4 bits be saved in 4 bits.

    save_pretrained() gives the weights their published names, which every version reads,
    by undoing what was done on reading. It stops at the packing of 4-bit weights, which
    cannot be undone and needs no undoing (transformers 5.0 to 5.23; pull request 45743
    of huggingface/transformers).
    """
    conversions = getattr(network, "_weight_conversions", None)
    if conversions is not None:
        network._weight_conversions = [each for each in conversions if _can_be_undone(each)]


def _can_be_undone(conversion: Any) -> bool:
    try:
        conversion.reverse_transform()
    except NotImplementedError:
        return False
    return True


def _forget_machine(file: Path) -> None:
    content = json.loads(file.read_text("utf-8"))
    left = {key: value for key, value in content.items() if key not in LOCAL_SETTINGS}
    if left != content:
        file.write_text(json.dumps(left, indent=2, ensure_ascii=False) + "\n", "utf-8")
