"""Where a model's files are, and whether they are all there, before anything is loaded.

Covered: short names, hub ids, folders and "auto" -> `Checkpoint`; the checks that a
folder holds a whole model in a layout we read; the raw config. Not covered: reading
weights (`loading.py`).

transformers fills missing weights with random numbers and carries on, so what can be
noticed early is noticed here.
"""

from __future__ import annotations

import difflib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalog import all_models, all_names, find
from .errors import ModelError
from .gpu import check_gpu, recommend
from .refusals import check_parts, check_transformers_layout, is_original

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHT_FILES)


@dataclass(frozen=True)
class Checkpoint:
    """A model to load: its name for people, where it is, and why it was chosen."""

    name: str
    source: str  # a folder or a hub id, as from_pretrained takes it
    reason: str
    is_folder: bool

    @property
    def stamp(self) -> tuple:
        """Changes when the files of a folder change; so a stale model is never reused."""
        if not self.is_folder:
            return (self.source,)
        files = sorted(Path(self.source).iterdir())
        return (self.source, *((file.name, file.stat().st_mtime_ns) for file in files))


def locate(model: str | Path) -> Checkpoint:
    """Find a model by short name, hub id, folder or "auto".

    Raises ModelError if there is no such thing, with the nearest that there is.
    """
    if not isinstance(model, (str, Path)):
        raise ModelError(
            f"load() takes a short name, a hub id or a folder, not {type(model).__name__}: "
            'load("auto"), load("llava-1.5-13b"), load("my/folder").'
        )
    text = str(model).strip()
    if text == "auto":
        choice = recommend(check_gpu(ask_torch=True))
        return _known(choice.model, choice.reason)
    if isinstance(model, str) and text.casefold() in {name.casefold() for name in all_names()}:
        return _known(text, "you asked for it by name")
    folder = Path(text).expanduser()
    if folder.exists():
        check_folder(folder)
        return Checkpoint(folder.name, str(folder), "you gave this folder", True)
    previous = previous_copy(folder.resolve())
    if previous.is_dir():
        raise ModelError(
            f"There is no folder {text}: a save was cut off while it replaced the copy there. The "
            f"copy before it is whole; put it back with: {_move(previous, folder.resolve())}"
        )
    looks_like_path = isinstance(model, Path) or text[:1] in "./~\\" or text.count("/") > 1
    if looks_like_path:
        raise ModelError(f"There is no folder {text}. {_neighbours(folder)}".strip())
    if text.count("/") == 1 and all(text.split("/")):
        return Checkpoint(text, text, "you gave this hub id", False)
    find(text)  # raises with the nearest name
    raise AssertionError("find() knows a name that all_names() does not")


def _known(name: str, reason: str) -> Checkpoint:
    model = find(name)
    if model.folder is not None:
        check_folder(model.folder)
    return Checkpoint(model.name, model.source, reason, model.folder is not None)


def previous_copy(folder: Path) -> Path:
    """Return where save_4bit() keeps the earlier copy while it puts the new one in place."""
    return folder.with_name(f".{folder.name}.previous")


def _move(source: Path, target: Path) -> str:
    return f"mv {shlex.quote(str(source))} {shlex.quote(str(target))}"


def _neighbours(folder: Path) -> str:
    """Name the folder beside it that may have been meant."""
    if not folder.parent.is_dir():
        return f"Nor is there {folder.parent}."
    beside = [each.name for each in folder.parent.iterdir() if each.is_dir()]
    near = difflib.get_close_matches(folder.name, beside, n=1)
    return f"Did you mean {folder.parent / near[0]}?" if near else ""


def check_folder(folder: Path) -> None:
    """Raise ModelError unless the folder holds a config and every weight file it names."""
    if not folder.is_dir():
        raise ModelError(
            f"{folder} is a file, and load() takes the folder that holds config.json and the "
            f"weights: load({str(folder.parent)!r})."
        )
    here = sorted(each.name for each in folder.iterdir())
    if "config.json" not in here:
        check_parts(folder.name, here, _adapter(folder))
        listed = ", ".join(here[:6]) or "nothing"
        raise ModelError(
            f"{folder} holds no config.json, so it is no model folder (it holds: {listed}). "
            "Give the folder that save_pretrained() or save_4bit() wrote."
        )
    for index in INDEX_FILES:
        if index in here:
            return _check_shards(folder, index, here)
    if not any(name in here for name in WEIGHT_FILES):
        check_parts(folder.name, here, _adapter(folder))
        raise ModelError(
            f"{folder} has a config.json but no weights: expected {WEIGHT_FILES[0]} or "
            f"{INDEX_FILES[0]}. Was the download or the copy cut short? Fetch the folder again."
        )


def _adapter(folder: Path) -> dict[str, Any] | None:
    """Return adapter_config.json, which says what a LoRA adapter belongs to."""
    try:
        return json.loads((folder / "adapter_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _check_shards(folder: Path, index: str, here: list[str]) -> None:
    try:
        named = set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{folder / index} is damaged ({error}). Fetch it again.") from error
    missing = sorted(named - set(here))
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(named)} weight files named in {index}: "
            f"{', '.join(missing[:4])}. Fetch the missing files again; without them the "
            "model would be filled up with random numbers."
        )


def read_config(checkpoint: Checkpoint, *, token: str | bool, cache_dir: str | None) -> dict:
    """Return config.json as it stands, without building a model's config from it.

    Raises ModelError if it cannot be had, or is of another kind of model.
    """
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(
            checkpoint.source, token=token, cache_dir=cache_dir
        )
    except (OSError, ValueError) as error:
        raise ModelError(unreachable(checkpoint, error)) from error
    if not is_original(config):
        known = [model.name for model in all_models()]
        check_transformers_layout(checkpoint.name, config, known)
    return config


def unreachable(checkpoint: Checkpoint, error: Exception) -> str:
    """Return the message for files that cannot be read or fetched."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    if checkpoint.is_folder:
        return f"The files in {checkpoint.source} cannot be read ({first_line}). Fetch them again."
    return (
        f"{checkpoint.source} could not be fetched from the Hugging Face hub "
        f"({first_line}). Check the spelling and the network; a private model needs "
        'load(..., token="hf_..."). The embedded model needs no network: load("tiny").'
    )
