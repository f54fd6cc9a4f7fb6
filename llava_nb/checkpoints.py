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
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalog import all_models, all_names, find
from .errors import ModelError, plain
from .gpu import check_gpu, recommend
from .refusals import (
    check_other_quantisation,
    check_parts,
    check_transformers_layout,
    is_original,
)

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
        return (self.source, *((file.name, file.lstat().st_mtime_ns) for file in files))


def locate(model: str | Path) -> Checkpoint:
    """Find a model by short name, hub id, folder or "auto".

    Raises ModelError if there is no such thing, with the nearest that there is.
    """
    text = _hub_id_in(text_of(model))
    if text == "auto":
        choice = recommend(check_gpu(ask_torch=True))
        return _known(choice.model, choice.reason)
    if isinstance(model, str) and text.casefold() in {name.casefold() for name in all_names()}:
        return _known(text, "you asked for it by name")
    folder = folder_of(text)
    if folder.exists():
        folder, name = _in_cache(folder)
        check_folder(folder)
        return Checkpoint(name, str(folder), "you gave this folder", True)
    text = text.rstrip("/")
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


def text_of(model: object) -> str:
    """Return the name or path as text, or raise ModelError: load() takes nothing else."""
    if isinstance(model, bytes) or not isinstance(model, (str, os.PathLike)):
        what = "None" if model is None else type(model).__name__
        loaded = ", which is loaded already" if hasattr(type(model), "caption_image") else ""
        raise ModelError(
            f"load() takes a short name, a hub id or a folder, not {what}{loaded}: "
            'load("auto"), load("llava-1.5-13b"), load("my/folder").'
        )
    text = os.fspath(model)
    text = os.fsdecode(text).strip()
    if "\0" in text:
        raise ModelError(f"The name {plain(text)!r} has a NUL in it, which no model or folder has.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ModelError(
            f"The name {plain(text)!r} has half a character in it, which no model or folder has. "
            "Type it anew."
        ) from error
    if not text:
        raise ModelError(
            "load() was given an empty text, which names no model. "
            'Take load("auto"), load("llava-1.5-13b"), or a folder.'
        )
    return text


_HUB = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?P<path>.*)|hf://(?P<short>.*)",
    re.IGNORECASE,
)


def _hub_id_in(text: str) -> str:
    """Return the hub id in the address of a model's page; other text as it is.

    Raises ModelError for an address of anything else.
    """
    found = _HUB.fullmatch(text)
    if not found:
        if re.match(r"\w+://", text):
            raise ModelError(
                f"{plain(text)} is an address, and not that of a model's page on huggingface.co. "
                'load() takes a hub id ("owner/name"), such a page, a short name or a folder.'
            )
        cached = re.fullmatch(r"models--([^-/][^/]*?)--([^/]+)/?", text)
        return "/".join(cached.groups()) if cached and not Path(text).exists() else text
    parts = [
        part for part in re.split(r"[?#]", found["path"] or found["short"])[0].split("/") if part
    ]
    if len(parts) < 2 or parts[0] in (
        "datasets",
        "spaces",
        "collections",
        "models",
        "docs",
        "papers",
    ):
        raise ModelError(
            f"{plain(text)} is no model's page. One looks like "
            'https://huggingface.co/llava-hf/llava-1.5-7b-hf; load("llava-hf/llava-1.5-7b-hf") is '
            "the same."
        )
    if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve") and parts[3] != "main":
        raise ModelError(
            f"{plain(text)} is the page of the revision {parts[3]!r}, and load() takes the newest. "
            f'That is load("{parts[0]}/{parts[1]}"); for another one, download it to a folder: '
            f'huggingface_hub.snapshot_download("{parts[0]}/{parts[1]}", revision="{parts[3]}").'
        )
    return "/".join(parts[:2])


def folder_of(text: str) -> Path:
    """Return the path as pathlib has it. Raises ModelError for one that no system takes."""
    try:
        folder = Path(text).expanduser()
        folder.exists()  # older versions of Python raise for a name that is too long
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"There is no model or folder {plain(text)} ({plain(error)}).") from error
    return folder


def _in_cache(folder: Path) -> tuple[Path, str]:
    """Return the folder of the hub's cache that is meant, and its hub id for a name.

    The cache has models--OWNER--NAME/snapshots/COMMIT; the commit of the newest look at the hub
    stands in refs/main. Any other folder is given back with its own name.
    """
    whole = folder.resolve()
    for place in (whole, *whole.parents[:2]):
        if not (place.name.startswith("models--") and (place / "snapshots").is_dir()):
            continue
        hub_id = place.name.removeprefix("models--").replace("--", "/", 1)
        if whole.parent.name == "snapshots":
            return folder, hub_id
        main, commits = place / "refs" / "main", sorted((place / "snapshots").iterdir())
        if main.is_file():
            commits = [each for each in commits if each.name == main.read_text().strip()] or commits
        if len(commits) == 1:
            return commits[0], hub_id
        raise ModelError(
            f"{folder} is the hub's cache of {hub_id} with {len(commits)} snapshots and does not "
            f'say which is the newest. Give one of its folders snapshots/..., or load("{hub_id}").'
        )
    inside = sorted(whole.glob("models--*--*/snapshots")) if whole.is_dir() else []
    if inside:
        ids = [each.parent.name.removeprefix("models--").replace("--", "/", 1) for each in inside]
        raise ModelError(
            f"{folder} is the hub's cache and holds {len(ids)} models. Give one by its hub id: "
            + ", ".join(f'load("{each}")' for each in ids[:4])
            + "."
        )
    return folder, whole.name


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
        if not isinstance(config, dict):
            raise ValueError("config.json holds no settings by name")
    except Exception as error:  # what json, the hub's client and transformers may raise
        if not checkpoint.is_folder:
            check_parts(checkpoint.name, names_on_hub(checkpoint.source, token))
        raise ModelError(unreachable(checkpoint, error)) from error
    check_other_quantisation(checkpoint.name, config)
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


def names_on_hub(hub_id: str, token: str | bool) -> list[str]:
    """Return the names of all files of a hub id, none where the hub does not tell."""
    from huggingface_hub import HfApi

    try:
        return HfApi(token=token).list_repo_files(hub_id)
    except Exception:  # of several libraries; whoever asked says what is wrong
        return []
